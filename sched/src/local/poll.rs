//! How a pCPU whose loaded vCPU waits looks for its wake-up for a while, before it waits for an interrupt.
//!
//! ```text
//!   schedule --> idle: POLLING, in the bitmap, asks for work --> Decision::Poll
//!                    look --> Again           nothing has come, the window is open
//!                         --> Schedule        something is raised: for the vCPU, or for this pCPU as for any that idles
//!                         --> Idle            POLLING is gone, and nothing was raised before it went: whoever comes now kicks
//! ```
//! To all others it is an idle pCPU: one that is given a vCPU, drained or asked for something stops at once.

use super::{Decision, LocalScheduler, Look};
use crate::{
    BlockReason, Vcpu, VcpuHandle,
    accounting::vcpu::BLOCKED,
    halt_poll::{Poll, Stage},
};

impl<V: Vcpu> LocalScheduler<V> {
    /// The pCPU goes idle now: whether it polls.
    #[inline]
    pub(super) fn start_polling(&mut self, now: u64) -> Decision {
        let window = self
            .loaded
            .as_ref()
            .map_or(0, |vcpu| vcpu.handle().halt_poll.window());
        if window != 0 && self.poll_for(window, now) {
            Decision::Poll
        } else {
            Decision::Idle
        }
    }

    /// Polls until the wait of the loaded vCPU has taken `window`.
    #[inline(never)]
    fn poll_for(&mut self, window: u64, now: u64) -> bool {
        let Some(vcpu) = self.loaded.as_ref() else {
            return false;
        };
        let handle = vcpu.handle();
        let waits = handle.state.load().is_blocked_by(BlockReason::Waiting);
        let Some(until) = handle.account.since(BLOCKED).filter(|_| waits) else {
            return false;
        };
        // The limit may have been lowered since the last wait.
        let window = window.min(handle.entry.halt_poll());
        let until = until.saturating_add(window);
        if now >= until || self.current.polling == Stage::Over {
            self.current.polling = Stage::Over;
            return false;
        }
        if self.current.polling == Stage::Before {
            self.current.polling = Stage::Polling;
            handle.halt_poll.begin();
        }
        self.poll = Some(Poll { since: now, until });
        self.cell.attention.poll();
        true
    }

    /// Nobody kicks this pCPU while it polls, see [`Decision::Poll`]. `is_interrupted`: a physical interrupt is pending, which ends
    /// it. Cheap: it reads one word and the clock, and relaxes.
    #[inline]
    pub fn look(&mut self, is_interrupted: bool) -> Look {
        let until = self.poll.map_or(0, |poll| poll.until);
        let is_raised = self.cell.attention.is_raised();
        if !is_interrupted && !is_raised && self.scheduler.host().now() < until {
            self.scheduler.host().relax();
            return Look::Again;
        }
        let may_wait = self.stop_polling();
        let may_wait = if cfg!(mutant = "wait_without_look") {
            !is_raised
        } else {
            may_wait
        };
        if !may_wait {
            return Look::Schedule;
        }
        if !is_interrupted {
            self.current.polling = Stage::Over;
        }
        Look::Idle
    }

    /// The pCPU is about to do something else than poll, and looks at what is raised.
    #[inline]
    pub(super) fn end_polling(&mut self) {
        if self.poll.is_some() {
            self.stop_polling();
        }
    }

    /// When it stops polling, if it does.
    #[cfg(all(not(loom), any(test, feature = "sim")))]
    pub(crate) fn polls_until(&self) -> Option<u64> {
        self.poll.map(|poll| poll.until)
    }

    /// From now on the pCPU is kicked. False if something is raised, for which it was not.
    fn stop_polling(&mut self) -> bool {
        let Some(poll) = self.poll.take() else {
            return true;
        };
        let ticks = self.scheduler.host().now().saturating_sub(poll.since);
        if let Some(vcpu) = &self.loaded {
            vcpu.handle().halt_poll.add(ticks);
        }
        self.cell.attention.wait()
    }
}

/// The wait of a vCPU that was loaded all the time is over: the next one may be polled for another time.
#[inline]
pub(super) fn learn_from_wait<V: Vcpu>(handle: &VcpuHandle<V>, stage: Stage, now: u64) {
    let limit = handle.entry.halt_poll();
    if limit != 0 || handle.halt_poll.window() != 0 {
        let since = handle.account.since(BLOCKED);
        let waited = since.map_or(0, |since| now.saturating_sub(since));
        handle.halt_poll.end(limit, waited, stage == Stage::Polling);
    }
}
