//! Spinlocks shared by all CPUs: counters that only a lock keeps right.

use core::sync::atomic::Ordering::Relaxed;

use trapline_demos::guest::{cpu, lock::SpinLock, machine, random::Random};

use crate::state::{self, Doing, cpu_state, fail};

const LOCKS: usize = 4;

/// Two halves that are equal whenever the lock is free, and who wrote them.
struct Counters {
    first: u64,
    second: u64,
    holder: usize,
}

static SHARED: [SpinLock<Counters>; LOCKS] = [const {
    SpinLock::new(Counters {
        first: 0,
        second: 0,
        holder: usize::MAX,
    })
}; LOCKS];

/// Takes one lock, counts, and holds it for up to a few hundred steps.
pub fn round(index: usize, random: &mut Random) {
    let number = random.below(LOCKS as u64) as usize;
    let steps = random.below(300);
    let state = cpu_state(index);
    state.enter(Doing::Locking, number as u64);
    let mut counters = SHARED[number].lock();
    state.enter(Doing::Holding, number as u64);
    let before = counters.first;
    if counters.second != before || counters.holder != usize::MAX {
        fail(format_args!(
            "lock {number}: two holders: counters {before} and {}, holder {:#x}",
            counters.second, counters.holder
        ));
    }
    counters.first += 1;
    counters.holder = index;
    for _ in 0..steps {
        cpu::relax();
    }
    if counters.first != before + 1 || counters.holder != index {
        fail(format_args!(
            "lock {number}: changed while held: {} instead of {}, holder {:#x}",
            counters.first,
            before + 1,
            counters.holder
        ));
    }
    counters.second += 1;
    counters.holder = usize::MAX;
    drop(counters);
    state.lock_rounds.fetch_add(1, Relaxed);
}

/// The counters add up to the rounds of all CPUs.
pub fn check_sums() {
    let counted: u64 = SHARED.iter().map(|lock| lock.lock().second).sum();
    let rounds = state::sum(|state| &state.lock_rounds);
    if counted != rounds {
        fail(format_args!(
            "locks: {} CPUs took them {rounds} times, they counted {counted}",
            machine::cpu_count()
        ));
    }
}
