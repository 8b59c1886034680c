//! For how long a pCPU that idles with a waiting vCPU looks for its wake-up itself, before it waits for an interrupt.
//!
//! A pCPU that polls sees the wake-up in its attention word: nobody sends it an interrupt, and it does not have to come out of a low-power
//! state. That is worth it if the wake-up comes soon, so each vCPU has a window that follows its waits, up to a limit of its VM's:
//!
//! ```text
//!   waited for          window
//!   at most the window  stays                      polling has seen the wake-up
//!   at most the limit   twice as long, at least an eighth of the limit
//!   longer              half as long; nothing below an eighth of the limit
//! ```
//! It is the algorithm of KVM's halt polling with the growth and the shrinkage of 2 [Linux, virt/kvm: halt_poll_ns, _grow, _grow_start].
//! A wait that ends because the pCPU is needed for another vCPU says nothing about the next one.
//!
//! Time that is polled is the pCPU's idle time, and the vCPU is blocked: nobody is charged for it.

use crate::accounting::Counter;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A window starts as such a part of its limit.
const START: u64 = 8;

/// The window after a wait of `waited` ticks, if it was `window` and is `limit` at most.
pub(crate) fn next_window(window: u64, limit: u64, waited: u64) -> u64 {
    let start = (limit / START).max(1);
    let window = window.min(limit);
    if waited > limit {
        let half = window / 2;
        if half < start { 0 } else { half }
    } else if waited > window {
        (window * 2).max(start).min(limit)
    } else {
        window
    }
}

/// What polling has brought a vCPU.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct HaltPolls {
    /// In so many waits its pCPU has polled.
    pub polls: u64,
    /// So many of them ended while it did.
    pub won: u64,
    /// For so long it polled, in ticks, which are part of its blocked time.
    pub ticks: u64,
}

impl HaltPolls {
    /// In so many waits polling was in vain. One that goes on counts as such.
    pub const fn lost(self) -> u64 {
        self.polls.saturating_sub(self.won)
    }
}

/// One vCPU's. Only the pCPU where it is loaded writes, others read the counters.
#[derive(Default)]
pub(crate) struct HaltPoll {
    window: AtomicU64,
    polls: Counter,
    won: Counter,
    ticks: AtomicU64,
}

impl HaltPoll {
    /// 0: the pCPU does not poll.
    #[inline]
    pub(crate) fn window(&self) -> u64 {
        self.window.load(Relaxed)
    }

    /// A wait begins in which the pCPU polls.
    pub(crate) fn begin(&self) {
        self.polls.increment();
    }

    /// It has polled for so long.
    pub(crate) fn add(&self, ticks: u64) {
        self.ticks.store(self.ticks.load(Relaxed) + ticks, Relaxed);
    }

    /// A wait of `waited` ticks has ended, perhaps while the pCPU polled.
    pub(crate) fn end(&self, limit: u64, waited: u64, is_won: bool) {
        if is_won {
            self.won.increment();
        }
        self.window
            .store(next_window(self.window(), limit, waited), Relaxed);
    }

    pub(crate) fn read(&self) -> HaltPolls {
        HaltPolls {
            polls: self.polls.read(),
            won: self.won.read(),
            ticks: self.ticks.load(Relaxed),
        }
    }
}

/// How far a pCPU is with the wait of its loaded vCPU.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Stage {
    /// It has not polled.
    Before,
    /// It polls, or did until something interrupted it.
    Polling,
    /// It polled for the whole window.
    Over,
}

/// A pCPU polls.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Poll {
    pub(crate) since: u64,
    pub(crate) until: u64,
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMIT: u64 = 800;

    fn after(waits: &[u64]) -> Vec<u64> {
        let mut window = 0;
        let next = |&waited: &u64| {
            window = next_window(window, LIMIT, waited);
            window
        };
        waits.iter().map(next).collect()
    }

    #[test]
    fn a_window_grows_until_it_catches_the_wake_ups_and_shrinks_when_they_are_late() {
        assert_eq!(after(&[350; 5]), [100, 200, 400, 400, 400]);
        assert_eq!(after(&[800; 6]), [100, 200, 400, 800, 800, 800]);
        assert_eq!(after(&[801; 3]), [0, 0, 0]);
        assert_eq!(
            after(&[700, 700, 700, 700, 5000, 5000, 5000, 5000, 10]),
            [100, 200, 400, 800, 400, 200, 100, 0, 100]
        );
    }

    #[test]
    fn a_limit_of_nothing_is_no_polling() {
        assert_eq!(next_window(800, 0, 1), 0);
        assert_eq!(next_window(0, 0, 0), 0);
        assert_eq!(
            next_window(800, 100, 50),
            100,
            "a lower limit counts at once"
        );
    }

    proptest! {
        #[test]
        fn a_window_is_nothing_or_between_its_start_and_its_limit(
            limit in 0..=1u64 << 40, waits in prop::collection::vec(0..=1u64 << 41, 1..50),
        ) {
            let mut window = 0;
            for waited in waits {
                window = next_window(window, limit, waited);
                let start = (limit / START).max(1);
                prop_assert!(window == 0 || (start..=limit).contains(&window));
            }
        }

        #[test]
        fn waits_that_are_alike_are_soon_caught_or_left_alone(
            limit in 1..=1u64 << 40, window in 0..=1u64 << 40, part in 0.0..2.0,
        ) {
            let waited = ((limit as f64) * part) as u64;
            let mut window = window;
            for _ in 0..5 {
                window = next_window(window, limit, waited);
            }
            prop_assert_eq!(window >= waited, waited <= limit || window >= waited);
            if waited <= limit {
                prop_assert!(window >= waited);
            } else {
                prop_assert_eq!(window, 0);
            }
            prop_assert_eq!(next_window(window, limit, waited), window);
        }
    }
}
