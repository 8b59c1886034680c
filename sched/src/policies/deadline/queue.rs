//! Who has budget on one pCPU, who takes turns there, and where each should rather be.

use super::Shared;
use crate::{
    Allowed, Choice, Entitlements, LocalPolicy, PcpuId, PcpuSet, Pick, Ready, Reservation, Slice,
    VcpuId,
    policies::{
        ranking::{Rank, Ranking},
        roster::Roster,
        server::{Entity, NEVER, ticks},
    },
    sync::Ordering::Relaxed,
};
use alloc::sync::Arc;
use core::ops::Range;

/// The first place in the order of turns: there are as many before it as after it.
const MIDDLE: u64 = 1 << 62;

pub(super) struct Queue {
    pcpu: PcpuId,
    slice_ticks: u64,
    ready: Roster<Entity>,
    /// Those that are ready and have budget, the one with the earliest deadline first.
    with_budget: Ranking,
    /// Those that have none, in the order in which they take turns.
    in_turn: Ranking,
    /// Those of them that get some, whoever gets it soonest first; within limits by their deadlines then.
    due: Ranking,
    /// How many are ready that have a home elsewhere.
    astray: usize,
    /// The places between the first turn and the last.
    places: Range<u64>,
    /// What [`Entitlements::changes`] said when it was looked whose reservation has changed.
    changes: u32,
    running: Option<Entity>,
    /// The one that runs does so for what is left of another's turn.
    called: Option<VcpuId>,
    /// When its slice is over.
    until: u64,
    shared: Arc<Shared>,
    entitlements: Arc<Entitlements>,
}

impl Queue {
    /// The part of `pcpu`, where nobody is yet.
    pub(super) fn new(
        pcpu: PcpuId,
        slice_ticks: u64,
        shared: &Arc<Shared>,
        entitlements: &Arc<Entitlements>,
    ) -> Self {
        Self {
            pcpu,
            slice_ticks,
            ready: Roster::with_room(entitlements.len()),
            with_budget: Ranking::with_capacity(entitlements.len()),
            in_turn: Ranking::with_capacity(entitlements.len()),
            due: Ranking::with_capacity(entitlements.len()),
            astray: 0,
            places: MIDDLE..MIDDLE,
            changes: entitlements.changes(),
            running: None,
            called: None,
            until: 0,
            shared: Arc::clone(shared),
            entitlements: Arc::clone(entitlements),
        }
    }

    fn is_home_of(&self, vcpu: VcpuId) -> bool {
        self.shared.homes.of(vcpu) == Some(self.pcpu)
    }

    fn is_astray(&self, vcpu: VcpuId) -> bool {
        let home = self.shared.homes.of(vcpu);
        home.is_some_and(|home| home != self.pcpu)
    }

    fn reservation(&self, vcpu: VcpuId) -> Option<Reservation> {
        let reservation = self.entitlements.reservation(vcpu);
        reservation.filter(|_| self.is_home_of(vcpu))
    }

    fn arrival(&self, vcpu: VcpuId, now: u64) -> Entity {
        let absent = &self.shared.absent[vcpu.index()];
        let mut entity = Entity {
            vcpu,
            reservation: self.reservation(vcpu),
            left: absent.left.load(Relaxed) as i64,
            deadline: absent.deadline.load(Relaxed),
            turn: 0,
            place: 0,
            is_astray: self.is_astray(vcpu),
        };
        entity.restart(now);
        entity
    }

    /// Notes how far `entity` is, which goes away.
    fn note(&self, entity: &Entity) {
        if entity.reservation.is_some() {
            let absent = &self.shared.absent[entity.vcpu.index()];
            absent.left.store(entity.left as u64, Relaxed);
            absent.deadline.store(entity.deadline, Relaxed);
        }
    }

    /// `entity` becomes ready, with its turn after all others or, if it `is_first`, before them.
    fn join(&mut self, mut entity: Entity, is_first: bool) {
        if is_first {
            self.places.start -= 1;
            entity.place = self.places.start;
        } else {
            entity.place = self.places.end;
            self.places.end += 1;
        }
        self.insert(entity);
    }

    /// `entity` becomes ready, in its place.
    fn insert(&mut self, entity: Entity) {
        self.astray += usize::from(entity.is_astray);
        let index = self.ready.insert(entity);
        let place = entity.place;
        let rank = |value, bound| Rank {
            value,
            place,
            bound,
        };
        if entity.has_budget() {
            let is_in_turn = cfg!(mutant = "deadline_takes_turns");
            let first = if is_in_turn { place } else { entity.deadline };
            self.with_budget.insert(index, rank(first, 0));
        } else {
            self.in_turn.insert(index, rank(place, 0));
        }
        if let Some((due, next)) = entity.next_budget() {
            self.due.insert(index, rank(due, next));
        }
        self.publish();
    }

    /// The one at `index` is not ready any more.
    fn remove(&mut self, index: usize) -> Entity {
        let entity = self.ready.remove(index);
        self.astray -= usize::from(entity.is_astray);
        if entity.has_budget() {
            self.with_budget.remove(index);
        } else {
            self.in_turn.remove(index);
        }
        if entity.next_budget().is_some() {
            self.due.remove(index);
        }
        self.publish();
        entity
    }

    /// It goes away.
    fn give_away(&mut self, index: usize) -> VcpuId {
        let entity = self.remove(index);
        self.note(&entity);
        entity.vcpu
    }

    /// Those whose reservation or home has changed have the new one, and those for which that is due have budget.
    fn refresh(&mut self, now: u64) {
        let changes = self.entitlements.changes();
        if core::mem::replace(&mut self.changes, changes) != changes {
            for index in 0..self.ready.slots() {
                // It gets the slot that it had.
                if self
                    .ready
                    .taken(index)
                    .is_some_and(|entity| self.is_stale(entity))
                {
                    self.renew(index, now);
                }
            }
        }
        while let Some(index) = self.due.first()
            && let Some((due, _)) = self.ready.get(index).next_budget()
            && due <= now
        {
            self.renew(index, now);
        }
    }

    fn is_stale(&self, entity: &Entity) -> bool {
        let is_astray = self.is_astray(entity.vcpu);
        entity.reservation != self.reservation(entity.vcpu) || entity.is_astray != is_astray
    }

    /// A ready one that is wanted: the first in turn of those without budget, or the first of the others.
    fn find(&self, mut is_wanted: impl FnMut(&Entity) -> bool) -> Option<usize> {
        let mut ready = self.in_turn.iter().chain(self.with_budget.iter());
        ready.find(|&index| is_wanted(self.ready.get(index)))
    }

    /// The ready one at `index` is as it should be now.
    fn renew(&mut self, index: usize, now: u64) {
        let mut entity = self.remove(index);
        entity.renew(self.reservation(entity.vcpu), now);
        entity.is_astray = self.is_astray(entity.vcpu);
        self.insert(entity);
    }

    /// When one that waits for budget gets some and comes before `entity`, which may be the same one.
    fn next_change(&self, entity: &Entity) -> u64 {
        let rank = entity.rank();
        let next = match rank {
            NEVER => self.due.first(),
            rank => self.due.first_within(rank - 1),
        };
        let next = next.and_then(|index| self.ready.get(index).next_budget());
        let own = entity.next_budget().filter(|&(_, next)| next < rank);
        let changes = next.into_iter().chain(own).map(|(due, _)| due);
        changes.min().unwrap_or(NEVER)
    }

    /// When `entity`, which runs from `now` on, must stop if others are ready.
    fn end(&self, entity: &Entity, now: u64) -> u64 {
        let count = if entity.has_budget() {
            entity.left as u64
        } else {
            entity.turn
        };
        now.saturating_add(count).min(self.next_change(entity))
    }

    fn run(&mut self, entity: Entity, now: u64) -> Slice {
        let has_turns = entity.has_budget() || !self.ready.is_empty();
        self.until = if has_turns {
            self.end(&entity, now)
        } else {
            self.next_change(&entity)
        };
        self.running = Some(entity);
        self.publish();
        let slice = match self.until {
            NEVER => Slice::UNLIMITED,
            until => Slice::of(until.saturating_sub(now)),
        };
        Slice {
            is_strict: entity.reservation.is_some(),
            ..slice
        }
    }

    fn crowd(&self) -> u32 {
        self.ready.len() as u32 + u32::from(self.running.is_some())
    }

    fn publish(&self) {
        let crowd = self.running.map_or(0, |_| self.crowd());
        if self.shared.crowd(self.pcpu) != crowd {
            self.shared.crowds[self.pcpu.index()].store(crowd, Relaxed);
        }
    }

    /// The busy pCPUs where one more would have more left than those here have.
    fn roomier(&self) -> PcpuSet {
        let here = self.shared.rest(self.pcpu, self.crowd());
        let mut roomier = PcpuSet::EMPTY;
        let pcpus = self.shared.pcpus.load(Relaxed);
        pcpus
            .iter()
            .filter(|&pcpu| self.shared.crowd(pcpu) > 0)
            .filter(|&pcpu| self.shared.rest_for_one_more(pcpu) > here)
            .for_each(|pcpu| roomier.insert(pcpu));
        roomier
    }

    /// Where `vcpu`, which is ready here, should rather be: at home, or in the best of the `roomier` places.
    fn better_place(&self, vcpu: VcpuId, roomier: PcpuSet, allowed: Allowed<'_>) -> Option<PcpuId> {
        match self.shared.homes.of(vcpu) {
            Some(home) if home == self.pcpu => None,
            Some(home) if allowed(vcpu, home) => Some(home),
            _ => {
                let possible = roomier.iter().filter(|&pcpu| allowed(vcpu, pcpu));
                possible.max_by_key(|&pcpu| self.shared.rest_for_one_more(pcpu))
            }
        }
    }
}

impl LocalPolicy for Queue {
    fn enqueue(&mut self, vcpu: VcpuId, why: Ready, now: u64) {
        let ran = self.running.take_if(|running| running.vcpu == vcpu);
        let has_run_for_another = ran.is_some() && self.called == Some(vcpu);
        self.called = self.called.filter(|&called| called != vcpu);
        let mut entity = ran.unwrap_or_else(|| self.arrival(vcpu, now));
        entity.renew(self.reservation(vcpu), now);
        if has_run_for_another && !cfg!(mutant = "lose_place_when_called") {
            self.insert(entity);
        } else if why == Ready::Yielded || entity.turn == 0 {
            entity.turn = self.slice_ticks;
            self.join(entity, false);
        } else {
            self.join(entity, true);
        }
    }

    fn pick(&mut self, now: u64) -> Choice {
        self.refresh(now);
        let best = self.with_budget.first().or_else(|| self.in_turn.first());
        let Some(index) = best else {
            return Choice::Idle(None);
        };
        let entity = self.remove(index);
        self.called = None;
        Choice::Run(Pick {
            vcpu: entity.vcpu,
            slice: self.run(entity, now),
        })
    }

    /// What is left of a turn can be given away, budget cannot: it would be used before an earlier deadline.
    fn take(&mut self, vcpu: VcpuId, now: u64) -> Option<Slice> {
        let index = self.ready.slot(vcpu)?;
        let until = self.until;
        let next_change = self.next_change(self.ready.get(index));
        if !self.with_budget.is_empty() || until == NEVER || next_change < until {
            return None;
        }
        let entity = self.remove(index);
        self.called = Some(vcpu);
        let slice = self.run(entity, now);
        self.until = until;
        Some(slice)
    }

    fn withdraw(&mut self, vcpu: VcpuId, _now: u64) {
        if let Some(index) = self.ready.slot(vcpu) {
            self.give_away(index);
        }
    }

    fn leave(&mut self, vcpu: VcpuId, _now: u64) {
        if let Some(running) = self.running.take_if(|running| running.vcpu == vcpu) {
            self.note(&running);
            self.until = NEVER;
            self.publish();
        }
    }

    fn surrender(&mut self, allowed: &mut dyn FnMut(VcpuId) -> bool) -> Option<VcpuId> {
        let index = self.find(|entity| !self.is_home_of(entity.vcpu) && allowed(entity.vcpu))?;
        Some(self.give_away(index))
    }

    fn charge(&mut self, vcpu: VcpuId, count: u64, _now: u64) {
        let running = self.running.as_mut().filter(|entity| entity.vcpu == vcpu);
        let Some(running) = running else { return };
        if running.has_budget() {
            if !cfg!(mutant = "deadline_forgets_budget") {
                running.left = running.left.saturating_sub(ticks(count));
            }
            if running.left <= 0 {
                running.turn = 0;
            }
        } else if self.called != Some(vcpu) {
            running.turn = running.turn.saturating_sub(count);
        }
    }

    fn preempts(&mut self, _running: VcpuId, now: u64) -> bool {
        self.running.is_some_and(|running| {
            let first = self.with_budget.first().map(|index| self.ready.get(index));
            first.is_some_and(|first| first.rank() < running.rank())
                || self.end(&running, now) < self.until
        })
    }

    fn push(&mut self, _now: u64, allowed: Allowed<'_>) -> Option<(VcpuId, PcpuId)> {
        let roomier = self.roomier();
        if self.astray == 0 && roomier.is_empty() {
            return None;
        }
        let (index, to) = self.in_turn.iter().find_map(|index| {
            let vcpu = self.ready.get(index).vcpu;
            Some((index, self.better_place(vcpu, roomier, allowed)?))
        })?;
        Some((self.give_away(index), to))
    }

    fn waiting(&self) -> usize {
        self.ready.len()
    }
}
