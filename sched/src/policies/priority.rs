//! Priority: who has more runs first, all over the pool; equal ones take turns.
//!
//! ```text
//!   enqueue --> by priority | 9 9 | 4 | 1 1 1 | --> pick the first, for the rest of its turn
//!                                '--> push: a pCPU runs less than 4 -------> it runs there at once
//!                 pull: here runs less than what is ready elsewhere <------- that pCPU is told to push
//! ```
//! One that is ready preempts what is less important on its pCPU; if nothing there is, it goes to the pCPU of those that it may
//! run on that runs the least important vCPU. Who was preempted goes on with its turn before those that are equal to it. So
//! with m pCPUs the m most important vCPUs run, as far as their affinities let them. [POSIX.1-2017: SCHED_RR; Linux:
//! real-time scheduling class, push and pull] A priority promises nothing to those that have less: they may wait forever.
//!
//! Equal vCPUs are moved for each other's sake once in each balance period: where two more wait than on another pCPU, and two more of
//! those that are equal to what runs there, the last of these goes there.

use super::{
    fifo::Member,
    ranking::{Rank, Ranking},
    roster::Roster,
    urgencies::{Urgencies, Urgency},
};
use crate::{
    Allowed, Bounds, Choice, Entitlements, LocalPolicy, PcpuId, PcpuSet, Pick, Policy, Ready,
    Slice, VcpuId,
};
use alloc::{boxed::Box, sync::Arc, vec::Vec};
use core::num::NonZero;

/// The most important first.
pub struct Priority {
    slice_ticks: u64,
    period_ticks: u64,
    urgencies: Arc<Urgencies>,
}

impl Priority {
    /// The name by which it is chosen.
    pub const NAME: &str = "priority";

    /// For up to `max_vcpus` vCPUs. Equal ones that have no slice of their own take turns of `slice_ticks`. pCPUs are balanced every
    /// two slices.
    pub fn with_slice(slice_ticks: u64, max_vcpus: u16) -> Self {
        Self::new(slice_ticks, slice_ticks.saturating_mul(2), max_vcpus)
    }

    /// The same, and pCPUs are balanced every `period_ticks`.
    pub fn new(slice_ticks: u64, period_ticks: u64, max_vcpus: u16) -> Self {
        Self {
            slice_ticks,
            period_ticks,
            urgencies: Arc::new(Urgencies::new(max_vcpus)),
        }
    }
}

impl Policy for Priority {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn room(&self) -> usize {
        self.urgencies.room()
    }

    fn bounds(&self, _ready: usize) -> Bounds {
        Bounds {
            work_conserving: true,
            longest_wait: None,
        }
    }

    fn is_preemptive(&self) -> bool {
        true
    }

    fn renew(&self, _pcpus: PcpuSet) -> Box<dyn Policy> {
        Box::new(Self::new(
            self.slice_ticks,
            self.period_ticks,
            self.urgencies.room() as u16,
        ))
    }

    fn balance_period(&self) -> Option<NonZero<u64>> {
        NonZero::new(self.period_ticks)
    }

    fn local(&self, pcpu: PcpuId, entitlements: &Arc<Entitlements>) -> Box<dyn LocalPolicy> {
        self.urgencies.join(pcpu);
        Box::new(Queue {
            pcpu,
            slice_ticks: self.slice_ticks,
            ready: Roster::with_room(entitlements.len()),
            ranking: Ranking::with_capacity(entitlements.len()),
            changes: entitlements.changes(),
            stale: Vec::with_capacity(entitlements.len()),
            equals: [0; 1 << u8::BITS],
            running: None,
            is_given: false,
            last_place: 0,
            urgencies: Arc::clone(&self.urgencies),
            entitlements: Arc::clone(entitlements),
        })
    }
}

/// A vCPU that is ready or runs here.
#[derive(Clone, Copy)]
struct Entity {
    vcpu: VcpuId,
    priority: u8,
    /// What is left of its turn, in ticks.
    turn: u64,
    /// Whose is less comes first among equals.
    place: u64,
}

impl Member for Entity {
    fn vcpu(&self) -> VcpuId {
        self.vcpu
    }
}

impl Entity {
    fn rank(&self) -> Rank {
        Rank {
            value: u64::from(u8::MAX - self.priority),
            place: self.place,
            bound: 0,
        }
    }

    fn urgency(&self) -> Urgency {
        Urgency::of(self.priority)
    }
}

struct Queue {
    pcpu: PcpuId,
    slice_ticks: u64,
    ready: Roster<Entity>,
    /// The most important first, and equal ones in the order of their turns.
    ranking: Ranking,
    /// By priority: how many are ready.
    equals: [u16; 1 << u8::BITS],
    /// What [`Entitlements::changes`] said when it was looked whose priority has changed.
    changes: u32,
    /// The slots of those, while they get it; there is room for all.
    stale: Vec<usize>,
    running: Option<Entity>,
    /// The one that runs does so for what is left of another's turn.
    is_given: bool,
    /// The last place so far.
    last_place: u64,
    urgencies: Arc<Urgencies>,
    entitlements: Arc<Entitlements>,
}

impl Queue {
    /// A whole turn.
    fn turn(&self, vcpu: VcpuId) -> u64 {
        let slice = self.entitlements.get(vcpu).slice;
        slice.unwrap_or(self.slice_ticks).max(1)
    }

    /// `entity` becomes ready: the last of its equals, or with its turn still to come.
    fn insert(&mut self, mut entity: Entity, keeps_place: bool) {
        if !keeps_place {
            self.last_place += 1;
            entity.place = self.last_place;
        }
        let index = self.ready.insert(entity);
        self.ranking.insert(index, entity.rank());
        self.equals[usize::from(entity.priority)] += 1;
        let urgency = entity.urgency();
        self.urgencies.set_waiting(entity.vcpu, urgency, self.pcpu);
        self.publish();
    }

    fn remove(&mut self, index: usize) -> Entity {
        self.ranking.remove(index);
        let entity = self.ready.remove(index);
        self.equals[usize::from(entity.priority)] -= 1;
        self.urgencies.set_gone(entity.vcpu);
        self.publish();
        entity
    }

    /// The most important that is ready.
    fn first(&self) -> Option<&Entity> {
        self.ranking.first().map(|index| self.ready.get(index))
    }

    /// Those whose priority has changed get it.
    fn refresh(&mut self) {
        let entitlements = Arc::clone(&self.entitlements);
        let changes = entitlements.changes();
        let has_changed = core::mem::replace(&mut self.changes, changes) != changes;
        if !has_changed || cfg!(mutant = "ready_ones_keep_their_priority") {
            return;
        }
        let is_stale = |entity: &Entity| entity.priority != entitlements.priority(entity.vcpu);
        let mut stale = core::mem::take(&mut self.stale);
        let ready = self.ranking.iter();
        stale.extend(ready.filter(|&index| is_stale(self.ready.get(index))));
        for index in stale.drain(..) {
            let entity = self.remove(index);
            let priority = entitlements.priority(entity.vcpu);
            // It gets the slot that it had, and the others keep theirs.
            self.insert(Entity { priority, ..entity }, false);
        }
        self.stale = stale;
    }

    /// The most important that is ready and wanted.
    fn find(&self, mut is_wanted: impl FnMut(&Entity) -> bool) -> Option<usize> {
        let mut ready = self.ranking.iter();
        ready.find(|&index| is_wanted(self.ready.get(index)))
    }

    fn run(&mut self, index: usize) -> Pick {
        let entity = self.remove(index);
        self.running = Some(entity);
        self.is_given = false;
        self.publish();
        Pick {
            vcpu: entity.vcpu,
            slice: Slice::of(entity.turn),
        }
    }

    fn publish(&self) {
        let urgency = |entity: Option<&Entity>| entity.map_or(Urgency::NONE, Entity::urgency);
        let (running, waiting) = (urgency(self.running.as_ref()), urgency(self.first()));
        let equals = self.running.map_or(0, |running| self.equals(&running));
        self.urgencies.publish(self.pcpu, running, equals, waiting);
    }

    /// How many are ready that have the priority of `entity`.
    fn equals(&self, entity: &Entity) -> u16 {
        self.equals[usize::from(entity.priority)]
    }

    /// The most important that is ready here and should run instead of what some pCPU runs, and that pCPU.
    fn misplaced(
        &self,
        mut allowed: impl FnMut(VcpuId, PcpuId) -> bool,
    ) -> Option<(usize, PcpuId)> {
        // Where the first cannot preempt, nobody can.
        self.urgencies.least(self.first()?.urgency(), |_| true)?;
        self.ranking.iter().find_map(|index| {
            let entity = self.ready.get(index);
            let may_run = |pcpu| allowed(entity.vcpu, pcpu);
            let pcpu = self.urgencies.least(entity.urgency(), may_run)?;
            Some((index, pcpu))
        })
    }
}

impl LocalPolicy for Queue {
    fn enqueue(&mut self, vcpu: VcpuId, why: Ready, _now: u64) {
        let ran = self.running.take_if(|running| running.vcpu == vcpu);
        let (left, place) = ran.map_or((0, 0), |ran| (ran.turn, ran.place));
        let is_given = self.is_given && !cfg!(mutant = "lose_place_when_called");
        let is_to_come = why == Ready::Preempted || is_given;
        let goes_on = left > 0 && is_to_come && !cfg!(mutant = "priority_forgets_turns");
        let entity = Entity {
            vcpu,
            priority: self.entitlements.priority(vcpu),
            turn: if goes_on { left } else { self.turn(vcpu) },
            place,
        };
        self.insert(entity, goes_on);
    }

    fn pick(&mut self, _now: u64) -> Choice {
        self.refresh();
        match self.ranking.first() {
            Some(index) => Choice::Run(self.run(index)),
            None => Choice::Idle(None),
        }
    }

    fn take(&mut self, vcpu: VcpuId, _now: u64) -> Option<Slice> {
        self.refresh();
        let index = self.ready.slot(vcpu)?;
        let is_equal = self.ready.get(index).priority == self.first()?.priority;
        let pick = is_equal.then(|| self.run(index))?;
        self.is_given = true;
        Some(pick.slice)
    }

    fn withdraw(&mut self, vcpu: VcpuId, _now: u64) {
        if let Some(index) = self.ready.slot(vcpu) {
            self.remove(index);
        }
    }

    fn leave(&mut self, vcpu: VcpuId, _now: u64) {
        self.running.take_if(|running| running.vcpu == vcpu);
        self.publish();
    }

    fn surrender(&mut self, allowed: &mut dyn FnMut(VcpuId) -> bool) -> Option<VcpuId> {
        let index = self.find(|entity| allowed(entity.vcpu))?;
        Some(self.remove(index).vcpu)
    }

    /// The last one that may go of those that are equal to what runs there, if no more of these are before it there than here.
    fn relieve(
        &mut self,
        to: PcpuId,
        _waiting: usize,
        allowed: &mut dyn FnMut(VcpuId) -> bool,
    ) -> Option<VcpuId> {
        let (running, there) = self.urgencies.running(to);
        let there = usize::from(there);
        let is_equal = |&index: &usize| self.ready.get(index).urgency() == running;
        let equals = || self.ranking.iter().filter(is_equal);
        if equals().count() < there + 2 && !cfg!(mutant = "priority_counts_all") {
            return None;
        }
        let may_go = |&index: &usize| allowed(self.ready.get(index).vcpu);
        let index = equals().skip(there).filter(may_go).last()?;
        Some(self.remove(index).vcpu)
    }

    fn charge(&mut self, vcpu: VcpuId, ticks: u64, _now: u64) {
        let running = self.running.as_mut().filter(|entity| entity.vcpu == vcpu);
        if let Some(running) = running.filter(|_| !self.is_given) {
            running.turn = running.turn.saturating_sub(ticks);
        }
    }

    /// Also if one that is ready can preempt on another pCPU only: who goes there is asked after a choice.
    fn preempts(&mut self, _running: VcpuId, _now: u64) -> bool {
        let may_run = |vcpu, pcpu| self.entitlements.affinity(vcpu).contains(pcpu);
        self.misplaced(may_run).is_some()
    }

    fn push(&mut self, _now: u64, allowed: Allowed<'_>) -> Option<(VcpuId, PcpuId)> {
        let (index, to) = self.misplaced(allowed)?;
        Some((self.remove(index).vcpu, to))
    }

    fn pull(&mut self, _now: u64) -> Option<PcpuId> {
        self.urgencies.misplaced(self.pcpu, &self.entitlements)
    }

    fn waiting(&self) -> usize {
        self.ready.len()
    }
}
