//! A set of pCPUs: one bit for each that there can be, and how it is written.
//!
//! Normally that is one word. With the feature `many-pcpus` it is sixteen, and an [`AtomicPcpuSet`] no longer changes as a
//! whole. Nothing needs that: the bit of a pCPU is in one word, and each bit stands for itself. Who claims an idle pCPU, drains
//! one or asks whether one idles looks at one bit; who looks for any of them takes a bit that was there at some moment, and
//! the protocols that must not miss one have `fence(SeqCst)` between all that came before and all loads that follow.

use crate::{
    PcpuId,
    sync::{AtomicU64, Ordering},
};
use core::{array, fmt, iter, str::FromStr};

/// A power of two.
const WORDS: usize = PcpuId::LIMIT as usize / 64;

/// The word of `pcpu`. The mask tells the compiler what every `PcpuId` promises.
const fn word(pcpu: PcpuId) -> usize {
    (pcpu.index() / 64) & (WORDS - 1)
}

const fn bit(pcpu: PcpuId) -> u64 {
    1 << (pcpu.index() % 64)
}

/// A set of pCPUs, written `0-3,5`.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct PcpuSet([u64; WORDS]);

impl PcpuSet {
    /// No pCPU.
    pub const EMPTY: Self = Self([0; WORDS]);

    /// pCPUs 0 to `count - 1`; all that there can be if `count` is more.
    pub const fn all(count: u16) -> Self {
        let mut set = Self::EMPTY;
        let mut index = 0;
        while index < WORDS {
            let here = (count as usize).saturating_sub(64 * index);
            set.0[index] = if here >= 64 {
                u64::MAX
            } else {
                (1 << here) - 1
            };
            index += 1;
        }
        set
    }

    /// Only `pcpu`.
    pub const fn only(pcpu: PcpuId) -> Self {
        let mut set = Self::EMPTY;
        set.insert(pcpu);
        set
    }

    /// Bit n stands for pCPU n, for the first 64.
    pub const fn bits(self) -> u64 {
        self.0[0]
    }

    /// The pCPUs whose bits are set.
    pub const fn from_bits(bits: u64) -> Self {
        let mut set = Self::EMPTY;
        set.0[0] = bits;
        set
    }

    /// `pcpu` is in the set.
    pub const fn contains(self, pcpu: PcpuId) -> bool {
        self.0[word(pcpu)] & bit(pcpu) != 0
    }

    /// Adds `pcpu`.
    pub const fn insert(&mut self, pcpu: PcpuId) {
        self.0[word(pcpu)] |= bit(pcpu);
    }

    /// Takes `pcpu` out.
    pub const fn remove(&mut self, pcpu: PcpuId) {
        self.0[word(pcpu)] &= !bit(pcpu);
    }

    /// Those that are in either set.
    pub const fn union(mut self, other: Self) -> Self {
        let mut index = 0;
        while index < WORDS {
            self.0[index] |= other.0[index];
            index += 1;
        }
        self
    }

    /// Those that are in both sets.
    pub const fn intersection(mut self, other: Self) -> Self {
        let mut index = 0;
        while index < WORDS {
            self.0[index] &= other.0[index];
            index += 1;
        }
        self
    }

    /// Those that are not in `other`.
    pub const fn difference(mut self, other: Self) -> Self {
        let mut index = 0;
        while index < WORDS {
            self.0[index] &= !other.0[index];
            index += 1;
        }
        self
    }

    /// How many there are.
    pub const fn len(self) -> u32 {
        let (mut count, mut index) = (0, 0);
        while index < WORDS {
            count += self.0[index].count_ones();
            index += 1;
        }
        count
    }

    /// There is none.
    pub const fn is_empty(self) -> bool {
        let (mut any, mut index) = (0, 0);
        while index < WORDS {
            any |= self.0[index];
            index += 1;
        }
        any == 0
    }

    /// The lowest.
    pub const fn first(self) -> Option<PcpuId> {
        self.first_from(0)
    }

    /// The lowest in the words from `index` on.
    const fn first_from(self, mut index: usize) -> Option<PcpuId> {
        while index < WORDS {
            if self.0[index] != 0 {
                return PcpuId::new((64 * index) as u16 + self.0[index].trailing_zeros() as u16);
            }
            index += 1;
        }
        None
    }

    /// At most 16 of them, which those are `turn` says: for any numbers that differ, others in time. Those of a small set are
    /// all.
    pub(crate) fn part(self, turn: u64) -> Part {
        let used = || (0..WORDS).filter(|&index| self.0[index] != 0);
        let words = used().count() as u64;
        let bits = self.0[0];
        if bits <= 0xffff && words == u64::from(bits != 0) {
            return Part { word: 0, bits };
        }
        // Also of numbers that are all multiples of the same one. [Knuth: The Art of Computer Programming, 6.4: Fibonacci hashing]
        let turn = turn.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let index = used().nth((turn % words) as usize).unwrap_or(0);
        let groups = (0..4).map(|group| self.0[index] & 0xffff << (16 * group));
        let groups = groups.filter(|&group| group != 0);
        let count = groups.clone().count().max(1);
        Part {
            word: index,
            bits: groups
                .clone()
                .nth((turn / words) as usize % count)
                .unwrap_or(0),
        }
    }

    /// Each of them, lowest first.
    pub fn iter(self) -> impl Iterator<Item = PcpuId> {
        // Of many words, all at once are sooner seen to be empty than one after the other.
        let (mut rest, mut index) = (self, if self.is_empty() { WORDS } else { 0 });
        iter::from_fn(move || {
            let next = rest.first_from(index)?;
            index = word(next);
            rest.remove(next);
            Some(next)
        })
    }
}

/// Some pCPUs whose bits are in one word of a set.
#[derive(Clone, Copy)]
pub(crate) struct Part {
    word: usize,
    bits: u64,
}

impl Part {
    /// Each of them, lowest first.
    pub(crate) fn iter(self) -> impl Iterator<Item = PcpuId> {
        let rests = iter::successors(Some(self.bits), |rest| Some(rest & rest.wrapping_sub(1)));
        let rests = rests.take_while(|&rest| rest != 0);
        rests
            .map(move |rest| PcpuId::from_low_bits((64 * self.word) as u32 + rest.trailing_zeros()))
    }
}

impl fmt::Display for PcpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut pcpus = self.iter().map(PcpuId::index).peekable();
        let mut separator = "";
        while let Some(first) = pcpus.next() {
            let mut last = first;
            while pcpus.next_if(|&next| next == last + 1).is_some() {
                last += 1;
            }
            write!(f, "{separator}{first}")?;
            if last > first {
                write!(f, "-{last}")?;
            }
            separator = ",";
        }
        Ok(())
    }
}

/// A text that is not a set of pCPUs such as `0-3,5`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ParsePcpuSetError {
    /// A part is neither a number nor a range `first-last`.
    NotANumber,
    /// A number is not below [`PcpuId::LIMIT`].
    TooLarge,
    /// A range ends before it starts.
    Reversed,
}

impl fmt::Display for ParsePcpuSetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotANumber => f.write_str("a pCPU list looks like 0-3,5"),
            Self::TooLarge => write!(f, "pCPU numbers end at {}", PcpuId::LIMIT - 1),
            Self::Reversed => f.write_str("a pCPU range must not end before it starts"),
        }
    }
}

impl core::error::Error for ParsePcpuSetError {}

impl FromStr for PcpuSet {
    type Err = ParsePcpuSetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = |text: &str| {
            let index = text
                .trim()
                .parse()
                .map_err(|_| ParsePcpuSetError::NotANumber)?;
            let is_known = PcpuId::new(index).is_some();
            is_known.then_some(index).ok_or(ParsePcpuSetError::TooLarge)
        };
        let mut set = Self::EMPTY;
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            if last < first {
                return Err(ParsePcpuSetError::Reversed);
            }
            set = set.union(Self::all(last + 1).difference(Self::all(first)));
        }
        Ok(set)
    }
}

/// A set that several pCPUs change. See the head of this file for what a load of several words means.
#[derive(Default)]
pub(crate) struct AtomicPcpuSet([AtomicU64; WORDS]);

impl AtomicPcpuSet {
    pub(crate) fn new(set: PcpuSet) -> Self {
        Self(array::from_fn(|index| AtomicU64::new(set.0[index])))
    }

    #[inline]
    pub(crate) fn load(&self, order: Ordering) -> PcpuSet {
        let mut set = PcpuSet::EMPTY;
        for (bits, word) in set.0.iter_mut().zip(&self.0) {
            *bits = word.load(order);
        }
        set
    }

    /// As it is between two stores, none of which is of an empty set: while the words change one after the other it may look
    /// empty, but only until the store is over.
    #[inline]
    pub(crate) fn load_nonempty(&self, order: Ordering) -> PcpuSet {
        loop {
            let set = self.load(order);
            if WORDS == 1 || !set.is_empty() {
                return set;
            }
        }
    }

    /// One caller at a time, and nobody inserts or removes.
    #[inline]
    pub(crate) fn store(&self, set: PcpuSet, order: Ordering) {
        for (word, bits) in self.0.iter().zip(set.0) {
            word.store(bits, order);
        }
    }

    /// Those that are in the set, which is empty afterwards but for what was inserted meanwhile.
    pub(crate) fn take(&self, order: Ordering) -> PcpuSet {
        let mut set = PcpuSet::EMPTY;
        for (bits, word) in set.0.iter_mut().zip(&self.0) {
            if word.load(order) != 0 {
                *bits = word.swap(0, order);
            }
        }
        set
    }

    #[inline]
    pub(crate) fn contains(&self, pcpu: PcpuId, order: Ordering) -> bool {
        self.0[word(pcpu)].load(order) & bit(pcpu) != 0
    }

    /// There was none in any word when that was read.
    #[inline]
    pub(crate) fn is_empty(&self, order: Ordering) -> bool {
        self.0.iter().fold(0, |any, word| any | word.load(order)) == 0
    }

    /// Adds all that `other` has. One caller at a time, and nobody else changes this set.
    #[inline]
    pub(crate) fn include(&self, other: &Self, order: Ordering) {
        for (word, other) in self.0.iter().zip(&other.0) {
            let (before, other) = (word.load(Ordering::Relaxed), other.load(order));
            if other & !before != 0 {
                word.store(before | other, Ordering::Relaxed);
            }
        }
    }

    /// Adds `pcpu`; true if it was not in the set.
    #[inline]
    pub(crate) fn insert(&self, pcpu: PcpuId, order: Ordering) -> bool {
        self.0[word(pcpu)].fetch_or(bit(pcpu), order) & bit(pcpu) == 0
    }

    /// Takes `pcpu` out; true if it was in the set.
    #[inline]
    pub(crate) fn remove(&self, pcpu: PcpuId, order: Ordering) -> bool {
        self.0[word(pcpu)].fetch_and(!bit(pcpu), order) & bit(pcpu) != 0
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use alloc::{format, string::ToString, vec::Vec};
    use core::sync::atomic::Ordering::Relaxed;

    const LAST: u16 = PcpuId::LIMIT - 1;

    fn parse(text: &str) -> Result<PcpuSet, ParsePcpuSetError> {
        text.parse()
    }

    fn indices(set: PcpuSet) -> Vec<usize> {
        set.iter().map(PcpuId::index).collect()
    }

    #[test]
    fn a_set_reads_and_prints_as_ranges() {
        let (last, before) = (LAST, LAST - 1);
        let texts = [
            "0", "0-3", "0-3,5", "1,3,5", "0-63", "62-63", "63", "0-1,3-4",
        ];
        let far = [
            format!("0-{last}"),
            format!("{before}-{last}"),
            format!("0-3,5,{before}-{last}"),
            format!("{last}"),
        ];
        for text in texts.into_iter().chain(far.iter().map(|far| &**far)) {
            assert_eq!(parse(text).unwrap().to_string(), text);
        }
        assert_eq!(parse("5,0-3, 2").unwrap().to_string(), "0-3,5");
        assert_eq!(indices(PcpuSet::all(4)), [0, 1, 2, 3]);
        assert_eq!(PcpuSet::all(64).len(), 64);
        assert_eq!(PcpuSet::all(u16::MAX).len(), u32::from(PcpuId::LIMIT));
    }

    #[test]
    fn a_bad_set_says_why() {
        assert_eq!(parse(""), Err(ParsePcpuSetError::NotANumber));
        assert_eq!(parse("a"), Err(ParsePcpuSetError::NotANumber));
        assert_eq!(parse("1-"), Err(ParsePcpuSetError::NotANumber));
        assert_eq!(parse("3-1"), Err(ParsePcpuSetError::Reversed));
        let beyond = parse(&PcpuId::LIMIT.to_string()).unwrap_err();
        assert_eq!(beyond, ParsePcpuSetError::TooLarge);
        assert_eq!(beyond.to_string(), format!("pCPU numbers end at {LAST}"));
    }

    /// Every other, every third and so on, against what lists of numbers say.
    #[test]
    fn sets_are_what_a_slow_and_obvious_model_says() {
        let every = |step: usize| {
            (0..PcpuId::LIMIT).filter(move |&index| usize::from(index).is_multiple_of(step))
        };
        let set_of = |numbers: &mut dyn Iterator<Item = u16>| {
            let mut set = PcpuSet::EMPTY;
            numbers.for_each(|index| set.insert(PcpuId::new(index).unwrap()));
            set
        };
        let steps = [1, 2, 3, 7, 63, 64, 65, 1000];
        for (a, b) in steps.into_iter().flat_map(|a| steps.map(|b| (a, b))) {
            let (one, other) = (set_of(&mut every(a)), set_of(&mut every(b)));
            let is_both = |&index: &u16| usize::from(index).is_multiple_of(b);
            let both: Vec<_> = every(a).filter(is_both).map(usize::from).collect();
            let only: Vec<_> = every(a)
                .filter(|index| !is_both(index))
                .map(usize::from)
                .collect();
            assert_eq!(indices(one.intersection(other)), both);
            assert_eq!(indices(one.difference(other)), only);
            assert_eq!(
                one.union(other).len(),
                only.len() as u32 + other.len(),
                "{a} {b}"
            );
            assert_eq!(one.difference(other).first().is_none(), only.is_empty());
            assert_eq!(one.difference(other).is_empty(), only.is_empty());
        }
    }

    #[test]
    fn each_part_has_its_turn_and_none_is_left_out() {
        let set = parse(&format!("0-2,63-{LAST}")).unwrap();
        // Virtual runtimes are often all multiples of the same number.
        for stride in [1, 64, 1 << 16] {
            let mut all = PcpuSet::EMPTY;
            for turn in 0..64 * WORDS as u64 {
                let part: Vec<_> = set.part(stride * turn).iter().collect();
                assert!((1..=16).contains(&part.len()), "{part:?}");
                part.into_iter().for_each(|pcpu| all.insert(pcpu));
            }
            assert_eq!(all, set, "{stride}");
        }
        assert_eq!(PcpuSet::EMPTY.part(1).iter().count(), 0);
    }

    #[test]
    fn what_is_taken_is_not_there_any_more() {
        let set = parse(&format!("0-2,63,{LAST}")).unwrap();
        let atomic = AtomicPcpuSet::new(set);
        assert_eq!(atomic.take(Relaxed), set);
        assert_eq!(atomic.take(Relaxed), PcpuSet::EMPTY);
    }

    #[test]
    fn what_is_added_to_a_set_is_there_besides_what_was() {
        let set = AtomicPcpuSet::default();
        assert!(set.is_empty(Relaxed));
        for added in ["1-2", "2", &format!("0,{LAST}")] {
            let (before, added) = (set.load(Relaxed), parse(added).unwrap());
            set.include(&AtomicPcpuSet::new(added), Relaxed);
            assert_eq!(set.load(Relaxed), before.union(added));
            assert!(!set.is_empty(Relaxed));
        }
    }

    #[test]
    fn the_first_64_are_a_word() {
        let set = parse("0,2,63").unwrap();
        assert_eq!(set.bits(), 1 << 63 | 0b101);
        assert_eq!(PcpuSet::from_bits(set.bits()), set);
        assert_eq!(PcpuSet::all(PcpuId::LIMIT).bits(), u64::MAX);
    }

    #[test]
    fn one_that_is_put_in_or_taken_out_twice_changes_once() {
        let set = AtomicPcpuSet::default();
        for pcpu in [0, 62, LAST].map(|index| PcpuId::new(index).unwrap()) {
            assert!(set.insert(pcpu, Relaxed) && !set.insert(pcpu, Relaxed));
            assert!(set.contains(pcpu, Relaxed));
        }
        let expected = parse(&format!("0,62,{LAST}"));
        assert_eq!(Ok(set.load(Relaxed)), expected);
        let last = PcpuId::new(LAST).unwrap();
        assert!(set.remove(last, Relaxed) && !set.remove(last, Relaxed));
        assert!(!set.contains(last, Relaxed));
        set.store(PcpuSet::only(last), Relaxed);
        assert_eq!(set.load_nonempty(Relaxed), PcpuSet::only(last));
    }
}
