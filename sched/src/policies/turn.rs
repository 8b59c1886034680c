//! Whose slot it is: one word for the whole pool, which whoever comes first into a slot decides with one compare-exchange.

use crate::sync::{AtomicU64, Ordering::Relaxed};

/// Which row of gangs a slot belongs to: the slot's number in bits 63:32, the row in bits 15:0.
pub(super) struct Turn(AtomicU64);

impl Turn {
    /// The first one to have a slot is the one after `last`.
    pub(super) fn new(last: u16) -> Self {
        Self(AtomicU64::new(u64::from(u32::MAX) << 32 | u64::from(last)))
    }

    /// The row of `slot`: decided already, or `next` after the last one. A pCPU whose clock is a little behind follows those
    /// that are in the slot after. `None`: nobody is ready anywhere.
    pub(super) fn of(&self, slot: u64, next: impl Fn(usize) -> Option<usize>) -> Option<usize> {
        let slot = slot as u32;
        let mut word = self.0.load(Relaxed);
        loop {
            let row = usize::from(word as u16);
            if ((word >> 32) as u32).wrapping_sub(slot) <= 1 {
                return Some(row);
            }
            let next = next(row)?;
            let decided = u64::from(slot) << 32 | next as u64;
            match self.0.compare_exchange(word, decided, Relaxed, Relaxed) {
                Ok(_) => return Some(next),
                Err(actual) => word = actual,
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_decided_once_and_odd_times_only_decide_anew() {
        let turn = Turn::new(9);
        assert_eq!(turn.of(0, |_| None), None);
        assert_eq!(turn.of(0, |last| Some(last + 1)), Some(10));
        assert_eq!(turn.of(0, |last| Some(last + 1)), Some(10));
        assert_eq!(turn.of(1, |last| Some(last + 1)), Some(11));
        assert_eq!(
            turn.of(0, |last| Some(last + 1)),
            Some(11),
            "a little behind"
        );
        for (slot, gang) in [(1 << 31, 12), (u64::MAX, 13), (7, 14), (u64::MAX - 9, 15)] {
            assert_eq!(turn.of(slot, |last| Some(last + 1)), Some(gang));
        }
    }
}

#[cfg(all(test, loom))]
mod models {
    use super::*;
    use alloc::sync::Arc;

    /// Two pCPUs come into a slot at once, with different views of who is ready, and a third follows.
    #[test]
    fn loom_all_follow_whoever_decides_a_slot_first() {
        loom::model(|| {
            let turn = Arc::new(Turn::new(0));
            let other = Arc::clone(&turn);
            let decider = loom::thread::spawn(move || other.of(5, |_| Some(1)));
            let gang = turn.of(5, |_| Some(2));
            assert_eq!(decider.join().unwrap(), gang);
            // Its clock is a little behind, and then a slot later.
            assert_eq!(turn.of(4, |_| None), gang);
            assert_eq!(
                turn.of(6, |last| Some(last + 10)),
                gang.map(|gang| gang + 10)
            );
        });
    }
}
