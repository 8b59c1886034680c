//! Interrupts across CPUs: the state of another CPU's interrupts, routing, SGIs.

use core::{
    arch::asm,
    sync::atomic::{
        AtomicBool, AtomicU32,
        Ordering::{Acquire, Relaxed, Release},
    },
};

use trapline_demos::guest::{MAX_CPUS, cpu, gic, machine, mmio};

use crate::{
    gic_priority::pend,
    support::{self, await_or_fail, check, expect_log, log, on_interrupt},
};

/// How often each race is tried.
const ROUNDS: usize = 20;
const SPI: u32 = 72;
const SGI: u32 = 5;

static IS_HELD: AtomicBool = AtomicBool::new(false);
static RELEASE: AtomicBool = AtomicBool::new(false);

fn state(register: usize) -> bool {
    gic::read_bit(register, SPI)
}

/// Handles an interrupt until the other CPU says so.
fn hold(intid: u32) {
    log(intid);
    IS_HELD.store(true, Release);
    await_or_fail("the release of a held interrupt", || RELEASE.load(Acquire));
    gic::end(intid);
    RELEASE.store(false, Relaxed);
    IS_HELD.store(false, Release);
}

fn release() {
    RELEASE.store(true, Release);
    await_or_fail("the end of a held interrupt", || !IS_HELD.load(Acquire));
}

fn await_held() {
    await_or_fail("the handler on the other CPU", || IS_HELD.load(Acquire));
}

/// Takes interrupts until the boot CPU has seen everything.
fn take_until_told() {
    cpu::unmask_interrupts();
    await_or_fail("the end of the test", || IS_OVER.load(Acquire));
}

static IS_OVER: AtomicBool = AtomicBool::new(false);

/// A CPU sees, and changes, the state of an interrupt that another CPU handles.
pub fn state_of_another_cpu() {
    support::start(2);
    on_interrupt(hold);
    gic::route(SPI, 1);
    gic::set_edge_triggered(SPI, true);
    gic::set_priority(SPI, 0xa0);
    gic::enable(SPI);
    support::run_on(1, take_until_told);
    for _ in 0..ROUNDS {
        pend(SPI);
        await_held();
        check!(
            state(gic::offset::ISACTIVER),
            "ISACTIVER does not show the interrupt that CPU 1 handles"
        );
        check!(
            !state(gic::offset::ISPENDR),
            "ISPENDR shows the interrupt that CPU 1 has acknowledged"
        );
        pend(SPI);
        check!(
            state(gic::offset::ISPENDR),
            "an active interrupt that was pended is not pending"
        );
        gic::write_bit(gic::offset::ICPENDR, SPI);
        check!(
            !state(gic::offset::ISPENDR),
            "ICPENDR left an active interrupt pending"
        );
        release();
        check!(
            !state(gic::offset::ISACTIVER),
            "the interrupt is active after its end"
        );
        expect_log("one handler", &[SPI]);
    }
    // Deactivated from here, in its handler: CPU 1 may take it again before it ends the first.
    pend(SPI);
    await_held();
    gic::write_bit(gic::offset::ICACTIVER, SPI);
    check!(
        !state(gic::offset::ISACTIVER),
        "ICACTIVER left the interrupt active"
    );
    release();
    expect_log("one handler", &[SPI]);
    pend(SPI);
    await_held();
    release();
    expect_log("the interrupt works after ICACTIVER", &[SPI]);
    // With GICv2 nobody sees another CPU's private interrupts.
    if !gic::is_v2() {
        private_state();
    }
    IS_OVER.store(true, Release);
    support::join(1);
}

/// A pair of registers is read of which the second one is known to another CPU only.
pub fn pair_of_another_cpu() {
    support::start(2);
    on_interrupt(hold);
    gic::route(SPI, 1);
    gic::set_edge_triggered(SPI, true);
    gic::set_priority(SPI, 0xa0);
    gic::enable(SPI);
    support::run_on(1, take_until_told);
    for _ in 0..ROUNDS {
        pend(SPI);
        await_held();
        let base = gic::DISTRIBUTOR + gic::offset::ISACTIVER + SPI as usize / 32 * 4 - 4;
        let (first, second, end): (u64, u64, usize);
        // SAFETY: reads two registers of the distributor.
        unsafe {
            asm!("ldp {0:w}, {1:w}, [{2}], #8", out(reg) first, out(reg) second, inout(reg) base => end)
        };
        check!(
            (first, second, end) == (0, 1 << (SPI % 32), base + 8),
            "ldp of ISACTIVER read {first:#x} and {second:#x}, and moved its base by {}",
            end - base
        );
        release();
        expect_log("one handler", &[SPI]);
    }
    IS_OVER.store(true, Release);
    support::join(1);
}

fn private_state() {
    let active = gic::frame(1) + gic::offset::ISACTIVER;
    gic::send_sgi(SGI, 1);
    await_held();
    let seen = mmio::read32(active);
    check!(
        seen == 1 << SGI,
        "CPU 1 handles SGI {SGI}, its ISACTIVER0 is {seen:#x}"
    );
    // It is made pending again, and taken back, while CPU 1 handles it.
    let read = |register: usize| mmio::read32(gic::frame(1) + register) & 1 << SGI != 0;
    let write = |register: usize| mmio::write32(gic::frame(1) + register, 1 << SGI);
    for _ in 0..ROUNDS {
        write(gic::offset::ISPENDR);
        check!(
            read(gic::offset::ISPENDR),
            "ISPENDR0 of CPU 1 does not pend"
        );
        write(gic::offset::ICPENDR);
        check!(
            !read(gic::offset::ICPENDR),
            "ICPENDR0 of CPU 1 leaves it pending"
        );
    }
    release();
    let seen = mmio::read32(active);
    check!(seen == 0, "CPU 1 is idle, its ISACTIVER0 is {seen:#x}");
    expect_log("one SGI", &[SGI]);
    // Made active from here it is not taken; made inactive again it is.
    write(gic::offset::ISACTIVER);
    gic::send_sgi(SGI, 1);
    support::pause();
    check!(
        read(gic::offset::ISACTIVER) && read(gic::offset::ISPENDR),
        "ISACTIVER0 of CPU 1 does not make it active, or it is not pending"
    );
    expect_log("an active SGI is not taken", &[]);
    write(gic::offset::ICACTIVER);
    await_held();
    release();
    expect_log("it is taken once it is inactive", &[SGI]);
}

/// Waits, IRQs masked, until told, then takes what is pending.
fn masked_until_told() {
    await_or_fail("the end of the masked part", || IS_OVER.load(Acquire));
    support::take_pending();
    IS_OVER.store(false, Release);
}

fn unmask_other() {
    IS_OVER.store(true, Release);
    support::join(1);
}

/// An interrupt that is pending for one CPU and routed to another, or disabled, is the other's, or nobody's.
pub fn retarget_while_pending() {
    support::start(2);
    on_interrupt(|intid| {
        log(intid << 8 | cpu::index() as u32);
        gic::end(intid);
    });
    gic::set_edge_triggered(SPI, true);
    gic::set_priority(SPI, 0xa0);
    gic::enable(SPI);
    for _ in 0..ROUNDS {
        gic::route(SPI, 1);
        support::run_on(1, masked_until_told);
        pend(SPI);
        check!(state(gic::offset::ISPENDR), "the interrupt is not pending");
        gic::route(SPI, 0);
        support::expect_taken("it follows its route", &[SPI << 8]);
        unmask_other();
        expect_log("the old target has nothing", &[]);

        gic::route(SPI, 1);
        support::run_on(1, masked_until_told);
        pend(SPI);
        gic::disable(SPI);
        unmask_other();
        expect_log("it was disabled while pending elsewhere", &[]);
        support::run_on(1, masked_until_told);
        gic::enable(SPI);
        unmask_other();
        expect_log("it was enabled again", &[SPI << 8 | 1]);
    }
}

static COUNTS: [[AtomicU32; 16]; MAX_CPUS] =
    [const { [const { AtomicU32::new(0) }; 16] }; MAX_CPUS];

/// A listener has taken the SGI that ends its part.
static IS_TOLD: [AtomicBool; MAX_CPUS] = [const { AtomicBool::new(false) }; MAX_CPUS];

/// Every CPU sends every SGI to every CPU, itself included, one by one, and then to all others at once.
pub fn sgis_from_all_to_all() {
    on_interrupt(|intid| {
        gic::end(intid);
        check!(intid < 16, "interrupt {intid} is no SGI");
        if IS_OVER.load(Acquire) {
            IS_TOLD[cpu::index()].store(true, Release);
            return;
        }
        COUNTS[cpu::index()][intid as usize].fetch_add(1, Release);
    });
    support::start_all();
    let count = machine::cpu_count();
    cpu::unmask_interrupts();
    for sender in 0..count {
        (1..count)
            .filter(|&other| other != sender)
            .for_each(|other| support::run_on(other, listen));
        if sender == 0 {
            send_to_all();
        } else {
            support::run_on(sender, send_to_all);
            support::join(sender);
        }
        IS_OVER.store(true, Release);
        (1..count)
            .filter(|&other| other != sender)
            .for_each(|other| gic::send_sgi(0, other));
        (1..count).for_each(support::join);
        IS_OVER.store(false, Release);
    }
    let each: u32 = COUNTS
        .iter()
        .flatten()
        .map(|count| count.load(Acquire))
        .sum();
    support::say(format_args!("cpus={count} sgis={each}"));
    check!(
        each as usize == 16 * count * (count + count - 1),
        "{each} SGIs were taken by {count} CPUs"
    );
}

/// Takes SGIs in WFI, so that one CPU at a time is busy, until one comes after the sender's part.
fn listen() {
    let is_told = &IS_TOLD[cpu::index()];
    while !is_told.swap(false, Acquire) {
        cpu::wait_for_interrupt();
        cpu::unmask_interrupts();
        cpu::mask_interrupts();
    }
}

/// All 16 SGIs at a time: more than there are list registers, and one wait for each target.
fn send_to_all() {
    cpu::unmask_interrupts();
    let sender = cpu::index();
    for target in 0..machine::cpu_count() {
        let before = counts(target);
        (0..16).for_each(|intid| gic::send_sgi(intid, target));
        await_one_more_of_each(target, before);
    }
    let before: [_; MAX_CPUS] = core::array::from_fn(counts);
    (0..16).for_each(gic::send_sgi_to_all_others);
    for target in (0..machine::cpu_count()).filter(|&target| target != sender) {
        await_one_more_of_each(target, before[target]);
    }
    check!(
        counts(sender) == before[sender],
        "an SGI to all others came to its sender, CPU {sender}"
    );
}

fn counts(index: usize) -> [u32; 16] {
    core::array::from_fn(|intid| COUNTS[index][intid].load(Acquire))
}

fn await_one_more_of_each(target: usize, before: [u32; 16]) {
    let expected = before.map(|count| count + 1);
    await_or_fail("the handler of an SGI", || counts(target) == expected);
}
