//! What is said when the scheduling policy lets a vCPU wait for longer than it promised.

use trapline_platform::{relax::Lock, timer};
use trapline_sched::PolicyFailure;

/// The last failure that has not been said yet.
static FAILURE: Lock<Option<PolicyFailure>> = Lock::new(None);

/// Remembers `failure`, in the middle of a scheduling decision, where nobody may wait: of two at once one is remembered.
pub(super) fn note(failure: PolicyFailure) {
    if let Some(mut last) = FAILURE.try_lock() {
        *last = Some(failure);
    }
}

/// Says what has been noted.
pub(super) fn report() {
    let Some(failure) = FAILURE.try_lock().and_then(|mut last| last.take()) else {
        return;
    };
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
