//! The exclusive monitor across switches and moves: what was loaded before one is not stored after it, and no increment is lost.

use core::{
    arch::asm,
    sync::atomic::{
        AtomicU64,
        Ordering::{Acquire, Relaxed},
    },
};

use trapline_demos::guest::{machine, power};

use crate::{
    migrate::MIGRATE,
    support::{self, check, is_strict},
};

const ROUNDS: u64 = 400;

static COUNTER: AtomicU64 = AtomicU64::new(0);
static STALE: AtomicU64 = AtomicU64::new(0);

/// LDXR: what the word holds.
fn load_exclusive() -> u64 {
    let value: u64;
    // SAFETY: loads a word of the program's.
    unsafe { asm!("ldxr {}, [{}]", out(reg) value, in(reg) COUNTER.as_ptr(), options(nostack)) };
    value
}

/// STXR: it has stored.
fn store_exclusive(value: u64) -> bool {
    let has_failed: u64;
    // SAFETY: stores to an atomic of the program's, if to anything.
    unsafe {
        asm!(
            "stxr {failed:w}, {}, [{}]",
            in(reg) value,
            in(reg) COUNTER.as_ptr(),
            failed = out(reg) has_failed,
            options(nostack),
        )
    };
    has_failed as u32 == 0
}

/// Adds one. The first try is interrupted by what `between` does.
fn increment(between: impl FnOnce()) {
    let value = load_exclusive();
    between();
    if store_exclusive(value + 1) {
        STALE.fetch_add(1, Relaxed);
        return;
    }
    while !store_exclusive(load_exclusive() + 1) {}
}

fn judge(expected: u64) {
    let (counted, stale) = (COUNTER.load(Acquire), STALE.load(Relaxed));
    check!(
        counted == expected,
        "{expected} increments made {counted}, {stale} of them across a switch"
    );
    // QEMU compares values where hardware has a monitor; but an exception return ends either. [DDI0487: ERET]
    check!(
        stale == 0 || !is_strict(),
        "{stale} of {expected} stores belong to a load before a switch"
    );
    support::say(format_args!("counted={counted} stale={stale}"));
}

/// Two CPUs, each of which loads, lets the other one run, and stores.
pub fn across_switches() {
    support::start(2);
    support::run_on(1, || (0..ROUNDS).for_each(|_| increment(support::meet)));
    (0..ROUNDS).for_each(|_| increment(support::meet));
    support::join(1);
    judge(2 * ROUNDS);
}

/// One CPU that is moved between its load and its store.
pub fn across_moves() {
    let mut moved = 0;
    for round in 0..ROUNDS {
        increment(|| moved += u64::from(power::call(MIGRATE, [round % 2, 0, 0]) == 0));
    }
    check!(
        moved == ROUNDS || !is_strict(),
        "{moved} of {ROUNDS} calls moved the CPU"
    );
    check!(machine::cpu_count() == 1, "it is alone");
    judge(ROUNDS);
}
