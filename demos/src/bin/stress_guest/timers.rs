//! One-shot timers: each fires once, and never early.

use core::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use trapline_demos::guest::{
    MAX_CPUS, cpu, machine,
    random::Random,
    timer::{ENABLE, ISTATUS, Timer},
};

use crate::state::{self, Doing, cpu_state, fail};

/// The longest delay that is armed.
const LONGEST_US: u64 = 2000;

struct OneShot {
    is_armed: AtomicBool,
    deadline: AtomicU64,
}

static ONE_SHOTS: [OneShot; MAX_CPUS] = [const {
    OneShot {
        is_armed: AtomicBool::new(false),
        deadline: AtomicU64::new(0),
    }
}; MAX_CPUS];

/// Arms this CPU's timer and waits in WFI until it has fired; SGIs are answered meanwhile.
pub fn wait(index: usize, random: &mut Random) {
    let delay = random.below(cpu::microseconds(LONGEST_US));
    let deadline = cpu::now() + delay;
    let one_shot = &ONE_SHOTS[index];
    let state = cpu_state(index);
    state.enter(Doing::AwaitingTimer, deadline);
    state.timers_armed.fetch_add(1, Relaxed);
    one_shot.deadline.store(deadline, Relaxed);
    one_shot.is_armed.store(true, Release);
    Timer::Virtual.arm(deadline);
    loop {
        // With IRQs masked, a timer that fires between the check and WFI still ends the WFI.
        cpu::mask_interrupts();
        if !one_shot.is_armed.load(Acquire) {
            break;
        }
        cpu::wait_for_interrupt();
        cpu::unmask_interrupts();
    }
    cpu::unmask_interrupts();
}

/// The handler of the virtual timer's interrupt.
pub fn fire() {
    let index = cpu::index();
    let now = Timer::Virtual.now();
    let control = Timer::Virtual.control();
    let one_shot = &ONE_SHOTS[index];
    let deadline = one_shot.deadline.load(Relaxed);
    if !one_shot.is_armed.swap(false, Release) {
        fail(format_args!(
            "the timer fired again: armed for {deadline}, now {now}, control {control:#x}"
        ));
    }
    if now < deadline || Timer::Virtual.deadline() != deadline {
        fail(format_args!(
            "the timer fired early: armed for {deadline}, set to {}, now {now}",
            Timer::Virtual.deadline()
        ));
    }
    if control != ENABLE | ISTATUS {
        fail(format_args!(
            "the timer's handler sees control {control:#x} instead of ENABLE and ISTATUS"
        ));
    }
    Timer::Virtual.set_control(0);
    let state = cpu_state(index);
    state.timers_fired.fetch_add(1, Relaxed);
    state.worst_lateness.fetch_max(now - deadline, Relaxed);
}

/// Every timer that was armed fired.
pub fn check_sums() {
    let armed = state::sum(|state| &state.timers_armed);
    let fired = state::sum(|state| &state.timers_fired);
    if armed != fired {
        fail(format_args!(
            "timers: {armed} were armed, {fired} fired on {} CPUs",
            machine::cpu_count()
        ));
    }
}

/// The longest time from a deadline to its handler, over all CPUs.
pub fn worst_lateness_us() -> u64 {
    let ticks = state::all()
        .map(|state| state.worst_lateness.load(Relaxed))
        .max()
        .unwrap_or(0);
    ticks.saturating_mul(1_000_000) / cpu::frequency()
}
