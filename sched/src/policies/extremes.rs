//! The extremes of what the vCPUs of a pool shall get, from which a policy says how long one waits at most.

use crate::{
    Entitlement,
    sync::{AtomicU32, AtomicU64, Ordering::Relaxed},
};

/// They only grow apart: who is gone still counts, so the promise holds and is weaker than it could be.
pub(super) struct Extremes {
    lightest: AtomicU32,
    heaviest: AtomicU32,
    longest_slice: AtomicU64,
}

impl Extremes {
    /// Nobody yet; who has no slice of its own runs for `slice` ticks at a time.
    pub(super) fn new(slice: u64) -> Self {
        Self {
            lightest: AtomicU32::new(u32::MAX),
            heaviest: AtomicU32::new(1),
            longest_slice: AtomicU64::new(slice),
        }
    }

    pub(super) fn include(&self, entitlement: &Entitlement) {
        let weight = u32::from(entitlement.weight.get());
        self.lightest.fetch_min(weight, Relaxed);
        self.heaviest.fetch_max(weight, Relaxed);
        if let Some(slice) = entitlement.slice {
            self.longest_slice.fetch_max(slice, Relaxed);
        }
    }

    pub(super) fn lightest(&self) -> u64 {
        self.lightest.load(Relaxed).into()
    }

    pub(super) fn heaviest(&self) -> u64 {
        self.heaviest.load(Relaxed).into()
    }

    /// In ticks.
    pub(super) fn longest_slice(&self) -> u64 {
        self.longest_slice.load(Relaxed)
    }
}
