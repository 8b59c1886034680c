//! What is said when the scheduling policy lets a vCPU wait for longer than it promised.

use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use spin::Once;
use trapline_platform::timer;
use trapline_sched::PolicyFailure;

/// A run has one policy, which fails once.
static FAILURE: Once<PolicyFailure> = Once::new();
static IS_SAID: AtomicBool = AtomicBool::new(false);

/// Remembers `failure`, in the middle of a scheduling decision.
pub(super) fn note(failure: PolicyFailure) {
    FAILURE.call_once(|| failure);
}

/// Says what has been noted, once.
pub(super) fn report() {
    let Some(failure) = FAILURE.get() else { return };
    if IS_SAID.swap(true, Relaxed) {
        return;
    }
    let us = |ticks: u64| u128::from(ticks) * 1_000_000 / u128::from(timer::frequency());
    let PolicyFailure {
        policy,
        vcpu,
        pcpu,
        waited,
        promised,
    } = *failure;
    log::error!(
        "policy {policy} let {vcpu} wait on {pcpu} for {} us and promised at most {} us: round-robin takes over",
        us(waited),
        us(promised)
    );
}
