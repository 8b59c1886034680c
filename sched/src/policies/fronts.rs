//! How far each pCPU of a pool is, for policies that measure CPU time by weight and compare it all over the pool.
//!
//! ```text
//!   virtual runtime of a vCPU  += ticks / weight
//!   front of a pCPU             = the virtual runtime of what runs there, now
//! ```
//! Each value stands for itself: a pCPU that reads a front while it changes takes another one for the one to push to, or
//! pushes nobody, and looks again at its next choice.

use crate::{
    PcpuId,
    pcpu_set::AtomicPcpuSet,
    sync::{AtomicU32, AtomicU64, Ordering::Relaxed},
};

/// Virtual units of one tick at weight 1. They wrap around; only differences count.
pub(super) const SCALE: u64 = 1 << 16;

/// No slice is longer, in virtual units.
const LONGEST: u64 = 1 << 61;

/// By how much one with `weight` is further after `ticks`.
pub(super) fn virtual_ticks(ticks: u64, weight: u64) -> u64 {
    match ticks.checked_mul(SCALE) {
        Some(scaled) => scaled / weight,
        None => (u128::from(ticks) * u128::from(SCALE) / u128::from(weight)) as u64,
    }
}

/// The same for the length of a slice: less than half of the circle, so that what is ahead by that is not behind.
pub(super) fn virtual_length(ticks: u64, weight: u64) -> u64 {
    virtual_ticks(ticks.min(LONGEST / SCALE * weight), weight)
}

/// `lead`, which is that of one with weight `before`, as it is with weight `after`: as many ticks.
pub(super) fn reweighed(lead: i64, before: u64, after: u64) -> i64 {
    let lead = i128::from(lead) * i128::from(before) / i128::from(after);
    lead.clamp((i64::MIN / 2).into(), (i64::MAX / 2).into()) as i64
}

/// Two slices of `virtual_slice`: how much more or less than its part a vCPU may have had.
pub(super) fn two_slices(virtual_slice: u64) -> i64 {
    virtual_slice.saturating_mul(2).min(i64::MAX as u64) as i64
}

/// By how much `this` is ahead of `that`.
pub(super) fn ahead(this: u64, that: u64) -> i64 {
    this.wrapping_sub(that) as i64
}

/// `vruntime`, but no more than `limit` behind `slowest`.
pub(super) fn keep_up(vruntime: u64, slowest: u64, limit: i64) -> u64 {
    if ahead(slowest, vruntime) > limit {
        slowest.wrapping_sub(limit as u64)
    } else {
        vruntime
    }
}

/// How far a pCPU is.
#[derive(Default)]
struct Front {
    /// The weight of what runs there; 0: nothing does.
    weight: AtomicU32,
    /// Its virtual runtime at `since`, and at no other time.
    vruntime: AtomicU64,
    since: AtomicU64,
}

impl Front {
    /// The virtual runtime of what runs there now.
    fn at(&self, now: u64) -> Option<u64> {
        let weight = u64::from(self.weight.load(Relaxed));
        let ticks = now.saturating_sub(self.since.load(Relaxed));
        (weight != 0).then(|| {
            let vruntime = self.vruntime.load(Relaxed);
            vruntime.wrapping_add(virtual_ticks(ticks, weight))
        })
    }

    /// By how much what runs there is ahead of `vruntime` now, if that is more than `enough`: of most told without a division.
    fn lead(&self, vruntime: u64, enough: i64, now: u64) -> Option<i64> {
        let weight = self.weight.load(Relaxed);
        let ticks = now.saturating_sub(self.since.load(Relaxed));
        let before = ahead(self.vruntime.load(Relaxed), vruntime);
        let missing = enough.saturating_sub(before).max(0) as u64;
        let is_missing = u128::from(missing) * u128::from(weight);
        let may_be_enough = before > enough || u128::from(ticks) * u128::from(SCALE) > is_missing;
        let lead = (weight != 0 && may_be_enough)
            .then(|| before.wrapping_add(virtual_ticks(ticks, weight.into()) as i64));
        lead.filter(|&lead| lead > enough)
    }
}

/// How far all of them are.
pub(super) struct Fronts {
    /// Those that take part.
    pcpus: AtomicPcpuSet,
    /// Those where others wait than the one that runs.
    contended: AtomicPcpuSet,
    fronts: [Front; PcpuId::LIMIT as usize],
}

impl Fronts {
    /// Before any pCPU takes part.
    pub(super) fn new() -> Self {
        Self {
            pcpus: AtomicPcpuSet::default(),
            contended: AtomicPcpuSet::default(),
            fronts: core::array::from_fn(|_| Front::default()),
        }
    }

    /// `pcpu` takes part.
    pub(super) fn join(&self, pcpu: PcpuId) {
        self.pcpus.insert(pcpu, Relaxed);
    }

    fn front(&self, pcpu: PcpuId) -> &Front {
        &self.fronts[pcpu.index()]
    }

    /// What runs on `pcpu`: its weight, and its virtual runtime at `now`.
    pub(super) fn show(&self, pcpu: PcpuId, running: Option<(u64, u64)>, now: u64) {
        let front = self.front(pcpu);
        if let Some((_, vruntime)) = running {
            front.vruntime.store(vruntime, Relaxed);
            front.since.store(now, Relaxed);
        }
        let weight = running.map_or(0, |(weight, _)| weight as u32);
        front.weight.store(weight, Relaxed);
    }

    /// Whether others wait on `pcpu`.
    pub(super) fn show_contention(&self, pcpu: PcpuId, is_contended: bool) {
        if self.contended.contains(pcpu, Relaxed) == is_contended {
            return;
        }
        if is_contended {
            self.contended.insert(pcpu, Relaxed);
        } else {
            self.contended.remove(pcpu, Relaxed);
        }
    }

    /// The virtual runtime of the pCPU that is least far of those where vCPUs wait.
    pub(super) fn slowest(&self, now: u64) -> Option<u64> {
        let contended = self.contended.load(Relaxed);
        contended
            .iter()
            .filter_map(|pcpu| self.front(pcpu).at(now))
            .reduce(|least, other| {
                if ahead(least, other) > 0 {
                    other
                } else {
                    least
                }
            })
    }

    /// The pCPU that is furthest ahead of `vruntime`, by more than `enough`, of those for which `may_go` is true; with many, of a
    /// part of them, another one each time.
    pub(super) fn furthest_ahead(
        &self,
        vruntime: u64,
        enough: u64,
        now: u64,
        mut may_go: impl FnMut(PcpuId) -> bool,
    ) -> Option<PcpuId> {
        let enough = enough.min(i64::MAX as u64) as i64;
        let pcpus = self.pcpus.load(Relaxed).part(vruntime);
        pcpus
            .iter()
            .filter_map(|pcpu| Some((self.front(pcpu).lead(vruntime, enough, now)?, pcpu)))
            .filter(|&(_, pcpu)| may_go(pcpu))
            .max_by_key(|&(lead, _)| lead)
            .map(|(_, pcpu)| pcpu)
    }
}

/// Where a vCPU was when it left a pCPU. Whoever has its box writes it.
#[derive(Default)]
pub(super) struct Absent {
    has_run: AtomicU32,
    vruntime: AtomicU64,
}

impl Absent {
    pub(super) fn note(&self, vruntime: u64) {
        self.vruntime.store(vruntime, Relaxed);
        self.has_run.store(1, Relaxed);
    }

    /// Its virtual runtime; `None` if it was nowhere yet.
    pub(super) fn vruntime(&self) -> Option<u64> {
        let has_run = self.has_run.load(Relaxed) != 0;
        has_run.then(|| self.vruntime.load(Relaxed))
    }

    pub(super) fn forget(&self) {
        self.has_run.store(0, Relaxed);
    }
}
