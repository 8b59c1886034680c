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

/// When the timers of a vCPU fire that are armed and whose interrupts are enabled, by the physical counter.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Deadlines {
    /// One that fires already.
    passed: Option<u64>,
    next: Option<u64>,
}

impl Deadlines {
    /// Adds a timer whose registers were just stored.
    ///
    /// Whether it fires is not told by the clock: QEMU's timers fire a little after their time, and until then nothing has
    /// happened. A deadline that has passed wakes the vCPU at once, and binding it again shows what its timer says.
    #[inline]
    pub(crate) fn add(&mut self, control: u64, deadline: u64) {
        if is_timer_firing(control) {
            self.passed = Some(deadline);
        } else {
            self.next = Some(self.next.map_or(deadline, |other| other.min(deadline)));
        }
    }

    /// When the vCPU wants to be woken.
    ///
    /// A timer may have begun to fire since the vCPU looked, and its interrupt is lost as the vCPU leaves: nobody else tells of
    /// it. One that the vCPU cannot take ends only a wait for any; else whatever holds it back comes with a wake-up of its own.
    #[inline]
    pub(crate) fn wake_up(
        self,
        waits_for: WaitsFor,
        has_deliverable: impl FnOnce() -> bool,
    ) -> Option<u64> {
        match self.passed {
            Some(passed) if waits_for == WaitsFor::Any || has_deliverable() => Some(passed),
            _ => self.next,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::aarch64::registers::{TIMER_ENABLE, TIMER_ISTATUS};

    /// Of a timer that fires at 100, and of one that fires since 50.
    fn deadlines(has_running: bool, has_firing: bool) -> Deadlines {
        let mut deadlines = Deadlines::default();
        if has_firing {
            deadlines.add(TIMER_ENABLE | TIMER_ISTATUS, 50);
        }
        if has_running {
            deadlines.add(TIMER_ENABLE, 100);
        }
        deadlines
    }

    #[test]
    fn a_timer_that_runs_wakes_when_it_fires() {
        let unasked = || unreachable!("no timer fires");
        for waits_for in [WaitsFor::Deliverable, WaitsFor::Any] {
            assert_eq!(
                deadlines(true, false).wake_up(waits_for, unasked),
                Some(100)
            );
            assert_eq!(deadlines(false, false).wake_up(waits_for, unasked), None);
        }
        let mut both = deadlines(true, false);
        both.add(TIMER_ENABLE, 70);
        assert_eq!(both.wake_up(WaitsFor::Deliverable, unasked), Some(70));
    }

    #[test]
    fn a_timer_that_fires_and_cannot_be_taken_ends_a_wait_for_any() {
        let held_back = || false;
        for has_running in [false, true] {
            let deadlines = deadlines(has_running, true);
            assert_eq!(deadlines.wake_up(WaitsFor::Any, held_back), Some(50));
            let later = has_running.then_some(100);
            assert_eq!(deadlines.wake_up(WaitsFor::Deliverable, held_back), later);
        }
    }

    #[test]
    fn a_timer_that_fires_and_can_be_taken_ends_any_wait() {
        for waits_for in [WaitsFor::Deliverable, WaitsFor::Any] {
            assert_eq!(deadlines(true, true).wake_up(waits_for, || true), Some(50));
        }
    }
}
