//! Does an SMP machine keep its promises under load? Every CPU mixes, at random:
//!
//! - spinlocks shared by all, whose counters must add up (`locks`),
//! - SGIs from all to all with a mailbox each, so that a lost, doubled or torn one shows (`mail`),
//! - one-shot timers, which fire once and never early, and WFI until one does (`timers`),
//! - patterns in the general, FP/SIMD and thread registers across all of that (`registers`),
//! - CPU_OFF, and CPU_ON by somebody else (`cycles`).
//!
//! Parameters: `seconds=` of the virtual counter (default 5), `seed=` (default 1), `limit=` seconds without progress of one CPU
//! that count as a hang (default 20), `strict=1` to check also what PSCI asks and QEMU's own firmware does not do. The last line is `STRESS PASS vcpus=.. sgis=.. timers=.. locks=.. cycles=..`, or `STRESS FAIL` and who
//! expected what, and saw what, where.
#![no_std]
#![no_main]

mod cycles;
mod locks;
mod mail;
mod registers;
mod state;
mod timers;
mod watchdog;

use core::sync::atomic::Ordering::Relaxed;

use trapline_demos::{
    guest::{
        boot::Entry,
        cpu,
        exceptions::{Frame, Kind},
        gic, machine, power,
        random::Random,
        timer::Timer,
    },
    guest_println, guest_program,
};

use crate::state::{Doing, cpu_state, fail};

guest_program! { main: main, secondary: secondary, interrupt: interrupt, exception: exception }

fn main() -> ! {
    let parameters = machine::parameters();
    let seconds = parameters.number("seconds", 5);
    state::SEED.store(parameters.number("seed", 1), Relaxed);
    cycles::IS_STRICT.store(parameters.number("strict", 0) != 0, Relaxed);
    guest_println!(
        "stress: {} CPUs, {seconds} s, seed {}",
        machine::cpu_count(),
        state::SEED.load(Relaxed)
    );

    watchdog::start(parameters.number("limit", 20));
    prepare(0);
    for index in 1..machine::cpu_count() {
        cycles::start_first_time(index);
    }
    let end = cpu::now() + seconds.saturating_mul(cpu::frequency());
    let mut random = Random::new(state::SEED.load(Relaxed), 0);
    while cpu::now() < end {
        one_operation(0, &mut random);
    }
    state::STOP.store(true, Relaxed);
    finish(&mut random)
}

fn secondary(entry: Entry) -> ! {
    cycles::check_entry(&entry);
    gic::enable_cpu();
    prepare(entry.index);
    cycles::announce(&entry);
    let mut random = Random::new(state::SEED.load(Relaxed) ^ entry.cookie, entry.index as u64);
    while !state::STOP.load(Relaxed) {
        one_operation(entry.index, &mut random);
        watchdog::check_alive();
    }
    rest(entry.index)
}

/// What each CPU does once, before its first operation.
fn prepare(index: usize) {
    gic::enable(Timer::Virtual.intid());
    registers::mark_threads(index, 0);
    mail::open(index);
    cpu::unmask_interrupts();
}

fn one_operation(index: usize, random: &mut Random) {
    match random.below(32) {
        0..8 => locks::round(index, random),
        8..18 => mail::send(index, random),
        18..20 => mail::ask(index, random),
        20..24 => timers::wait(index, random),
        24..27 => registers::floating_point(index, random),
        27..29 => registers::general(index, random),
        29 => registers::threads(index, random),
        30 => cycles::help(index, random),
        _ if index != 0 => cycles::leave(index),
        _ => cycles::help(index, random),
    }
    let state = cpu_state(index);
    state.enter(Doing::Choosing, 0);
    state.operations.fetch_add(1, Relaxed);
}

/// A CPU that is done only answers interrupts.
fn rest(index: usize) -> ! {
    cpu_state(index).enter(Doing::Resting, 0);
    cpu_state(index).is_done.store(true, Relaxed);
    loop {
        cpu::wait_for_interrupt();
    }
}

/// The boot CPU waits until all are done and nothing is on its way, then compares what was sent with what arrived.
fn finish(random: &mut Random) -> ! {
    cpu_state(0).enter(Doing::Finishing, 0);
    watchdog::expect_rest();
    cpu_state(0).is_done.store(true, Relaxed);
    while !state::all().all(|state| state.is_done.load(Relaxed)) {
        cycles::help(0, random);
        cpu_state(0).enter(Doing::Finishing, 1);
    }
    cpu_state(0).enter(Doing::Finishing, 2);
    while !mail::is_quiet() {
        cpu::relax();
    }
    cpu::mask_interrupts();
    locks::check_sums();
    mail::check_sums();
    timers::check_sums();
    state::end_of_run(format_args!(
        "STRESS PASS vcpus={} sgis={} timers={} locks={} cycles={} late_us={}",
        machine::cpu_count(),
        state::sum(|state| &state.sgis_taken),
        state::sum(|state| &state.timers_fired),
        state::sum(|state| &state.lock_rounds),
        state::sum(|state| &state.cycles),
        timers::worst_lateness_us(),
    ));
    power::system_off()
}

fn interrupt(_: &mut Frame) {
    let intid = gic::acknowledge();
    match intid {
        0..16 => mail::take(intid),
        gic::SPURIOUS => return,
        _ if intid == Timer::Virtual.intid() => timers::fire(),
        _ if intid == Timer::Physical.intid() => watchdog::tick(),
        _ => fail(format_args!("nobody asked for interrupt {intid}")),
    }
    gic::end(intid);
}

fn exception(kind: Kind, frame: &mut Frame) {
    fail(format_args!(
        "{kind:?} exception: esr={:#x} elr={:#x} far={:#x} spsr={:#x}",
        frame.esr, frame.elr, frame.far, frame.spsr
    ));
}
