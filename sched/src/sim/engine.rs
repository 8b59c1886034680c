//! What happens next in the simulated machine, and what must be true whenever something has happened.

use super::{
    Outside, Setup, Stretch,
    guest::{Guest, Handle, Instruction, Script, Shared},
    hardware::Hardware,
    world::{NEVER, World, intrude, set_intruder},
};
use crate::{
    BlockReason, Decision, LocalScheduler, PcpuId, PcpuSet, Pool, PoolConfig, Vcpu, VcpuId,
};
use alloc::{format, rc::Rc, string::String, sync::Arc, vec::Vec};
use core::{
    cell::{Cell, RefCell},
    sync::atomic::Ordering,
};

/// How long vCPUs take turns if the policy fails, in ticks.
const FALLBACK_SLICE: u64 = 10;
/// Others act at one in so many calls of the scheduler to its host.
const INTRUSION: u64 = 12;
/// How deep actions may interrupt each other.
const INTRUSION_DEPTH: u32 = 3;
/// So many events without time passing mean that the machine is stuck.
const EVENTS_PER_TICK: u64 = 100_000;

pub(super) struct Pcpu {
    pub(super) id: PcpuId,
    pub(super) sched: LocalScheduler<Guest>,
    pub(super) decision: Decision,
    /// Since when the guest executes, if it does.
    entered: u64,
}

pub(super) struct Engine {
    pub(super) world: Arc<World>,
    pub(super) pool: Arc<Pool<Guest>>,
    pub(super) handles: Vec<Handle>,
    scripts: Vec<Script>,
    /// Empty while the pCPU executes.
    pub(super) pcpus: Vec<RefCell<Option<Pcpu>>>,
    pub(super) bound: RefCell<Vec<Option<VcpuId>>>,
    /// What `bind` was told last on each pCPU.
    pub(super) exclusive: RefCell<Vec<bool>>,
    stretches: RefCell<Vec<Stretch>>,
    depth: Cell<u32>,
    has_unrest: Cell<bool>,
    /// Somebody is in the middle of changing the policy.
    pub(super) is_changing: Cell<bool>,
    name: String,
}

impl Engine {
    pub(super) fn new(setup: Setup) -> Rc<Self> {
        let Setup {
            pcpus: count,
            policy,
            scripts,
            affinities,
            entitlements,
            seed,
        } = setup;
        let world = Arc::new(World::new(count, seed));
        let (pcpus, max_vcpus) = (PcpuSet::all(count), scripts.len() as u16);
        let pool = Pool::new(PoolConfig {
            name: "first".into(),
            pcpus,
            max_vcpus,
            policy,
            fallback_slice: FALLBACK_SLICE,
            host: world.clone(),
        })
        .expect("a valid setup");
        let affinity = |index: usize| affinities.get(index).copied().unwrap_or(pcpus);
        let create = |index| {
            let entitlement = entitlements.get(index).copied().unwrap_or_default();
            pool.create_vcpu(affinity(index), &entitlement, Guest::new, Shared::new())
                .expect("a valid setup")
        };
        let handles = (0..scripts.len()).map(create).collect();
        let pcpu = |id| {
            let sched = pool.local(id).expect("each pCPU once");
            RefCell::new(Some(Pcpu {
                id,
                sched,
                decision: Decision::Idle,
                entered: 0,
            }))
        };
        let engine = Rc::new(Self {
            pcpus: pcpus.iter().map(pcpu).collect(),
            exclusive: RefCell::new(pcpus.iter().map(|_| false).collect()),
            bound: RefCell::new(pcpus.iter().map(|_| None).collect()),
            world,
            pool,
            handles,
            scripts,
            stretches: RefCell::default(),
            depth: Cell::new(0),
            has_unrest: Cell::new(false),
            is_changing: Cell::new(false),
            name: seed.map_or_else(String::new, |seed| format!("seed {seed}:")),
        });
        // Idle pCPUs first, so that guests spread as they are turned on.
        pcpus.iter().for_each(|pcpu| engine.execute(pcpu));
        engine
            .handles
            .iter()
            .for_each(|handle| engine.power_on(handle.id()));
        engine
    }

    pub(super) fn world(&self) -> &World {
        &self.world
    }

    pub(super) fn pool(&self) -> &Arc<Pool<Guest>> {
        &self.pool
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

    pub(super) fn timer_sets(&self, pcpu: PcpuId) -> u64 {
        self.world.timer_sets[pcpu.index()].load(Ordering::Relaxed)
    }

    pub(super) fn set_unrest(&self, is_on: bool) {
        self.has_unrest.set(is_on);
    }

    pub(super) fn act(self: &Rc<Self>, action: Outside) {
        set_intruder(Rc::downgrade(self));
        self.perform(action);
        self.check();
    }

    pub(super) fn run_until(self: &Rc<Self>, end: u64) {
        set_intruder(Rc::downgrade(self));
        let mut events = 0;
        loop {
            let (time, pcpu) = self.next_event();
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
            if self.has_unrest.get() && self.world.once_in(8) {
                self.perform(self.random_action());
            } else {
                self.execute(pcpu);
            }
            self.check();
        }
    }

    /// How a broken rule says which machine broke it.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The next event and its pCPU; of several at one time, chance takes one.
    fn next_event(&self) -> (u64, PcpuId) {
        let times: Vec<_> = self
            .pool
            .pcpus()
            .iter()
            .map(|pcpu| (self.event_time(pcpu), pcpu))
            .collect();
        let first = times.iter().map(|&(time, _)| time).min().unwrap_or(NEVER);
        let now = self.now();
        let due: Vec<_> = times
            .into_iter()
            .filter(|&(time, _)| time <= first.max(now))
            .collect();
        due[self.world.below(due.len() as u64) as usize]
    }

    fn event_time(&self, id: PcpuId) -> u64 {
        let mut slot = self.pcpus[id.index()].borrow_mut();
        let Some(pcpu) = slot.as_mut() else {
            return NEVER;
        };
        let is_running = pcpu.decision == Decision::Run;
        let (entered, loaded) = (pcpu.entered, pcpu.sched.loaded());
        let guest_timer = loaded
            .as_ref()
            .and_then(|guest| guest.timer())
            .unwrap_or(NEVER);
        let exit = loaded
            .filter(|_| is_running)
            .map_or(NEVER, |guest| entered + guest.left);
        self.world
            .kick_time(id)
            .min(self.world.timer(id))
            .min(guest_timer)
            .min(exit)
    }

    fn advance(&self, time: u64) {
        let ticks = time - self.now();
        if ticks > 0 {
            self.check_before_time_passes();
            for slot in &self.pcpus {
                if let Some(pcpu) = slot
                    .borrow_mut()
                    .as_mut()
                    .filter(|pcpu| pcpu.decision == Decision::Run)
                    && let Some(guest) = pcpu.sched.loaded()
                {
                    guest
                        .handle()
                        .shared()
                        .ran
                        .fetch_add(ticks, Ordering::Relaxed);
                    let vcpu = guest.handle().id();
                    self.note_stretch(Stretch {
                        start: self.now(),
                        pcpu: pcpu.id,
                        vcpu,
                        duration: ticks,
                    });
                }
            }
        }
        self.world.set_time(time);
    }

    fn note_stretch(&self, stretch: Stretch) {
        let mut stretches = self.stretches.borrow_mut();
        let last = stretches
            .iter_mut()
            .rev()
            .find(|last| last.pcpu == stretch.pcpu);
        match last {
            Some(last)
                if last.vcpu == stretch.vcpu && last.start + last.duration == stretch.start =>
            {
                last.duration += stretch.duration;
            }
            _ => stretches.push(stretch),
        }
    }

    pub(super) fn stretches(&self) -> Vec<Stretch> {
        self.stretches.borrow().clone()
    }

    /// Somebody else acts, between two steps of whoever calls.
    pub(super) fn intrude(&self) {
        if self.depth.get() >= INTRUSION_DEPTH
            || !self.has_unrest.get()
            || !self.world.once_in(INTRUSION)
        {
            return;
        }
        self.depth.set(self.depth.get() + 1);
        let outer = self.world.enter(None);
        let (time, pcpu) = self.next_event();
        if time <= self.now() && self.pcpus[pcpu.index()].borrow().is_some() {
            self.execute(pcpu);
        } else {
            self.perform(self.random_action());
        }
        self.world.enter(outer);
        self.depth.set(self.depth.get() - 1);
    }

    /// The pCPU takes its interrupts, answers its guest's exit, and schedules.
    fn execute(&self, id: PcpuId) {
        let Some(mut pcpu) = self.pcpus[id.index()].borrow_mut().take() else {
            return;
        };
        let outer = self.world.enter(Some(id));
        let now = self.now();
        let is_running = pcpu.decision == Decision::Run;
        if self.world.take_kick(id) {
            pcpu.sched.kicked();
        }
        if self.world.timer(id) <= now {
            pcpu.sched.timer_fired();
        }
        let entered = pcpu.entered;
        if let Some(guest) = pcpu.sched.loaded() {
            if is_running {
                guest.left -= (now - entered).min(guest.left);
            }
            if guest.sample_timer(now) {
                guest.handle().clone().wake();
            }
        }
        if is_running && pcpu.sched.loaded().is_some_and(|guest| guest.left == 0) {
            self.finish_instruction(&mut pcpu);
        }
        self.resume(&mut pcpu);
        self.world.enter(outer);
        *self.pcpus[id.index()].borrow_mut() = Some(pcpu);
    }

    /// The loop around [`LocalScheduler::schedule`], up to the guest or the idle wait.
    fn resume(&self, pcpu: &mut Pcpu) {
        let mut machine = Hardware {
            engine: self,
            pcpu: pcpu.id,
        };
        if pcpu.decision != Decision::Run || pcpu.sched.needs_attention() {
            pcpu.decision = pcpu.sched.schedule(&mut machine);
            if pcpu.decision != Decision::Run {
                return;
            }
        }
        let is_woken = pcpu.sched.take_wake();
        pcpu.entered = self.now();
        let guest = pcpu.sched.loaded().expect("rule: who runs is loaded");
        if is_woken {
            guest.refresh();
        }
        let id = guest.handle().id();
        if guest.left == 0 {
            guest.left = match self.scripts[id.index()].at(guest.next) {
                Instruction::Compute(ticks) => ticks.max(1),
                _ => 1,
            };
        }
        assert_eq!(
            self.bound.borrow()[pcpu.id.index()],
            Some(id),
            "{} who runs is bound",
            self.name()
        );
    }

    fn finish_instruction(&self, pcpu: &mut Pcpu) {
        let now = self.now();
        let Some(guest) = pcpu.sched.loaded() else {
            return;
        };
        let handle = guest.handle().clone();
        let instruction = self.scripts[handle.id().index()].at(guest.next);
        let here = guest.next;
        guest.next += 1;
        match instruction {
            Instruction::Compute(_) => {}
            Instruction::Wait => self.block(pcpu, BlockReason::Waiting),
            Instruction::WaitFor(ticks) => {
                guest.set_timer(Some(now + ticks));
                self.block(pcpu, BlockReason::Waiting);
            }
            Instruction::Interrupt(vcpu) => self.interrupt(vcpu),
            Instruction::Yield(to) => pcpu.sched.yield_now(to),
            Instruction::PowerOn(vcpu) => self.power_on(vcpu),
            Instruction::PowerOff => {
                guest.next = here;
                pcpu.sched
                    .block(BlockReason::Off)
                    .expect("rule: nothing keeps a vCPU on");
            }
            Instruction::Migrate(to) => drop(handle.migrate(to)),
            Instruction::Inspect(vcpu) => {
                if !self.inspect(&handle, vcpu) {
                    guest.next = here;
                    self.block(pcpu, BlockReason::Remote);
                }
            }
        }
    }

    fn block(&self, pcpu: &mut Pcpu, reason: BlockReason) {
        intrude();
        if pcpu.sched.block(reason).is_err()
            && let Some(guest) = pcpu.sched.loaded()
        {
            guest.refresh();
        }
    }

    /// Lets go of every box.
    pub(super) fn dismantle(&self) {
        for slot in &self.pcpus {
            slot.borrow_mut().take();
        }
        for handle in &self.handles {
            handle.slot.pop();
        }
    }
}
