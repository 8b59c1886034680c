//! The crossing protocols, every interleaving: up to three pCPUs and four vCPUs, the real code.
//!
//! Each model lets two parties act at once, then lets every pCPU look that was kicked or has its timer set, and asks
//! whether what was promised has happened. A pCPU that nobody told does not look. `README.md` has the command.

mod closing;
mod polling;
mod pools;

use crate::{
    BlockReason, Decision, Entitlement, Host, LocalScheduler, Machine, PcpuId, PcpuSet, Place,
    PoolId, PowerState, Scheduler, SchedulerConfig, Vcpu, VcpuHandle, admitted::Admitted,
    policies::RoundRobin,
};
use alloc::{boxed::Box, sync::Arc};
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use loom::{sync::atomic::AtomicU64, thread};

const P0: PcpuId = PcpuId::from_low_bits(0);
const P1: PcpuId = PcpuId::from_low_bits(1);
const P2: PcpuId = PcpuId::from_low_bits(2);

/// Time stands still; kicks are remembered.
#[derive(Default)]
struct Still {
    kicked: [AtomicBool; 3],
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

    fn relax(&self) {
        thread::yield_now();
    }
}

struct Model {
    handle: Arc<VcpuHandle<Model>>,
    bound: Option<PcpuId>,
    /// What of `Shared` it has seen; the protocol alone orders that.
    due_seen: u64,
    entry_seen: u64,
    resets: u64,
}

#[derive(Default)]
struct Shared {
    due: AtomicU64,
    entry: AtomicU64,
    asks: AtomicU64,
    answers: AtomicU64,
}

impl Vcpu for Model {
    type Shared = Shared;

    fn handle(&self) -> &Arc<VcpuHandle<Self>> {
        &self.handle
    }
}

struct Hardware {
    pcpu: PcpuId,
    timer: Option<u64>,
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
        None
    }

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

struct Pcpu {
    sched: LocalScheduler<Model>,
    hardware: Hardware,
    host: Arc<Still>,
}

impl Pcpu {
    /// The loop of a pCPU, from its interrupts to its guest or its idle wait.
    fn schedule(&mut self) -> Decision {
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

    fn block(&mut self, reason: BlockReason) -> Decision {
        if self.sched.block(reason).is_err() {
            self.refresh();
        }
        self.schedule()
    }

    /// Looks if somebody kicked it or its timer will; the result is whether it did.
    fn look(&mut self) -> bool {
        let was_kicked = self.host.kicked[self.hardware.pcpu.index()].swap(false, Relaxed);
        if was_kicked || self.hardware.timer.is_some() {
            self.sched.timer_fired();
            let _ = self.schedule();
        }
        was_kicked
    }

    fn loaded(&mut self) -> &mut Model {
        self.sched.loaded().expect("a vCPU is loaded")
    }
}

struct Start {
    scheduler: Arc<Scheduler<Model>>,
    host: Arc<Still>,
}

impl Start {
    fn new(pcpus: u16) -> Self {
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

    fn pcpu(&self, pcpu: PcpuId) -> Pcpu {
        let sched = self.scheduler.local(pcpu).expect("each once");
        Pcpu {
            sched,
            hardware: Hardware { pcpu, timer: None },
            host: self.host.clone(),
        }
    }

    fn vcpu(&self, affinity: PcpuSet) -> Arc<VcpuHandle<Model>> {
        self.vcpu_in(PoolId::FIRST, affinity)
    }

    fn vcpu_in(&self, pool: PoolId, affinity: PcpuSet) -> Arc<VcpuHandle<Model>> {
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
    fn forget_kicks(&self) {
        self.host
            .kicked
            .iter()
            .for_each(|kicked| kicked.store(false, Relaxed));
    }

    /// A vCPU that is on, and has been put where `affinity` says.
    fn running(&self, affinity: PcpuSet) -> Arc<VcpuHandle<Model>> {
        let handle = self.vcpu(affinity);
        handle.claim_power_on().expect("it is off").commit();
        handle
    }
}

/// Round-robin that is told of nobody whom it has not admitted.
fn round_robin(slice: u64) -> Admitted {
    Admitted::new(Box::new(RoundRobin::with_slice(slice)))
}

fn interrupt(handle: &VcpuHandle<Model>) {
    handle.shared().due.fetch_add(1, Relaxed);
    handle.wake();
}

/// One pCPU with `N` vCPUs that are on, the first of them loaded; what led there has been answered.
fn busy_pcpu<const N: usize>() -> (Start, Pcpu, [Arc<VcpuHandle<Model>>; N]) {
    let start = Start::new(1);
    let vcpus = [(); N].map(|()| start.running(PcpuSet::only(P0)));
    let mut pcpu = start.pcpu(P0);
    assert_eq!(pcpu.schedule(), Decision::Run);
    start.forget_kicks();
    (start, pcpu, vcpus)
}

fn succeed(scheduler: &Scheduler<Model>, slice: u64) {
    let successor = round_robin(slice);
    scheduler
        .set_policy(PoolId::FIRST, Box::new(successor))
        .expect("it admits all");
}

fn explore(model: impl Fn() + Sync + Send + 'static) {
    explore_to(5, model);
}

/// Every interleaving in which at most so many preemptions happen.
fn explore_to(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(preemptions));
    builder.max_branches = 10_000;
    builder.check(model);
}

#[test]
fn loom_park_against_wake() {
    explore(|| {
        let (_start, mut pcpu, [a, b]) = busy_pcpu();
        let other = thread::spawn({
            let a = a.clone();
            move || interrupt(&a)
        });
        let _ = pcpu.block(BlockReason::Waiting);
        other.join().unwrap();
        pcpu.look();
        if a.place() != Place::Loaded(P0) {
            assert_eq!(pcpu.loaded().handle.id(), b.id());
            let _ = pcpu.block(BlockReason::Off);
        }
        assert_eq!(pcpu.loaded().handle.id(), a.id(), "it runs again");
        assert_eq!(pcpu.loaded().due_seen, 1);
    });
}

#[test]
fn loom_waiting_loaded_against_wake() {
    explore(|| {
        let (_start, mut pcpu, [a]) = busy_pcpu();
        let other = thread::spawn({
            let a = a.clone();
            move || interrupt(&a)
        });
        let _ = pcpu.block(BlockReason::Waiting);
        other.join().unwrap();
        pcpu.look();
        assert_eq!(pcpu.loaded().due_seen, 1, "the pCPU was told");
        assert_eq!(pcpu.schedule(), Decision::Run);
    });
}

#[test]
fn loom_a_policy_takes_over_against_park_and_wake() {
    explore(|| {
        let (start, mut pcpu, [a, b]) = busy_pcpu();
        let other = thread::spawn({
            let (a, scheduler) = (a.clone(), start.scheduler.clone());
            move || {
                succeed(&scheduler, 20);
                interrupt(&a);
            }
        });
        let _ = pcpu.block(BlockReason::Waiting);
        other.join().unwrap();
        while pcpu.look() {}
        let ran = pcpu.loaded().handle.id();
        let _ = pcpu.block(BlockReason::Off);
        let other = if ran == a.id() { &b } else { &a };
        assert_eq!(pcpu.loaded().handle.id(), other.id(), "the other is ready");
    });
}

#[test]
fn loom_policies_take_over_while_one_comes() {
    explore(|| {
        let (start, mut pcpu, [a, _b]) = busy_pcpu();
        a.suspend(BlockReason::Paused);
        assert_eq!(pcpu.schedule(), Decision::Run);
        start.forget_kicks();
        let other = thread::spawn({
            let (a, scheduler) = (a.clone(), start.scheduler.clone());
            move || {
                succeed(&scheduler, 20);
                a.resume(BlockReason::Paused);
                succeed(&scheduler, 30);
            }
        });
        while pcpu.look() {}
        other.join().unwrap();
        while pcpu.look() {}
        assert_eq!(
            pcpu.hardware.timer,
            Some(30),
            "two share by the last policy"
        );
    });
}

#[test]
fn loom_migrate_against_wake() {
    explore(|| {
        let start = Start::new(2);
        let a = start.running(PcpuSet::all(2));
        let mut pcpus = [start.pcpu(P0), start.pcpu(P1)];
        assert_eq!(pcpus[0].schedule(), Decision::Run);
        a.suspend(BlockReason::Paused);
        assert_eq!(pcpus[0].schedule(), Decision::Idle);
        assert!(a.is_parked());
        start.forget_kicks();
        let other = thread::spawn({
            let a = a.clone();
            move || a.resume(BlockReason::Paused)
        });
        a.migrate(P1).expect("it may");
        other.join().unwrap();
        while pcpus.iter_mut().any(Pcpu::look) {}
        assert_eq!(a.place(), Place::Loaded(P1));
        assert_eq!(pcpus[1].loaded().bound, Some(P1));
    });
}

#[test]
fn loom_going_idle_against_placing() {
    explore(|| {
        let start = Start::new(2);
        let b = start.running(PcpuSet::only(P0));
        let c = start.running(PcpuSet::only(P1));
        let a = start.vcpu(PcpuSet::all(2));
        let mut pcpus = [start.pcpu(P0), start.pcpu(P1)];
        assert_eq!(pcpus.each_mut().map(Pcpu::schedule), [Decision::Run; 2]);
        start.forget_kicks();
        let other = thread::spawn({
            let a = a.clone();
            move || a.claim_power_on().expect("it is off").commit()
        });
        let _ = pcpus[1].block(BlockReason::Off);
        other.join().unwrap();
        while pcpus.iter_mut().any(Pcpu::look) {}
        assert_eq!(
            (b.place(), c.place()),
            (Place::Loaded(P0), Place::Parked(P1))
        );
        assert_eq!(a.place(), Place::Loaded(P1), "no pCPU idles while it waits");
    });
}

#[test]
fn loom_going_idle_against_placing_on_an_armed_pcpu() {
    explore(|| {
        let start = Start::new(2);
        let mut busy = start.pcpu(P0);
        let a = start.running(PcpuSet::all(2));
        assert_eq!(busy.schedule(), Decision::Run);
        a.suspend(BlockReason::Paused);
        assert_eq!(busy.schedule(), Decision::Idle);
        let [_b, _c] = [P0, P0].map(|pcpu| start.running(PcpuSet::only(pcpu)));
        assert_eq!(busy.schedule(), Decision::Run);
        assert!(busy.hardware.timer.take().is_some(), "it is armed");
        let mut idler = start.pcpu(P1);
        start.forget_kicks();
        let other = thread::spawn({
            let a = a.clone();
            move || a.resume(BlockReason::Paused)
        });
        let _ = idler.schedule();
        other.join().unwrap();
        // Only kicks count: a slice is too long to idle.
        while busy.look() | idler.look() {
            busy.hardware.timer = None;
        }
        assert_eq!(a.place(), Place::Loaded(P1), "no pCPU idles while it waits");
    });
}

#[test]
fn loom_going_idle_against_receiving() {
    explore(|| {
        let start = Start::new(2);
        let mut busy = start.pcpu(P0);
        let _b = start.running(PcpuSet::only(P0));
        assert_eq!(busy.schedule(), Decision::Run);
        let a = start.running(PcpuSet::all(2));
        let mut idler = start.pcpu(P1);
        start.forget_kicks();
        let other = thread::spawn(move || {
            let _ = busy.schedule();
            busy
        });
        let _ = idler.schedule();
        let mut busy = other.join().unwrap();
        busy.hardware.timer = None;
        while busy.look() | idler.look() {
            busy.hardware.timer = None;
        }
        assert_eq!(a.place(), Place::Loaded(P1), "no pCPU idles while it waits");
    });
}

/// Whoever idles asks where most wait, in vain, while somebody who can run there comes to a third one.
#[test]
fn loom_asking_in_vain_against_receiving() {
    explore_to(3, || {
        let start = Start::new(3);
        let mut crowded = start.pcpu(P0);
        let _waiting = [P0, P0].map(|pcpu| start.running(PcpuSet::only(pcpu)));
        assert_eq!(crowded.schedule(), Decision::Run);
        let mut busy = start.pcpu(P1);
        let _b = start.running(PcpuSet::only(P1));
        assert_eq!(busy.schedule(), Decision::Run);
        let a = start.running(PcpuSet::all(3));
        let mut idler = start.pcpu(P2);
        start.forget_kicks();
        let other = thread::spawn(move || {
            let _ = busy.schedule();
            busy
        });
        let _ = idler.schedule();
        crowded.look();
        let mut busy = other.join().unwrap();
        // Only kicks count: a slice is too long to idle.
        while crowded.look() | busy.look() | idler.look() {
            for pcpu in [&mut crowded, &mut busy] {
                pcpu.hardware.timer = None;
            }
        }
        assert_eq!(a.place(), Place::Loaded(P2), "no pCPU idles while it waits");
    });
}

#[test]
fn loom_slice_disarm_against_post() {
    explore(|| {
        let (start, mut pcpu, [_a, b]) = busy_pcpu();
        let c = start.vcpu(PcpuSet::only(P0));
        assert!(pcpu.hardware.timer.is_some(), "another waits");
        let other = thread::spawn({
            let c = c.clone();
            move || c.claim_power_on().expect("it is off").commit()
        });
        let _ = pcpu.block(BlockReason::Off);
        other.join().unwrap();
        pcpu.look();
        assert_eq!(b.place(), Place::Loaded(P0));
        let is_known = pcpu.hardware.timer.is_some();
        assert!(is_known, "the pCPU knows that another waits");
    });
}

#[test]
fn loom_two_power_ons_against_a_power_off() {
    explore(|| {
        let (_start, mut pcpu, [a]) = busy_pcpu();
        let turn_on = |handle: &VcpuHandle<Model>, entry: u64| {
            let claim = handle.claim_power_on();
            claim.map(|claim| {
                handle.shared().entry.store(entry, Relaxed);
                claim.commit();
            })
        };
        let other = thread::spawn({
            let a = a.clone();
            move || turn_on(&a, 7).is_ok()
        });
        let _ = pcpu.block(BlockReason::Off);
        let (here, there) = (turn_on(&a, 7).is_ok(), other.join().unwrap());
        assert!(
            here != there || (here && a.place() == Place::Loaded(P0)),
            "one claim per power-off"
        );
        let _ = pcpu.schedule();
        assert_eq!(a.power_state(), PowerState::On);
        assert_eq!((pcpu.loaded().resets, pcpu.loaded().entry_seen), (2, 7));
    });
}

#[test]
fn loom_request_sync_against_unbind() {
    explore(|| {
        let (_start, mut pcpu, [a, _b]) = busy_pcpu();
        let other = thread::spawn({
            let a = a.clone();
            move || {
                a.shared().asks.fetch_add(1, Relaxed);
                a.request_sync()
            }
        });
        let _ = pcpu.block(BlockReason::Waiting);
        let is_promised = other.join().unwrap();
        pcpu.look();
        assert!(
            !is_promised || a.shared().answers.load(Relaxed) == 1,
            "who was told to wait gets an answer"
        );
    });
}

#[test]
fn loom_one_idle_pcpu_is_claimed_once() {
    explore(|| {
        let start = Start::new(2);
        let busy = start.running(PcpuSet::only(P0));
        let mut pcpus = [start.pcpu(P0), start.pcpu(P1)];
        assert_eq!(
            pcpus.each_mut().map(Pcpu::schedule),
            [Decision::Run, Decision::Idle]
        );
        let claim = |scheduler: &Scheduler<Model>| {
            scheduler
                .claim_nearest(PoolId::FIRST, PcpuSet::all(2), None)
                .is_some()
        };
        start.forget_kicks();
        let other = thread::spawn({
            let scheduler = start.scheduler.clone();
            move || claim(&scheduler)
        });
        let here = claim(&start.scheduler);
        assert!(here ^ other.join().unwrap());
        assert_eq!(busy.place(), Place::Loaded(P0));
    });
}
