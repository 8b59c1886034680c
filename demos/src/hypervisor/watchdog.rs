//! What is said when a scheduling policy lets a vCPU wait for longer than it promised.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use trapline_platform::{relax::Lock, timer};
use trapline_sched::{PolicyFailure, PoolId};

/// By pool, what has not been said yet. A lock is held for as long as it takes to copy what it guards.
static FAILURES: [Lock<Option<PolicyFailure>>; PoolId::LIMIT] =
    [const { Lock::new(None) }; PoolId::LIMIT];
/// How many failures found no place there, and have not been counted in the log yet.
static MORE: AtomicU64 = AtomicU64::new(0);

/// Remembers `failure`, in the middle of a scheduling decision, where nobody may wait: in the place of its pool, or in the next one
/// if that is being looked at, or has a failure of the policy before.
pub(super) fn note(failure: PolicyFailure) {
    let first = failure.pool.index();
    let (before, rest) = FAILURES.split_at(first);
    for place in rest.iter().chain(before) {
        if let Some(mut place) = place.try_lock()
            && place.is_none()
        {
            *place = Some(failure);
            return;
        }
    }
    MORE.fetch_add(1, Relaxed);
}

/// Says what has been noted. Who notes something meanwhile calls for another look.
pub(super) fn report() {
    for place in &FAILURES {
        let failure = place.try_lock().and_then(|mut place| place.take());
        if let Some(failure) = failure {
            say(failure);
        }
    }
    if MORE.load(Relaxed) > 0 {
        let more = MORE.swap(0, Relaxed);
        log::error!("round-robin takes over for {more} policies more");
    }
}

fn say(failure: PolicyFailure) {
    let us = |ticks: u64| u128::from(ticks) * 1_000_000 / u128::from(timer::frequency());
    let PolicyFailure {
        pool,
        policy,
        vcpu,
        pcpu,
        waited,
        promised,
    } = failure;
    log::error!(
        "policy {policy} of {pool} let {vcpu} wait on {pcpu} for {} us and promised at most {} us: round-robin takes over",
        us(waited),
        us(promised)
    );
}
