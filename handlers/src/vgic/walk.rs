//! A write that concerns more interrupts than one exit may look at: it looks at some of them, and is tried again.

use super::registers::Bank;
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// How many interrupts are looked at together.
pub(super) const CHUNK: u32 = 64;
/// How many chunks one exit looks at.
const CHUNKS: u32 = 16;

/// How far such a write is. Several vCPUs may write at once; one at a time goes on with it.
pub(super) struct Walk {
    /// Chunks that have been looked at, of `chunks` in all, or [`BUSY`] beside it.
    looked_at: AtomicU32,
    chunks: u32,
    /// Bit n: vCPU n had listed what was changed.
    owners: AtomicU64,
}

/// Somebody is at it.
const BUSY: u32 = 1 << 31;

impl Walk {
    /// None is under way; each is over so many interrupts.
    pub(super) fn over(interrupts: u32) -> Self {
        let chunks = interrupts.div_ceil(CHUNK);
        Self {
            looked_at: AtomicU32::new(chunks),
            chunks,
            owners: AtomicU64::new(0),
        }
    }

    pub(super) fn reset(&self) {
        self.looked_at.store(self.chunks, Ordering::Release);
        self.owners.store(0, Ordering::Release);
    }
}

impl Bank<'_> {
    /// Goes on with a walk, for a write that wants one as long as `is_wanted` says so; if none is under way, `begin` does what there
    /// is to do before. What another vCPU has begun is ended first. `look` gets the first interrupt of each chunk.
    pub(super) fn go_on(
        &mut self,
        walk: &Walk,
        is_wanted: impl Fn() -> bool,
        begin: impl FnOnce(),
        mut look: impl FnMut(&mut Self, u32),
    ) {
        self.is_unfinished = true;
        let mut at = walk.looked_at.fetch_or(BUSY, Ordering::AcqRel);
        if at & BUSY != 0 {
            return;
        }
        if at == walk.chunks && is_wanted() {
            begin();
            at = 0;
        }
        for _ in 0..CHUNKS.min(walk.chunks - at) {
            look(self, at * CHUNK);
            at += 1;
        }
        walk.owners.fetch_or(self.owners, Ordering::AcqRel);
        self.is_unfinished = at < walk.chunks || is_wanted();
        if !self.is_unfinished {
            self.owners = walk.owners.swap(0, Ordering::AcqRel);
        }
        // In one order with all claims, so none of them is left in the word.
        walk.looked_at.swap(at, Ordering::AcqRel);
    }
}
