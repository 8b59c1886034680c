//! What the simulated machine has besides its guests: a clock, kicks on their way, timers, chance.

use super::engine::Engine;
use crate::{Host, PcpuId, PolicyFailure, VcpuId};
use alloc::{collections::BTreeSet, rc::Weak, vec::Vec};
use core::{
    cell::RefCell,
    sync::atomic::{AtomicU64, Ordering},
};
use std::sync::Mutex;

/// No time.
pub(super) const NEVER: u64 = u64::MAX;
const NOBODY: u64 = u64::MAX;
/// A kick takes up to so many ticks if there is a seed.
const KICK_TICKS: u64 = 4;

std::thread_local! {
    /// Who acts when the scheduler calls its host: a [`Host`] must be `Sync`, an [`Engine`] is not.
    static INTRUDER: RefCell<Weak<Engine>> = const { RefCell::new(Weak::new()) };
}

/// Others may act now, between two steps of the pCPU that calls.
pub(super) fn intrude() {
    if let Some(engine) = INTRUDER.with(|intruder| intruder.borrow().upgrade()) {
        engine.intrude();
    }
}

pub(super) fn set_intruder(engine: Weak<Engine>) {
    INTRUDER.with(|intruder| *intruder.borrow_mut() = engine);
}

pub(super) struct World {
    now: AtomicU64,
    /// The pCPU that executes, or `NOBODY`.
    here: AtomicU64,
    /// When each pCPU is kicked.
    kicks: Vec<AtomicU64>,
    /// When each pCPU's timer fires.
    timers: Vec<AtomicU64>,
    pub(super) timer_sets: Vec<AtomicU64>,
    chance: AtomicU64,
    has_seed: bool,
    /// The vCPUs that were stopped and have parked.
    stopped: Mutex<BTreeSet<VcpuId>>,
    /// How often a paused vCPU was announced as parked.
    pub(super) pauses: AtomicU64,
    failures: Mutex<Vec<PolicyFailure>>,
}

impl World {
    pub(super) fn new(pcpus: u16, seed: Option<u64>) -> Self {
        let each = |value: u64| {
            (0..pcpus)
                .map(|_| AtomicU64::new(value))
                .collect::<Vec<_>>()
        };
        Self {
            now: AtomicU64::new(0),
            here: AtomicU64::new(NOBODY),
            kicks: each(NEVER),
            timers: each(NEVER),
            timer_sets: each(0),
            chance: AtomicU64::new(seed.unwrap_or(0) ^ 0x9e37_79b9_7f4a_7c15),
            has_seed: seed.is_some(),
            stopped: Mutex::default(),
            pauses: AtomicU64::new(0),
            failures: Mutex::default(),
        }
    }

    pub(super) fn policy_failures(&self) -> Vec<PolicyFailure> {
        self.failures.lock().expect("nobody panics with it").clone()
    }

    pub(super) fn time(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }

    pub(super) fn set_time(&self, now: u64) {
        self.now.store(now, Ordering::Relaxed);
    }

    /// Makes `pcpu` the one that executes; the result is who was.
    pub(super) fn enter(&self, pcpu: Option<PcpuId>) -> Option<PcpuId> {
        let here = pcpu.map_or(NOBODY, |pcpu| pcpu.index() as u64);
        PcpuId::new(
            self.here
                .swap(here, Ordering::Relaxed)
                .min(u64::from(u16::MAX)) as u16,
        )
    }

    pub(super) fn kick_time(&self, pcpu: PcpuId) -> u64 {
        self.kicks[pcpu.index()].load(Ordering::Relaxed)
    }

    /// A kick of `pcpu` that has arrived is answered.
    pub(super) fn take_kick(&self, pcpu: PcpuId) -> bool {
        let has_arrived = self.kick_time(pcpu) <= self.time();
        if has_arrived {
            self.kicks[pcpu.index()].store(NEVER, Ordering::Relaxed);
        }
        has_arrived
    }

    pub(super) fn has_kick_under_way(&self) -> bool {
        self.kicks
            .iter()
            .any(|kick| kick.load(Ordering::Relaxed) != NEVER)
    }

    pub(super) fn timer(&self, pcpu: PcpuId) -> u64 {
        self.timers[pcpu.index()].load(Ordering::Relaxed)
    }

    pub(super) fn set_timer(&self, pcpu: PcpuId, deadline: Option<u64>) {
        self.timers[pcpu.index()].store(deadline.unwrap_or(NEVER), Ordering::Relaxed);
        self.timer_sets[pcpu.index()].fetch_add(1, Ordering::Relaxed);
    }

    /// A number below `limit`, always 0 without a seed. [Marsaglia, Xorshift RNGs: 13, 7, 17]
    pub(super) fn below(&self, limit: u64) -> u64 {
        if !self.has_seed {
            return 0;
        }
        let mut x = self.chance.load(Ordering::Relaxed);
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.chance.store(x, Ordering::Relaxed);
        (x >> 11) % limit
    }

    /// True once in `count` times; never without a seed.
    pub(super) fn once_in(&self, count: u64) -> bool {
        self.has_seed && self.below(count) == 0
    }
}

impl Host for World {
    fn now(&self) -> u64 {
        intrude();
        self.time()
    }

    fn kick(&self, pcpu: PcpuId) {
        assert!(
            self.this_pcpu() != Some(pcpu),
            "rule: a pCPU does not kick itself"
        );
        intrude();
        let arrival = self.time() + self.below(KICK_TICKS + 1);
        self.kicks[pcpu.index()].fetch_min(arrival, Ordering::Relaxed);
    }

    fn this_pcpu(&self) -> Option<PcpuId> {
        intrude();
        PcpuId::new(self.here.load(Ordering::Relaxed).min(u64::from(u16::MAX)) as u16)
    }

    fn stopped(&self, vcpu: VcpuId) {
        let mut stopped = self.stopped.lock().expect("nobody panics with it");
        assert!(stopped.insert(vcpu), "rule: a stop is told once");
    }

    fn policy_failed(&self, failure: PolicyFailure) {
        let mut failures = self.failures.lock().expect("nobody panics with it");
        failures.push(failure);
    }

    fn paused(&self, _vcpu: VcpuId) {
        self.pauses.fetch_add(1, Ordering::Relaxed);
    }
}
