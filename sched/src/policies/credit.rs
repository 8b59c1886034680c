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
    extremes::Extremes,
    fronts::{Absent, Fronts, ahead, keep_up, reweighed, virtual_length},
    line::{self, Line, Own},
};
use crate::{
    Allowed, Bounds, Choice, Entitlement, Entitlements, LocalPolicy, PcpuId, PcpuSet, Pick, Policy,
    Ready, Refusal, Slice, VcpuId, Weight,
};
use alloc::{boxed::Box, sync::Arc};

/// What a reset gives, in slices of a vCPU of default weight.
const RESET_SLICES: u64 = 4;

/// Time in proportion to weights, and within caps.
pub struct Credit {
    slice_ticks: u64,
    caps: Arc<Caps>,
    extremes: Extremes,
    fronts: Arc<Fronts>,
    absent: Arc<[Absent]>,
}

impl Credit {
    /// The name by which it is chosen.
    pub const NAME: &str = "credit";

    /// For up to `max_vcpus` vCPUs on `pcpus`. Those without a slice of their own run for `slice_ticks` at a time, others for up
    /// to four times as long. Caps hold in each period of `period_ticks`, at most 2^32; with the feature `many-pcpus` at most 2^28.
    pub fn new(slice_ticks: u64, period_ticks: u64, pcpus: PcpuSet, max_vcpus: u16) -> Self {
        let period_ticks = period_ticks.clamp(1, Caps::LONGEST_PERIOD);
        Self {
            slice_ticks,
            caps: Arc::new(Caps::new(period_ticks, pcpus.len(), max_vcpus)),
            extremes: Extremes::new(slice_ticks),
            fronts: Arc::new(Fronts::new()),
            absent: (0..max_vcpus).map(|_| Absent::default()).collect(),
        }
    }
}

impl Policy for Credit {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn room(&self) -> usize {
        self.absent.len()
    }

    /// Who has debts waits until resets have made up for them; between two of these each other one burns what a reset gives, the
    /// more slowly the heavier it is.
    fn bounds(&self, ready: usize) -> Bounds {
        let is_capped = self.caps.is_any();
        let default_weight = u64::from(Weight::DEFAULT.get());
        let resets = 3 + 2 * default_weight / self.extremes.lightest();
        let gift = RESET_SLICES.saturating_mul(self.slice_ticks);
        let heavier = self.extremes.heaviest().div_ceil(default_weight);
        let round = gift.saturating_mul(heavier).saturating_mul(ready as u64);
        Bounds {
            work_conserving: !is_capped,
            longest_wait: (!is_capped).then(|| round.saturating_mul(resets)),
        }
    }

    fn admit(
        &self,
        vcpu: VcpuId,
        entitlement: &Entitlement,
        _affinity: PcpuSet,
    ) -> Result<Option<PcpuId>, Refusal> {
        self.caps.admit(vcpu, entitlement)?;
        self.extremes.include(entitlement);
        Ok(None)
    }

    fn release(&self, vcpu: VcpuId) {
        self.caps.release(vcpu);
        if let Some(absent) = self.absent.get(vcpu.index()) {
            absent.forget();
        }
    }

    fn is_preemptive(&self) -> bool {
        true
    }

    fn renew(&self, pcpus: PcpuSet) -> Box<dyn Policy> {
        let max_vcpus = self.absent.len() as u16;
        Box::new(Self::new(
            self.slice_ticks,
            self.caps.period_ticks(),
            pcpus,
            max_vcpus,
        ))
    }

    fn local(&self, pcpu: PcpuId, entitlements: &Arc<Entitlements>) -> Box<dyn LocalPolicy> {
        self.fronts.join(pcpu);
        let queue = Queue {
            slice_ticks: self.slice_ticks,
            level: 0,
            line: Line::new(pcpu, entitlements.len(), &self.fronts),
            absent: Arc::clone(&self.absent),
            changes: entitlements.changes(),
            entitlements: Arc::clone(entitlements),
        };
        Box::new(Capped::new(queue, &self.caps, entitlements))
    }
}

type Entity = line::Entity<()>;

impl Own for () {
    /// Who has had least has the most credit.
    fn rank(entity: &Entity) -> u64 {
        entity.vruntime
    }
}

/// For how long one with `entitlement` runs at a time: no longer than a reset gives credit for.
fn slice(entitlement: &Entitlement, slice_ticks: u64) -> u64 {
    let longest = RESET_SLICES.saturating_mul(slice_ticks);
    entitlement.slice.unwrap_or(slice_ticks).min(longest)
}

struct Queue {
    slice_ticks: u64,
    /// The virtual runtime at which there is no credit left.
    level: u64,
    line: Line<()>,
    /// By vCPU number.
    absent: Arc<[Absent]>,
    /// What [`Entitlements::changes`] said when it was looked whose weight or slice has changed.
    changes: u32,
    entitlements: Arc<Entitlements>,
}

impl Queue {
    /// The credit that a reset gives.
    fn gift(&self) -> u64 {
        let ticks = RESET_SLICES.saturating_mul(self.slice_ticks);
        virtual_length(ticks, Weight::DEFAULT.get().into()).max(1)
    }

    fn credit(&self, entity: &Entity) -> i64 {
        ahead(self.level, entity.vruntime)
    }

    /// The ready one with the most credit; of several, the one that came first.
    fn best(&self) -> Option<usize> {
        self.line.first()
    }

    /// The credit of the one that has most here.
    fn most_credit(&self) -> i64 {
        let best = self.best().map(|best| self.line.ready(best));
        let credits = best.into_iter().chain(self.line.running());
        let credits = credits.map(|entity| self.credit(entity));
        credits.max().unwrap_or(0)
    }

    /// If nobody here has credit left, all get as much anew as it takes for the one with the `most` to have some.
    fn reset(&mut self, most: i64) {
        if let Ok(debt) = u64::try_from(most.saturating_neg()) {
            let gift = self.gift();
            let more = gift.wrapping_mul(debt / gift + 1);
            self.level = self.level.wrapping_add(more);
        }
    }

    /// As it comes to this pCPU: with what is left of its credit, but with no more than a reset gives.
    fn arrival(&mut self, vcpu: VcpuId, why: Ready, now: u64) -> Entity {
        let entitlement = self.entitlements.get(vcpu);
        let slice = slice(&entitlement, self.slice_ticks);
        let mut entity = Entity::new(vcpu, entitlement.weight.get().into(), slice, ());
        let before = self.absent[vcpu.index()].vruntime();
        if self.line.is_empty() {
            // Nobody to compare it with here: the pCPU goes on where the others are, or where the vCPU is.
            let slowest = self.line.slowest(now);
            entity.vruntime = match (slowest, before) {
                (Some(slowest), Some(before)) => keep_up(before, slowest, entity.limit()),
                (slowest, before) => slowest.or(before).unwrap_or(self.level),
            };
            self.level = entity.vruntime.wrapping_add(self.gift());
            return entity;
        }
        self.reset(self.most_credit());
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

    /// Those whose weight or slice has changed get it, and keep their credit in ticks, within the limits for one that comes.
    fn refresh(&mut self) {
        let changes = self.entitlements.changes();
        let has_changed = core::mem::replace(&mut self.changes, changes) != changes;
        if !has_changed || cfg!(mutant = "ready_ones_keep_their_weight") {
            return;
        }
        // One that runs alone goes on without resets.
        self.reset(self.most_credit());
        let (entitlements, slice_ticks) = (&self.entitlements, self.slice_ticks);
        let (level, gift) = (self.level, self.gift() as i64);
        self.line.renew(|entity| {
            let entitlement = entitlements.get(entity.vcpu);
            let weight = u64::from(entitlement.weight.get());
            let slice = slice(&entitlement, slice_ticks);
            if (weight, slice) == (entity.weight, entity.slice) {
                return None;
            }
            let mut renewed = *entity;
            (renewed.weight, renewed.slice) = (weight, slice);
            let credit = reweighed(ahead(level, entity.vruntime), entity.weight, weight);
            let least = -gift.saturating_add(renewed.limit());
            renewed.vruntime = level.wrapping_sub(credit.clamp(least, gift) as u64);
            Some(renewed)
        });
    }

    fn run(&mut self, index: usize, now: u64) -> Pick {
        let entity = self.line.run(index, now);
        Pick {
            vcpu: entity.vcpu,
            slice: Slice::of(entity.slice.max(1)),
        }
    }

    /// Who has yielded gives up the credit that it has before the others, and comes after its equals.
    fn step_back(&mut self) {
        let Some(index) = self.line.take_yielder() else {
            return;
        };
        self.line.change(index, |entity, others| {
            if let Some(best) = others.first() {
                let lead = ahead(others.ready(best).vruntime, entity.vruntime).max(0);
                entity.vruntime = entity.vruntime.wrapping_add(lead as u64);
            }
        });
    }

    /// The ready one at `index` goes away.
    fn give_away(&mut self, index: usize) -> VcpuId {
        let gone = self.line.remove(index);
        self.note(&gone);
        gone.vcpu
    }

    /// Notes where `entity` is, which goes away.
    fn note(&self, entity: &Entity) {
        self.absent[entity.vcpu.index()].note(entity.vruntime);
    }
}

impl LocalPolicy for Queue {
    fn enqueue(&mut self, vcpu: VcpuId, why: Ready, now: u64) {
        self.refresh();
        let is_yielding = why == Ready::Yielded;
        let has_run = self.line.add_again(vcpu, is_yielding, now, |_| {});
        if !has_run {
            let entity = self.arrival(vcpu, why, now);
            self.line.add(entity);
        }
    }

    fn pick(&mut self, now: u64) -> Choice {
        self.step_back();
        let Some(index) = self.best() else {
            return Choice::Idle(None);
        };
        // Nobody runs: it has the most of all here.
        self.reset(self.credit(self.line.ready(index)));
        Choice::Run(self.run(index, now))
    }

    fn take(&mut self, vcpu: VcpuId, now: u64) -> Option<Slice> {
        let index = self.line.position(vcpu)?;
        let entity = self.line.run_for_yielder(index, now);
        Some(Slice::of(entity.slice))
    }

    /// Before others that have a little more credit.
    fn hurry(&mut self, vcpu: VcpuId, now: u64) -> Option<Slice> {
        self.step_back();
        let (index, best) = (self.line.position(vcpu)?, self.best()?);
        let [hurried, best] = [index, best].map(|index| self.line.ready(index));
        let behind = self.credit(best).saturating_sub(self.credit(hurried));
        let is_near = behind <= (hurried.virtual_slice() / 2) as i64;
        let may_run = is_near || cfg!(mutant = "hurry_out_of_order");
        may_run.then(|| self.run(index, now).slice)
    }

    fn withdraw(&mut self, vcpu: VcpuId, _now: u64) {
        if let Some(index) = self.line.position(vcpu) {
            self.give_away(index);
        }
    }

    fn leave(&mut self, vcpu: VcpuId, now: u64) {
        if let Some(ran) = self.line.stop(vcpu, now) {
            self.note(&ran);
        }
    }

    fn surrender(&mut self, allowed: &mut dyn FnMut(VcpuId) -> bool) -> Option<VcpuId> {
        let index = self.line.first_allowed(allowed)?;
        Some(self.give_away(index))
    }

    fn charge(&mut self, vcpu: VcpuId, ticks: u64, now: u64) {
        self.line.charge(vcpu, ticks, now, |_| {});
    }

    /// A small lead waits, so that many wake-ups do not cut every slice short.
    fn preempts(&mut self, _running: VcpuId, _now: u64) -> bool {
        let (Some(running), Some(best)) = (self.line.running(), self.best()) else {
            return false;
        };
        let lead = self
            .credit(self.line.ready(best))
            .saturating_sub(self.credit(running));
        self.line.payer() != Some(best) && lead > (running.virtual_slice() / 2) as i64
    }

    fn push(&mut self, now: u64, allowed: Allowed<'_>) -> Option<(VcpuId, PcpuId)> {
        let index = self.best()?;
        let to = self.line.better_place(index, now, allowed)?;
        Some((self.give_away(index), to))
    }

    fn waiting(&self) -> usize {
        self.line.waiting()
    }
}
