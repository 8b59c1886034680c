//! Gang: the vCPUs of a VM run at the same time, so none spins for a lock that a preempted sibling holds.
//!
//! ```text
//!            slot 0      slot 1      slot 2      slot 3          slots of `slice_ticks`, aligned over the pool
//!   pcpu0 | VM 0       | VM 1      | VM 2      | VM 0      |
//!   pcpu1 | VM 0       | VM 1      |   idle    | VM 0      |
//!   pcpu2 | VM 0       | VM 3      |   idle    | VM 0      |
//!           row 0        row 1       row 2       row 0
//! ```
//! A gang has at most one vCPU on each pCPU; a VM with more vCPUs has several. Gangs whose vCPUs are at home on different pCPUs share a
//! row, if there is room when they come. Whoever comes first into a slot decides with one compare-exchange which row has it: the next
//! one in turn that has somebody ready. All follow, and where that row has nobody the pCPU runs a gang of one, or idles.
//! [Ousterhout: Scheduling Techniques for Concurrent Systems, 1982: the matrix of coscheduling]
//!
//! A row that has nobody ready when its turn comes is passed over. If its last one blocks within its slot, a pCPU may run a
//! vCPU of its own that is the only one ready of its gang, until one of the slot's row is ready here again; one that idles
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
    /// As many again: each gang is in one.
    rows: Box<[Row]>,
    /// How many rows have had a gang. Those that are gone count: somebody may have waited for their slots.
    most_rows: AtomicU32,
    /// By pCPU number: how many vCPUs are at home there.
    crowds: Box<[AtomicU32]>,
    /// By vCPU number: its gang in bits 31:16, its home in bits 15:0.
    places: Box<[AtomicU32]>,
}

const NOWHERE: u32 = u32::MAX;

/// One gang: those of a VM that run together.
#[derive(Default)]
struct Team {
    /// Whose vCPUs it has, if it has any.
    group: AtomicU32,
    /// The homes of its vCPUs; empty: it is free.
    homes: AtomicPcpuSet,
    /// How many of them are ready or run.
    runnable: AtomicU32,
    /// In which row it is.
    row: AtomicU32,
}

/// Gangs that run in the same slots.
#[derive(Default)]
struct Row {
    /// The homes of all their vCPUs.
    homes: AtomicPcpuSet,
    /// How many are ready or run that became so when their gang was in it.
    runnable: AtomicU32,
}

impl Team {
    fn homes(&self) -> PcpuSet {
        self.homes.load(Relaxed)
    }

    fn row(&self) -> usize {
        self.row.load(Relaxed) as usize
    }
}

impl Row {
    fn homes(&self) -> PcpuSet {
        self.homes.load(Relaxed)
    }

    fn runnable(&self) -> u32 {
        self.runnable.load(Relaxed)
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

    /// The next row after `last` that has somebody ready.
    fn next(&self, last: usize) -> Option<usize> {
        let count = self.rows.len();
        let in_turn = (1..=count).map(|step| (last + step) % count);
        in_turn
            .into_iter()
            .find(|&row| self.rows[row].runnable() > 0)
    }

    /// `vcpu` belongs to no gang, and to no pCPU.
    fn leave(&self, vcpu: VcpuId) {
        if let Some((gang, home)) = self.place(vcpu) {
            let team = &self.gangs[gang];
            team.homes.remove(home, Relaxed);
            self.rows[team.row()].homes.remove(home, Relaxed);
            self.crowds[home.index()].fetch_sub(1, Relaxed);
            self.places[vcpu.index()].store(NOWHERE, Relaxed);
        }
    }

    /// `vcpu` joins the first gang of `group` that has none on a pCPU of `possible`, one that has room in its row before others, or a
    /// new one. Nobody else joins or leaves meanwhile.
    fn join(&self, vcpu: VcpuId, group: GroupId, possible: PcpuSet) -> Option<PcpuId> {
        let group = group.index() as u32;
        let is_own = |team: &Team| team.group.load(Relaxed) == group && !team.homes().is_empty();
        let gangs = || self.gangs.iter().enumerate();
        let own = || gangs().filter(|(_, team)| is_own(team));
        let fits = own().find_map(|(gang, team)| {
            let row = team.row();
            Some((
                gang,
                row,
                self.emptiest(possible.difference(self.rows[row].homes()))?,
            ))
        });
        let moves = || {
            own().find_map(|(gang, team)| {
                let home = self.emptiest(possible.difference(team.homes()))?;
                let homes = team.homes().union(PcpuSet::only(home));
                let has_room = |row: &Row| row.homes().intersection(homes).is_empty();
                Some((gang, self.rows.iter().position(has_room)?, home))
            })
        };
        let begins = || {
            let (gang, _) = gangs().find(|(_, team)| team.homes().is_empty())?;
            let mut rows = self.rows.iter().enumerate();
            rows.find_map(|(row, other)| {
                Some((
                    gang,
                    row,
                    self.emptiest(possible.difference(other.homes()))?,
                ))
            })
        };
        let (gang, row, home) = fits.or_else(moves).or_else(begins)?;
        let team = &self.gangs[gang];
        team.group.store(group, Relaxed);
        if row != team.row() {
            self.put_into(team, row);
        }
        self.most_rows.fetch_max(row as u32 + 1, Relaxed);
        team.homes.insert(home, Relaxed);
        self.rows[row].homes.insert(home, Relaxed);
        self.crowds[home.index()].fetch_add(1, Relaxed);
        let word = (gang as u32) << 16 | home.index() as u32;
        self.places[vcpu.index()].store(word, Relaxed);
        Some(home)
    }

    /// `team` is in `row`, another one, from now on. Those of it that are ready count in the row in which they became so.
    fn put_into(&self, team: &Team, row: usize) {
        let before = team.row.swap(row as u32, Relaxed) as usize;
        for home in team.homes().iter() {
            self.rows[row].homes.insert(home, Relaxed);
            self.rows[before].homes.remove(home, Relaxed);
        }
    }

    /// Where of `pcpus` the fewest are at home.
    fn emptiest(&self, pcpus: PcpuSet) -> Option<PcpuId> {
        let crowd = |pcpu: &PcpuId| self.crowds[pcpu.index()].load(Relaxed);
        pcpus.iter().min_by_key(crowd)
    }
}

impl Gang {
    /// The name by which it is chosen.
    pub const NAME: &str = "gang";

    /// For up to `max_vcpus` vCPUs on `pcpus`, in slots of `slice_ticks`.
    pub fn new(slice_ticks: u64, pcpus: PcpuSet, max_vcpus: u16) -> Self {
        let last = pcpus.iter().last().map_or(0, PcpuId::index);
        let shared = Shared {
            turn: Turn::new(max_vcpus.saturating_sub(1)),
            gangs: (0..max_vcpus).map(|_| Team::default()).collect(),
            rows: (0..max_vcpus).map(|_| Row::default()).collect(),
            most_rows: AtomicU32::new(0),
            crowds: (0..=last).map(|_| AtomicU32::new(0)).collect(),
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

    /// In a round of all rows that there have been, one of each row that is ready on a pCPU has a turn there. Who becomes ready within a
    /// slot waits for what is left of it too.
    fn bounds(&self, ready: usize) -> Bounds {
        let slots = u64::from(self.shared.most_rows.load(Relaxed)) + 1;
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

/// A vCPU that is ready or runs here, counted as runnable in its gang and its row.
#[derive(Clone, Copy)]
struct Present {
    vcpu: VcpuId,
    gang: usize,
    row: usize,
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
        let team = &self.shared.gangs[gang];
        let row = team.row();
        team.runnable.fetch_add(1, Relaxed);
        self.shared.rows[row].runnable.fetch_add(1, Relaxed);
        Present { vcpu, gang, row }
    }

    fn uncount(&self, present: Present) {
        let Present { gang, row, .. } = present;
        self.shared.rows[row].runnable.fetch_sub(1, Relaxed);
        self.shared.gangs[gang].runnable.fetch_sub(1, Relaxed);
    }

    /// The row that has the slot.
    fn row_at(&self, now: u64) -> Option<usize> {
        let slot = now / self.slice_ticks;
        self.shared.turn.of(slot, |last| self.shared.next(last))
    }

    /// How long the slot still lasts.
    fn rest_of_slot(&self, now: u64) -> u64 {
        self.slice_ticks - now % self.slice_ticks
    }

    /// `present` may run now, in the slot of `row`, at the latest until it ends.
    fn may_run(&self, present: Present, row: usize) -> bool {
        let is_free = || {
            let (team, row) = (&self.shared.gangs[present.gang], &self.shared.rows[row]);
            let is_given_up = row.runnable() == 0 && self.shared.runnable(present.gang) == 1;
            is_given_up || team.homes().len() == 1 && !row.homes().contains(self.pcpu)
        };
        present.row == row || is_free()
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
        let index = self.row_at(now).and_then(|row| {
            let mut ready = self.ready.iter();
            let own = ready.position(|present| present.row == row);
            let mut ready = self.ready.iter();
            own.or_else(|| ready.position(|&present| self.may_run(present, row)))
        });
        match index.and_then(|index| self.ready.remove(index)) {
            Some(present) => Choice::Run(self.run(present, now)),
            None => Choice::Idle(Some(now.saturating_add(self.pause(now)))),
        }
    }

    fn take(&mut self, vcpu: VcpuId, now: u64) -> Option<Slice> {
        let index = self.ready.position(vcpu)?;
        let row = self.row_at(now)?;
        if !self.may_run(*self.ready.get(index)?, row) {
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
        let (Some(running), Some(row)) = (self.running, self.row_at(now)) else {
            return false;
        };
        let mut ready = self.ready.iter();
        running.row != row && ready.any(|present| present.row == row)
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
