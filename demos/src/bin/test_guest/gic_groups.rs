//! Group 0: FIQs beside IRQs, with one security state.

use trapline_demos::guest::{cpu, exceptions::Kind, gic, mmio};

use crate::{
    gic_priority::{pend, prepare},
    support::{
        self, await_or_fail, check, expect_log, log, log_and_end, logged, on_exception,
        on_interrupt,
    },
};

const FIRST: u32 = 70;
const SECOND: u32 = 71;
const SGI: u32 = 3;
/// Added to an INTID in the log when it came as an FIQ.
const FAST: u32 = 0x1000;
/// Added when its handler leaves.
const LEFT: u32 = 0x2000;

/// Takes what comes as FIQ for this long or until `events` are logged, which then are these.
fn expect_fast(what: &str, events: &[u32]) {
    cpu::unmask_fast_interrupts();
    cpu::wait_until(cpu::microseconds(1_000_000), || logged() >= events.len());
    support::pause();
    cpu::mask_fast_interrupts();
    expect_log(what, events);
}

/// An interrupt of group 0 is an FIQ, one of group 1 an IRQ, each with its own registers.
pub fn both() {
    let control = mmio::read32(gic::DISTRIBUTOR + gic::offset::CTLR);
    check!(
        gic::is_v2() || control & 1 << 6 != 0,
        "GICD_CTLR is {control:#x}: there are two security states"
    );
    on_interrupt(log_and_end);
    on_exception(|kind, _| {
        check!(kind == Kind::FastInterrupt, "{kind:?} was taken");
        let intid = gic::acknowledge_group0();
        if intid == gic::SPURIOUS {
            return;
        }
        log(FAST | intid);
        if intid == FIRST {
            cpu::unmask_fast_interrupts();
            pend(SECOND);
            support::pause();
            cpu::mask_fast_interrupts();
            log(FAST | LEFT | intid);
        }
        gic::end_group0(intid);
    });
    prepare(&[(FIRST, 0x60), (SECOND, 0x40)]);
    gic::set_group(FIRST, false);
    gic::set_group(SECOND, false);
    pend(SECOND);
    support::expect_taken("group 0 is off", &[]);
    gic::set_group0(true);
    support::expect_taken("an FIQ is masked, IRQs are not", &[]);
    let pending = gic::highest_pending_group0();
    check!(
        pending == SECOND,
        "the highest pending interrupt of group 0 is {pending}"
    );
    // With GICv2 both groups are acknowledged by one register.
    if !gic::is_v2() {
        let acknowledged = gic::acknowledge();
        check!(
            acknowledged >= 1020,
            "group 1 acknowledged {acknowledged}, of group 0"
        );
    }
    expect_fast("the FIQ", &[FAST | SECOND]);
    preemption();
    sgis();
    moves();
    wait();
    gic::set_group0(false);
}

fn preemption() {
    // Bits 7:5 decide: 0x40 preempts 0x60. Then bit 7 alone: it does not.
    gic::set_binary_point0(4);
    pend(FIRST);
    expect_fast(
        "a fine binary point",
        &[FAST | FIRST, FAST | SECOND, FAST | LEFT | FIRST],
    );
    gic::set_binary_point0(6);
    pend(FIRST);
    expect_fast(
        "a coarse binary point",
        &[FAST | FIRST, FAST | LEFT | FIRST, FAST | SECOND],
    );
    gic::set_binary_point0(0);
}

/// An SGI is sent in a group, and is not one of the other group's. With GICv2 it is sent in none.
fn sgis() {
    gic::set_group(SGI, false);
    gic::send_sgi_group0(SGI, cpu::index());
    expect_fast("an SGI of group 0", &[FAST | SGI]);
    if !gic::is_v2() {
        gic::send_sgi(SGI, cpu::index());
        expect_fast("an SGI sent in group 1", &[]);
    }
    gic::set_group(SGI, true);
    gic::send_sgi(SGI, cpu::index());
    support::expect_taken("an SGI of group 1", &[SGI]);
}

/// A pending interrupt that changes its group comes as what it is then.
fn moves() {
    pend(SECOND);
    gic::set_group(SECOND, true);
    expect_fast("it is in group 1 now", &[]);
    support::expect_taken("it is in group 1 now", &[SECOND]);
    pend(SECOND);
    gic::set_group(SECOND, false);
    support::expect_taken("it is in group 0 again", &[]);
    expect_fast("it is in group 0 again", &[FAST | SECOND]);
}

/// WFI ends for an FIQ, masked as it is.
fn wait() {
    gic::set_group(SGI, false);
    gic::send_sgi_group0(SGI, cpu::index());
    await_or_fail("the SGI to oneself", || {
        gic::highest_pending_group0() == SGI
    });
    cpu::wait_for_interrupt();
    expect_fast("what ended WFI", &[FAST | SGI]);
    gic::set_group(SGI, true);
}
