//! What a timer's handler sees, and what IMASK does.

use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

use trapline_demos::guest::{
    cpu, gic,
    timer::{ENABLE, IMASK, ISTATUS, NEVER, Timer},
};

use crate::support::{self, check, expect_log, log, on_interrupt};

const ROUNDS: u64 = 100;
static DEADLINE: AtomicU64 = AtomicU64::new(0);

fn timer_of(intid: u32) -> Timer {
    if intid == Timer::Virtual.intid() {
        Timer::Virtual
    } else {
        Timer::Physical
    }
}

fn check_and_stop(intid: u32) {
    let timer = timer_of(intid);
    let (now, control, deadline) = (timer.now(), timer.control(), timer.deadline());
    check!(
        control == ENABLE | ISTATUS,
        "{timer:?}: the handler sees control {control:#x}"
    );
    check!(
        deadline == DEADLINE.load(SeqCst),
        "{timer:?}: the handler sees the deadline {deadline}"
    );
    check!(
        now >= deadline,
        "{timer:?}: it is {now}, before the deadline {deadline}"
    );
    log(intid);
    timer.set_control(0);
    gic::end(intid);
}

/// Running and in WFI, the handler sees ENABLE and ISTATUS, IMASK clear, and the deadline as it was set.
pub fn handler_sees_istatus() {
    on_interrupt(check_and_stop);
    for timer in [Timer::Virtual, Timer::Physical] {
        gic::enable(timer.intid());
        for round in 0..ROUNDS {
            let deadline = timer.now() + cpu::microseconds(round * 10);
            DEADLINE.store(deadline, SeqCst);
            timer.arm(deadline);
            if round % 2 == 0 {
                cpu::unmask_interrupts();
                support::await_or_fail("the timer's interrupt", || support::logged() != 0);
                cpu::mask_interrupts();
            } else {
                while support::logged() == 0 {
                    cpu::wait_for_interrupt();
                    cpu::unmask_interrupts();
                    cpu::mask_interrupts();
                }
            }
            expect_log("one interrupt for one deadline", &[timer.intid()]);
        }
        gic::disable(timer.intid());
    }
}

/// IMASK keeps the interrupt away and not the status; ISTATUS follows the deadline.
pub fn mask_holds_it_back() {
    on_interrupt(check_and_stop);
    for timer in [Timer::Virtual, Timer::Physical] {
        gic::enable(timer.intid());
        let deadline = timer.now() + cpu::microseconds(500);
        DEADLINE.store(deadline, SeqCst);
        // Masked from the start: an interrupt that came before the mask would stay pending.
        timer.arm_with(deadline, ENABLE | IMASK);
        check!(
            timer.control() & ISTATUS == 0 || timer.now() >= deadline,
            "{timer:?}: ISTATUS is early"
        );
        support::expect_taken("a masked timer", &[]);
        // QEMU updates ISTATUS when its own timer runs, which a busy host delays.
        support::await_or_fail("ISTATUS after the deadline", || {
            timer.control() == ENABLE | IMASK | ISTATUS
        });
        timer.set_control(ENABLE);
        support::expect_taken("the mask is lifted", &[timer.intid()]);

        timer.arm(NEVER);
        let control = timer.control();
        check!(
            control == ENABLE,
            "{timer:?}: control is {control:#x} long before the deadline"
        );
        support::expect_taken("a deadline at the end of time", &[]);
        timer.set_control(0);
        gic::disable(timer.intid());
    }
}
