//! The mean of virtual runtimes by weight, kept as they come, go and grow: exactly, in whole numbers.

use super::fronts::ahead;

/// The sum of all weighted distances from a base may become so large before the base moves on.
const FAR: u128 = 1 << 60;

/// How far those who are here are on average.
#[derive(Default)]
pub(super) struct Mean {
    base: u64,
    /// Of all the distance from `base` times the weight.
    sum: i128,
    weight: u64,
}

impl Mean {
    /// `None` if nobody is here.
    pub(super) fn value(&self) -> Option<u64> {
        (self.weight != 0).then(|| self.base.wrapping_add(self.distance() as u64))
    }

    /// One with `weight` comes who is at `vruntime`.
    pub(super) fn join(&mut self, vruntime: u64, weight: u64) {
        if self.weight == 0 {
            (self.base, self.sum) = (vruntime, 0);
        }
        self.weight += weight;
        self.grow(ahead(vruntime, self.base), weight);
    }

    /// One with `weight` goes who is at `vruntime`.
    pub(super) fn leave(&mut self, vruntime: u64, weight: u64) {
        self.weight -= weight;
        self.sum -= weighted(ahead(vruntime, self.base), weight);
    }

    /// One with `weight` who is here is further by `lead`.
    pub(super) fn grow(&mut self, lead: i64, weight: u64) {
        self.sum += weighted(lead, weight);
        if self.sum.unsigned_abs() > FAR {
            let distance = self.distance();
            self.base = self.base.wrapping_add(distance as u64);
            self.sum -= weighted(distance, self.weight);
        }
    }

    /// How far the mean is from the base.
    fn distance(&self) -> i64 {
        match (i64::try_from(self.sum), i64::try_from(self.weight)) {
            (Ok(sum), Ok(weight)) => sum.div_euclid(weight),
            _ => self.sum.div_euclid(self.weight.into()) as i64,
        }
    }
}

fn weighted(lead: i64, weight: u64) -> i128 {
    i128::from(lead) * i128::from(weight)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Also for so long that the numbers wrap around.
        #[test]
        fn the_mean_does_not_drift(
            start in any::<u64>(),
            steps in prop::collection::vec((0..4_usize, 0..1_i64 << 50, 1..10_000_u64), 1..200),
        ) {
            let mut mean = Mean::default();
            let mut present: [Option<(i128, u64)>; 4] = [None; 4];
            let at = |position: i128| start.wrapping_add(position as u64);
            let mut last = 0;
            for (index, lead, weight) in steps {
                match present[index] {
                    None => {
                        mean.join(at(last), weight);
                        present[index] = Some((last, weight));
                    }
                    Some((position, weight)) if lead % 3 == 0 => {
                        mean.leave(at(position), weight);
                        present[index] = None;
                    }
                    Some((position, weight)) => {
                        let lead = lead * 64;
                        mean.grow(lead, weight);
                        present[index] = Some((position + i128::from(lead), weight));
                    }
                }
                let all: Vec<_> = present.iter().flatten().collect();
                let weights: i128 = all.iter().map(|one| i128::from(one.1)).sum();
                let sum: i128 = all.iter().map(|one| one.0 * i128::from(one.1)).sum();
                let expected = (weights > 0).then(|| at(sum.div_euclid(weights)));
                prop_assert_eq!(mean.value(), expected);
                last = last.max(sum.checked_div(weights).unwrap_or(0));
            }
        }
    }
}
