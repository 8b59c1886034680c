//! WFI while PSTATE masks what ends it: an interrupt that is pending, one that comes, and one that another CPU sends.

use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

use trapline_demos::guest::{cpu, gic, timer::Timer};

use crate::support::{self, await_or_fail, check};

const SGI: u32 = 5;
const ROUNDS: u64 = 50;

static WAITING: AtomicU64 = AtomicU64::new(0);
static WOKEN: AtomicU64 = AtomicU64::new(0);

/// Takes what has ended the wait without an exception, as a handler would: `quiet` lowers its line before the end.
fn take(expected: u32, quiet: impl FnOnce()) {
    let intid = gic::acknowledge();
    check!(
        intid == expected,
        "it is {intid} that ended a wait for {expected}"
    );
    quiet();
    gic::end(intid);
}

/// With I, and with I, F and A masked, a wait ends; the handler never runs.
pub fn masked() {
    support::start(2);
    cpu::mask_fast_interrupts();
    for _ in 0..ROUNDS {
        gic::send_sgi(SGI, cpu::index());
        cpu::wait_for_interrupt();
        take(SGI, || ());
    }
    for timer in [Timer::Virtual, Timer::Physical] {
        gic::enable(timer.intid());
        for round in 0..ROUNDS {
            let deadline = timer.now() + cpu::microseconds(round * 20);
            timer.arm(deadline);
            wait_until(|| gic::highest_pending() == timer.intid());
            check!(timer.now() >= deadline, "{timer:?}: the wait ended early");
            take(timer.intid(), || timer.set_control(0));
        }
        gic::disable(timer.intid());
    }
    support::run_on(1, woken);
    for round in 1..=ROUNDS {
        await_or_fail("the other CPU's wait", || WAITING.load(SeqCst) == round);
        if round % 2 == 0 {
            support::pause();
        }
        gic::send_sgi(SGI, 1);
        await_or_fail("the end of the other CPU's wait", || {
            WOKEN.load(SeqCst) == round
        });
    }
    support::join(1);
}

/// Waits until an interrupt is pending: a wait may also end for nothing.
fn wait_until(is_pending: impl Fn() -> bool) {
    while !is_pending() {
        cpu::wait_for_interrupt();
    }
}

fn woken() {
    for round in 1..=ROUNDS {
        WAITING.store(round, SeqCst);
        wait_until(|| gic::highest_pending() == SGI);
        take(SGI, || ());
        WOKEN.store(round, SeqCst);
    }
}
