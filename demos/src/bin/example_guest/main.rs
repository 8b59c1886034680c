//! The guest of `example_device`: it uses every register and call of the doorbell, and the line that it raises.
//!
//! It prints `EXAMPLE PASS` with what it counted, or `EXAMPLE FAIL` and why, and turns the machine off. It needs 2 CPUs.
//! Parameters: `pcpus=` that the machine has (default 4).
#![no_std]
#![no_main]

use core::sync::atomic::{
    AtomicBool, AtomicU32, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release, SeqCst},
};

use trapline_demos::guest::{
    MAX_CPUS, boot, console, cpu,
    exceptions::{self, Frame, Kind},
    gic, machine, mmio, power,
};
use trapline_demos::guest_program;

guest_program! {
    main: main,
    secondary: secondary,
    interrupt: interrupt,
    exception: exception,
}

const BELL: usize = 0x0b10_0000;
const ID: usize = BELL;
const DATA: usize = BELL + 0x4;
const RING: usize = BELL + 0x8;
const ACK: usize = BELL + 0xc;
const BELL_INTID: u32 = 72;
const MOVE_AND_WAKE: u32 = 0xc600_0002;
const WHERE: u32 = 0xc600_0003;

const DATA_ABORT: u64 = 0x25;
/// How long anything may take, in microseconds.
const LONGEST_WAIT_US: u64 = 20_000_000;
/// A CPU that has not come out of WFI for this long stays there until it is woken.
const REST_US: u64 = 5_000;

/// The handler leaves the line high this often before it lowers it.
static TIMES_LEFT_HIGH: AtomicU32 = AtomicU32::new(0);
static TAKEN: AtomicU32 = AtomicU32::new(0);
static TAKEN_BY: AtomicUsize = AtomicUsize::new(0);
static TAKEN_DATA: AtomicU32 = AtomicU32::new(0);
static HAS_ABORTED: AtomicBool = AtomicBool::new(false);
/// How often each CPU came out of WFI.
static RETURNS: [AtomicU32; MAX_CPUS] = [const { AtomicU32::new(0) }; MAX_CPUS];
static ARE_UP: AtomicUsize = AtomicUsize::new(1);

/// Ends the run with the reason that follows, unless the condition holds.
macro_rules! check {
    ($condition:expr, $($reason:tt)+) => {
        if !$condition {
            fail(format_args!($($reason)+));
        }
    };
}

fn main() -> ! {
    let cpus = machine::cpu_count();
    check!(cpus >= 2, "it needs 2 CPUs");
    for index in 1..cpus {
        let result = power::start_cpu(index, 0);
        check!(
            result == power::status::SUCCESS,
            "CPU_ON of CPU {index} returned {result}"
        );
    }
    await_or_fail("the start of all CPUs", || ARE_UP.load(Acquire) == cpus);

    registers();
    (0..cpus).for_each(interrupts_of);
    let pcpus = machine::parameters().number("pcpus", 4);
    let moves = moves(pcpus);
    let wakes = if pcpus > 1 {
        (1..cpus).map(|index| wake(index, pcpus)).sum()
    } else {
        0
    };
    console::last_line(format_args!("EXAMPLE PASS moves={moves} wakes={wakes}"));
    power::system_off()
}

/// Waits in WFI for ever, with IRQs taken.
fn secondary(entry: boot::Entry) -> ! {
    gic::enable_cpu();
    cpu::unmask_interrupts();
    ARE_UP.fetch_add(1, Release);
    loop {
        cpu::wait_for_interrupt();
        RETURNS[entry.index].fetch_add(1, SeqCst);
    }
}

/// The registers hold what they should, and accesses of another kind abort.
fn registers() {
    let id = mmio::read32(ID);
    check!(id == u32::from_le_bytes(*b"bell"), "ID reads as {id:#x}");
    for value in [0, 0x1234_5678, u32::MAX] {
        mmio::write32(DATA, value);
        let read = mmio::read32(DATA);
        check!(
            read == value,
            "DATA reads as {read:#x} after a write of {value:#x}"
        );
    }
    expect_abort("a narrow write to DATA", || mmio::write8(DATA, 0));
    expect_abort("a wide read of DATA", || _ = mmio::read64(DATA));
    expect_abort("a write to ID", || mmio::write32(ID, 0));
    expect_abort("a read of RING", || _ = mmio::read32(RING));
    expect_abort("a write past the last register", || {
        mmio::write32(BELL + 0x10, 0)
    });
    let read = mmio::read32(DATA);
    check!(
        read == u32::MAX,
        "DATA reads as {read:#x} after writes that aborted"
    );
}

fn expect_abort(what: &str, access: impl FnOnce()) {
    HAS_ABORTED.store(false, Relaxed);
    access();
    check!(HAS_ABORTED.load(Relaxed), "{what} did not abort");
}

/// The line interrupts the CPU that it is routed to, as long as it is high.
fn interrupts_of(index: usize) {
    let (data, times) = (0x100 + index as u32, 3);
    gic::set_edge_triggered(BELL_INTID, false);
    gic::set_priority(BELL_INTID, gic::DEFAULT_PRIORITY);
    gic::route(BELL_INTID, index);
    gic::enable(BELL_INTID);
    TAKEN.store(0, Relaxed);
    TIMES_LEFT_HIGH.store(times - 1, Relaxed);
    mmio::write32(DATA, data);
    cpu::unmask_interrupts();
    mmio::write32(RING, 1);
    await_or_fail("the doorbell's interrupt", || TAKEN.load(Acquire) >= times);
    rest();
    cpu::mask_interrupts();
    gic::disable(BELL_INTID);
    let (taken, by, seen) = (
        TAKEN.load(Acquire),
        TAKEN_BY.load(Relaxed),
        TAKEN_DATA.load(Relaxed),
    );
    check!(
        taken == times,
        "the line was high for {times} interrupts, and {taken} were taken"
    );
    check!(by == index, "CPU {by} took the interrupt of CPU {index}");
    check!(
        seen == data,
        "the handler read {seen:#x} from DATA, not {data:#x}"
    );
}

/// This CPU gets where it asks to. It asks again if it came to a busy pCPU, which handed it on to an idle one.
fn moves(pcpus: u64) -> u64 {
    let own = cpu::index() as u64;
    for to in (0..pcpus).rev().chain(0..pcpus) {
        await_or_fail("the arrival on another pCPU", || {
            let result = power::call(MOVE_AND_WAKE, [to, own, 0]);
            check!(
                result == power::status::SUCCESS,
                "moving to pCPU {to} returned {result}"
            );
            place_of(cpu::index()) == to
        });
    }
    let vcpus = machine::cpu_count() as u64;
    for (to, sleeper) in [
        (pcpus, own),
        (64, own),
        (u64::MAX, own),
        (0, vcpus),
        (0, u64::MAX),
    ] {
        let result = power::call(MOVE_AND_WAKE, [to, sleeper, 0]);
        check!(
            result == power::status::INVALID_PARAMETERS,
            "moving to pCPU {to:#x} and waking CPU {sleeper:#x} returned {result}"
        );
    }
    2 * pcpus
}

/// The CPU at `index`, which waits with nothing pending on another pCPU, comes out of its WFI by the call alone.
fn wake(index: usize, pcpus: u64) -> u64 {
    let returns = &RETURNS[index];
    let mut before = returns.load(SeqCst);
    await_or_fail("the rest of a CPU in WFI", || {
        rest();
        core::mem::replace(&mut before, returns.load(SeqCst)) == before
    });
    let bed = place_of(index);
    let to = (bed + 1) % pcpus;
    let result = power::call(MOVE_AND_WAKE, [to, index as u64, 0]);
    check!(
        result == power::status::SUCCESS,
        "waking CPU {index} returned {result}"
    );
    await_or_fail("the end of a WFI", || returns.load(SeqCst) != before);
    1
}

fn place_of(index: usize) -> u64 {
    let place = power::call(WHERE, [index as u64, 0, 0]);
    check!(place >= 0, "CPU {index} is nowhere: {place}");
    place as u64
}

fn rest() {
    let end = cpu::now() + cpu::microseconds(REST_US);
    while cpu::now() < end {
        cpu::relax();
    }
}

fn interrupt(_: &mut Frame) {
    let intid = gic::acknowledge();
    if intid == gic::SPURIOUS {
        return;
    }
    check!(
        intid == BELL_INTID,
        "interrupt {intid} came, which nobody asked for"
    );
    TAKEN_BY.store(cpu::index(), Relaxed);
    TAKEN_DATA.store(mmio::read32(DATA), Relaxed);
    if TIMES_LEFT_HIGH.load(Relaxed) == 0 {
        mmio::write32(ACK, 1);
    } else {
        TIMES_LEFT_HIGH.fetch_sub(1, Relaxed);
    }
    TAKEN.fetch_add(1, Release);
    gic::end(intid);
}

fn exception(kind: Kind, frame: &mut Frame) {
    if kind == Kind::Synchronous && frame.class() == DATA_ABORT {
        HAS_ABORTED.store(true, Relaxed);
        frame.skip();
    } else {
        exceptions::report(kind, frame);
    }
}

fn await_or_fail(what: &str, done: impl FnMut() -> bool) {
    let is_done = cpu::wait_until(cpu::microseconds(LONGEST_WAIT_US), done);
    check!(is_done, "{what} did not come in 20 s");
}

fn fail(reason: core::fmt::Arguments<'_>) -> ! {
    console::last_line(format_args!("EXAMPLE FAIL cpu={} {reason}", cpu::index()));
    power::system_off()
}
