//! How often which latency came: buckets that widen with the value, so that each is known to 3 % over the whole range.
//!
//! ```text
//!   values 0 to 63: one bucket each      64 to 127: two values to a bucket      128 to 255: four ...
//! ```
//! [Tene: HdrHistogram]

use alloc::vec::Vec;

/// A bucket is one part of so many, as a power of two, of the values up to the next power of two.
const PART_BITS: u32 = 5;
const PARTS: usize = 1 << PART_BITS;
const BUCKETS: usize = (64 - PART_BITS as usize + 1) * PARTS;

/// Counts of values, which can be added to others'. The default is empty.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Histogram {
    /// Empty, or one for each bucket.
    counts: Vec<u64>,
    count: u64,
    sum: u128,
    /// Of the values themselves, not of their buckets.
    least: u64,
    most: u64,
}

/// The bucket of `value`.
fn bucket(value: u64) -> usize {
    let shift = (64 - PART_BITS - 1).saturating_sub(value.leading_zeros());
    (shift as usize) * PARTS + (value >> shift) as usize
}

/// The least value in bucket `index`.
fn start(index: usize) -> u64 {
    let shift = (index / PARTS).saturating_sub(1);
    ((index - shift * PARTS) as u64) << shift
}

/// The first value after bucket `index`; the last bucket ends with the largest value.
fn end(index: usize) -> u64 {
    match index + 1 < BUCKETS {
        true => start(index + 1),
        false => u64::MAX,
    }
}

impl Histogram {
    /// An empty one with the memory for all that may be recorded.
    pub(super) fn reserved() -> Self {
        Self {
            counts: alloc::vec![0; BUCKETS],
            ..Self::default()
        }
    }

    /// Counts `value`.
    pub fn record(&mut self, value: u64) {
        if self.counts.is_empty() {
            self.counts.resize(BUCKETS, 0);
        }
        self.counts[bucket(value)] += 1;
        self.least = if self.count == 0 {
            value
        } else {
            self.least.min(value)
        };
        self.most = self.most.max(value);
        self.count += 1;
        self.sum += u128::from(value);
    }

    /// Counts all that `other` has counted.
    pub fn merge(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        self.counts.resize(BUCKETS, 0);
        for (mine, others) in self.counts.iter_mut().zip(&other.counts) {
            *mine += others;
        }
        self.least = if self.count == 0 {
            other.least
        } else {
            self.least.min(other.least)
        };
        self.most = self.most.max(other.most);
        self.count += other.count;
        self.sum += other.sum;
    }

    /// How many values there were.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The least value; 0 if there was none.
    pub fn min(&self) -> u64 {
        self.least
    }

    /// The largest value; 0 if there was none.
    pub fn max(&self) -> u64 {
        self.most
    }

    /// The mean, rounded down; 0 if there was none.
    pub fn mean(&self) -> u64 {
        (self.sum / u128::from(self.count.max(1))) as u64
    }

    /// The value that `percent` of all values do not exceed, at most 3 % too large; 0 if there was none.
    pub fn percentile(&self, percent: f64) -> u64 {
        let wanted = (self.count as f64 * percent / 100.0).ceil();
        let wanted = (wanted as u64).clamp(1, self.count.max(1));
        let mut below = 0;
        for (index, count) in self.counts.iter().enumerate() {
            below += count;
            if below >= wanted {
                return (end(index) - 1).clamp(self.least, self.most);
            }
        }
        self.most
    }

    /// The buckets that are not empty: from, up to but without, how many.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64, u64)> + '_ {
        let filled = self
            .counts
            .iter()
            .enumerate()
            .filter(|&(_, &count)| count > 0);
        filled.map(|(index, &count)| (start(index), end(index), count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_value_is_in_its_bucket_and_buckets_follow_each_other() {
        for index in 0..BUCKETS - 1 {
            assert_eq!(bucket(start(index)), index);
            assert_eq!(bucket(end(index) - 1), index);
            let width = end(index) - start(index);
            assert!(width == 1 || width * 32 <= start(index), "bucket {index}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn percentiles_are_those_of_a_sorted_list() {
        let mut histogram = Histogram::default();
        let mut values: Vec<u64> = (1..=1000).map(|index| index * index).collect();
        values
            .iter()
            .rev()
            .for_each(|&value| histogram.record(value));
        values.sort_unstable();
        for (percent, index) in [(50.0, 499), (90.0, 899), (99.0, 989), (99.9, 998)] {
            let (exact, read) = (values[index], histogram.percentile(percent));
            assert!(read >= exact && read - exact <= exact / 30, "{percent}");
        }
        assert_eq!(histogram.percentile(100.0), 1_000_000);
        assert_eq!((histogram.min(), histogram.max()), (1, 1_000_000));
        assert_eq!(histogram.mean(), values.iter().sum::<u64>() / 1000);
    }

    #[test]
    fn two_that_are_merged_are_as_one_that_counted_everything() {
        let mut all = Histogram::default();
        let mut parts = [Histogram::default(), Histogram::reserved()];
        for value in 0..500_u64 {
            all.record(value * 37);
            parts[value as usize % 2].record(value * 37);
        }
        let [mut one, other] = parts;
        one.merge(&other);
        one.merge(&Histogram::default());
        assert_eq!(one, all);
        let mut empty = Histogram::default();
        assert_eq!(
            (empty.percentile(99.0), empty.mean(), empty.min()),
            (0, 0, 0)
        );
        empty.merge(&all);
        assert_eq!(empty, all);
    }
}
