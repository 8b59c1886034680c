//! Who goes first: preemption by priority, and the priority mask.

use trapline_demos::guest::{cpu, gic};

use crate::support::{self, check, expect_log, expect_taken, log, on_interrupt};

const LOW: u32 = 64;
const HIGH: u32 = 65;
const EQUAL: u32 = 66;
const LOWER: u32 = 67;
/// Added to an INTID in the log when its handler leaves.
const LEFT: u32 = 0x1000;

/// Enables these SPIs, edge triggered, on this CPU, with priorities.
pub fn prepare(interrupts: &[(u32, u8)]) {
    for &(intid, priority) in interrupts {
        gic::route(intid, cpu::index());
        gic::set_edge_triggered(intid, true);
        gic::set_priority(intid, priority);
        gic::enable(intid);
    }
}

/// Makes `intid` pending.
pub fn pend(intid: u32) {
    gic::write_bit(gic::offset::ISPENDR, intid);
}

/// A handler is interrupted by what is more urgent, and by nothing else.
pub fn preemption() {
    prepare(&[(LOW, 0xa0), (HIGH, 0x40), (EQUAL, 0xa0), (LOWER, 0xc0)]);
    on_interrupt(|intid| {
        log(intid);
        let priority = gic::running_priority();
        let expected = match intid {
            HIGH => 0x40,
            LOWER => 0xc0,
            _ => 0xa0,
        };
        check!(
            priority == expected,
            "the running priority in the handler of {intid} is {priority:#x}"
        );
        cpu::unmask_interrupts();
        if intid == LOW {
            pend(LOWER);
            pend(EQUAL);
            pend(HIGH);
            support::pause();
        }
        cpu::mask_interrupts();
        log(intid | LEFT);
        gic::end(intid);
    });
    pend(LOW);
    expect_taken(
        "preemption",
        &[
            LOW,
            HIGH,
            HIGH | LEFT,
            LOW | LEFT,
            EQUAL,
            EQUAL | LEFT,
            LOWER,
            LOWER | LEFT,
        ],
    );
    check!(
        gic::running_priority() == 0xff,
        "the idle priority is {:#x}",
        gic::running_priority()
    );
}

/// The mask holds back what is not more urgent than it.
pub fn mask() {
    prepare(&[(LOW, 0xa0), (HIGH, 0x40)]);
    on_interrupt(support::log_and_end);
    gic::set_priority_mask(0x80);
    pend(LOW);
    pend(HIGH);
    expect_taken("only the urgent one passes a mask of 0x80", &[HIGH]);
    check!(
        gic::read_bit(gic::offset::ISPENDR, LOW),
        "the masked interrupt is not pending"
    );
    gic::set_priority_mask(0xa0);
    expect_taken("a priority equal to the mask does not pass", &[]);
    gic::set_priority_mask(0xa8);
    expect_taken("a priority above the mask passes", &[LOW]);
    check!(
        gic::priority_mask() == 0xa8,
        "the mask reads {:#x} instead of 0xa8",
        gic::priority_mask()
    );
    gic::set_priority_mask(0);
    pend(HIGH);
    expect_taken("a mask of 0 holds everything back", &[]);
    // A mask raised while the interrupt is pending and IRQs are unmasked lets it in at once.
    cpu::unmask_interrupts();
    gic::set_priority_mask(0xff);
    support::pause();
    cpu::mask_interrupts();
    expect_log("lifting the mask lets it in", &[HIGH]);
}
