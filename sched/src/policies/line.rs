//! Who is ready and who runs on one pCPU, for policies that measure CPU time by weight and compare it all over the pool.
//!
//! Everything here is linear in the number of vCPUs that are ready on one pCPU, which is small, and keeps no sum that could
//! drift. Whoever changes a [`Line`] needs not think of the other pCPUs: it shows them how far this one is.

use super::fronts::{Fronts, SCALE, ahead, keep_up, two_slices, virtual_ticks};
use crate::{Allowed, PcpuId, VcpuId};
use alloc::{sync::Arc, vec::Vec};

/// A vCPU that is ready or runs here, and what else its policy knows of it.
#[derive(Clone, Copy)]
pub(super) struct Entity<T> {
    pub(super) vcpu: VcpuId,
    pub(super) weight: u64,
    /// In ticks.
    pub(super) slice: u64,
    pub(super) vruntime: u64,
    pub(super) own: T,
}

impl<T> Entity<T> {
    pub(super) fn virtual_slice(&self) -> u64 {
        virtual_ticks(self.slice, self.weight)
    }

    /// How far behind or ahead of others it may come to a pCPU.
    pub(super) fn limit(&self) -> i64 {
        two_slices(self.virtual_slice())
    }

    /// It has had `ticks` more.
    fn add(&mut self, ticks: u64) {
        let weight = if cfg!(mutant = "weights_are_alike") {
            SCALE
        } else {
            self.weight
        };
        let virtual_ticks = virtual_ticks(ticks, weight);
        self.vruntime = self.vruntime.wrapping_add(virtual_ticks);
    }

    /// How long it takes to get as far as `vruntime`, in ticks.
    pub(super) fn ticks_until(&self, vruntime: u64) -> u64 {
        let ahead = ahead(vruntime, self.vruntime).max(0);
        (ahead as u128 * u128::from(self.weight) / u128::from(SCALE)) as u64
    }
}

pub(super) struct Line<T> {
    pcpu: PcpuId,
    ready: Vec<Entity<T>>,
    running: Option<Entity<T>>,
    /// Who has yielded, until somebody runs.
    yielder: Option<VcpuId>,
    /// Who pays for the one that runs, as long as it is ready here.
    payer: Option<VcpuId>,
    fronts: Arc<Fronts>,
}

impl<T: Copy> Line<T> {
    /// Nobody yet; there is room for `room` vCPUs.
    pub(super) fn new(pcpu: PcpuId, room: usize, fronts: &Arc<Fronts>) -> Self {
        Self {
            pcpu,
            ready: Vec::with_capacity(room),
            running: None,
            yielder: None,
            payer: None,
            fronts: Arc::clone(fronts),
        }
    }

    /// In the order in which they came.
    pub(super) fn ready(&self) -> &[Entity<T>] {
        &self.ready
    }

    pub(super) fn running(&self) -> Option<&Entity<T>> {
        self.running.as_ref()
    }

    /// The ready ones, and the one that runs.
    pub(super) fn present(&self) -> impl Iterator<Item = &Entity<T>> {
        self.ready.iter().chain(&self.running)
    }

    pub(super) fn position(&self, vcpu: VcpuId) -> Option<usize> {
        self.ready.iter().position(|entity| entity.vcpu == vcpu)
    }

    /// The first of the ready ones that is `allowed` to go.
    pub(super) fn first(&self, allowed: &mut dyn FnMut(VcpuId) -> bool) -> Option<usize> {
        (0..self.ready.len()).find(|&index| allowed(self.ready[index].vcpu))
    }

    /// How far the least far of the pCPUs is where vCPUs wait.
    pub(super) fn slowest(&self, now: u64) -> Option<u64> {
        self.fronts.slowest(now)
    }

    pub(super) fn add(&mut self, entity: Entity<T>) {
        self.ready.push(entity);
        self.publish_contention();
    }

    /// `entity`, which ran, becomes ready; if it yields, it may pay for who runs next.
    pub(super) fn add_again(&mut self, entity: Entity<T>, is_yielding: bool) {
        self.yielder = is_yielding.then_some(entity.vcpu);
        self.add(entity);
    }

    /// Who has yielded to nobody in particular, once: it lets the others run.
    pub(super) fn take_yielder(&mut self) -> Option<usize> {
        let yielder = self.yielder.take()?;
        self.position(yielder)
    }

    /// The ready one at `index`, to change how far it is.
    pub(super) fn ready_mut(&mut self, index: usize) -> &mut Entity<T> {
        &mut self.ready[index]
    }

    /// Who pays for the one that runs, if it is another one.
    pub(super) fn payer(&self) -> Option<usize> {
        self.payer.and_then(|payer| self.position(payer))
    }

    /// The one at `index` leaves the ready ones.
    pub(super) fn remove(&mut self, index: usize) -> Entity<T> {
        let entity = self.ready.remove(index);
        self.publish_contention();
        entity
    }

    /// The one at `index` runs from now on.
    pub(super) fn run(&mut self, index: usize, now: u64) -> Entity<T> {
        let entity = self.remove(index);
        self.running = Some(entity);
        (self.yielder, self.payer) = (None, None);
        self.publish(now);
        entity
    }

    /// The same, because it was yielded to: whoever has yielded pays.
    pub(super) fn run_for_yielder(&mut self, index: usize, now: u64) -> Entity<T> {
        let payer = self.yielder;
        let entity = self.run(index, now);
        self.payer = payer;
        entity
    }

    /// `vcpu` does not run any more, if it did.
    pub(super) fn stop(&mut self, vcpu: VcpuId, now: u64) -> Option<Entity<T>> {
        let entity = self.running.take_if(|running| running.vcpu == vcpu)?;
        self.publish(now);
        Some(entity)
    }

    /// `vcpu` runs, and has had `ticks` more, or whoever pays for it. One that is alone here and still falls behind wants more than a whole pCPU, which
    /// does not count.
    pub(super) fn charge(&mut self, vcpu: VcpuId, ticks: u64, now: u64) {
        if let Some(payer) = self.payer() {
            let is_free = cfg!(mutant = "gifts_are_free");
            return self.ready[payer].add(if is_free { 0 } else { ticks });
        }
        let is_alone = self.ready.is_empty();
        let Some(running) = self.running.as_mut().filter(|entity| entity.vcpu == vcpu) else {
            return;
        };
        running.add(ticks);
        if is_alone && let Some(slowest) = self.fronts.slowest(now) {
            running.vruntime = keep_up(running.vruntime, slowest, running.limit());
        }
        self.publish(now);
    }

    /// Where the ready one at `index` would run sooner: a pCPU whose running vCPU is more than a slice ahead of it.
    pub(super) fn better_place(
        &self,
        index: usize,
        now: u64,
        allowed: Allowed<'_>,
    ) -> Option<PcpuId> {
        let behind = &self.ready[index];
        let may_go = |pcpu| allowed(behind.vcpu, pcpu);
        self.fronts
            .furthest_ahead(behind.vruntime, behind.virtual_slice(), now, may_go)
    }

    /// What others wait for is the time that this pCPU's vCPUs have had.
    fn publish(&self, now: u64) {
        let running = self
            .running
            .as_ref()
            .map(|running| (running.weight, running.vruntime));
        self.fronts.show(self.pcpu, running, now);
    }

    fn publish_contention(&self) {
        self.fronts
            .show_contention(self.pcpu, !self.ready.is_empty());
    }
}
