//! Numbers that look random and are the same for the same seed: splitmix64. [Steele et al., OOPSLA 2014]

/// A generator; each CPU has its own, so that a run depends on its seed and on the order of events only.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The generator of one stream (a CPU's index, for example) under a seed.
    pub const fn new(seed: u64, stream: u64) -> Self {
        Self(mix(seed).wrapping_add(mix(!stream)))
    }

    /// The next 64 bits.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN_GAMMA);
        mix(self.0)
    }

    /// A number in `0..bound`; 0 if `bound` is 0. The bias of the remainder does not matter here.
    pub const fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.next() % bound }
    }
}

const GOLDEN_GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

const fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::Random;

    #[test]
    fn a_seed_repeats_its_stream_and_streams_differ() {
        let mut first = Random::new(1, 0);
        let mut again = Random::new(1, 0);
        let mut other = Random::new(1, 1);
        let numbers: [u64; 4] = core::array::from_fn(|_| first.next());
        assert_eq!(numbers, core::array::from_fn(|_| again.next()));
        assert_ne!(numbers, core::array::from_fn(|_| other.next()));
    }

    #[test]
    fn below_stays_below() {
        let mut random = Random::new(7, 3);
        assert!((0..1000).all(|_| random.below(10) < 10));
        assert_eq!(random.below(0), 0);
    }
}
