//! More interrupts due than there are list registers.

use trapline_demos::guest::{cpu, gic, machine, mmio};

use crate::{
    gic_priority::pend,
    support::{self, check, event, logged, on_interrupt},
};

const FIRST: u32 = 64;
const COUNT: u32 = 40;
/// 5 bits of priority are certain. Of their 32 levels the lowest never passes the priority mask, the highest is for jobs.
const LEVELS: u32 = 30;

/// Neighbours are far apart, and all levels occur.
fn priority(intid: u32) -> u8 {
    (((intid - FIRST) * 7 % LEVELS + 1) * 8) as u8
}

/// Forty SPIs are due at once: each is taken once, the most urgent first.
pub fn forty_at_once() {
    let lines = (mmio::read32(gic::DISTRIBUTOR + gic::offset::TYPER) & 0x1f) * 32 + 32;
    check!(
        lines >= FIRST + COUNT,
        "the distributor has only {lines} INTIDs"
    );
    on_interrupt(support::log_and_end);
    for intid in FIRST..FIRST + COUNT {
        gic::route(intid, 0);
        gic::set_edge_triggered(intid, true);
        gic::set_priority(intid, priority(intid));
        gic::enable(intid);
    }
    take_them(pend_all);
    // The same, with what is due spread over time: half of them while the first half is being taken.
    take_them(|| {
        cpu::unmask_interrupts();
        pend_all();
        cpu::mask_interrupts();
    });
    if machine::cpu_count() > 1 {
        support::start(2);
        (FIRST..FIRST + COUNT).for_each(|intid| gic::route(intid, 1));
        pend_all();
        support::run_on(1, support::take_pending);
        support::join(1);
        check_order(true);
    }
}

fn pend_all() {
    (FIRST..FIRST + COUNT).rev().for_each(pend);
}

fn take_them(make_due: fn()) {
    make_due();
    let is_ordered = logged() == 0;
    support::take_pending();
    check_order(is_ordered);
}

fn check_order(is_ordered: bool) {
    check!(
        logged() == COUNT as usize,
        "{} of {COUNT} were taken",
        logged()
    );
    for place in 0..logged() {
        let intid = event(place);
        let again = (0..place).any(|earlier| event(earlier) == intid);
        check!(!again, "{intid} was taken twice");
        let follows = place == 0 || priority(event(place - 1)) <= priority(intid);
        check!(
            follows || !is_ordered,
            "{intid} with priority {:#x} was taken after {}",
            priority(intid),
            event(place - 1)
        );
    }
    support::clear_log();
}
