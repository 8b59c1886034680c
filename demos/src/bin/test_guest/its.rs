//! Every command of the ITS, by LPIs that are taken or not; INT stands for a device.

use core::sync::atomic::{
    AtomicBool,
    Ordering::{Acquire, Release},
};

use trapline_demos::guest::{
    cpu, gic,
    its::{self, Command},
    mmio,
};

use crate::support::{self, await_or_fail, check, expect_log, log, on_interrupt};

const INT: u64 = 0x03;
const CLEAR: u64 = 0x04;
const INV: u64 = 0x0c;
const DISCARD: u64 = 0x0f;

const DEVICE: u64 = 5;
const EVENTS: u64 = 16;
const FIRST: u32 = its::FIRST_LPI;
/// In the first CPU's pending table before it takes LPIs, and mapped to nothing.
const EARLY: u32 = FIRST + 100;
/// Added to an INTID in the log by the second CPU.
const OTHER: u32 = 0x1_0000;

static IS_OVER: AtomicBool = AtomicBool::new(false);

fn listen() {
    cpu::unmask_interrupts();
    await_or_fail("the end of the test", || IS_OVER.load(Acquire));
}

#[track_caller]
fn run(commands: &[Command]) {
    check!(
        its::run(commands),
        "a command is not executed: line {}",
        core::panic::Location::caller().line()
    );
}

fn int(event: u64) -> Command {
    its::simple(INT, DEVICE, event)
}

/// The commands have these LPIs taken, and no others.
fn expect(what: &str, commands: &[Command], events: &[u32]) {
    run(commands);
    support::expect_taken(what, events);
}

/// The commands, the tables, two CPUs.
pub fn commands() {
    let revision = mmio::read32(its::ITS + its::offset::PIDR2) >> 4 & 15;
    check!(revision >= 3, "GITS_PIDR2 says architecture {revision}");
    let kind = mmio::read64(its::ITS + its::offset::TYPER);
    check!(kind & 1 != 0, "GITS_TYPER is {kind:#x}: no physical LPIs");
    support::start(2);
    on_interrupt(|intid| {
        log(intid + if cpu::index() == 0 { 0 } else { OTHER });
        gic::end(intid);
    });
    its::configure(EARLY, 0x81);
    its::set_in_table(0, EARLY);
    its::enable_lpis(0);
    its::enable_lpis(1);
    support::expect_taken("what the pending table has", &[EARLY]);
    its::enable();
    run(&[its::mapc(0, 0), its::mapc(1, 1), its::mapd(DEVICE, 4)]);
    for event in 0..EVENTS {
        let intid = FIRST + event as u32;
        its::configure(intid, 0xa1);
        run(&[
            its::mapti(DEVICE, event, intid, 0),
            its::simple(INV, DEVICE, event),
        ]);
    }
    support::run_on(1, listen);
    one_cpu();
    configuration();
    two_cpus();
    nonsense();
    off_and_on();
    IS_OVER.store(true, Release);
    support::join(1);
}

fn one_cpu() {
    expect("an event", &[int(3), its::sync(0)], &[FIRST + 3]);
    expect("twice is once", &[int(3), int(3)], &[FIRST + 3]);
    expect(
        "a cleared event",
        &[int(3), its::simple(CLEAR, DEVICE, 3)],
        &[],
    );
    expect(
        "a discarded event",
        &[int(3), its::simple(DISCARD, DEVICE, 3), int(3)],
        &[],
    );
    expect(
        "an event that is mapped again",
        &[its::mapti(DEVICE, 3, FIRST + 3, 0), int(3)],
        &[FIRST + 3],
    );
    // More than there are list registers, with priorities of their own.
    for event in 0..EVENTS {
        its::configure(FIRST + event as u32, 0xf1 - 8 * event as u8);
    }
    run(&[its::invall(0), its::sync(0)]);
    let all: [Command; EVENTS as usize] = core::array::from_fn(|event| int(event as u64));
    run(&all);
    let order: [u32; EVENTS as usize] =
        core::array::from_fn(|place| FIRST + EVENTS as u32 - 1 - place as u32);
    support::expect_taken("the most urgent first", &order);
    for event in 0..EVENTS {
        its::configure(FIRST + event as u32, 0xa1);
    }
    run(&[its::invall(0)]);
    // The queue comes round several times.
    for _ in 0..20 {
        run(&[its::sync(0); 50]);
    }
    expect("an event after many commands", &[int(0)], &[FIRST]);
}

fn configuration() {
    its::configure(FIRST, 0xa0);
    let inv = its::simple(INV, DEVICE, 0);
    expect("a disabled LPI", &[inv, its::sync(0), int(0)], &[]);
    its::configure(FIRST, 0xa1);
    expect("it was pending", &[inv, its::sync(0)], &[FIRST]);
}

fn two_cpus() {
    let both = |commands: &[Command]| {
        run(commands);
        await_or_fail("an LPI on the other CPU", || support::logged() == 1);
        support::pause();
    };
    both(&[int(1), its::movi(DEVICE, 1, 1), its::sync(0), its::sync(1)]);
    expect_log("one that was moved while pending", &[OTHER + FIRST + 1]);
    both(&[int(1)]);
    expect_log("and later ones", &[OTHER + FIRST + 1]);
    both(&[int(2), its::movall(0, 1), its::sync(1)]);
    expect_log("all that are pending", &[OTHER + FIRST + 2]);
    expect("its collection is where it was", &[int(2)], &[FIRST + 2]);
    run(&[its::movi(DEVICE, 1, 0)]);
    expect("moved back", &[int(1)], &[FIRST + 1]);
    for _ in 0..50 {
        run(&[
            int(4),
            its::movi(DEVICE, 4, 1),
            int(4),
            its::movi(DEVICE, 4, 0),
        ]);
        support::take_pending();
        let count = support::logged();
        check!(count == 1 || count == 2, "{count} were taken of two");
        support::clear_log();
    }
}

fn nonsense() {
    run(&[
        [0xff, u64::MAX, u64::MAX, u64::MAX],
        its::mapd(0xffff_ffff, 4),
        its::mapti(DEVICE, 1 << 20, FIRST, 0),
        its::mapti(DEVICE, 0, 100, 0),
        its::mapti(DEVICE, 0, 1 << 30, 0),
        int(1 << 20),
        its::simple(INT, DEVICE + 1, 0),
        its::simple(DISCARD, DEVICE + 1, 0),
        its::movi(DEVICE + 1, 0, 0),
    ]);
    expect("an event after nonsense", &[int(0)], &[FIRST]);
    run(&[int(0), its::unmapd(DEVICE), its::sync(0)]);
    run(&[int(0)]);
    support::take_pending();
    support::clear_log();
    run(&[its::mapd(DEVICE, 4), its::mapti(DEVICE, 0, FIRST, 0)]);
    expect("a device that is mapped again", &[int(0)], &[FIRST]);
}

/// A redistributor that stops taking LPIs keeps what is pending in its table, and reads it again.
fn off_and_on() {
    run(&[int(0)]);
    if !its::disable_lpis(0) {
        check!(!support::is_strict(), "LPIs cannot be turned off");
        support::take_pending();
        support::clear_log();
        return;
    }
    if support::is_strict() {
        support::expect_taken("LPIs are off", &[]);
        check!(its::is_in_table(0, FIRST), "the pending table has nothing");
        its::enable_lpis(0);
        support::expect_taken("LPIs are on again", &[FIRST]);
    }
    support::clear_log();
}
