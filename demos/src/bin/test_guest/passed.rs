//! A device's interrupt that comes from the machine's own clock, if the guest was given it: the same is true of an emulated one.
//!
//! The calls are those of the test hypervisor. Parameters: `pcpus=` to move between (default 0: nobody moves), `rounds=` alarms (default
//! 100), `guest=` the guest's own number.

use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

use trapline_demos::guest::{cpu, gic, machine, mmio, power};

use crate::{
    migrate::MIGRATE,
    support::{self, await_or_fail, check, expect_log, expect_taken, log_and_end, logged},
};

const INTID: u32 = 34;
/// [DDI0224: PL031]
const DATA: usize = 0x901_0000;
const MATCH: usize = DATA + 0x4;
const MASK: usize = DATA + 0x10;
const RAW: usize = DATA + 0x14;
const CLEAR: usize = DATA + 0x1c;

/// How often the handler of each alarm reads the clock.
const READS: usize = 100;
/// How many times the guest has been built: x1 is its number.
pub const LIVES: u32 = 0xc600_0008;

const ISPENDR: usize = 0x200;
const ISACTIVER: usize = 0x300;

static MOVES: AtomicU64 = AtomicU64::new(0);

fn prepare() {
    gic::route(INTID, cpu::index());
    gic::set_edge_triggered(INTID, false);
    gic::set_priority(INTID, 0xa0);
    mmio::write32(MASK, 1);
    gic::enable(INTID);
}

/// The alarm for the second that the clock shows is due at once.
fn ring() {
    await_or_fail("an alarm", || {
        mmio::write32(MATCH, mmio::read32(DATA));
        // The clock may have gone on between the two. In this order: a handler elsewhere logs before it clears, so an alarm that
        // it has cleared is seen as logged, and does not ring twice.
        mmio::read32(RAW) == 1 || logged() != 0
    });
}

/// Moves this CPU to the next pCPU.
pub fn move_on() {
    let pcpus = machine::parameters().number("pcpus", 0);
    if pcpus == 0 {
        return;
    }
    let to = MOVES.fetch_add(1, SeqCst) % pcpus;
    let result = power::call(MIGRATE, [to, cpu::index() as u64, 0]);
    check!(result == 0, "the move to pCPU {to} returned {result}");
}

/// How often somebody has moved.
pub fn moves_so_far() -> u64 {
    MOVES.load(SeqCst)
}

fn sleep_until_taken() {
    while logged() == 0 {
        cpu::wait_for_interrupt();
        cpu::unmask_interrupts();
        cpu::mask_interrupts();
    }
}

/// Each alarm interrupts once, wherever the CPU is: it moves while the interrupt is pending, while it is active, and in
/// between; and while it waits in WFI.
pub fn moves() {
    let rounds = machine::parameters().number("rounds", 100);
    support::on_interrupt(|intid| {
        move_on();
        for _ in 0..READS {
            mmio::read32(DATA);
        }
        mmio::write32(CLEAR, 1);
        move_on();
        log_and_end(intid);
    });
    prepare();
    for round in 0..rounds {
        if round % 2 == 0 {
            ring();
            move_on();
            sleep_until_taken();
        } else {
            cpu::unmask_interrupts();
            ring();
            await_or_fail("the interrupt", || logged() != 0);
            cpu::mask_interrupts();
        }
        expect_log("one interrupt for one alarm", &[INTID]);
        move_on();
    }
    expect_taken("nothing is left", &[]);
    support::say(format_args!(
        "interrupts={rounds} moves={} reads={}",
        moves_so_far(),
        rounds as usize * READS
    ));
}

/// The interrupt goes to the CPU to which it is routed, also when it is routed anew while it is pending.
pub fn retarget() {
    support::on_interrupt(|intid| {
        check!(intid == INTID, "interrupt {intid} came");
        // In this order: before it is logged the alarm can be seen.
        support::log(cpu::index() as u32);
        mmio::write32(CLEAR, 1);
        gic::end(intid);
    });
    support::start(2);
    support::run_on(1, || {
        cpu::unmask_interrupts();
        await_or_fail("the end of the test", || MOVES.load(SeqCst) == u64::MAX);
    });
    prepare();
    for round in 0..50 {
        let (first, then) = (round % 2, round / 2 % 2);
        gic::route(INTID, first);
        ring();
        // What is for this CPU stays pending, since its interrupts are masked.
        if first == 0 {
            gic::route(INTID, then);
        }
        if first == 0 && then == 0 {
            expect_taken("the interrupt", &[0]);
        } else {
            await_or_fail("the interrupt elsewhere", || logged() != 0);
            await_or_fail("its handler", || mmio::read32(RAW) == 0);
            expect_log("the interrupt elsewhere", &[1]);
        }
    }
    MOVES.store(u64::MAX, SeqCst);
    support::join(1);
}

/// The interrupt is disabled by its handler before the clock is quiet, and while it is pending.
pub fn disable() {
    support::on_interrupt(|intid| {
        support::log(intid);
        gic::disable(intid);
        check!(
            gic::read_bit(ISACTIVER, intid),
            "disabling it in its handler made it inactive"
        );
        move_on();
        gic::end(intid);
        check!(!gic::read_bit(ISACTIVER, intid), "its end left it active");
    });
    prepare();
    for _ in 0..10 {
        ring();
        expect_taken("the alarm", &[INTID]);
        expect_taken("a disabled interrupt is not taken", &[]);
        gic::enable(INTID);
        expect_taken("a line that is still high", &[INTID]);
        mmio::write32(CLEAR, 1);
        gic::enable(INTID);
        expect_taken("a line that has fallen", &[]);

        ring();
        await_or_fail("a pending interrupt", || gic::read_bit(ISPENDR, INTID));
        gic::disable(INTID);
        mmio::write32(CLEAR, 1);
        move_on();
        gic::enable(INTID);
        expect_taken("a line that fell while it was disabled", &[]);
    }
}

/// Resets the machine in the handler, with the interrupt active and the line high, three times; after that the clock is quiet
/// and works.
pub fn reset() {
    let guest = machine::parameters().number("guest", 0);
    let lives = power::call(LIVES, [guest, 0, 0]);
    support::note(format_args!("life {lives}"));
    check!(mmio::read32(MASK) == 0, "the clock is not masked");
    check!(mmio::read32(RAW) == 0, "an alarm of an earlier life is due");
    prepare();
    expect_taken("nothing is left of an earlier life", &[]);
    if lives <= 3 {
        support::on_interrupt(|intid| {
            check!(gic::read_bit(ISACTIVER, intid), "it is not active");
            power::system_reset();
        });
    } else {
        support::on_interrupt(|intid| {
            mmio::write32(CLEAR, 1);
            log_and_end(intid);
        });
    }
    for _ in 0..10 {
        ring();
        expect_taken("the alarm", &[INTID]);
    }
    support::say(format_args!("lives={lives}"));
}
