//! Which interrupts a vCPU has to look at.
//!
//! [`Due`] is what others tell it: whoever changes a record so that a vCPU is concerned sets the interrupt's bit there,
//! after the record, and wakes the vCPU. The owner clears the bits first and reads the records afterwards, so a change
//! that comes too late to be seen leaves its bit. [`IntidSet`] is the owner's own list of what is left to do.

use alloc::{boxed::Box, vec};
use core::array;

use super::lpi::{FIRST_LPI, LPI_COUNT};
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Words of 64 INTIDs that hold all below 1024.
const WORDS: usize = 16;
/// Words of 64 LPIs.
const LPI_WORDS: usize = LPI_COUNT as usize / 64;
/// Words of LPIs that share a bit of the summary: the bits from [`WORDS`] on.
const GROUP: usize = LPI_WORDS.div_ceil(16);

/// A set of INTIDs that any pCPU adds to and the vCPU's owner empties.
pub(super) struct Due {
    /// Bit n: word n may have bits; from bit 16 on, group n - 16 of the words of LPIs.
    summary: AtomicU32,
    words: [AtomicU64; WORDS],
    /// Empty without LPIs.
    lpis: Box<[AtomicU64]>,
}

impl Due {
    pub(super) fn new() -> Self {
        Self {
            summary: AtomicU32::new(0),
            words: array::from_fn(|_| AtomicU64::new(0)),
            lpis: Box::default(),
        }
    }

    pub(super) fn with_lpis() -> Self {
        Self {
            lpis: (0..LPI_WORDS).map(|_| AtomicU64::new(0)).collect(),
            ..Self::new()
        }
    }

    /// Adds `intid`; its record has changed already.
    pub(super) fn insert(&self, intid: u32) {
        if let Some(word) = self.words.get(intid as usize / 64) {
            word.fetch_or(1 << (intid % 64), Ordering::AcqRel);
            self.summary.fetch_or(1 << (intid / 64), Ordering::AcqRel);
        } else {
            self.insert_lpi(intid);
        }
    }

    #[cold]
    fn insert_lpi(&self, intid: u32) {
        if let Some(index) = lpi_word(intid)
            && let Some(word) = self.lpis.get(index)
        {
            word.fetch_or(1 << (intid % 64), Ordering::AcqRel);
            self.summary
                .fetch_or(1 << (WORDS + index / GROUP), Ordering::AcqRel);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.summary.load(Ordering::Acquire) == 0
    }

    /// Moves everything to `set`. Records are to be read afterwards.
    pub(super) fn drain_into(&self, set: &mut IntidSet) {
        if self.is_empty() {
            return;
        }
        let summary = self.summary.swap(0, Ordering::AcqRel);
        let mut left = summary & ((1 << WORDS) - 1);
        while left != 0 {
            let index = left.trailing_zeros() as usize;
            left &= left - 1;
            if let Some(word) = self.words.get(index) {
                set.insert_word(index, take(word));
            }
        }
        if summary >> WORDS != 0 {
            self.drain_lpis_into(summary, set);
        }
    }

    #[cold]
    fn drain_lpis_into(&self, summary: u32, set: &mut IntidSet) {
        for (index, word) in self.lpis.iter().enumerate() {
            if summary & 1 << (WORDS + index / GROUP) != 0 {
                set.insert_lpi_word(index, take(word));
            }
        }
    }
}

/// The word of an LPI.
fn lpi_word(intid: u32) -> Option<usize> {
    Some(intid.checked_sub(FIRST_LPI)? as usize / 64)
}

/// The bits of `word`, which are cleared by the same step: none that comes in between is lost.
fn take(word: &AtomicU64) -> u64 {
    if cfg!(mutant = "vgic_skip_due_recheck") {
        let bits = word.load(Ordering::Acquire);
        word.store(0, Ordering::Release);
        return bits;
    }
    word.swap(0, Ordering::AcqRel)
}

/// A set of INTIDs below 1024 and of LPIs.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct IntidSet {
    /// Bit n: word n has bits; from bit 16 on, group n - 16 of the words of LPIs may have.
    summary: u32,
    words: [u64; WORDS],
    /// Empty without LPIs.
    lpis: Box<[u64]>,
}

impl IntidSet {
    pub(super) fn with_lpis() -> Self {
        Self {
            lpis: vec![0; LPI_WORDS].into(),
            ..Self::default()
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.summary == 0
    }

    /// All of them as they are now, if there are at most `limit`, which is not 0, and one word has them.
    #[inline]
    pub(super) fn few(&self, limit: usize) -> Option<Few> {
        if self.summary & self.summary.wrapping_sub(1) != 0 {
            return None;
        }
        let index = self.summary.trailing_zeros() as usize;
        let bits = match self.summary {
            0 => 0,
            _ => *self.words.get(index)?,
        };
        let is_few = bits & bits.wrapping_sub(1) == 0
            || are_at_most(bits, limit)
            || cfg!(mutant = "vgic_list_too_many");
        is_few.then_some(Few {
            first: index as u32 * 64,
            bits,
        })
    }

    pub(super) fn insert(&mut self, intid: u32) {
        let bit = 1 << (intid % 64);
        if let Some(word) = self.words.get_mut(intid as usize / 64) {
            *word |= bit;
            self.summary |= 1 << (intid / 64);
        } else if let Some(index) = lpi_word(intid) {
            self.insert_lpi_word(index, bit);
        }
    }

    #[cold]
    fn insert_lpi_word(&mut self, index: usize, bits: u64) {
        if let Some(word) = self.lpis.get_mut(index) {
            *word |= bits;
            self.summary |= u32::from(bits != 0) << (WORDS + index / GROUP);
        }
    }

    fn insert_word(&mut self, index: usize, bits: u64) {
        if let Some(word) = self.words.get_mut(index) {
            *word |= bits;
            self.summary |= u32::from(*word != 0) << index;
        }
    }

    pub(super) fn remove(&mut self, intid: u32) {
        let index = intid as usize / 64;
        if let Some(word) = self.words.get_mut(index) {
            *word &= !(1 << (intid % 64));
            self.summary &= !(u32::from(*word == 0) << index);
        } else {
            self.remove_lpi(intid);
        }
    }

    #[cold]
    fn remove_lpi(&mut self, intid: u32) {
        if let Some(index) = lpi_word(intid)
            && let Some(word) = self.lpis.get_mut(index)
        {
            *word &= !(1 << (intid % 64));
            self.summarise(index / GROUP);
        }
    }

    /// The summary's bit of a group of the words of LPIs.
    fn summarise(&mut self, group: usize) {
        let mut words = self.lpis.iter().skip(group * GROUP).take(GROUP);
        let is_empty = words.all(|word| *word == 0);
        self.summary &= !(u32::from(is_empty) << (WORDS + group));
    }

    /// Keeps the INTIDs for which `keep` says so, asked in ascending order.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(u32) -> bool) {
        let mut left = self.summary;
        while left != 0 {
            let index = left.trailing_zeros();
            left &= left - 1;
            let Some(word) = self.words.get_mut(index as usize) else {
                return self.retain_lpis(&mut keep);
            };
            let mut bits = *word;
            while bits != 0 {
                let bit = bits.trailing_zeros();
                bits &= bits - 1;
                if !keep(index * 64 + bit) {
                    *word &= !(1 << bit);
                }
            }
            self.summary &= !(u32::from(*word == 0) << index);
        }
    }

    #[cold]
    fn retain_lpis(&mut self, keep: &mut dyn FnMut(u32) -> bool) {
        let has_bits = |index: usize| self.summary & 1 << (WORDS + index / GROUP) != 0;
        for (index, word) in self
            .lpis
            .iter_mut()
            .enumerate()
            .filter(|(index, _)| has_bits(*index))
        {
            let mut bits = *word;
            while bits != 0 {
                let bit = bits.trailing_zeros();
                bits &= bits - 1;
                if !keep(FIRST_LPI + index as u32 * 64 + bit) {
                    *word &= !(1 << bit);
                }
            }
        }
        (0..LPI_WORDS / GROUP).for_each(|group| self.summarise(group));
    }
}

/// Counting takes some instructions, and one is the rule.
#[cold]
#[inline(never)]
fn are_at_most(bits: u64, limit: usize) -> bool {
    bits.count_ones() as usize <= limit
}

/// A few INTIDs, in ascending order.
pub(super) struct Few {
    first: u32,
    bits: u64,
}

impl Iterator for Few {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        if self.bits == 0 {
            return None;
        }
        let intid = self.first + self.bits.trailing_zeros();
        self.bits &= self.bits - 1;
        Some(intid)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn few(intids: &[u32], limit: usize) -> Option<Vec<u32>> {
        let mut set = IntidSet::with_lpis();
        intids.iter().for_each(|&intid| set.insert(intid));
        set.few(limit).map(Iterator::collect)
    }

    #[test]
    fn a_few_of_one_word_are_named_in_order() {
        assert_eq!(few(&[], 1), Some(vec![]));
        assert_eq!(few(&[63], 1), Some(vec![63]));
        assert_eq!(few(&[1019, 970], 2), Some(vec![970, 1019]));
        assert_eq!(few(&[1, 5, 3], 2), None);
        assert_eq!(few(&[63, 64], 4), None);
        assert_eq!(few(&[FIRST_LPI], 4), None);
        assert_eq!(few(&[0, FIRST_LPI], 4), None);
    }

    #[test]
    fn what_is_removed_is_none_of_the_few() {
        let mut set = IntidSet::default();
        [70, 71, 80].into_iter().for_each(|intid| set.insert(intid));
        set.remove(71);
        assert_eq!(set.few(4).map(Iterator::collect), Some(vec![70, 80]));
        set.remove(70);
        set.remove(80);
        assert_eq!(set.few(4).map(Iterator::collect), Some(Vec::new()));
    }
}
