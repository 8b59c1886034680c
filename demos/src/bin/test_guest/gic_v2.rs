//! What only a GICv2 has: SGIs that know their sender, and interrupts for a set of CPUs.

use core::sync::atomic::{
    AtomicBool, AtomicU32,
    Ordering::{Acquire, Release},
};

use trapline_demos::guest::{MAX_CPUS, cpu, gic, machine, mmio};

use crate::{
    gic_priority::{pend, prepare},
    support::{self, await_or_fail, check, event, log, logged, on_interrupt},
};

const SGI: u32 = 5;
const OTHER_SGI: u32 = 6;
const SPI: u32 = 76;
const ROUNDS: u32 = 60;

/// How an SGI of a sender stands in the log.
const fn from(sender: usize, intid: u32) -> u32 {
    (sender as u32) << 8 | intid
}

fn log_with_sender(intid: u32) {
    log(from(gic::source(intid), intid));
    gic::end(intid);
}

/// The senders of a pending SGI, as this CPU sees them.
fn senders(sgi: u32) -> u8 {
    mmio::read8(gic::DISTRIBUTOR + gic::offset::SPENDSGIR + sgi as usize)
}

fn write(register: usize, sgi: u32, senders: u8) {
    mmio::write8(gic::DISTRIBUTOR + register + sgi as usize, senders);
}

/// Each of these CPUs, which are not this one, sends the SGI here.
fn let_send(cpus: &[usize]) {
    for &index in cpus {
        support::run_on(index, || gic::send_sgi(SGI, 0));
        support::join(index);
    }
}

/// Takes SGIs until as many are logged as are expected; then these were taken, in any order.
fn expect_in_any_order(what: &str, events: &[u32]) {
    cpu::unmask_interrupts();
    cpu::wait_until(cpu::microseconds(30_000_000), || logged() >= events.len());
    support::pause();
    cpu::mask_interrupts();
    let is_there = |expected: &u32| (0..logged()).any(|place| event(place) == *expected);
    check!(
        logged() == events.len() && events.iter().all(is_there),
        "{what}: {} SGIs, the first {:#x}",
        logged(),
        event(0)
    );
    support::clear_log();
}

/// SGIs of one number from several CPUs are as many interrupts.
pub fn sgis_by_source() {
    support::start(3);
    on_interrupt(log_with_sender);
    let all = [from(0, SGI), from(1, SGI), from(2, SGI)];
    for _ in 0..ROUNDS {
        gic::send_sgi(SGI, 0);
        let_send(&[1, 2]);
        check!(senders(SGI) == 0b111, "senders are {:#b}", senders(SGI));
        expect_in_any_order("each sender's", &all);
        // Twice from one of them before it is taken is once.
        let_send(&[2, 2]);
        expect_in_any_order("one sender's", &[from(2, SGI)]);
    }
    gic::send_sgi(SGI, 0);
    let_send(&[1, 2]);
    write(gic::offset::CPENDSGIR, SGI, 0b010);
    check!(senders(SGI) == 0b101, "senders are {:#b}", senders(SGI));
    expect_in_any_order("one was taken back", &[from(0, SGI), from(2, SGI)]);
    write(gic::offset::SPENDSGIR, OTHER_SGI, 0b110);
    check!(senders(OTHER_SGI) == 0b110 && senders(SGI) == 0, "others");
    write(gic::offset::CPENDSGIR, OTHER_SGI, 0b100);
    expect_in_any_order("software made it pending", &[from(1, OTHER_SGI)]);
    while_active();
    always_enabled();
}

/// What comes while the same SGI is handled comes afterwards.
fn while_active() {
    on_interrupt(|intid| {
        let sender = gic::source(intid);
        log(from(sender, intid));
        if sender == 0 {
            write(gic::offset::SPENDSGIR, SGI, 0b110);
            cpu::unmask_interrupts();
            support::pause();
            cpu::mask_interrupts();
            check!(logged() == 1, "an active SGI was taken again");
            check!(
                gic::read_bit(gic::offset::ISACTIVER, SGI) && senders(SGI) == 0b110,
                "the SGI is not active, or not pending from {:#b}",
                senders(SGI)
            );
        }
        gic::end(intid);
    });
    gic::send_sgi(SGI, 0);
    let all = [from(0, SGI), from(1, SGI), from(2, SGI)];
    expect_in_any_order("after the first", &all);
}

/// SGIs cannot be disabled, nor made pending by GICD_ISPENDR.
fn always_enabled() {
    mmio::write32(gic::DISTRIBUTOR + gic::offset::ICENABLER, 0xffff);
    let enabled = mmio::read32(gic::DISTRIBUTOR + gic::offset::ISENABLER);
    check!(enabled & 0xffff == 0xffff, "enabled are {enabled:#x}");
    gic::write_bit(gic::offset::ISPENDR, SGI);
    expect_in_any_order("nobody sent one", &[]);
}

static IS_OVER: AtomicBool = AtomicBool::new(false);
static TAKEN: [AtomicU32; MAX_CPUS] = [const { AtomicU32::new(0) }; MAX_CPUS];

fn taken(index: usize) -> u32 {
    TAKEN[index].load(Acquire)
}

fn taken_by_all() -> u32 {
    (0..machine::cpu_count()).map(taken).sum()
}

fn listen() {
    cpu::unmask_interrupts();
    await_or_fail("the end of the test", || IS_OVER.load(Acquire));
}

/// All CPUs count what they take, until [`stop_counting`].
fn start_counting() {
    support::start_all();
    on_interrupt(|intid| {
        TAKEN[cpu::index()].fetch_add(1, Release);
        gic::end(intid);
    });
    (1..machine::cpu_count()).for_each(|other| support::run_on(other, listen));
    cpu::unmask_interrupts();
    // The SGIs that brought the others here are not counted, but handled before.
    support::pause();
}

fn stop_counting() {
    cpu::mask_interrupts();
    IS_OVER.store(true, Release);
    (1..machine::cpu_count()).for_each(support::join);
}

/// GICD_SGIR sends to a list, to all others, or to its own CPU.
pub fn sgi_filters() {
    start_counting();
    let count = machine::cpu_count();
    let mut expected = [0; MAX_CPUS];
    for _ in 0..ROUNDS {
        // A CPU that is not there gets none.
        for (filter, targets) in [(0, 0b1000_0110u8), (1, 0), (2, 0xff), (0, 0)] {
            gic::send_sgi_filtered(SGI, filter, targets);
            for (index, expected) in expected.iter_mut().enumerate().take(count) {
                *expected += u32::from(match filter {
                    0 => targets >> index & 1 != 0,
                    1 => index != 0,
                    _ => index == 0,
                });
                let is_there = || taken(index) >= *expected;
                await_or_fail("an SGI", is_there);
            }
        }
    }
    support::pause();
    for (index, expected) in expected.iter().enumerate().take(count) {
        let taken = taken(index);
        check!(
            taken == *expected,
            "CPU {index} took {taken} SGIs of {expected}"
        );
    }
    stop_counting();
}

/// An interrupt for a set of CPUs is taken once, by one of them.
pub fn targets() {
    start_counting();
    let count = machine::cpu_count();
    let own = mmio::read8(gic::DISTRIBUTOR + gic::offset::ITARGETSR + SGI as usize);
    check!(own == 1, "the targets of a private interrupt are {own:#b}");
    prepare(&[(SPI, 0xa0)]);
    let register = gic::DISTRIBUTOR + gic::offset::ITARGETSR + SPI as usize;
    let others = u8::MAX >> (8 - count) & !1;
    for targets in [others, 1 << (count - 1), 0b11, 1] {
        gic::route_to(SPI, targets);
        let read = mmio::read8(register);
        check!(
            read == targets,
            "of the targets {targets:#b} {read:#b} are read"
        );
        let before: [u32; MAX_CPUS] = core::array::from_fn(taken);
        for _ in 0..ROUNDS {
            let before = taken_by_all();
            pend(SPI);
            await_or_fail("one of a set takes it", || taken_by_all() > before);
        }
        support::pause();
        // QEMU's own gives it to each.
        let all = before.iter().sum::<u32>() + ROUNDS;
        check!(
            taken_by_all() == all || !support::is_strict(),
            "{} of {all} were taken",
            taken_by_all()
        );
        for (index, before) in before.iter().enumerate().take(count) {
            let is_alien = targets >> index & 1 == 0 && taken(index) != *before;
            check!(
                !is_alien,
                "CPU {index} is not in {targets:#b}, and took some"
            );
        }
    }
    if support::is_strict() {
        wait_for_somebody(others);
    }
    stop_counting();
}

/// What is pending for nobody is somebody's later. QEMU's own forgets it.
fn wait_for_somebody(somebody: u8) {
    gic::route_to(SPI, 0);
    let before = taken_by_all();
    pend(SPI);
    support::pause();
    check!(taken_by_all() == before, "nobody was to take it");
    gic::route_to(SPI, somebody);
    await_or_fail("it is somebody's", || taken_by_all() > before);
}
