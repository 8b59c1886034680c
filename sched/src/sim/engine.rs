//! What happens next in the simulated machine, and who does it.
//!
//! ```text
//!   agenda --> first --> time passes --> that pCPU: interrupts, end of an instruction, schedule, enter --> what it touched is checked
//!     ^                                      '--> kicks, timers, signals of others
//!     '----------- when each has something to do next <-----------'
//! ```
//! An event costs what it touches, whatever the size of the machine; everything is looked at every so many events.

use super::{
    Action, Outside, Stretch,
    agenda::NEVER,
    caps::Caps,
    guest::{Guest, Handle, Program, Shared},
    hardware::Rates,
    histogram::Histogram,
    journal::Journal,
    ledger::Ledger,
    pcpu::Station,
    workload,
    world::{Unrest, World, set_intruder, set_restless},
};
use crate::{Entitlement, PcpuId, PcpuSet, Policy, PoolId, Scheduler, SchedulerConfig, VcpuId};
use alloc::{
    boxed::Box,
    collections::{BTreeSet, VecDeque},
    rc::Rc,
    string::String,
    sync::Arc,
    vec::Vec,
};
use core::{
    cell::{Cell, RefCell},
    ops::Range,
};

/// Others act at one in so many calls of the scheduler to its host.
const INTRUSION: u64 = 12;
/// How deep actions may interrupt each other.
const INTRUSION_DEPTH: u32 = 3;
/// So many events without time passing mean that the machine is stuck.
const EVENTS_PER_TICK: u64 = 100_000;
/// So many vCPUs that an event touches are noted; after one that touches more, everything is checked.
const TOUCHED: usize = 64;

/// A machine to be built.
pub(super) struct Plan {
    pub(super) name: String,
    pub(super) pcpus: u16,
    /// What the first pool is called, and its policy.
    pub(super) first_pool: String,
    pub(super) policy: Box<dyn Policy>,
    /// The other pools.
    pub(super) more_pools: Vec<(String, PcpuSet, Box<dyn Policy>)>,
    /// How long vCPUs take turns if the policy fails, in ticks.
    pub(super) fallback_slice: u64,
    pub(super) guests: Vec<GuestPlan>,
    /// The vCPUs of each VM.
    pub(super) vms: Vec<Range<u16>>,
    pub(super) rates: Rates,
    /// How long a kick takes, and by how much longer chance may make it.
    pub(super) kick: (u64, u64),
    /// Chance decides, as this number says.
    pub(super) seed: Option<u64>,
    pub(super) unrest: Unrest,
    /// Everything is checked every so many events, and before that what each event touches.
    pub(super) check_every: u64,
    /// The policy may break its promise.
    pub(super) may_fail: bool,
    pub(super) records_stretches: bool,
}

/// A vCPU to be created.
pub(super) struct GuestPlan {
    pub(super) program: Program,
    /// The number of its pool in the plan.
    pub(super) pool: usize,
    pub(super) affinity: PcpuSet,
    /// Where it runs rather than elsewhere; empty: it has no preference.
    pub(super) preferred: PcpuSet,
    pub(super) entitlement: Entitlement,
}

/// What is noted about a vCPU.
pub(super) struct Seat {
    vm: usize,
    pub(super) bound_on: Cell<Option<PcpuId>>,
    /// Of how many siblings it awaits answers.
    pub(super) awaited: Cell<u32>,
    /// Who awaits its answer.
    pub(super) callers: RefCell<Vec<VcpuId>>,
    /// When somebody outside has changed something about it last.
    pub(super) changed_at: Cell<u64>,
}

/// What is measured about a VM.
pub(super) struct Meter {
    pub(super) wakeup: RefCell<Histogram>,
    pub(super) worst_wait: Cell<u64>,
    pub(super) yields: Cell<u64>,
    /// How often one of its vCPUs came to a pCPU that does not share a cache with its last one.
    pub(super) far: Cell<u64>,
}

struct Vm {
    shared: workload::Shared,
    meter: Meter,
}

pub(super) struct Engine {
    pub(super) world: Arc<World>,
    pub(super) scheduler: Arc<Scheduler<Guest>>,
    pub(super) handles: Vec<Handle>,
    seats: Vec<Seat>,
    vms: Vec<Vm>,
    pub(super) stations: Vec<Station>,
    /// Those that idle although they promise not to while somebody waits.
    pub(super) idlers: RefCell<PcpuSet>,
    /// Those that poll.
    pub(super) pollers: RefCell<BTreeSet<PcpuId>>,
    /// When somebody outside has changed the rules for all last.
    pub(super) regime_at: Cell<u64>,
    pub(super) rates: Rates,
    /// What comes from outside, the next one first.
    outside: RefCell<VecDeque<(u64, Outside)>>,
    pub(super) stretches: RefCell<Vec<Stretch>>,
    pub(super) records_stretches: bool,
    depth: Cell<u32>,
    pub(super) unrest: Cell<Unrest>,
    /// Somebody is in the middle of changing the policy.
    pub(super) is_changing: Cell<bool>,
    pub(super) may_fail: bool,
    pub(super) check_every: u64,
    pub(super) unchecked: Cell<u64>,
    /// The vCPUs that this event has touched.
    pub(super) touched: RefCell<Vec<VcpuId>>,
    events: Cell<u64>,
    /// What comes in the middle of somebody's next step.
    pub(super) pending: RefCell<Option<Action>>,
    pub(super) journal: Journal,
    pub(super) ledger: Ledger,
    pub(super) caps: Caps,
    name: String,
}

impl Engine {
    /// A machine whose pCPUs idle, and whose vCPUs are off.
    pub(super) fn new(plan: Plan) -> Rc<Self> {
        let Plan {
            pcpus: count,
            kick,
            seed,
            ..
        } = plan;
        let world = Arc::new(World::new(count, plan.rates.cluster, seed, kick));
        let (pcpus, max_vcpus) = (PcpuSet::all(count), plan.guests.len() as u16);
        let scheduler = Scheduler::new(SchedulerConfig {
            name: plan.first_pool,
            pcpus,
            max_vcpus,
            policy: plan.policy,
            fallback_slice: plan.fallback_slice,
            host: world.clone(),
        })
        .unwrap_or_else(|error| panic!("{error}"));
        let mut pool_ids = alloc::vec![PoolId::FIRST];
        for (name, pcpus, policy) in plan.more_pools {
            let created = scheduler.create_pool(&name, pcpus, policy);
            pool_ids.push(created.unwrap_or_else(|error| panic!("pool `{name}`: {error}")));
        }
        let create = |guest: GuestPlan| {
            let GuestPlan {
                program,
                pool: number,
                affinity,
                preferred,
                entitlement,
            } = guest;
            let make = |handle| Guest::new(handle, program);
            let handle = scheduler
                .create_vcpu_in(
                    pool_ids[number],
                    affinity,
                    &entitlement,
                    make,
                    Shared::new(),
                )
                .unwrap_or_else(|error| panic!("{error}"));
            let preferred = handle.set_soft_affinity(preferred);
            preferred.unwrap_or_else(|error| panic!("{error}"));
            handle
        };
        let handles: Vec<Handle> = plan.guests.into_iter().map(create).collect();
        let station = |id| Station::new(id, scheduler.local(id).expect("each pCPU once"));
        let seats = plan.vms.iter().enumerate().flat_map(|(vm, vcpus)| {
            let callers = vcpus.len();
            vcpus.clone().map(move |_| Seat::new(vm, callers))
        });
        let engine = Rc::new(Self {
            stations: pcpus.iter().map(station).collect(),
            idlers: RefCell::default(),
            pollers: RefCell::default(),
            regime_at: Cell::new(0),
            seats: seats.collect(),
            vms: plan.vms.into_iter().map(Vm::new).collect(),
            world,
            scheduler,
            handles,
            rates: plan.rates,
            outside: RefCell::default(),
            stretches: RefCell::default(),
            records_stretches: plan.records_stretches,
            depth: Cell::new(0),
            unrest: Cell::new(Unrest::None),
            is_changing: Cell::new(false),
            may_fail: plan.may_fail,
            check_every: plan.check_every,
            unchecked: Cell::new(0),
            touched: RefCell::new(Vec::with_capacity(TOUCHED)),
            events: Cell::new(0),
            pending: RefCell::default(),
            journal: Journal::default(),
            ledger: Ledger::default(),
            caps: Caps::default(),
            name: plan.name,
        });
        // Idle pCPUs first, so that guests spread as they are turned on.
        pcpus.iter().for_each(|pcpu| engine.execute(pcpu));
        engine.set_unrest(plan.unrest);
        engine
    }

    pub(super) fn world(&self) -> &World {
        &self.world
    }

    pub(super) fn scheduler(&self) -> &Arc<Scheduler<Guest>> {
        &self.scheduler
    }

    pub(super) fn now(&self) -> u64 {
        self.world.time()
    }

    pub(super) fn vcpu_count(&self) -> usize {
        self.handles.len()
    }

    pub(super) fn handle(&self, vcpu: VcpuId) -> &Handle {
        &self.handles[vcpu.index()]
    }

    pub(super) fn station(&self, pcpu: PcpuId) -> &Station {
        &self.stations[pcpu.index()]
    }

    pub(super) fn seat(&self, vcpu: VcpuId) -> &Seat {
        &self.seats[vcpu.index()]
    }

    /// What the VM of `vcpu` shares.
    pub(super) fn shared(&self, vcpu: VcpuId) -> &workload::Shared {
        &self.vms[self.seat(vcpu).vm].shared
    }

    /// What is measured about the VM of `vcpu`.
    pub(super) fn meter(&self, vcpu: VcpuId) -> &Meter {
        &self.vms[self.seat(vcpu).vm].meter
    }

    /// What the VMs share, and what is measured about them, by number.
    pub(super) fn vms(&self) -> impl Iterator<Item = (&workload::Shared, &Meter)> {
        self.vms.iter().map(|vm| (&vm.shared, &vm.meter))
    }

    /// The vCPUs of a VM, by its number.
    pub(super) fn vcpus_of(&self, vm: usize) -> Range<u16> {
        self.vms[vm].shared.vcpus.clone()
    }

    /// Picks, wakes, blocks and migrations so far.
    pub(super) fn events(&self) -> u64 {
        self.events.get()
    }

    pub(super) fn count_event(&self) {
        self.events.set(self.events.get() + 1);
    }

    /// The event that goes on has changed something about `vcpu`.
    pub(super) fn touch(&self, vcpu: VcpuId) {
        let mut touched = self.touched.borrow_mut();
        if touched.last() == Some(&vcpu) {
            return;
        }
        if touched.len() < TOUCHED {
            touched.push(vcpu);
        } else {
            self.unchecked.set(self.check_every);
        }
    }

    pub(super) fn set_unrest(&self, unrest: Unrest) {
        self.unrest.set(unrest);
        self.world.set_unrest(unrest != Unrest::None);
        set_restless(self.world.is_restless());
    }

    /// How a broken rule says which machine broke it.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn act(self: &Rc<Self>, action: Outside) {
        set_intruder(Rc::downgrade(self));
        set_restless(self.world.is_restless());
        self.perform(action);
        self.check();
    }

    /// `action` comes at `time`, after all that come at the same time already.
    pub(super) fn plan(&self, time: u64, action: Outside) {
        let mut outside = self.outside.borrow_mut();
        let index = outside.partition_point(|&(other, _)| other <= time);
        outside.insert(index, (time, action));
        self.world.schedule_outside(outside[0].0);
    }

    /// What comes from outside now.
    fn perform_next(&self) {
        let mut outside = self.outside.borrow_mut();
        let next = outside.pop_front();
        let following = outside.front().map_or(NEVER, |&(time, _)| time);
        drop(outside);
        self.world.schedule_outside(following);
        if let Some((_, action)) = next {
            self.perform(action);
        }
    }

    pub(super) fn run_until(self: &Rc<Self>, end: u64) {
        set_intruder(Rc::downgrade(self));
        set_restless(self.world.is_restless());
        let mut events = 0;
        loop {
            let (time, pcpu) = self.world.next();
            if time > end {
                self.advance(end);
                return self.check();
            }
            events = if time > self.now() { 0 } else { events + 1 };
            assert!(
                events < EVENTS_PER_TICK,
                "{} time stands still at {}",
                self.name(),
                self.now()
            );
            self.advance(time.max(self.now()));
            if self.unrest.get() == Unrest::Operator && self.world.once_in(8) {
                self.perform(self.random_action());
                self.check_event(None);
            } else {
                match pcpu {
                    Some(pcpu) => self.execute(pcpu),
                    None => self.perform_next(),
                }
                self.check_event(pcpu);
            }
        }
    }

    #[inline]
    fn advance(&self, time: u64) {
        if time > self.now() && self.check_every <= 1 {
            self.check_before_time_passes();
        }
        self.check_caps(time);
        self.world.set_time(time);
    }

    /// Somebody else acts, between two steps of whoever calls.
    pub(super) fn intrude(&self) {
        if self.depth.get() >= INTRUSION_DEPTH || !self.world.once_in(INTRUSION) {
            return;
        }
        self.depth.set(self.depth.get() + 1);
        let outer = self.world.enter(None);
        let pending = self.pending.take();
        match self.world.next() {
            _ if pending.is_some() => {
                let refused = pending.map(|action| self.try_action(&action));
                drop(refused);
            }
            (time, Some(pcpu)) if time <= self.now() => self.execute(pcpu),
            _ => match self.world.hasten_kick() {
                Some(pcpu) => self.execute(pcpu),
                None => self.perform(self.random_action()),
            },
        }
        self.world.enter(outer);
        self.depth.set(self.depth.get() - 1);
    }
}

impl Drop for Engine {
    /// A box holds its handle, which holds its slot and the inboxes, which may hold the box.
    fn drop(&mut self) {
        for handle in &self.handles {
            drop(handle.slot.pop());
        }
        for pcpu in self.scheduler.pcpus().iter() {
            while self.scheduler.cell(pcpu).inbox.pop().is_some() {}
        }
    }
}

impl Seat {
    fn new(vm: usize, callers: usize) -> Self {
        Self {
            vm,
            bound_on: Cell::new(None),
            awaited: Cell::new(0),
            callers: RefCell::new(Vec::with_capacity(callers)),
            changed_at: Cell::new(0),
        }
    }
}

impl Vm {
    fn new(vcpus: Range<u16>) -> Self {
        Self {
            shared: workload::Shared::new(vcpus),
            meter: Meter {
                wakeup: RefCell::new(Histogram::reserved()),
                worst_wait: Cell::new(0),
                yields: Cell::new(0),
                far: Cell::new(0),
            },
        }
    }
}
