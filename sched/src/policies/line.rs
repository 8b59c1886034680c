//! Who is ready and who runs on one pCPU, for policies that measure CPU time by weight and compare it all over the pool.
//!
//! However many are ready, finding who comes first, and coming and going, takes a number of steps that grows with the logarithm
//! of that. Whoever changes a [`Line`] needs not think of the other pCPUs: it shows them how far this one is.

use super::{
    fifo::Member,
    fronts::{Fronts, SCALE, ahead, keep_up, two_slices, virtual_length, virtual_ticks},
    mean::Mean,
    ranking::{Rank, Ranking},
    roster::Roster,
};
use crate::{Allowed, PcpuId, VcpuId};
use alloc::sync::Arc;

/// A vCPU that is ready or runs here, and what else its policy knows of it.
#[derive(Clone, Copy)]
pub(super) struct Entity<T> {
    pub(super) vcpu: VcpuId,
    pub(super) weight: u64,
    /// In ticks.
    pub(super) slice: u64,
    pub(super) vruntime: u64,
    /// When it became ready: who was first comes first among equals.
    place: u64,
    pub(super) own: T,
}

/// What a policy knows of a vCPU beyond how far it is.
pub(super) trait Own: Copy {
    /// Whose is less comes first.
    fn rank(entity: &Entity<Self>) -> u64;
}

impl<T: Copy> Member for Entity<T> {
    fn vcpu(&self) -> VcpuId {
        self.vcpu
    }
}

impl<T> Entity<T> {
    /// It is not ready yet.
    pub(super) fn new(vcpu: VcpuId, weight: u64, slice: u64, own: T) -> Self {
        Self {
            vcpu,
            weight,
            slice,
            vruntime: 0,
            place: 0,
            own,
        }
    }

    pub(super) fn virtual_slice(&self) -> u64 {
        virtual_length(self.slice, self.weight)
    }

    /// How far behind or ahead of others it may come to a pCPU.
    pub(super) fn limit(&self) -> i64 {
        two_slices(self.virtual_slice())
    }

    /// By how much it is further when it has had `ticks` more.
    fn progress(&self, ticks: u64) -> u64 {
        let weight = if cfg!(mutant = "weights_are_alike") {
            SCALE
        } else {
            self.weight
        };
        virtual_ticks(ticks, weight)
    }

    /// How long it takes to get as far as `vruntime`, in ticks.
    pub(super) fn ticks_until(&self, vruntime: u64) -> u64 {
        let ahead = ahead(vruntime, self.vruntime).max(0);
        (ahead as u128 * u128::from(self.weight) / u128::from(SCALE)) as u64
    }
}

pub(super) struct Line<T> {
    pcpu: PcpuId,
    ready: Roster<Entity<T>>,
    /// Those that are ready, by the rank that the policy gives them, and within how far they are.
    ranking: Ranking,
    running: Option<Entity<T>>,
    /// How far the ready ones and the one that runs are.
    mean: Mean,
    /// The last place so far.
    last_place: u64,
    /// Who has yielded, until somebody runs.
    yielder: Option<VcpuId>,
    /// Who pays for the one that runs, as long as it is ready here.
    payer: Option<VcpuId>,
    fronts: Arc<Fronts>,
}

impl<T: Own> Line<T> {
    /// Nobody yet; there is room for `room` vCPUs.
    pub(super) fn new(pcpu: PcpuId, room: usize, fronts: &Arc<Fronts>) -> Self {
        Self {
            pcpu,
            ready: Roster::with_room(room),
            ranking: Ranking::with_capacity(room),
            running: None,
            mean: Mean::default(),
            last_place: 0,
            yielder: None,
            payer: None,
            fronts: Arc::clone(fronts),
        }
    }

    /// The ready one in slot `index`.
    pub(super) fn ready(&self, index: usize) -> &Entity<T> {
        self.ready.get(index)
    }

    pub(super) fn running(&self) -> Option<&Entity<T>> {
        self.running.as_ref()
    }

    /// How many are ready.
    pub(super) fn waiting(&self) -> usize {
        self.ready.len()
    }

    /// Nobody is ready or runs.
    pub(super) fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.running.is_none()
    }

    /// How far all that are ready or run are on average, by weight.
    pub(super) fn virtual_time(&self) -> Option<u64> {
        self.mean.value()
    }

    /// The ready one that comes first.
    pub(super) fn first(&self) -> Option<usize> {
        self.ranking.first()
    }

    /// The ready one that comes first of those that are no further than `vruntime`.
    pub(super) fn first_within(&self, vruntime: u64) -> Option<usize> {
        self.ranking.first_within(vruntime)
    }

    /// The ready one that is least far.
    pub(super) fn least(&self) -> Option<usize> {
        self.ranking.least()
    }

    pub(super) fn position(&self, vcpu: VcpuId) -> Option<usize> {
        self.ready.slot(vcpu)
    }

    /// The one that comes first of the ready ones that are `allowed` to go.
    pub(super) fn first_allowed(&self, allowed: &mut dyn FnMut(VcpuId) -> bool) -> Option<usize> {
        let mut ready = self.ranking.iter();
        ready.find(|&index| allowed(self.ready(index).vcpu))
    }

    /// How far the least far of the pCPUs is where vCPUs wait.
    pub(super) fn slowest(&self, now: u64) -> Option<u64> {
        self.fronts.slowest(now)
    }

    /// `entity` comes to this pCPU.
    pub(super) fn add(&mut self, entity: Entity<T>) {
        self.mean.join(entity.vruntime, entity.weight);
        self.put_in_line(entity);
    }

    /// `vcpu` becomes ready, changed as `change` says but as far and as heavy as before, if it ran until now; if it yields, it may pay
    /// for who runs next.
    pub(super) fn add_again(
        &mut self,
        vcpu: VcpuId,
        is_yielding: bool,
        now: u64,
        change: impl FnOnce(&mut Entity<T>),
    ) -> bool {
        let Some(mut entity) = self.running.take_if(|running| running.vcpu == vcpu) else {
            return false;
        };
        self.publish(now);
        change(&mut entity);
        self.yielder = is_yielding.then_some(vcpu);
        self.put_in_line(entity);
        true
    }

    /// Who has yielded to nobody in particular, once: it lets the others run.
    pub(super) fn take_yielder(&mut self) -> Option<usize> {
        let yielder = self.yielder.take()?;
        self.position(yielder)
    }

    /// Changes what is known of the ready one at `index`, as `change` says when the others are as they are without it. It keeps its place.
    pub(super) fn change(&mut self, index: usize, change: impl FnOnce(&mut Entity<T>, &Self)) {
        let mut entity = self.unrank(index);
        self.mean.leave(entity.vruntime, entity.weight);
        change(&mut entity, self);
        self.mean.join(entity.vruntime, entity.weight);
        self.rank(entity);
    }

    /// Whoever is ready or runs becomes what `renewed` makes of it, if that is anything. Each keeps its place.
    pub(super) fn renew(&mut self, renewed: impl Fn(&Entity<T>) -> Option<Entity<T>>) {
        for index in 0..self.ready.slots() {
            if let Some(new) = self.ready.taken(index).and_then(&renewed) {
                // It gets the slot that it had.
                let old = self.unrank(index);
                self.exchange(&old, &new);
                self.rank(new);
            }
        }
        if let Some(old) = self.running
            && let Some(new) = renewed(&old)
        {
            self.exchange(&old, &new);
            self.running = Some(new);
        }
    }

    fn exchange(&mut self, old: &Entity<T>, new: &Entity<T>) {
        self.mean.leave(old.vruntime, old.weight);
        self.mean.join(new.vruntime, new.weight);
    }

    /// Who pays for the one that runs, if it is another one.
    pub(super) fn payer(&self) -> Option<usize> {
        self.payer.and_then(|payer| self.position(payer))
    }

    /// The one at `index` leaves this pCPU.
    pub(super) fn remove(&mut self, index: usize) -> Entity<T> {
        let entity = self.unrank(index);
        self.mean.leave(entity.vruntime, entity.weight);
        self.publish_contention();
        entity
    }

    /// The one at `index` runs from now on.
    pub(super) fn run(&mut self, index: usize, now: u64) -> &Entity<T> {
        self.run_paid_by(None, index, now)
    }

    /// The same, because it was yielded to: whoever has yielded pays.
    pub(super) fn run_for_yielder(&mut self, index: usize, now: u64) -> &Entity<T> {
        self.run_paid_by(self.yielder, index, now)
    }

    fn run_paid_by(&mut self, payer: Option<VcpuId>, index: usize, now: u64) -> &Entity<T> {
        let entity = self.unrank(index);
        (self.yielder, self.payer) = (None, payer);
        self.publish_contention();
        // Each copy of it takes about forty instructions.
        let running = self.running.insert(entity);
        let progress = Some((running.weight, running.vruntime));
        self.fronts.show(self.pcpu, progress, now);
        running
    }

    /// `vcpu` does not run any more, if it did, and leaves this pCPU.
    pub(super) fn stop(&mut self, vcpu: VcpuId, now: u64) -> Option<Entity<T>> {
        let entity = self.running.take_if(|running| running.vcpu == vcpu)?;
        self.mean.leave(entity.vruntime, entity.weight);
        self.publish(now);
        Some(entity)
    }

    /// `vcpu` runs, and has had `ticks` more, or whoever pays for it: then `paid` is called with that one. One that is alone here
    /// and still falls behind wants more than a whole pCPU, which does not count.
    pub(super) fn charge(
        &mut self,
        vcpu: VcpuId,
        ticks: u64,
        now: u64,
        paid: impl FnOnce(&mut Entity<T>),
    ) {
        if let Some(payer) = self.payer() {
            let is_free = cfg!(mutant = "gifts_are_free");
            return self.change(payer, |payer, _| {
                let ticks = if is_free { 0 } else { ticks };
                payer.vruntime = payer.vruntime.wrapping_add(payer.progress(ticks));
                paid(payer);
            });
        }
        let is_alone = self.ready.is_empty();
        let Some(running) = self.running.as_mut().filter(|entity| entity.vcpu == vcpu) else {
            return;
        };
        let before = running.vruntime;
        running.vruntime = before.wrapping_add(running.progress(ticks));
        if is_alone && let Some(slowest) = self.fronts.slowest(now) {
            running.vruntime = keep_up(running.vruntime, slowest, running.limit());
        }
        self.mean
            .grow(ahead(running.vruntime, before), running.weight);
        self.publish(now);
    }

    /// Where the ready one at `index` would run sooner: a pCPU whose running vCPU is more than a slice ahead of it.
    pub(super) fn better_place(
        &self,
        index: usize,
        now: u64,
        allowed: Allowed<'_>,
    ) -> Option<PcpuId> {
        let behind = self.ready(index);
        let may_go = |pcpu| allowed(behind.vcpu, pcpu);
        self.fronts
            .furthest_ahead(behind.vruntime, behind.virtual_slice(), now, may_go)
    }

    /// `entity` becomes ready, after all that are.
    fn put_in_line(&mut self, mut entity: Entity<T>) {
        self.last_place += 1;
        entity.place = self.last_place;
        self.rank(entity);
        self.publish_contention();
    }

    fn rank(&mut self, entity: Entity<T>) {
        let rank = Rank {
            value: T::rank(&entity),
            place: entity.place,
            bound: entity.vruntime,
        };
        let index = self.ready.insert(entity);
        self.ranking.insert(index, rank);
    }

    fn unrank(&mut self, index: usize) -> Entity<T> {
        self.ranking.remove(index);
        self.ready.remove(index)
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
