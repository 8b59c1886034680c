//! What a vCPU waits for, and when its own timers end the wait once it has left the hardware.

use crate::arch::aarch64::registers::is_timer_firing;

/// Which interrupts end a wait.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum WaitsFor {
    /// Those that the vCPU can take.
    #[default]
    Deliverable,
    /// Also those that its CPU interface holds back.
    Any,
}

/// A timer of the vCPU that is armed, with its interrupt enabled, as its registers were just stored.
#[derive(Clone, Copy)]
pub(crate) struct ArmedTimer {
    pub(crate) control: u64,
    /// When it fires, by the physical counter.
    pub(crate) deadline: u64,
}

/// When the vCPU wants to be woken by `timers`; at a time that has passed, at once.
///
/// Whether one fires is not told by the clock: QEMU's timers fire a little after their time, and until then nothing has
/// happened. Binding the vCPU again shows what its timer says.
///
/// A timer may have begun to fire since the vCPU looked, and its interrupt is lost as the vCPU leaves: nobody else tells of
/// it. One that the vCPU cannot take ends only a wait for any; in the other case whatever holds it back comes with a wake-up
/// of its own.
pub(crate) fn wake_up_at(
    timers: [Option<ArmedTimer>; 2],
    waits_for: WaitsFor,
    has_deliverable: impl FnOnce() -> bool,
) -> Option<u64> {
    let timers = timers.into_iter().flatten();
    let fires = |timer: &ArmedTimer| is_timer_firing(timer.control);
    let firing_counts = timers.clone().any(|timer| fires(&timer))
        && (waits_for == WaitsFor::Any || has_deliverable());
    timers
        .filter(|timer| firing_counts || !fires(timer))
        .map(|timer| timer.deadline)
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::aarch64::registers::{TIMER_ENABLE, TIMER_ISTATUS};

    const RUNNING: Option<ArmedTimer> = Some(ArmedTimer {
        control: TIMER_ENABLE,
        deadline: 100,
    });
    const FIRING: Option<ArmedTimer> = Some(ArmedTimer {
        control: TIMER_ENABLE | TIMER_ISTATUS,
        deadline: 50,
    });

    #[test]
    fn a_timer_that_runs_wakes_when_it_fires() {
        let unasked = || unreachable!("no timer fires");
        for waits_for in [WaitsFor::Deliverable, WaitsFor::Any] {
            assert_eq!(wake_up_at([RUNNING, None], waits_for, unasked), Some(100));
            assert_eq!(wake_up_at([None, None], waits_for, unasked), None);
        }
    }

    #[test]
    fn a_timer_that_fires_and_cannot_be_taken_ends_a_wait_for_any() {
        let held_back = || false;
        let of_kind = |waits_for| wake_up_at([FIRING, None], waits_for, held_back);
        assert_eq!(of_kind(WaitsFor::Any), Some(50));
        assert_eq!(of_kind(WaitsFor::Deliverable), None);
        let beside_another = wake_up_at([RUNNING, FIRING], WaitsFor::Deliverable, held_back);
        assert_eq!(beside_another, Some(100));
    }

    #[test]
    fn a_timer_that_fires_and_can_be_taken_ends_any_wait() {
        for waits_for in [WaitsFor::Deliverable, WaitsFor::Any] {
            assert_eq!(wake_up_at([RUNNING, FIRING], waits_for, || true), Some(50));
        }
    }
}
