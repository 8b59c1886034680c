//! What is left of a VM's budget in this period: one word that all pCPUs change, with one compare-exchange each.
//!
//! Whoever comes first in a period fills it. What was left of the period before is lost; what was used beyond it is owed.

use crate::sync::{AtomicU64, Ordering::Relaxed};

/// What is left of a VM's budget: the number of the period in bits 63:40, the ticks in bits 39:0, negative if it owes some.
pub(super) struct Budget(AtomicU64);

#[derive(Clone, Copy)]
struct Left {
    period: u64,
    ticks: i64,
}

impl Left {
    const SHIFT: u32 = 40;
    const PERIODS: u64 = 1 << (64 - Self::SHIFT);
    const LIMIT: i64 = Budget::LIMIT as i64;

    fn decode(word: u64) -> Self {
        Self {
            period: word >> Self::SHIFT,
            ticks: (word << (64 - Self::SHIFT)) as i64 >> (64 - Self::SHIFT),
        }
    }

    fn encode(self) -> u64 {
        let ticks = self.ticks.clamp(-Self::LIMIT, Self::LIMIT);
        self.period << Self::SHIFT | (ticks as u64) << (64 - Self::SHIFT) >> (64 - Self::SHIFT)
    }

    /// What is left in `period`. A pCPU whose clock is behind may come with the period before: that changes nothing.
    fn in_period(self, period: u64, budget: u64) -> Self {
        let period = period % Self::PERIODS;
        let passed = period.wrapping_sub(self.period) % Self::PERIODS;
        if passed == 0 || passed == Self::PERIODS - 1 {
            return Self {
                ticks: self.ticks.min(budget as i64),
                ..self
            };
        }
        let fresh = i128::from(self.ticks.min(0)) + i128::from(passed) * i128::from(budget);
        let ticks = fresh.min(i128::from(budget)) as i64;
        Self { period, ticks }
    }
}

impl Budget {
    /// The most that one can be, in ticks.
    pub(super) const LIMIT: u64 = 1 << (Left::SHIFT - 2);

    /// Full.
    pub(super) fn new() -> Self {
        let ticks = Left::LIMIT;
        Self(AtomicU64::new(Left { period: 0, ticks }.encode()))
    }

    pub(super) fn left(&self, period: u64, budget: u64) -> i64 {
        let left = Left::decode(self.0.load(Relaxed));
        left.in_period(period, budget).ticks
    }

    /// Takes `wanted` ticks, or what there is.
    pub(super) fn take(&self, period: u64, budget: u64, wanted: u64) -> u64 {
        self.update(period, budget, |ticks| {
            let taken = wanted.min(ticks.max(0) as u64);
            (ticks - taken as i64, taken)
        })
    }

    pub(super) fn add(&self, period: u64, budget: u64, more: i64) {
        self.update(period, budget, |ticks| (ticks.saturating_add(more), ()));
    }

    fn update<T>(&self, period: u64, budget: u64, change: impl Fn(i64) -> (i64, T)) -> T {
        let mut word = self.0.load(Relaxed);
        loop {
            let left = Left::decode(word).in_period(period, budget);
            let (ticks, result) = change(left.ticks);
            let next = Left { ticks, ..left }.encode();
            match self.0.compare_exchange_weak(word, next, Relaxed, Relaxed) {
                Ok(_) => return result,
                Err(actual) => word = actual,
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use alloc::collections::BTreeMap;

    /// Takes and gives back by chance, and adds up in a table what each period had.
    #[test]
    fn a_budget_is_what_a_slow_and_obvious_model_says() {
        let (budget_ticks, mut x) = (300, 1_u64);
        let mut below = |limit: u64| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            (x >> 11) % limit
        };
        let budget = Budget::new();
        let mut left: BTreeMap<u64, i64> = BTreeMap::new();
        let mut period = 7;
        for step in 0..200_000 {
            period += [0, 0, 0, 0, 0, 1, 1, 3][below(8) as usize];
            let is_new = !left.contains_key(&period);
            if is_new {
                // Of each period since the last one only what is owed goes on.
                let (&last, &ticks) = left.last_key_value().unwrap_or((&(period - 1), &0));
                let fill = |ticks: i64, _| (ticks.min(0) + budget_ticks).min(budget_ticks);
                let ticks = (last..period).fold(ticks, fill);
                left.insert(period, ticks);
            }
            let model = left.get_mut(&period).unwrap();
            // One pCPU in ten has a clock that is a little behind the one that came first.
            let seen = if !is_new && below(10) == 0 {
                period - 1
            } else {
                period
            };
            if below(2) == 0 {
                let wanted = below(200);
                let expected = wanted.min((*model).max(0) as u64);
                let taken = budget.take(seen, budget_ticks as u64, wanted);
                assert_eq!(taken, expected, "step {step}");
                *model -= taken as i64;
            } else {
                let more = below(500) as i64 - 400;
                budget.add(seen, budget_ticks as u64, more.min(budget_ticks - *model));
                *model += more.min(budget_ticks - *model);
            }
            let left = budget.left(seen, budget_ticks as u64);
            assert_eq!(left, *model, "step {step}, period {period}");
        }
    }

    #[test]
    fn a_budget_of_long_ago_is_as_good_as_new() {
        let budget = Budget::new();
        assert_eq!(budget.take(0, 50, 80), 50);
        for passed in [2, Left::PERIODS / 2 + 1, Left::PERIODS - 2, u64::MAX] {
            let budget = Budget(AtomicU64::new(budget.0.load(Relaxed)));
            assert_eq!(
                budget.left(passed, 50),
                if passed == u64::MAX { 0 } else { 50 }
            );
        }
    }
}

#[cfg(all(test, loom))]
mod models {
    use super::*;
    use alloc::sync::Arc;

    /// Two pCPUs come into a new period, take all they can, and one gives some back.
    #[test]
    fn loom_two_pcpus_take_no_more_than_a_budget() {
        loom::model(|| {
            let budget = Arc::new(Budget::new());
            assert_eq!(budget.take(1, 10, 10), 10);
            let other = Arc::clone(&budget);
            let taker = loom::thread::spawn(move || {
                let taken = other.take(2, 10, 7);
                other.add(2, 10, 2);
                taken - 2
            });
            let taken = budget.take(2, 10, 7);
            let others = taker.join().unwrap();
            let left = budget.left(2, 10);
            assert_eq!(taken as i64 + others as i64 + left, 10);
        });
    }
}
