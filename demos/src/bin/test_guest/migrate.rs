//! A vCPU that is moved between pCPUs while its timer, an SGI, FP registers and an active interrupt are live.
//!
//! The harness hypervisor registers the vendor call [`MIGRATE`]: x1 is the pCPU to move to, x2 the index of the vCPU to move
//! (perhaps the caller). It returns 0 in x0, or a negative number if there is no such pCPU or vCPU. Every CPU moves itself, in the
//! three states in which an interrupt can be, and moves the others, which then run, are queued, or wait in WFI. Without that
//! call, as on bare QEMU, everything else is tested.
//!
//! Parameters: `moves=` calls in all (default 300), `pcpus=` to move between (default 4), `seed=`.

use core::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Acquire, Relaxed, Release, SeqCst},
};

use trapline_demos::guest::{
    MAX_CPUS, cpu, gic, machine, patterns, power,
    random::Random,
    timer::{ENABLE, ISTATUS, Timer},
};

use crate::support::{self, check, on_interrupt};

/// The vendor call that moves a vCPU.
pub const MIGRATE: u32 = 0xc600_0001;
const SGI: u32 = 3;

/// What one CPU expects of its interrupts.
struct Expected {
    /// An SGI was sent, and its handler has not run.
    sgi: AtomicBool,
    /// The timer was armed, and its handler has not run.
    timer: AtomicBool,
    deadline: AtomicU64,
    /// The handlers move their CPU while their interrupt is active.
    moves_in_handlers: AtomicBool,
}

static EXPECTED: [Expected; MAX_CPUS] = [const {
    Expected {
        sgi: AtomicBool::new(false),
        timer: AtomicBool::new(false),
        deadline: AtomicU64::new(0),
        moves_in_handlers: AtomicBool::new(false),
    }
}; MAX_CPUS];

static LEFT: AtomicU64 = AtomicU64::new(0);
static CALLS: AtomicU64 = AtomicU64::new(0);
static MOVED: AtomicU64 = AtomicU64::new(0);
static PCPUS: AtomicU64 = AtomicU64::new(4);
static SEED: AtomicU64 = AtomicU64::new(1);

/// Moves until the number of moves asked for is reached.
pub fn live() {
    let parameters = machine::parameters();
    LEFT.store(parameters.number("moves", 300), SeqCst);
    PCPUS.store(parameters.number("pcpus", 4), Relaxed);
    SEED.store(parameters.number("seed", 1), Relaxed);
    support::start_all();
    on_interrupt(handle);
    (1..machine::cpu_count()).for_each(|index| support::run_on(index, work));
    work();
    for index in 1..machine::cpu_count() {
        while !support::is_done(index) {
            cpu::relax();
        }
    }
    support::say(format_args!(
        "calls={} moved={}",
        CALLS.load(SeqCst),
        MOVED.load(SeqCst)
    ));
}

/// One move of `vcpu`, or of the calling one.
fn migrate(vcpu: usize, random: u64) {
    let pcpus = PCPUS.load(Relaxed).max(1);
    let result = power::call(MIGRATE, [random % pcpus, vcpu as u64, 0]);
    CALLS.fetch_add(1, Relaxed);
    if result == 0 {
        MOVED.fetch_add(1, Relaxed);
    }
    check!(
        result == 0 || result == power::status::NOT_SUPPORTED,
        "moving vCPU {vcpu} returned {result}"
    );
}

/// Takes one of the moves that are left.
fn take_move() -> bool {
    LEFT.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1))
        .is_ok()
}

fn work() {
    let index = cpu::index();
    let mut random = Random::new(SEED.load(Relaxed), index as u64);
    gic::enable(Timer::Virtual.intid());
    while take_move() {
        let seed = random.next();
        patterns::fill(seed);
        match random.below(4) {
            0 => while_pending(index, &mut random),
            1 => while_active(index, &mut random),
            2 => move_another(&mut random),
            _ => wait_for_timer(index, &mut random),
        }
        if let Some(register) = patterns::changed(seed) {
            support::fail(format_args!(
                "{register} changed; the pattern was {seed:#x}"
            ));
        }
    }
}

fn expect_timer(index: usize, delay_us: u64) {
    let deadline = cpu::now() + cpu::microseconds(delay_us);
    EXPECTED[index].deadline.store(deadline, Relaxed);
    EXPECTED[index].timer.store(true, Release);
    Timer::Virtual.arm(deadline);
}

fn expect_sgi(index: usize) {
    EXPECTED[index].sgi.store(true, Release);
    gic::send_sgi(SGI, index);
}

/// Unmasks until both have come.
fn take_expected(index: usize) {
    let expected = &EXPECTED[index];
    loop {
        cpu::mask_interrupts();
        if !expected.timer.load(Acquire) && !expected.sgi.load(Acquire) {
            return;
        }
        cpu::wait_for_interrupt();
        cpu::unmask_interrupts();
    }
}

/// Moves with an SGI pending and a timer due, or about to be.
fn while_pending(index: usize, random: &mut Random) {
    expect_timer(index, random.below(200));
    expect_sgi(index);
    migrate(index, random.next());
    check!(
        EXPECTED[index].sgi.load(Acquire),
        "the SGI was taken although IRQs were masked"
    );
    check!(
        gic::read_bit(gic::offset::ISPENDR, SGI),
        "the SGI is not pending after the move"
    );
    take_expected(index);
}

/// Moves in the handlers, while their interrupts are active.
fn while_active(index: usize, random: &mut Random) {
    EXPECTED[index].moves_in_handlers.store(true, Relaxed);
    expect_sgi(index);
    expect_timer(index, random.below(100));
    take_expected(index);
    EXPECTED[index].moves_in_handlers.store(false, Relaxed);
}

/// Moves another vCPU, whatever it does.
fn move_another(random: &mut Random) {
    let other = random.below(machine::cpu_count() as u64) as usize;
    migrate(other, random.next());
}

/// Waits in WFI, so that others find this CPU parked.
fn wait_for_timer(index: usize, random: &mut Random) {
    expect_timer(index, random.below(1000));
    take_expected(index);
}

fn handle(intid: u32) {
    let index = cpu::index();
    let expected = &EXPECTED[index];
    let now = cpu::now();
    let what = if intid == SGI {
        &expected.sgi
    } else {
        &expected.timer
    };
    check!(
        intid == SGI || intid == Timer::Virtual.intid(),
        "interrupt {intid} came, which nobody asked for"
    );
    check!(what.swap(false, SeqCst), "interrupt {intid} came twice");
    if expected.moves_in_handlers.load(Relaxed) {
        migrate(index, now >> 3);
        check!(
            gic::read_bit(gic::offset::ISACTIVER, intid),
            "{intid} is not active in its handler after the move"
        );
    }
    if intid != SGI {
        let (control, deadline) = (Timer::Virtual.control(), expected.deadline.load(Relaxed));
        check!(
            control == ENABLE | ISTATUS,
            "the timer's handler sees control {control:#x}"
        );
        check!(
            now >= deadline,
            "the timer fired at {now}, before {deadline}"
        );
        Timer::Virtual.set_control(0);
    }
    gic::end(intid);
}
