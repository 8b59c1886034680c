//! Whether a CPU gets its work done in each of many periods, beside whatever else the machine does.

use trapline_demos::{
    guest::{cpu, gic, timer::Timer},
    guest_println,
};

use crate::work::thousand_steps;

/// Begins `work_us` microseconds of computing each `period_us`, `count` times, and says how often it was not done when the next
/// period began, and how long it took at most. Under icount a step takes a nanosecond.
pub fn run(work_us: u64, period_us: u64, count: u64) {
    let period = cpu::microseconds(period_us);
    gic::enable(Timer::Virtual.intid());
    let (mut missed, mut longest) = (0, 0);
    let mut begin = Timer::Virtual.now() + period;
    for _ in 0..count {
        sleep_until(begin);
        (0..work_us).for_each(|_| thousand_steps());
        let taken = Timer::Virtual.now() - begin;
        missed += u64::from(taken > period);
        longest = longest.max(taken);
        begin += period;
    }
    guest_println!(
        "PERIODS count={count} missed={missed} longest_us={}",
        longest * 1_000_000 / cpu::frequency()
    );
}

fn sleep_until(deadline: u64) {
    Timer::Virtual.arm(deadline);
    while Timer::Virtual.now() < deadline {
        cpu::wait_for_interrupt();
    }
    Timer::Virtual.set_control(0);
    // Interrupts are masked: the timer's is taken here.
    let intid = gic::v3::acknowledge();
    if intid == Timer::Virtual.intid() {
        gic::v3::end(intid);
    }
}
