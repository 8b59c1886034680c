//! CPUs that have their pCPUs for themselves. The call is that of the test hypervisor.

use core::sync::atomic::{
    AtomicBool,
    Ordering::{Acquire, Release},
};

use trapline_demos::guest::{cpu, power};

use crate::support::{self, check};

/// How often CPU x1 has left the guest, this call included.
const EXITS: u32 = 0xc600_0013;

static IS_WAITING: AtomicBool = AtomicBool::new(false);

fn exits(index: u64) -> i64 {
    let exits = power::call(EXITS, [index, 0, 0]);
    check!(exits >= 0, "the exits of CPU {index}: {exits}");
    exits
}

/// For a second CPU 0 computes and CPU 1 waits, and neither leaves the guest.
pub fn no_exit() {
    support::start_all();
    support::run_on(1, || {
        IS_WAITING.store(true, Release);
        loop {
            cpu::wait_for_interrupt();
        }
    });
    while !IS_WAITING.load(Acquire) {
        cpu::relax();
    }
    // It comes to its wait; what led there has been answered.
    cpu::wait_until(cpu::microseconds(100_000), || false);
    let before = [0, 1].map(exits);
    cpu::wait_until(cpu::microseconds(1_000_000), || false);
    // In this order: what asks is CPU 0.
    let (waiting, busy) = (exits(1), exits(0));
    // The two calls since.
    let spent = [busy - before[0] - 3, waiting - before[1]];
    check!(spent == [0, 0], "exits of the two in a second: {spent:?}");
    support::say(format_args!("busy={} waiting={}", spent[0], spent[1]));
}
