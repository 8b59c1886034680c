//! Credit: vCPUs burn credit while they run, the slower the heavier they are, and the one with the most credit runs; a VM
//! may have a cap.
//!
//! ```text
//!   virtual runtime  v += ticks / weight             credit = level - v
//!   pick             the one with the most credit, for one slice
//!   reset            the next one has none: level += as much as one of default weight burns in four slices, until it has
//!   arrival          credit from before the last reset is lost: no more than one reset gives
//! ```
//! So who sleeps gains at most one reset's worth of credit. [Xen: credit2, Design]
//!
//! Credit2 lets pCPUs share a run queue; here each pCPU has its own, and its own level. But virtual runtimes are comparable
//! all over the pool: a pCPU gives a waiting vCPU to one whose running vCPU is more than a slice ahead of it, so three equal
//! vCPUs on two pCPUs get two thirds of one each. A vCPU that is alone on its pCPU and still falls behind wants more than a
//! whole pCPU; that does not count, so the others share the rest by their weights. Caps are a layer of their own, which
//! hides vCPUs without budget from this ranking.

use super::{
    caps::{Capped, Caps},
    fronts::{Absent, Fronts, ahead, keep_up, two_slices, virtual_ticks},
};
use crate::{
    Allowed, Bounds, Choice, Entitlement, Entitlements, LocalPolicy, PcpuId, PcpuSet, Pick, Policy,
    Ready, Refusal, Slice, VcpuId, Weight,
};
use alloc::{boxed::Box, sync::Arc, vec::Vec};
use core::cmp::Reverse;

/// What a reset gives, in slices of a vCPU of default weight.
const RESET_SLICES: u64 = 4;

/// Time in proportion to weights, and within caps.
pub struct Credit {
    slice_ticks: u64,
    caps: Arc<Caps>,
    shared: Arc<Shared>,
}

impl Credit {
    /// The name by which it is chosen.
    pub const NAME: &str = "credit";

    /// For up to `max_vcpus` vCPUs on `pcpus`. Those without a slice of their own run for `slice_ticks` at a time, others for up
    /// to four times as long. Caps hold in each period of `period_ticks`, at most 2^32.
    pub fn new(slice_ticks: u64, period_ticks: u64, pcpus: PcpuSet, max_vcpus: u16) -> Self {
        let shared = Shared {
            fronts: Fronts::new(),
            absent: (0..max_vcpus).map(|_| Absent::default()).collect(),
        };
        let period_ticks = period_ticks.clamp(1, Caps::LONGEST_PERIOD);
        Self {
            slice_ticks,
            caps: Arc::new(Caps::new(period_ticks, pcpus.len(), max_vcpus)),
            shared: Arc::new(shared),
        }
    }
}

impl Policy for Credit {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn room(&self) -> usize {
        self.shared.absent.len()
    }

    fn bounds(&self, _ready: usize) -> Bounds {
        Bounds {
            work_conserving: !self.caps.is_any(),
            longest_wait: None,
        }
    }

    fn admit(
        &self,
        vcpu: VcpuId,
        entitlement: &Entitlement,
        _affinity: PcpuSet,
    ) -> Result<Option<PcpuId>, Refusal> {
        self.caps.admit(vcpu, entitlement)?;
        Ok(None)
    }

    fn release(&self, vcpu: VcpuId) {
        self.caps.release(vcpu);
        if let Some(absent) = self.shared.absent.get(vcpu.index()) {
            absent.forget();
        }
    }

    fn is_preemptive(&self) -> bool {
        true
    }

    fn local(&self, pcpu: PcpuId, entitlements: &Arc<Entitlements>) -> Box<dyn LocalPolicy> {
        let queue = Queue {
            pcpu,
            slice_ticks: self.slice_ticks,
            level: 0,
            ready: Vec::with_capacity(entitlements.len()),
            running: None,
            shared: Arc::clone(&self.shared),
            entitlements: Arc::clone(entitlements),
        };
        Box::new(Capped::new(queue, &self.caps, entitlements))
    }
}

/// What the pCPUs tell each other.
struct Shared {
    fronts: Fronts,
    /// By vCPU number.
    absent: Box<[Absent]>,
}

/// A vCPU that is ready or runs here.
#[derive(Clone, Copy)]
struct Entity {
    vcpu: VcpuId,
    weight: u64,
    /// In ticks.
    slice: u64,
    vruntime: u64,
}

impl Entity {
    fn virtual_slice(&self) -> u64 {
        virtual_ticks(self.slice, self.weight)
    }

    /// How far behind others it may come to a pCPU.
    fn limit(&self) -> i64 {
        two_slices(self.virtual_slice())
    }
}

struct Queue {
    pcpu: PcpuId,
    slice_ticks: u64,
    /// The virtual runtime at which there is no credit left.
    level: u64,
    ready: Vec<Entity>,
    running: Option<Entity>,
    shared: Arc<Shared>,
    entitlements: Arc<Entitlements>,
}

impl Queue {
    /// For how long one with `entitlement` runs at a time: no longer than a reset gives credit for.
    fn slice(&self, entitlement: &Entitlement) -> u64 {
        let longest = RESET_SLICES.saturating_mul(self.slice_ticks);
        entitlement.slice.unwrap_or(self.slice_ticks).min(longest)
    }

    /// The credit that a reset gives.
    fn gift(&self) -> u64 {
        let ticks = RESET_SLICES.saturating_mul(self.slice_ticks);
        virtual_ticks(ticks, Weight::DEFAULT.get().into()).clamp(1, i64::MAX as u64)
    }

    fn credit(&self, entity: &Entity) -> i64 {
        ahead(self.level, entity.vruntime)
    }

    /// The ready one with the most credit; of several, the one that came first.
    fn best(&self) -> Option<usize> {
        (0..self.ready.len()).min_by_key(|&index| Reverse(self.credit(&self.ready[index])))
    }

    fn position(&self, vcpu: VcpuId) -> Option<usize> {
        self.ready.iter().position(|entity| entity.vcpu == vcpu)
    }

    /// The one at `index` leaves the ready ones.
    fn remove(&mut self, index: usize) -> Entity {
        let entity = self.ready.remove(index);
        self.publish_contention();
        entity
    }

    /// The credit of the one that has most here.
    fn most_credit(&self) -> i64 {
        let here = self.ready.iter().chain(&self.running);
        here.map(|entity| self.credit(entity)).max().unwrap_or(0)
    }

    /// If nobody here has credit left, all get as much anew as it takes for one to have some.
    fn reset(&mut self) {
        if let Ok(debt) = u64::try_from(self.most_credit().saturating_neg()) {
            let gift = self.gift();
            let more = gift.wrapping_mul(debt / gift + 1);
            self.level = self.level.wrapping_add(more);
        }
    }

    /// As it comes to this pCPU: with what is left of its credit, but with no more than a reset gives.
    fn arrival(&mut self, vcpu: VcpuId, why: Ready, now: u64) -> Entity {
        let entitlement = self.entitlements.get(vcpu);
        let mut entity = Entity {
            vcpu,
            weight: entitlement.weight.get().into(),
            slice: self.slice(&entitlement),
            vruntime: 0,
        };
        let before = self.shared.absent[vcpu.index()].vruntime();
        if self.ready.is_empty() && self.running.is_none() {
            // Nobody to compare it with here: the pCPU goes on where the others are, or where the vCPU is.
            let slowest = self.shared.fronts.slowest(now);
            entity.vruntime = match (slowest, before) {
                (Some(slowest), Some(before)) => keep_up(before, slowest, entity.limit()),
                (slowest, before) => slowest.or(before).unwrap_or(self.level),
            };
            self.level = entity.vruntime.wrapping_add(self.gift());
            return entity;
        }
        self.reset();
        let (gift, limit) = (self.gift() as i64, entity.limit());
        let most = match why {
            // It was ready elsewhere, or without budget, and has not slept: it may be behind by more.
            Ready::MigratedIn => gift.saturating_add(limit),
            _ => gift,
        };
        let least = -gift.saturating_add(limit);
        let credit = before.map_or(self.most_credit(), |before| ahead(self.level, before));
        let credit = credit.clamp(least, most);
        entity.vruntime = self.level.wrapping_sub(credit as u64);
        entity
    }

    fn publish(&self, now: u64) {
        let running = self
            .running
            .map(|running| (running.weight, running.vruntime));
        self.shared.fronts.show(self.pcpu, running, now);
    }

    fn publish_contention(&self) {
        let is_contended = !self.ready.is_empty();
        self.shared.fronts.show_contention(self.pcpu, is_contended);
    }

    fn run(&mut self, index: usize, now: u64) -> Pick {
        let entity = self.remove(index);
        self.running = Some(entity);
        self.publish(now);
        Pick {
            vcpu: entity.vcpu,
            slice: Slice::of(entity.slice.max(1)),
        }
    }

    /// Notes where `entity` is, which goes away.
    fn note(&self, entity: &Entity) {
        self.shared.absent[entity.vcpu.index()].note(entity.vruntime);
    }
}

impl LocalPolicy for Queue {
    fn enqueue(&mut self, vcpu: VcpuId, why: Ready, now: u64) {
        let entity = match self.running.take_if(|running| running.vcpu == vcpu) {
            Some(mut ran) => {
                self.publish(now);
                let entitlement = self.entitlements.get(vcpu);
                ran.weight = entitlement.weight.get().into();
                ran.slice = self.slice(&entitlement);
                ran
            }
            None => self.arrival(vcpu, why, now),
        };
        self.ready.push(entity);
        self.publish_contention();
    }

    fn pick(&mut self, now: u64) -> Choice {
        let Some(index) = self.best() else {
            return Choice::Idle(None);
        };
        self.reset();
        Choice::Run(self.run(index, now))
    }

    fn take(&mut self, vcpu: VcpuId, now: u64) -> Option<Slice> {
        let index = self.position(vcpu)?;
        Some(self.run(index, now).slice)
    }

    fn withdraw(&mut self, vcpu: VcpuId, _now: u64) {
        if let Some(index) = self.position(vcpu) {
            self.note(&self.ready[index]);
            self.remove(index);
        }
    }

    fn leave(&mut self, vcpu: VcpuId, now: u64) {
        if let Some(running) = self.running.take_if(|running| running.vcpu == vcpu) {
            self.note(&running);
            self.publish(now);
        }
    }

    fn surrender(&mut self, allowed: &mut dyn FnMut(VcpuId) -> bool) -> Option<VcpuId> {
        let index = (0..self.ready.len()).find(|&index| allowed(self.ready[index].vcpu))?;
        self.note(&self.ready[index]);
        Some(self.remove(index).vcpu)
    }

    fn charge(&mut self, vcpu: VcpuId, ticks: u64, now: u64) {
        let is_alone = self.ready.is_empty();
        let Some(running) = self.running.as_mut().filter(|entity| entity.vcpu == vcpu) else {
            return;
        };
        let burnt = virtual_ticks(ticks, running.weight);
        running.vruntime = running.vruntime.wrapping_add(burnt);
        if is_alone && let Some(slowest) = self.shared.fronts.slowest(now) {
            running.vruntime = keep_up(running.vruntime, slowest, running.limit());
        }
        self.publish(now);
    }

    /// A small lead waits, so that many wake-ups do not cut every slice short.
    fn preempts(&mut self, _running: VcpuId, _now: u64) -> bool {
        let (Some(running), Some(best)) = (self.running, self.best()) else {
            return false;
        };
        let lead = self
            .credit(&self.ready[best])
            .saturating_sub(self.credit(&running));
        lead > (running.virtual_slice() / 2) as i64
    }

    fn push(&mut self, now: u64, allowed: Allowed<'_>) -> Option<(VcpuId, PcpuId)> {
        let index = self.best()?;
        let behind = self.ready[index];
        let (vcpu, enough) = (behind.vcpu, behind.virtual_slice());
        let may_go = |pcpu| allowed(vcpu, pcpu);
        let fronts = &self.shared.fronts;
        let to = fronts.furthest_ahead(behind.vruntime, enough, now, may_go)?;
        self.note(&behind);
        self.remove(index);
        Some((vcpu, to))
    }

    fn waiting(&self) -> usize {
        self.ready.len()
    }
}
