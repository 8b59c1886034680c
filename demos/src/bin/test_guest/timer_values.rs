//! Deadlines that are past, far and moved, by CVAL and by TVAL; and a timer that is masked after it has fired.

use core::{
    arch::asm,
    sync::atomic::{AtomicU64, Ordering::SeqCst},
};

use trapline_demos::guest::{
    cpu, gic,
    timer::{ENABLE, IMASK, ISTATUS, NEVER, Timer},
};

use crate::support::{self, await_or_fail, check, expect_taken, log, on_interrupt};

const TIMERS: [Timer; 2] = [Timer::Virtual, Timer::Physical];

/// CNTV_TVAL_EL0 or CNTP_TVAL_EL0: what is left to the deadline, as 32 bits with their sign.
fn left(timer: Timer) -> i64 {
    let value: u64;
    // SAFETY: reads a timer's register.
    unsafe {
        match timer {
            Timer::Virtual => {
                asm!("isb", "mrs {}, cntv_tval_el0", out(reg) value, options(nostack))
            }
            Timer::Physical => {
                asm!("isb", "mrs {}, cntp_tval_el0", out(reg) value, options(nostack))
            }
        }
    }
    i64::from(value as i32)
}

/// The deadline is so many ticks from now.
fn set_left(timer: Timer, ticks: i64) {
    // SAFETY: a deadline; handlers are sound at any time.
    unsafe {
        match timer {
            Timer::Virtual => asm!("msr cntv_tval_el0, {}", "isb", in(reg) ticks, options(nostack)),
            Timer::Physical => {
                asm!("msr cntp_tval_el0, {}", "isb", in(reg) ticks, options(nostack))
            }
        }
    }
}

fn stop_and_log(intid: u32) {
    let timer = TIMERS.into_iter().find(|timer| timer.intid() == intid);
    timer.inspect(|timer| timer.set_control(0));
    log(intid);
    gic::end(intid);
}

/// One interrupt for each deadline that has passed, none for one that has not, however the registers came to it.
pub fn deadlines() {
    on_interrupt(stop_and_log);
    for timer in TIMERS {
        let intid = timer.intid();
        gic::enable(intid);
        for past in [0, 1, timer.now() - 1] {
            timer.arm(past);
            expect_taken("a deadline in the past", &[intid]);
        }
        set_left(timer, -1000);
        let (deadline, now) = (timer.deadline(), timer.now());
        check!(
            deadline < now && now - deadline < cpu::frequency() * 10,
            "{timer:?}: TVAL of -1000 is the deadline {deadline} at {now}"
        );
        timer.set_control(ENABLE);
        expect_taken("a TVAL in the past", &[intid]);

        let long = cpu::frequency() as i64 * 10;
        set_left(timer, long);
        check!(
            (1..=long).contains(&left(timer)),
            "{timer:?}: {} of {long} ticks are left",
            left(timer)
        );
        timer.set_control(ENABLE);
        expect_taken("a TVAL in the future", &[]);
        check!(
            timer.control() == ENABLE,
            "{timer:?}: control is {:#x} before its deadline",
            timer.control()
        );
        // Far, near, far, past: the last one counts.
        timer.arm(NEVER);
        timer.arm(timer.now() + cpu::microseconds(200));
        timer.arm(NEVER);
        expect_taken("a deadline that was moved away", &[]);
        timer.arm(timer.now());
        expect_taken("a deadline that was moved to now", &[intid]);
        toggles(timer);
        gic::disable(intid);
    }
}

/// Turned off and on again the timer is as it was.
fn toggles(timer: Timer) {
    timer.arm(NEVER);
    for _ in 0..100 {
        for control in [0, IMASK, ENABLE | IMASK, ENABLE] {
            timer.set_control(control);
            let seen = timer.control();
            check!(
                seen & !ISTATUS == control,
                "{timer:?}: control is {seen:#x} instead of {control:#x}"
            );
        }
    }
    check!(
        timer.deadline() == NEVER,
        "{timer:?}: the deadline is {}",
        timer.deadline()
    );
    expect_taken("a timer that was turned off and on", &[]);
    timer.arm(0);
    for _ in 0..100 {
        timer.set_control(0);
        timer.set_control(ENABLE);
    }
    expect_taken("a timer that is due, turned off and on", &[timer.intid()]);
}

static TAKEN: AtomicU64 = AtomicU64::new(0);

/// A timer that has fired and is masked or turned off before its interrupt is taken: the interrupt comes once at most, and the
/// next one is not lost.
pub fn masked_after_it_fired() {
    on_interrupt(count);
    let mut late = 0;
    for timer in TIMERS {
        let intid = timer.intid();
        gic::enable(intid);
        for control in [ENABLE | IMASK, 0] {
            for round in 0..20 {
                timer.arm(timer.now() + cpu::microseconds(round * 10));
                await_or_fail("the pending interrupt", || gic::highest_pending() == intid);
                timer.set_control(control);
                TAKEN.store(0, SeqCst);
                support::take_pending();
                let taken = TAKEN.load(SeqCst);
                check!(
                    taken <= 1,
                    "{timer:?} was masked, and its interrupt came {taken} times"
                );
                late += taken;
                support::take_pending();
                check!(
                    TAKEN.load(SeqCst) == taken,
                    "{timer:?} is masked, and its interrupt came again"
                );
                check!(
                    !gic::read_bit(gic::offset::ISPENDR, intid)
                        && !gic::read_bit(gic::offset::ISACTIVER, intid),
                    "{timer:?} is masked, and its interrupt is pending or active"
                );
                comes_again(timer);
            }
        }
        gic::disable(intid);
    }
    support::say(format_args!("late={late}"));
}

/// The next deadline is one interrupt.
fn comes_again(timer: Timer) {
    on_interrupt(stop_and_log);
    timer.arm(timer.now());
    expect_taken("the deadline after one that was masked", &[timer.intid()]);
    on_interrupt(count);
}

fn count(intid: u32) {
    TAKEN.fetch_add(1, SeqCst);
    gic::end(intid);
}
