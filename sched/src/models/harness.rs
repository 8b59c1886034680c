//! What the models run on: pCPUs that look when they are told to, vCPUs that remember what they have seen, and a clock that stands still.

use crate::{
    BlockReason, Decision, Entitlement, Host, LocalScheduler, Machine, PcpuId, PcpuSet, PoolId,
    Scheduler, SchedulerConfig, Vcpu, VcpuHandle, VcpuId, admitted::Admitted, policies::RoundRobin,
};
use alloc::{boxed::Box, sync::Arc};
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use loom::{sync::atomic::AtomicU64, thread};

pub(super) const P0: PcpuId = PcpuId::from_low_bits(0);
pub(super) const P1: PcpuId = PcpuId::from_low_bits(1);
pub(super) const P2: PcpuId = PcpuId::from_low_bits(2);

/// Time stands still; kicks are remembered, and how many vCPUs have stopped.
#[derive(Default)]
pub(super) struct Still {
    kicked: [AtomicBool; 3],
    stopped: AtomicUsize,
}

impl Host for Still {
    fn now(&self) -> u64 {
        0
    }

    fn kick(&self, pcpu: PcpuId) {
        self.kicked[pcpu.index()].store(true, Relaxed);
    }

    fn this_pcpu(&self) -> Option<PcpuId> {
        None
    }

    fn stopped(&self, _vcpu: VcpuId) {
        self.stopped.fetch_add(1, Relaxed);
    }

    fn relax(&self) {
        thread::yield_now();
    }
}

pub(super) struct Model {
    pub(super) handle: Arc<VcpuHandle<Model>>,
    pub(super) bound: Option<PcpuId>,
    /// What of `Shared` it has seen; the protocol alone orders that.
    pub(super) due_seen: u64,
    pub(super) entry_seen: u64,
    pub(super) resets: u64,
}

#[derive(Default)]
pub(super) struct Shared {
    pub(super) due: AtomicU64,
    pub(super) entry: AtomicU64,
    pub(super) asks: AtomicU64,
    pub(super) answers: AtomicU64,
}

impl Vcpu for Model {
    type Shared = Shared;

    fn handle(&self) -> &Arc<VcpuHandle<Self>> {
        &self.handle
    }
}

pub(super) struct Hardware {
    pcpu: PcpuId,
    pub(super) timer: Option<u64>,
    /// When the timer of whoever is unbound expires.
    pub(super) deadline: Option<u64>,
}

impl Hardware {
    fn answer(&self, vcpu: &Model) {
        let shared = vcpu.handle.shared();
        let asks = shared.asks.swap(0, Relaxed);
        shared.answers.fetch_add(asks, Relaxed);
    }
}

impl Machine<Model> for Hardware {
    fn bind(&mut self, vcpu: &mut Model, _exclusive: bool) {
        assert_eq!(vcpu.bound.replace(self.pcpu), None);
        vcpu.due_seen = vcpu.handle.shared().due.load(Relaxed);
    }

    fn unbind(&mut self, vcpu: &mut Model) -> Option<u64> {
        assert_eq!(vcpu.bound.take(), Some(self.pcpu));
        self.answer(vcpu);
        self.deadline
    }

    fn set_exclusive(&mut self, _vcpu: &mut Model, _exclusive: bool) {}

    fn sync(&mut self, vcpu: &mut Model) {
        assert_eq!(vcpu.bound, Some(self.pcpu));
        self.answer(vcpu);
    }

    fn reset(&mut self, vcpu: &mut Model) {
        assert_eq!(vcpu.bound, None);
        vcpu.resets += 1;
        vcpu.entry_seen = vcpu.handle.shared().entry.load(Relaxed);
    }

    fn set_timer(&mut self, deadline: Option<u64>) {
        self.timer = deadline;
    }
}

pub(super) struct Pcpu {
    pub(super) sched: LocalScheduler<Model>,
    pub(super) hardware: Hardware,
    host: Arc<Still>,
}

impl Pcpu {
    /// The loop of a pCPU, from its interrupts to its guest or its idle wait.
    pub(super) fn schedule(&mut self) -> Decision {
        let decision = self.sched.schedule(&mut self.hardware);
        if self.sched.take_wake() {
            self.refresh();
        }
        decision
    }

    fn refresh(&mut self) {
        let vcpu = self.sched.loaded().expect("only a loaded vCPU is woken");
        vcpu.due_seen = vcpu.handle.shared().due.load(Relaxed);
    }

    pub(super) fn block(&mut self, reason: BlockReason) -> Decision {
        if self.sched.block(reason).is_err() {
            self.refresh();
        }
        self.schedule()
    }

    /// Looks if somebody kicked it or its timer will; the result is whether it did.
    pub(super) fn look(&mut self) -> bool {
        let was_kicked = self.host.kicked[self.hardware.pcpu.index()].swap(false, Relaxed);
        if was_kicked || self.hardware.timer.is_some() {
            self.sched.timer_fired();
            let _ = self.schedule();
        }
        was_kicked
    }

    /// Drained, it closes as soon as it may.
    pub(super) fn close(&mut self) {
        while self.sched.close().is_err() {
            let _ = self.schedule();
        }
    }

    pub(super) fn loaded(&mut self) -> &mut Model {
        self.sched.loaded().expect("a vCPU is loaded")
    }
}

pub(super) struct Start {
    pub(super) scheduler: Arc<Scheduler<Model>>,
    host: Arc<Still>,
}

impl Start {
    pub(super) fn new(pcpus: u16) -> Self {
        let host = Arc::new(Still::default());
        let policy = Box::new(round_robin(10));
        let pcpus = PcpuSet::all(pcpus);
        let scheduler = Scheduler::new(SchedulerConfig {
            name: "all".into(),
            pcpus,
            max_vcpus: 4,
            policy,
            fallback_slice: 10,
            host: host.clone(),
        });
        Self {
            scheduler: scheduler.expect("a valid scheduler"),
            host,
        }
    }

    pub(super) fn pcpu(&self, pcpu: PcpuId) -> Pcpu {
        let sched = self.scheduler.local(pcpu).expect("each once");
        Pcpu {
            sched,
            hardware: Hardware {
                pcpu,
                timer: None,
                deadline: None,
            },
            host: self.host.clone(),
        }
    }

    pub(super) fn vcpu(&self, affinity: PcpuSet) -> Arc<VcpuHandle<Model>> {
        self.vcpu_in(PoolId::FIRST, affinity)
    }

    pub(super) fn vcpu_in(&self, pool: PoolId, affinity: PcpuSet) -> Arc<VcpuHandle<Model>> {
        let make = |handle| Model {
            handle,
            bound: None,
            due_seen: 0,
            entry_seen: 0,
            resets: 0,
        };
        let (entitlement, shared) = (Entitlement::default(), Shared::default());
        self.scheduler
            .create_vcpu_in(pool, affinity, &entitlement, make, shared)
            .expect("there is room")
    }

    /// The kicks so far have been answered.
    pub(super) fn forget_kicks(&self) {
        self.host
            .kicked
            .iter()
            .for_each(|kicked| kicked.store(false, Relaxed));
    }

    /// How many vCPUs have been announced as stopped.
    pub(super) fn stopped(&self) -> usize {
        self.host.stopped.load(Relaxed)
    }

    /// A vCPU that is on, and has been put where `affinity` says.
    pub(super) fn running(&self, affinity: PcpuSet) -> Arc<VcpuHandle<Model>> {
        let handle = self.vcpu(affinity);
        handle.claim_power_on().expect("it is off").commit();
        handle
    }
}

/// Round-robin that is told of nobody whom it has not admitted.
pub(super) fn round_robin(slice: u64) -> Admitted {
    Admitted::new(Box::new(RoundRobin::with_slice(slice)))
}

pub(super) fn interrupt(handle: &VcpuHandle<Model>) {
    handle.shared().due.fetch_add(1, Relaxed);
    handle.wake();
}

/// One pCPU with `N` vCPUs that are on, the first of them loaded; what led there has been answered.
pub(super) fn busy_pcpu<const N: usize>() -> (Start, Pcpu, [Arc<VcpuHandle<Model>>; N]) {
    let start = Start::new(1);
    let vcpus = [(); N].map(|()| start.running(PcpuSet::only(P0)));
    let mut pcpu = start.pcpu(P0);
    assert_eq!(pcpu.schedule(), Decision::Run);
    start.forget_kicks();
    (start, pcpu, vcpus)
}

pub(super) fn succeed(scheduler: &Scheduler<Model>, slice: u64) {
    let successor = round_robin(slice);
    scheduler
        .set_policy(PoolId::FIRST, Box::new(successor))
        .expect("it admits all");
}

pub(super) fn explore(model: impl Fn() + Sync + Send + 'static) {
    explore_to(5, model);
}

/// Every interleaving in which at most so many preemptions happen.
pub(super) fn explore_to(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(preemptions));
    builder.max_branches = 10_000;
    builder.check(model);
}
