//! Interrupts that stay active: EOImode 1 with ICC_DIR_EL1, and disabling in a handler.

use core::sync::atomic::{AtomicU32, Ordering::SeqCst};

use trapline_demos::guest::{cpu, gic, timer::Timer};

use crate::{
    gic_priority::{pend, prepare},
    support::{self, check, expect_taken, log, on_interrupt},
};

const FIRST: u32 = 68;
const SECOND: u32 = 69;

fn is_active(intid: u32) -> bool {
    gic::read_bit(gic::offset::ISACTIVER, intid)
}

/// EOI drops the priority, DIR deactivates, in any order, edge and level alike.
pub fn split_end() {
    prepare(&[(FIRST, 0xa0), (SECOND, 0xa0)]);
    gic::set_split_end(true);
    on_interrupt(|intid| {
        log(intid);
        gic::end(intid);
        let priority = gic::running_priority();
        check!(
            priority == 0xff,
            "EOI left the running priority {priority:#x}"
        );
        check!(
            is_active(intid),
            "EOI of {intid} deactivated it, although EOImode is 1"
        );
        if intid == Timer::Virtual.intid() {
            Timer::Virtual.set_control(0);
        }
    });
    pend(FIRST);
    expect_taken("the first is taken", &[FIRST]);
    pend(FIRST);
    pend(SECOND);
    expect_taken(
        "the second is taken, the first is active and waits",
        &[SECOND],
    );
    check!(
        gic::read_bit(gic::offset::ISPENDR, FIRST),
        "the first was pended again and is not pending"
    );
    gic::deactivate(FIRST);
    expect_taken("the first is taken again once it is deactivated", &[FIRST]);
    check!(
        is_active(SECOND),
        "deactivating the first deactivated the second"
    );
    gic::deactivate(SECOND);
    gic::deactivate(FIRST);
    check!(
        !is_active(FIRST) && !is_active(SECOND),
        "DIR left one active"
    );
    split_end_of_timer();
    gic::set_split_end(false);
}

fn split_end_of_timer() {
    let intid = Timer::Virtual.intid();
    gic::enable(intid);
    Timer::Virtual.arm(cpu::now());
    expect_taken("the timer fires", &[intid]);
    Timer::Virtual.arm(cpu::now());
    expect_taken("an active timer interrupt is not taken again", &[]);
    gic::deactivate(intid);
    expect_taken("the timer fires again once it is deactivated", &[intid]);
    gic::deactivate(intid);
    expect_taken("a timer that was turned off does not fire", &[]);
    gic::disable(intid);
}

/// An interrupt that its handler disables stays active until its end, and works after it is enabled again.
pub fn disable_while_active() {
    static ROUNDS: AtomicU32 = AtomicU32::new(0);
    prepare(&[(FIRST, 0xa0)]);
    let timer = Timer::Virtual.intid();
    gic::enable(timer);
    on_interrupt(|intid| {
        log(intid);
        gic::disable(intid);
        check!(
            is_active(intid),
            "disabling {intid} in its handler made it inactive"
        );
        if intid == Timer::Virtual.intid() {
            Timer::Virtual.set_control(0);
        }
        gic::end(intid);
        check!(!is_active(intid), "{intid} is still active after its end");
        ROUNDS.fetch_add(1, SeqCst);
    });
    for round in 0..3 {
        pend(FIRST);
        expect_taken("an SPI", &[FIRST]);
        pend(FIRST);
        expect_taken("a disabled SPI is not taken", &[]);
        gic::enable(FIRST);
        expect_taken("an SPI pended while it was disabled", &[FIRST]);
        gic::enable(FIRST);
        gic::enable(timer);
        Timer::Virtual.arm(cpu::now() + cpu::microseconds(100));
        expect_taken("the timer", &[timer]);
        Timer::Virtual.arm(cpu::now());
        expect_taken("a disabled timer interrupt is not taken", &[]);
        gic::enable(timer);
        expect_taken("the timer, due while its interrupt was disabled", &[timer]);
        check!(
            ROUNDS.load(SeqCst) == (round + 1) * 4,
            "a handler did not come to its end"
        );
    }
    support::say(format_args!("interrupts={}", ROUNDS.load(SeqCst)));
}
