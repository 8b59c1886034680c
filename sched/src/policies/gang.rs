//! Gang: the vCPUs of a VM run at the same time, so none spins for a lock that a preempted sibling holds.
//!
//! ```text
//!            slot 0      slot 1      slot 2      slot 3          slots of `slice_ticks`, aligned over the pool
//!   pcpu0 | VM 0       | VM 1      | VM 2      | VM 0      |
//!   pcpu1 | VM 0       | VM 1      |   idle    | VM 0      |
//! ```
//! A gang has at most one vCPU on each pCPU; a VM with more vCPUs has several. Whoever comes first into a slot decides whose
//! it is with one compare-exchange: the next gang in turn that has somebody ready. All follow, and where that gang has nobody
//! the pCPU idles. [Ousterhout: Scheduling Techniques for Concurrent Systems, 1982: coscheduling]
//!
//! A gang that has nobody ready when its turn comes is passed over. If its last one blocks within its slot, a pCPU may run a
//! vCPU of its own that is the only one ready of its gang, until one of the slot's gang is ready here again; one that idles
//! looks for that a few times in a slot. A whole other gang could be told only by messages: it waits for the next slot, as
//! does the second one of a gang that becomes ready meanwhile.

use super::{
    fifo::{Fifo, Member},
    turn::Turn,
};
use crate::{
    Allowed, Bounds, Choice, Entitlement, Entitlements, GroupId, LocalPolicy, PcpuId, PcpuSet,
    Pick, Policy, Ready, Refusal, Slice, VcpuId,
    pcpu_set::AtomicPcpuSet,
    sync::{AtomicU32, Ordering::Relaxed},
};
use alloc::{boxed::Box, format, sync::Arc};

/// How often in a slot an idle pCPU looks whether its gang has given it up.
const LOOKS: u64 = 8;

/// VMs take turns, each with all its vCPUs.
pub struct Gang {
    slice_ticks: u64,
    pcpus: PcpuSet,
    shared: Arc<Shared>,
}

/// What the pCPUs have in common.
struct Shared {
    turn: Turn,
    /// As many as there can be vCPUs.
    gangs: Box<[Team]>,
    /// By vCPU number: its gang in bits 31:16, its home in bits 15:0.
    places: Box<[AtomicU32]>,
}

const NOWHERE: u32 = u32::MAX;

/// One gang.
#[derive(Default)]
struct Team {
    /// Whose vCPUs it has, if it has any.
    group: AtomicU32,
    /// The homes of its vCPUs; empty: it is free.
    homes: AtomicPcpuSet,
    /// How many of them are ready or run.
    runnable: AtomicU32,
}

impl Team {
    fn homes(&self) -> PcpuSet {
        self.homes.load(Relaxed)
    }
}

impl Shared {
    /// The gang of `vcpu`, and its home.
    fn place(&self, vcpu: VcpuId) -> Option<(usize, PcpuId)> {
        let place = self.places.get(vcpu.index())?.load(Relaxed);
        let home = PcpuId::new(place as u16).filter(|_| place != NOWHERE)?;
        Some(((place >> 16) as usize, home))
    }

    fn runnable(&self, gang: usize) -> u32 {
        let team = self.gangs.get(gang);
        team.map_or(0, |team| team.runnable.load(Relaxed))
    }

    /// How many gangs there are, with those that still have somebody ready although they have no homes any more.
    fn gang_count(&self) -> u64 {
        let is_there = |team: &&Team| !team.homes().is_empty() || team.runnable.load(Relaxed) > 0;
        self.gangs.iter().filter(is_there).count() as u64
    }

    /// The next gang after `last` that has somebody ready.
    fn next(&self, last: usize) -> Option<usize> {
        let count = self.gangs.len();
        let in_turn = (1..=count).map(|step| (last + step) % count);
        in_turn.into_iter().find(|&gang| self.runnable(gang) > 0)
    }

    /// `vcpu` belongs to no gang, and to no pCPU.
    fn leave(&self, vcpu: VcpuId) {
        if let Some((gang, home)) = self.place(vcpu) {
            self.gangs[gang].homes.remove(home, Relaxed);
            self.places[vcpu.index()].store(NOWHERE, Relaxed);
        }
    }

    /// `vcpu` joins the first gang of `group` that has none on a pCPU of `possible`, or a new one.
    fn join(&self, vcpu: VcpuId, group: GroupId, possible: PcpuSet) -> Option<PcpuId> {
        let group = group.index() as u32;
        let is_own = |team: &Team| team.group.load(Relaxed) == group && !team.homes().is_empty();
        let place = |(gang, team): (usize, &Team)| {
            let free = possible.difference(team.homes());
            Some((gang, free.first()?))
        };
        let own = || {
            self.gangs
                .iter()
                .enumerate()
                .filter(|(_, team)| is_own(team))
        };
        let free = || {
            self.gangs
                .iter()
                .enumerate()
                .filter(|(_, team)| team.homes().is_empty())
        };
        let (gang, home) = own().find_map(place).or_else(|| free().find_map(place))?;
        self.gangs[gang].group.store(group, Relaxed);
        self.gangs[gang].homes.insert(home, Relaxed);
        let word = (gang as u32) << 16 | home.index() as u32;
        self.places[vcpu.index()].store(word, Relaxed);
        Some(home)
    }
}

impl Gang {
    /// The name by which it is chosen.
    pub const NAME: &str = "gang";

    /// For up to `max_vcpus` vCPUs on `pcpus`, in slots of `slice_ticks`.
    pub fn new(slice_ticks: u64, pcpus: PcpuSet, max_vcpus: u16) -> Self {
        let shared = Shared {
            turn: Turn::new(max_vcpus.saturating_sub(1)),
            gangs: (0..max_vcpus).map(|_| Team::default()).collect(),
            places: (0..max_vcpus).map(|_| AtomicU32::new(NOWHERE)).collect(),
        };
        Self {
            slice_ticks: slice_ticks.max(1),
            pcpus,
            shared: Arc::new(shared),
        }
    }
}

impl Policy for Gang {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn room(&self) -> usize {
        self.shared.places.len()
    }

    /// In a round of all gangs that there are, one of each gang that is ready on a pCPU has a turn there. Who becomes ready within a
    /// slot waits for what is left of it too.
    fn bounds(&self, ready: usize) -> Bounds {
        let slots = self.shared.gang_count() + 1;
        let round = self.slice_ticks.saturating_mul(slots);
        Bounds {
            work_conserving: false,
            longest_wait: Some(round.saturating_mul(ready as u64)),
        }
    }

    fn admit(
        &self,
        vcpu: VcpuId,
        entitlement: &Entitlement,
        affinity: PcpuSet,
    ) -> Result<Option<PcpuId>, Refusal> {
        let shared = &self.shared;
        let possible = self.pcpus.intersection(affinity);
        if possible.is_empty() {
            return Err(Refusal::Words(format!(
                "its gang runs on pCPUs {}, and the vCPU may run on {affinity} only",
                self.pcpus
            )));
        }
        let group = entitlement.group.index() as u32;
        let stays = shared.place(vcpu).filter(|&(gang, home)| {
            possible.contains(home) && shared.gangs[gang].group.load(Relaxed) == group
        });
        if let Some((_, home)) = stays {
            return Ok(Some(home));
        }
        shared.leave(vcpu);
        Ok(shared.join(vcpu, entitlement.group, possible))
    }

    fn release(&self, vcpu: VcpuId) {
        self.shared.leave(vcpu);
    }

    /// One of the slot's gang runs at once.
    fn is_preemptive(&self) -> bool {
        true
    }

    fn renew(&self, pcpus: PcpuSet) -> Box<dyn Policy> {
        Box::new(Self::new(
            self.slice_ticks,
            pcpus,
            self.shared.places.len() as u16,
        ))
    }

    fn local(&self, pcpu: PcpuId, entitlements: &Arc<Entitlements>) -> Box<dyn LocalPolicy> {
        Box::new(Queue {
            pcpu,
            slice_ticks: self.slice_ticks,
            ready: Fifo::with_capacity(entitlements.len()),
            running: None,
            shared: Arc::clone(&self.shared),
        })
    }
}

/// A vCPU that is ready or runs here, counted as runnable in its gang.
#[derive(Clone, Copy)]
struct Present {
    vcpu: VcpuId,
    gang: usize,
}

impl Member for Present {
    fn vcpu(&self) -> VcpuId {
        self.vcpu
    }
}

/// First in, first out, as far as the slot lets them.
struct Queue {
    pcpu: PcpuId,
    slice_ticks: u64,
    ready: Fifo<Present>,
    running: Option<Present>,
    shared: Arc<Shared>,
}

impl Queue {
    fn count(&self, vcpu: VcpuId) -> Present {
        let gang = self.shared.place(vcpu).map_or(0, |(gang, _)| gang);
        self.shared.gangs[gang].runnable.fetch_add(1, Relaxed);
        Present { vcpu, gang }
    }

    fn uncount(&self, present: Present) {
        let team = &self.shared.gangs[present.gang];
        team.runnable.fetch_sub(1, Relaxed);
    }

    /// The gang whose slot it is.
    fn gang_at(&self, now: u64) -> Option<usize> {
        let slot = now / self.slice_ticks;
        self.shared.turn.of(slot, |last| self.shared.next(last))
    }

    /// How long the slot still lasts.
    fn rest_of_slot(&self, now: u64) -> u64 {
        self.slice_ticks - now % self.slice_ticks
    }

    /// `present` may run now, at the latest until the slot ends.
    fn may_run(&self, present: Present, gang: usize) -> bool {
        let is_given_up = || self.shared.runnable(gang) == 0;
        present.gang == gang || is_given_up() && self.shared.runnable(present.gang) == 1
    }

    /// For how long the pCPU idles: until the slot ends, or may have been given up, if that would let one run here.
    fn pause(&self, now: u64) -> u64 {
        let is_alone = |present: &Present| self.shared.runnable(present.gang) == 1;
        let rest = self.rest_of_slot(now);
        if self.ready.iter().any(is_alone) {
            rest.min((self.slice_ticks / LOOKS).max(1))
        } else {
            rest
        }
    }

    fn run(&mut self, present: Present, now: u64) -> Pick {
        self.running = Some(present);
        Pick {
            vcpu: present.vcpu,
            slice: Slice::strictly(self.rest_of_slot(now)),
        }
    }

    fn take_out(&mut self, index: usize) -> Option<VcpuId> {
        let present = self.ready.remove(index)?;
        self.uncount(present);
        Some(present.vcpu)
    }
}

impl LocalPolicy for Queue {
    fn enqueue(&mut self, vcpu: VcpuId, why: Ready, _now: u64) {
        // Counted again before it is uncounted: its gang has it all the time.
        let present = self.count(vcpu);
        if let Some(ran) = self.running.take_if(|running| running.vcpu == vcpu) {
            self.uncount(ran);
        }
        self.ready.join(present, why);
    }

    fn pick(&mut self, now: u64) -> Choice {
        if self.ready.is_empty() {
            return Choice::Idle(None);
        }
        let index = self.gang_at(now).and_then(|gang| {
            let mut ready = self.ready.iter();
            ready.position(|&present| self.may_run(present, gang))
        });
        match index.and_then(|index| self.ready.remove(index)) {
            Some(present) => Choice::Run(self.run(present, now)),
            None => Choice::Idle(Some(now.saturating_add(self.pause(now)))),
        }
    }

    fn take(&mut self, vcpu: VcpuId, now: u64) -> Option<Slice> {
        let index = self.ready.position(vcpu)?;
        let gang = self.gang_at(now)?;
        if !self.may_run(*self.ready.get(index)?, gang) {
            return None;
        }
        let present = self.ready.call(index)?;
        Some(self.run(present, now).slice)
    }

    fn withdraw(&mut self, vcpu: VcpuId, _now: u64) {
        if let Some(index) = self.ready.position(vcpu) {
            self.take_out(index);
        }
    }

    fn leave(&mut self, vcpu: VcpuId, _now: u64) {
        if let Some(ran) = self.running.take_if(|running| running.vcpu == vcpu) {
            self.uncount(ran);
        }
    }

    /// An idle pCPU is idle on purpose.
    fn surrender(&mut self, _allowed: &mut dyn FnMut(VcpuId) -> bool) -> Option<VcpuId> {
        None
    }

    fn charge(&mut self, _vcpu: VcpuId, _ticks: u64, _now: u64) {}

    fn preempts(&mut self, _running: VcpuId, now: u64) -> bool {
        let (Some(running), Some(gang)) = (self.running, self.gang_at(now)) else {
            return false;
        };
        let mut ready = self.ready.iter();
        running.gang != gang && ready.any(|present| present.gang == gang)
    }

    /// One that an operator or a drained pCPU has sent here goes home.
    fn push(&mut self, _now: u64, allowed: Allowed<'_>) -> Option<(VcpuId, PcpuId)> {
        let place = |(index, present): (usize, &Present)| {
            let home = self.shared.place(present.vcpu).map(|(_, home)| home);
            let home = home.filter(|&home| home != self.pcpu && allowed(present.vcpu, home))?;
            Some((index, home))
        };
        let (index, home) = self.ready.iter().enumerate().find_map(place)?;
        Some((self.take_out(index)?, home))
    }

    fn waiting(&self) -> usize {
        self.ready.len()
    }
}
