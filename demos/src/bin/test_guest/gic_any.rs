//! What a distributor need not have: interrupts that come as messages, and such as any CPU may take.

use core::sync::atomic::{
    AtomicBool, AtomicU32,
    Ordering::{Acquire, Release},
};

use trapline_demos::guest::{MAX_CPUS, cpu, gic, machine, mmio};

use crate::{
    gic_priority::{pend, prepare},
    support::{self, await_or_fail, check, expect_log, log, log_and_end, on_interrupt},
};

const LEVEL: u32 = 74;
const EDGE: u32 = 75;
const ROUNDS: u32 = 60;
/// GICD_TYPER.MBIS.
const HAS_MESSAGES: u32 = 1 << 16;
/// GICD_TYPER.No1N.
const LACKS_ANY: u32 = 1 << 25;

/// The machine has what `is_there` says, or need not have it; with `strict=1` it must.
fn is_there(what: &str, is_there: bool) -> bool {
    check!(is_there || !support::is_strict(), "there are no {what}");
    if !is_there {
        support::say(format_args!("without {what}"));
    }
    is_there
}

fn kind() -> u32 {
    mmio::read32(gic::DISTRIBUTOR + gic::offset::TYPER)
}

fn send(register: usize, intid: u32) {
    mmio::write32(gic::DISTRIBUTOR + register, intid);
}

/// A message to an edge-triggered interrupt is an edge; to a level-sensitive one it is a level until another lowers it.
pub fn messages() {
    if !is_there("messages", kind() & HAS_MESSAGES != 0) {
        return;
    }
    on_interrupt(|intid| {
        log(intid);
        if intid == LEVEL && support::logged() == 2 {
            send(gic::offset::CLRSPI, LEVEL);
        }
        gic::end(intid);
    });
    prepare(&[(LEVEL, 0xa0), (EDGE, 0xa0)]);
    gic::set_edge_triggered(LEVEL, false);
    for _ in 0..3 {
        send(gic::offset::SETSPI, EDGE);
        support::expect_taken("an edge", &[EDGE]);
        send(gic::offset::SETSPI, LEVEL);
        support::expect_taken("a level, until it is lowered", &[LEVEL, LEVEL]);
        for intid in [LEVEL, EDGE] {
            send(gic::offset::SETSPI, intid);
            send(gic::offset::CLRSPI, intid);
        }
        support::expect_taken("messages that were taken back", &[]);
    }
}

static IS_OVER: AtomicBool = AtomicBool::new(false);
static TAKEN: [AtomicU32; MAX_CPUS] = [const { AtomicU32::new(0) }; MAX_CPUS];

fn taken() -> u32 {
    TAKEN.iter().map(|count| count.load(Acquire)).sum()
}

fn listen() {
    cpu::unmask_interrupts();
    await_or_fail("the end of the test", || IS_OVER.load(Acquire));
}

/// An interrupt that any CPU may take is taken once, by one that does not refuse it.
pub fn to_any() {
    if !is_there("interrupts to any CPU", kind() & LACKS_ANY == 0) {
        return;
    }
    support::start_all();
    let count = machine::cpu_count();
    on_interrupt(|intid| {
        TAKEN[cpu::index()].fetch_add(1, Release);
        gic::end(intid);
    });
    prepare(&[(EDGE, 0xa0)]);
    gic::route_to_any(EDGE);
    let route = mmio::read64(gic::DISTRIBUTOR + gic::offset::IROUTER + EDGE as usize * 8);
    check!(route & 1 << 31 != 0, "GICD_IROUTER reads {route:#x}");
    (1..count).for_each(|other| support::run_on(other, listen));
    cpu::unmask_interrupts();
    for round in 0..ROUNDS {
        pend(EDGE);
        await_or_fail("one that any CPU may take", || taken() > round);
    }
    let chosen = count - 1;
    (0..count).for_each(|index| gic::refuse_any(index, index != chosen));
    let before = TAKEN[chosen].load(Acquire);
    for round in 1..=ROUNDS {
        pend(EDGE);
        await_or_fail("one that the last CPU may take", || {
            TAKEN[chosen].load(Acquire) == before + round
        });
    }
    // Nobody takes it until somebody does not refuse it any more.
    gic::refuse_any(chosen, true);
    pend(EDGE);
    support::pause();
    check!(taken() == 2 * ROUNDS, "a CPU took what it refuses");
    gic::refuse_any(1, false);
    await_or_fail("one that was refused", || taken() > 2 * ROUNDS);
    support::pause();
    check!(taken() == 2 * ROUNDS + 1, "{} were taken", taken());
    cpu::mask_interrupts();
    IS_OVER.store(true, Release);
    (1..count).for_each(support::join);
    on_interrupt(log_and_end);
    expect_log("nothing else", &[]);
}
