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
//! Virtual runtimes are comparable all over the pool. A pCPU gives a waiting vCPU to one whose running vCPU is more than a
//! slice ahead of it, so three equal vCPUs on two pCPUs get two thirds of one each. A vCPU that is alone on its pCPU and still
//! falls behind wants more than a whole pCPU; that does not count as lag, so the others share the rest by their weights.
//!
//! Everything here is linear in the number of vCPUs that are ready on one pCPU, which is small, and keeps no sum that could
//! drift.

use super::fronts::{Absent, Fronts, SCALE, ahead, keep_up, two_slices, virtual_ticks};
use crate::{
    Allowed, Bounds, Choice, Entitlements, LocalPolicy, PcpuId, Pick, Policy, Ready, Slice, VcpuId,
    sync::{AtomicU64, Ordering::Relaxed},
};
use alloc::{boxed::Box, sync::Arc, vec::Vec};

/// Time in proportion to weights.
pub struct Fair {
    slice_ticks: u64,
    shared: Arc<Shared>,
}

impl Fair {
    /// The name by which it is chosen.
    pub const NAME: &str = "fair";

    /// For up to `max_vcpus` vCPUs. Those without a slice of their own run for `slice_ticks` at a time.
    pub fn with_slice(slice_ticks: u64, max_vcpus: u16) -> Self {
        let shared = Shared {
            fronts: Fronts::new(),
            left: (0..max_vcpus).map(|_| Left::default()).collect(),
        };
        Self {
            slice_ticks,
            shared: Arc::new(shared),
        }
    }
}

impl Policy for Fair {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn room(&self) -> usize {
        self.shared.left.len()
    }

    fn bounds(&self, _ready: usize) -> Bounds {
        Bounds {
            work_conserving: true,
            longest_wait: None,
        }
    }

    fn release(&self, vcpu: VcpuId) {
        if let Some(left) = self.shared.left.get(vcpu.index()) {
            left.absent.forget();
        }
    }

    fn is_preemptive(&self) -> bool {
        true
    }

    fn local(&self, pcpu: PcpuId, entitlements: &Arc<Entitlements>) -> Box<dyn LocalPolicy> {
        Box::new(Queue {
            pcpu,
            slice_ticks: self.slice_ticks,
            ready: Vec::with_capacity(entitlements.len()),
            running: None,
            shared: Arc::clone(&self.shared),
            entitlements: Arc::clone(entitlements),
        })
    }
}

/// What the pCPUs tell each other.
struct Shared {
    fronts: Fronts,
    /// By vCPU number.
    left: Box<[Left]>,
}

/// How a vCPU left a pCPU.
#[derive(Default)]
struct Left {
    absent: Absent,
    /// Its lag, if that was positive.
    lag: AtomicU64,
}

/// A vCPU that is ready or runs here.
#[derive(Clone, Copy)]
struct Entity {
    vcpu: VcpuId,
    weight: u64,
    /// In ticks.
    slice: u64,
    vruntime: u64,
    deadline: u64,
}

impl Entity {
    fn virtual_slice(&self) -> u64 {
        virtual_ticks(self.slice, self.weight)
    }

    /// How much more or less than its part it may have had.
    fn limit(&self) -> i64 {
        two_slices(self.virtual_slice())
    }

    /// What is left of its slice, in ticks.
    fn left(&self) -> u64 {
        let left = ahead(self.deadline, self.vruntime).max(0);
        (left as u128 * u128::from(self.weight) / u128::from(SCALE)) as u64
    }

    fn renew_deadline(&mut self) {
        self.deadline = self.vruntime.wrapping_add(self.virtual_slice());
    }
}

struct Queue {
    pcpu: PcpuId,
    slice_ticks: u64,
    ready: Vec<Entity>,
    running: Option<Entity>,
    shared: Arc<Shared>,
    entitlements: Arc<Entitlements>,
}

impl Queue {
    fn present(&self) -> impl Iterator<Item = &Entity> {
        self.ready.iter().chain(&self.running)
    }

    /// The mean of the virtual runtimes here, by weight; `None` if nobody is here.
    fn virtual_time(&self) -> Option<u64> {
        let base = self.present().next()?.vruntime;
        let (mut sum, mut weight) = (0_i128, 0_i128);
        for entity in self.present() {
            sum += i128::from(ahead(entity.vruntime, base)) * i128::from(entity.weight);
            weight += i128::from(entity.weight);
        }
        Some(base.wrapping_add(sum.div_euclid(weight) as u64))
    }

    /// Of those that are ready and have had no more than their part the one with the earliest deadline; of the others, the
    /// one that has had least.
    fn best(&self) -> Option<usize> {
        let time = self.virtual_time()?;
        let rank = |entity: &Entity| {
            let is_early = ahead(entity.vruntime, time) > 0;
            let key = if is_early {
                entity.vruntime
            } else {
                entity.deadline
            };
            (is_early, ahead(key, time))
        };
        (0..self.ready.len()).min_by_key(|&index| rank(&self.ready[index]))
    }

    fn position(&self, vcpu: VcpuId) -> Option<usize> {
        self.ready.iter().position(|entity| entity.vcpu == vcpu)
    }

    /// The one at `index` leaves the ready ones.
    fn remove(&mut self, index: usize) -> Entity {
        let entity = self.ready.swap_remove(index);
        self.publish_contention();
        entity
    }

    /// As it comes to this pCPU: not further behind or ahead of the others than its limit.
    fn arrival(&self, vcpu: VcpuId, is_woken: bool, now: u64) -> Entity {
        let entitlement = self.entitlements.get(vcpu);
        let mut entity = Entity {
            vcpu,
            weight: entitlement.weight.get().into(),
            slice: entitlement.slice.unwrap_or(self.slice_ticks),
            vruntime: 0,
            deadline: 0,
        };
        let left = &self.shared.left[vcpu.index()];
        let limit = entity.limit();
        entity.vruntime = match (self.virtual_time(), left.absent.vruntime()) {
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
            (None, before) => match (self.shared.fronts.slowest(now), before) {
                (Some(slowest), None) => slowest,
                (Some(slowest), Some(before)) => keep_up(before, slowest, limit),
                (None, before) => before.unwrap_or(0),
            },
        };
        entity.renew_deadline();
        entity
    }

    /// What others wait for is the time that this pCPU's vCPUs have had.
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
            slice: Slice::of(entity.left().max(1)),
        }
    }

    /// Notes where `entity` is, which goes away.
    fn note(&self, entity: &Entity) {
        let time = self.virtual_time().unwrap_or(entity.vruntime);
        let lag = ahead(time, entity.vruntime).clamp(0, entity.limit());
        let left = &self.shared.left[entity.vcpu.index()];
        left.lag.store(lag as u64, Relaxed);
        left.absent.note(entity.vruntime);
    }
}

impl LocalPolicy for Queue {
    fn enqueue(&mut self, vcpu: VcpuId, why: Ready, now: u64) {
        let entity = match self.running.take_if(|running| running.vcpu == vcpu) {
            Some(mut ran) => {
                self.publish(now);
                if why == Ready::Yielded || ran.left() == 0 {
                    let entitlement = self.entitlements.get(vcpu);
                    ran.weight = entitlement.weight.get().into();
                    ran.slice = entitlement.slice.unwrap_or(self.slice_ticks);
                    ran.renew_deadline();
                }
                ran
            }
            None => self.arrival(vcpu, why != Ready::MigratedIn, now),
        };
        self.ready.push(entity);
        self.publish_contention();
    }

    fn pick(&mut self, now: u64) -> Choice {
        match self.best() {
            Some(index) => Choice::Run(self.run(index, now)),
            None => Choice::Idle(None),
        }
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
        if let Some(running) = self.running.filter(|running| running.vcpu == vcpu) {
            self.note(&running);
            self.running = None;
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
        let virtual_ticks = virtual_ticks(ticks, running.weight);
        running.vruntime = running.vruntime.wrapping_add(virtual_ticks);
        if is_alone && let Some(slowest) = self.shared.fronts.slowest(now) {
            running.vruntime = keep_up(running.vruntime, slowest, running.limit());
        }
        self.publish(now);
    }

    fn preempts(&mut self, _running: VcpuId, _now: u64) -> bool {
        let (Some(time), Some(running), Some(best)) =
            (self.virtual_time(), self.running, self.best())
        else {
            return false;
        };
        let best = &self.ready[best];
        ahead(best.vruntime, time) <= 0 && ahead(running.deadline, best.deadline) > 0
    }

    fn push(&mut self, now: u64, allowed: Allowed<'_>) -> Option<(VcpuId, PcpuId)> {
        if cfg!(mutant = "fair_never_pushes") {
            return None;
        }
        let index = (0..self.ready.len())
            .min_by_key(|&index| ahead(self.ready[index].vruntime, self.ready[0].vruntime))?;
        let behind = self.ready[index];
        let (vcpu, enough) = (behind.vcpu, behind.virtual_slice());
        let may_go = |pcpu| allowed(vcpu, pcpu);
        let fronts = &self.shared.fronts;
        let to = fronts.furthest_ahead(behind.vruntime, enough, now, may_go)?;
        self.note(&behind);
        self.remove(index);
        Some((behind.vcpu, to))
    }

    fn waiting(&self) -> usize {
        self.ready.len()
    }
}
