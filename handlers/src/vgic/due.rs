//! Which interrupts a vCPU has to look at.
//!
//! [`Due`] is what others tell it: whoever changes a record so that a vCPU is concerned sets the interrupt's bit there,
//! after the record, and wakes the vCPU. The owner clears the bits first and reads the records afterwards, so a change
//! that comes too late to be seen leaves its bit. [`IntidSet`] is the owner's own list of what is left to do.

use core::array;

use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Words of 64 INTIDs that hold all below 1024.
const WORDS: usize = 16;

/// A set of INTIDs that any pCPU adds to and the vCPU's owner empties.
pub(super) struct Due {
    /// Bit n: word n may have bits.
    summary: AtomicU32,
    words: [AtomicU64; WORDS],
}

impl Due {
    pub(super) fn new() -> Self {
        Self {
            summary: AtomicU32::new(0),
            words: array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    /// Adds `intid`; its record has changed already.
    pub(super) fn insert(&self, intid: u32) {
        if let Some(word) = self.words.get(intid as usize / 64) {
            word.fetch_or(1 << (intid % 64), Ordering::AcqRel);
            self.summary.fetch_or(1 << (intid / 64), Ordering::AcqRel);
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
        for (index, word) in self.words.iter().enumerate() {
            if summary & 1 << index != 0 {
                set.insert_word(index, take(word));
            }
        }
    }
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

/// A set of INTIDs below 1024.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct IntidSet {
    /// Bit n: word n has bits.
    summary: u32,
    words: [u64; WORDS],
}

impl IntidSet {
    pub(super) fn is_empty(&self) -> bool {
        self.summary == 0
    }

    pub(super) fn insert(&mut self, intid: u32) {
        self.insert_word(intid as usize / 64, 1 << (intid % 64));
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
        }
    }

    /// Keeps the INTIDs for which `keep` says so, asked in ascending order.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(u32) -> bool) {
        let mut left = self.summary;
        while left != 0 {
            let index = left.trailing_zeros();
            left &= left - 1;
            let Some(word) = self.words.get_mut(index as usize) else {
                return;
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
}
