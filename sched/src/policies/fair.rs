//! Fair: each vCPU gets CPU time in proportion to its weight, and one with a short slice gets its part sooner.
//!
//! ```text
//!   virtual runtime  v += ticks / weight                  virtual time V = mean of v over all here, by weight
//!   eligible         v <= V: it has had no more than its part       deadline d = v + slice / weight
//!   pick             of the eligible the one with the earliest deadline, until it has had its slice
//! ```
//! How far a vCPU is behind (V - v, its lag) stays with it when it sleeps: who slept gains nothing, and who took too much
//! does not shed it by sleeping, unless it slept for so long that the others have caught up. Lag is limited to two slices.
//! [Stoica, Abdel-Wahab: Earliest Eligible Virtual Deadline First, 1995]
//!
//! With another weight it keeps its lag and what is left of its slice, both in ticks. That counts from the next time on that somebody
//! becomes ready on its pCPU or a turn ends there.
//!
//! One that yields goes behind those that are ready, and saves nothing up. If it yields to another one, that one runs on the
//! yielder's account: nobody else loses anything by it.
//!
//! Virtual runtimes are comparable all over the pool. A pCPU gives a waiting vCPU to one whose running vCPU is more than a
//! slice ahead of it, so three equal vCPUs on two pCPUs get two thirds of one each. A vCPU that is alone on its pCPU and still
//! falls behind wants more than a whole pCPU; that does not count as lag, so the others share the rest by their weights.

use super::{
    extremes::Extremes,
    fronts::{Absent, Fronts, ahead, keep_up, reweighed},
    line::{self, Line, Own},
};
use crate::{
    Allowed, Bounds, Choice, Entitlement, Entitlements, LocalPolicy, PcpuId, PcpuSet, Pick, Policy,
    Ready, Refusal, Slice, VcpuId,
    sync::{AtomicU64, Ordering::Relaxed},
};
use alloc::{boxed::Box, sync::Arc};

/// How far one may come behind the others, and how late its deadline then is, in slices.
const LONGEST_LAG_SLICES: u64 = 3;

/// Time in proportion to weights.
pub struct Fair {
    slice_ticks: u64,
    extremes: Extremes,
    fronts: Arc<Fronts>,
    left: Arc<[Left]>,
}

impl Fair {
    /// The name by which it is chosen.
    pub const NAME: &str = "fair";

    /// For up to `max_vcpus` vCPUs. Those without a slice of their own run for `slice_ticks` at a time.
    pub fn with_slice(slice_ticks: u64, max_vcpus: u16) -> Self {
        Self {
            slice_ticks,
            extremes: Extremes::new(slice_ticks),
            fronts: Arc::new(Fronts::new()),
            left: (0..max_vcpus).map(|_| Left::default()).collect(),
        }
    }
}

impl Policy for Fair {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn room(&self) -> usize {
        self.left.len()
    }

    /// Those who are ahead of it have their slices; and while it makes up for its lag, each other one gets as much more as it is
    /// heavier.
    fn bounds(&self, ready: usize) -> Bounds {
        let extremes = &self.extremes;
        let (lightest, heaviest) = (extremes.lightest(), extremes.heaviest());
        let slices = 1 + LONGEST_LAG_SLICES * heaviest.div_ceil(lightest);
        let round = extremes.longest_slice().saturating_mul(ready as u64);
        Bounds {
            work_conserving: true,
            longest_wait: Some(round.saturating_mul(slices)),
        }
    }

    fn admit(
        &self,
        _vcpu: VcpuId,
        entitlement: &Entitlement,
        _affinity: PcpuSet,
    ) -> Result<Option<PcpuId>, Refusal> {
        self.extremes.include(entitlement);
        Ok(None)
    }

    fn release(&self, vcpu: VcpuId) {
        if let Some(left) = self.left.get(vcpu.index()) {
            left.absent.forget();
        }
    }

    fn is_preemptive(&self) -> bool {
        true
    }

    fn renew(&self, _pcpus: PcpuSet) -> Box<dyn Policy> {
        Box::new(Self::with_slice(self.slice_ticks, self.left.len() as u16))
    }

    fn local(&self, pcpu: PcpuId, entitlements: &Arc<Entitlements>) -> Box<dyn LocalPolicy> {
        self.fronts.join(pcpu);
        Box::new(Queue {
            slice_ticks: self.slice_ticks,
            line: Line::new(pcpu, entitlements.len(), &self.fronts),
            left: Arc::clone(&self.left),
            changes: entitlements.changes(),
            entitlements: Arc::clone(entitlements),
        })
    }
}

/// How a vCPU left a pCPU.
#[derive(Default)]
struct Left {
    absent: Absent,
    /// Its lag, if that was positive.
    lag: AtomicU64,
}

/// A vCPU that is ready or runs here, with its virtual deadline.
type Entity = line::Entity<u64>;

impl Own for u64 {
    fn rank(entity: &Entity) -> u64 {
        entity.own
    }
}

impl Entity {
    /// What is left of its slice, in ticks.
    fn left(&self) -> u64 {
        self.ticks_until(self.own)
    }

    /// The same with another weight and slice, where all are at `time` on average.
    fn renewed(&self, weight: u64, slice: u64, time: u64) -> Self {
        let by_weight = |lead| reweighed(lead, self.weight, weight);
        let mut renewed = *self;
        (renewed.weight, renewed.slice) = (weight, slice);
        let lead = by_weight(ahead(self.vruntime, time));
        renewed.vruntime = time.wrapping_add(lead as u64);
        let left = by_weight(ahead(self.own, self.vruntime)).min(renewed.limit());
        renewed.own = renewed.vruntime.wrapping_add(left as u64);
        renewed
    }

    fn renew_deadline(&mut self) {
        self.own = self.vruntime.wrapping_add(self.virtual_slice());
    }
}

struct Queue {
    slice_ticks: u64,
    line: Line<u64>,
    /// By vCPU number.
    left: Arc<[Left]>,
    /// What [`Entitlements::changes`] said when it was looked whose weight or slice has changed.
    changes: u32,
    entitlements: Arc<Entitlements>,
}

impl Queue {
    /// Of those that are ready and have had no more than their part the one with the earliest deadline; of the others, the
    /// one that has had least.
    fn best(&self) -> Option<usize> {
        if self.line.waiting() <= 1 || cfg!(mutant = "fair_runs_who_is_early") {
            return self.line.first();
        }
        let time = self.line.virtual_time()?;
        let eligible = self.line.first_within(time);
        eligible.or_else(|| self.line.least())
    }

    /// As it comes to this pCPU: not further behind or ahead of the others than its limit.
    fn arrival(&self, vcpu: VcpuId, is_woken: bool, now: u64) -> Entity {
        let entitlement = self.entitlements.get(vcpu);
        let slice = entitlement.slice.unwrap_or(self.slice_ticks);
        let mut entity = Entity::new(vcpu, entitlement.weight.get().into(), slice, 0);
        let left = &self.left[vcpu.index()];
        let limit = entity.limit();
        entity.vruntime = match (self.line.virtual_time(), left.absent.vruntime()) {
            (Some(time), None) => time,
            (Some(time), Some(before)) => {
                let is_caught_up = is_woken && ahead(time, before) > 0;
                let behind = if is_caught_up && !cfg!(mutant = "fair_saves_up") {
                    left.lag.load(Relaxed) as i64
                } else {
                    ahead(time, before)
                };
                let limit = if cfg!(mutant = "fair_saves_up") {
                    i64::MAX
                } else {
                    limit
                };
                time.wrapping_sub(behind.clamp(-limit, limit) as u64)
            }
            (None, before) => match (self.line.slowest(now), before) {
                (Some(slowest), None) => slowest,
                (Some(slowest), Some(before)) => keep_up(before, slowest, limit),
                (None, before) => before.unwrap_or(0),
            },
        };
        entity.renew_deadline();
        entity
    }

    /// Those whose weight or slice has changed get it.
    fn refresh(&mut self) {
        let changes = self.entitlements.changes();
        let has_changed = core::mem::replace(&mut self.changes, changes) != changes;
        if !has_changed || cfg!(mutant = "ready_ones_keep_their_weight") {
            return;
        }
        let Some(time) = self.line.virtual_time() else {
            return;
        };
        let (entitlements, slice_ticks) = (&self.entitlements, self.slice_ticks);
        self.line.renew(|entity| {
            let entitlement = entitlements.get(entity.vcpu);
            let weight = u64::from(entitlement.weight.get());
            let slice = entitlement.slice.unwrap_or(slice_ticks);
            let is_stale = (weight, slice) != (entity.weight, entity.slice);
            is_stale.then(|| entity.renewed(weight, slice, time))
        });
    }

    fn run(&mut self, index: usize, now: u64) -> Pick {
        let entity = self.line.run(index, now);
        Pick {
            vcpu: entity.vcpu,
            slice: Slice::of(entity.left().min(entity.slice)),
        }
    }

    /// Who has yielded lets the others run: one of them has had no more than it, and its deadline moves back each time, but to no
    /// more than two slices ahead.
    fn step_back(&mut self) {
        let Some(index) = self.line.take_yielder() else {
            return;
        };
        self.line.change(index, |entity, others| {
            let later =
                ahead(entity.own, entity.vruntime).saturating_add_unsigned(entity.virtual_slice());
            let later = later.min(entity.limit());
            entity.own = entity.vruntime.wrapping_add(later as u64);
            if let Some(least) = others.least() {
                let behind = ahead(others.ready(least).vruntime, entity.vruntime);
                entity.vruntime = entity.vruntime.wrapping_add(behind.max(0) as u64);
            }
            if entity.left() < entity.slice {
                entity.renew_deadline();
            }
        });
    }

    /// The ready one at `index` goes away.
    fn give_away(&mut self, index: usize) -> VcpuId {
        self.note(self.line.ready(index));
        self.line.remove(index).vcpu
    }

    /// Notes where `entity` is, which goes away.
    fn note(&self, entity: &Entity) {
        let time = self.line.virtual_time().unwrap_or(entity.vruntime);
        let lag = ahead(time, entity.vruntime).clamp(0, entity.limit());
        let left = &self.left[entity.vcpu.index()];
        left.lag.store(lag as u64, Relaxed);
        left.absent.note(entity.vruntime);
    }
}

impl LocalPolicy for Queue {
    fn enqueue(&mut self, vcpu: VcpuId, why: Ready, now: u64) {
        self.refresh();
        let is_yielding = why == Ready::Yielded;
        let has_run = self.line.add_again(vcpu, is_yielding, now, |ran| {
            if ran.left() == 0 {
                ran.renew_deadline();
            }
        });
        if !has_run {
            let entity = self.arrival(vcpu, why != Ready::MigratedIn, now);
            self.line.add(entity);
        }
    }

    fn pick(&mut self, now: u64) -> Choice {
        self.step_back();
        match self.best() {
            Some(index) => Choice::Run(self.run(index, now)),
            None => Choice::Idle(None),
        }
    }

    fn take(&mut self, vcpu: VcpuId, now: u64) -> Option<Slice> {
        let index = self.line.position(vcpu)?;
        let entity = self.line.run_for_yielder(index, now);
        Some(Slice::of(entity.left().min(entity.slice)))
    }

    /// Before others with earlier deadlines, as long as it has had no more than its part.
    fn hurry(&mut self, vcpu: VcpuId, now: u64) -> Option<Slice> {
        self.step_back();
        let index = self.line.position(vcpu)?;
        let time = self.line.virtual_time()?;
        let is_eligible = ahead(self.line.ready(index).vruntime, time) <= 0;
        let may_run = is_eligible || cfg!(mutant = "hurry_out_of_order");
        may_run.then(|| self.run(index, now).slice)
    }

    fn withdraw(&mut self, vcpu: VcpuId, _now: u64) {
        if let Some(index) = self.line.position(vcpu) {
            self.give_away(index);
        }
    }

    fn leave(&mut self, vcpu: VcpuId, now: u64) {
        let running = self.line.running();
        if let Some(running) = running.filter(|running| running.vcpu == vcpu) {
            self.note(running);
            self.line.stop(vcpu, now);
        }
    }

    fn surrender(&mut self, allowed: &mut dyn FnMut(VcpuId) -> bool) -> Option<VcpuId> {
        let index = self.line.first_allowed(allowed)?;
        Some(self.give_away(index))
    }

    fn charge(&mut self, vcpu: VcpuId, ticks: u64, now: u64) {
        self.line.charge(vcpu, ticks, now, |payer| {
            if payer.left() == 0 {
                payer.renew_deadline();
            }
        });
    }

    fn preempts(&mut self, _running: VcpuId, _now: u64) -> bool {
        let (Some(time), Some(running), Some(best)) =
            (self.line.virtual_time(), self.line.running(), self.best())
        else {
            return false;
        };
        let is_payer = self.line.payer() == Some(best);
        let best = self.line.ready(best);
        !is_payer && ahead(best.vruntime, time) <= 0 && ahead(running.own, best.own) > 0
    }

    fn push(&mut self, now: u64, allowed: Allowed<'_>) -> Option<(VcpuId, PcpuId)> {
        if cfg!(mutant = "fair_never_pushes") {
            return None;
        }
        let index = self.line.least()?;
        let to = self.line.better_place(index, now, allowed)?;
        Some((self.give_away(index), to))
    }

    fn waiting(&self) -> usize {
        self.line.waiting()
    }
}
