//! What the simulated machine has besides its guests: a clock, kicks on their way, timers, chance.

use super::{
    agenda::{Agenda, NEVER},
    engine::Engine,
};
use crate::{Host, PcpuId, PolicyFailure, VcpuId};
use alloc::{collections::BTreeSet, rc::Weak, vec::Vec};
use core::{
    cell::{Cell, RefCell},
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};
use std::sync::Mutex;

const NOBODY: u64 = u64::MAX;

std::thread_local! {
    /// Who acts when the scheduler calls its host: a [`Host`] must be `Sync`, an [`Engine`] is not.
    static INTRUDER: RefCell<Weak<Engine>> = const { RefCell::new(Weak::new()) };
}

std::thread_local! {
    /// Whether anybody may act in between, to be asked often.
    static IS_RESTLESS: Cell<bool> = const { Cell::new(false) };
}

pub(super) fn set_restless(is_restless: bool) {
    IS_RESTLESS.set(is_restless);
}

pub(super) fn set_intruder(engine: Weak<Engine>) {
    INTRUDER.with(|intruder| *intruder.borrow_mut() = engine);
}

/// What one thread runs now.
pub(super) fn intruder() -> Option<alloc::rc::Rc<Engine>> {
    INTRUDER.with(|intruder| intruder.try_borrow().ok()?.upgrade())
}

/// Others may act now, between two steps of whoever calls.
#[inline]
pub(crate) fn intrude() {
    if IS_RESTLESS.get() {
        let_them_intrude();
    }
}

#[inline(never)]
fn let_them_intrude() {
    if let Some(engine) = intruder() {
        engine.world().intrude();
    }
}

/// What others may do in the middle of somebody's step.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Unrest {
    /// Nothing: one thing comes after the other.
    None,
    /// Other pCPUs do what is due, and devices interrupt, which a guest must expect.
    Interleave,
    /// The operator does anything, too.
    Operator,
}

/// What belongs to one pCPU.
struct Line {
    /// When a kick arrives.
    kick: AtomicU64,
    /// When its timer fires.
    timer: AtomicU64,
    /// When what its guest spins for, or it polls for itself, has come.
    signal: AtomicU64,
    /// Interrupts are masked until then.
    busy_until: AtomicU64,
    timer_sets: AtomicU64,
    /// It will look at all this by itself.
    is_executing: AtomicBool,
    /// Since when it is off, or `NEVER`.
    off_since: AtomicU64,
}

pub(super) struct World {
    now: AtomicU64,
    /// The pCPU that executes, or `NOBODY`.
    here: AtomicU64,
    lines: Vec<Line>,
    /// By pCPU number, and after them what comes from outside.
    agenda: Agenda,
    /// So many pCPUs share a cache.
    cluster: u16,
    kicks_under_way: AtomicU64,
    /// How long a kick takes, and by how much longer chance may make it.
    kick_ticks: u64,
    kick_jitter: u64,
    /// By how much each timer is late.
    timer_delay: AtomicU64,
    chance: AtomicU64,
    has_seed: bool,
    has_unrest: AtomicBool,
    /// The vCPUs that were stopped and have parked.
    stopped: Mutex<BTreeSet<VcpuId>>,
    /// How often a paused vCPU was announced as parked.
    pub(super) pauses: AtomicU64,
    failures: Mutex<Vec<PolicyFailure>>,
    has_failure: AtomicBool,
}

impl World {
    /// A kick takes the first part of `kick`, and by chance up to the second one more.
    pub(super) fn new(pcpus: u16, cluster: u16, seed: Option<u64>, kick: (u64, u64)) -> Self {
        let line = |_| Line {
            kick: AtomicU64::new(NEVER),
            timer: AtomicU64::new(NEVER),
            signal: AtomicU64::new(NEVER),
            busy_until: AtomicU64::new(0),
            timer_sets: AtomicU64::new(0),
            is_executing: AtomicBool::new(false),
            off_since: AtomicU64::new(NEVER),
        };
        Self {
            now: AtomicU64::new(0),
            here: AtomicU64::new(NOBODY),
            lines: (0..pcpus).map(line).collect(),
            agenda: Agenda::new(usize::from(pcpus) + 1),
            kicks_under_way: AtomicU64::new(0),
            cluster,
            kick_ticks: kick.0,
            kick_jitter: kick.1,
            timer_delay: AtomicU64::new(0),
            chance: AtomicU64::new(seed.unwrap_or(0) ^ 0x9e37_79b9_7f4a_7c15),
            has_seed: seed.is_some(),
            has_unrest: AtomicBool::new(false),
            stopped: Mutex::default(),
            pauses: AtomicU64::new(0),
            failures: Mutex::default(),
            has_failure: AtomicBool::new(false),
        }
    }

    /// Others may act now, between two steps of the pCPU that calls.
    #[inline]
    pub(super) fn intrude(&self) {
        if self.has_unrest.load(Relaxed) {
            self.let_others_act();
        }
    }

    #[inline(never)]
    fn let_others_act(&self) {
        if let Some(engine) = intruder() {
            engine.intrude();
        }
    }

    pub(super) fn set_unrest(&self, is_on: bool) {
        self.has_unrest.store(is_on && self.has_seed, Relaxed);
    }

    pub(super) fn is_restless(&self) -> bool {
        self.has_unrest.load(Relaxed)
    }

    pub(super) fn policy_failures(&self) -> Vec<PolicyFailure> {
        self.failures.lock().expect("nobody panics with it").clone()
    }

    pub(super) fn has_failure(&self) -> bool {
        self.has_failure.load(Relaxed)
    }

    pub(super) fn time(&self) -> u64 {
        self.now.load(Relaxed)
    }

    pub(super) fn set_time(&self, now: u64) {
        self.now.store(now, Relaxed);
    }

    /// Makes `pcpu` the one that executes; the result is who was.
    pub(super) fn enter(&self, pcpu: Option<PcpuId>) -> Option<PcpuId> {
        let before = self.here();
        let here = pcpu.map_or(NOBODY, |pcpu| pcpu.index() as u64);
        self.here.store(here, Relaxed);
        before
    }

    pub(super) fn here(&self) -> Option<PcpuId> {
        PcpuId::new(self.here.load(Relaxed).min(u64::from(u16::MAX)) as u16)
    }

    /// What happens next: when, and on which pCPU; `None`: outside.
    pub(super) fn next(&self) -> (u64, Option<PcpuId>) {
        let (time, number) = self.agenda.first();
        let pcpu = (number < self.lines.len()).then(|| PcpuId::new(number as u16));
        (time, pcpu.flatten())
    }

    /// `pcpu` has something to do at `time`, or when it is kicked before that.
    pub(super) fn schedule(&self, pcpu: PcpuId, time: u64) {
        let line = &self.lines[pcpu.index()];
        line.is_executing.store(false, Relaxed);
        let first = time
            .min(line.kick.load(Relaxed))
            .min(line.timer.load(Relaxed))
            .min(line.signal.load(Relaxed))
            .max(line.busy_until.load(Relaxed));
        self.agenda.set(pcpu.index(), first, self.tie());
    }

    /// `pcpu` executes: others do not make it.
    pub(super) fn unschedule(&self, pcpu: PcpuId) {
        self.lines[pcpu.index()].is_executing.store(true, Relaxed);
        // Otherwise nobody asks who is next before it is scheduled again.
        if self.has_unrest.load(Relaxed) {
            self.agenda.set(pcpu.index(), NEVER, 0);
        }
    }

    /// Something comes from outside at `time`.
    pub(super) fn schedule_outside(&self, time: u64) {
        self.agenda.set(self.lines.len(), time, self.tie());
    }

    fn tie(&self) -> u8 {
        self.below(256) as u8
    }

    fn is_due(&self, pcpu: PcpuId, time: u64) {
        let line = &self.lines[pcpu.index()];
        if !line.is_executing.load(Relaxed) {
            let time = time.max(line.busy_until.load(Relaxed));
            self.agenda.lower(pcpu.index(), time, self.tie());
        }
    }

    /// `pcpu` answers nobody until `time`.
    pub(super) fn set_busy_until(&self, pcpu: PcpuId, time: u64) {
        self.lines[pcpu.index()].busy_until.store(time, Relaxed);
    }

    /// `pcpu` goes off: whatever kick is on its way is about nothing.
    pub(super) fn turn_off(&self, pcpu: PcpuId) {
        let line = &self.lines[pcpu.index()];
        line.off_since.store(self.time(), Relaxed);
        if line.kick.swap(NEVER, Relaxed) != NEVER {
            self.kicks_under_way.fetch_sub(1, Relaxed);
        }
        line.timer.store(NEVER, Relaxed);
        line.signal.store(NEVER, Relaxed);
        self.agenda.set(pcpu.index(), NEVER, 0);
    }

    /// It comes back.
    pub(super) fn turn_on(&self, pcpu: PcpuId) {
        self.lines[pcpu.index()].off_since.store(NEVER, Relaxed);
    }

    /// What the guest on `pcpu` spins for has come.
    pub(super) fn signal(&self, pcpu: PcpuId) {
        let time = self.time() + 1;
        self.lines[pcpu.index()].signal.store(time, Relaxed);
        self.is_due(pcpu, time);
    }

    /// What `pcpu` polls for has come: it sees it at `time`, unless it does before.
    pub(super) fn notice(&self, pcpu: PcpuId, time: u64) {
        let signal = &self.lines[pcpu.index()].signal;
        if time < signal.load(Relaxed) {
            signal.store(time, Relaxed);
            self.is_due(pcpu, time);
        }
    }

    pub(super) fn kick_time(&self, pcpu: PcpuId) -> u64 {
        self.lines[pcpu.index()].kick.load(Relaxed)
    }

    /// A kick of `pcpu` that has arrived is answered.
    pub(super) fn take_kick(&self, pcpu: PcpuId) -> bool {
        let line = &self.lines[pcpu.index()];
        line.signal.store(NEVER, Relaxed);
        let has_arrived = line.kick.load(Relaxed) <= self.time();
        if has_arrived {
            line.kick.store(NEVER, Relaxed);
            let under_way = self.kicks_under_way.load(Relaxed);
            self.kicks_under_way.store(under_way - 1, Relaxed);
        }
        has_arrived
    }

    /// Now and then a kick that is on its way arrives at once, and finds somebody in the middle of something: to this pCPU.
    pub(super) fn hasten_kick(&self) -> Option<PcpuId> {
        let index = self.below(self.lines.len() as u64) as usize;
        let line = &self.lines[index];
        let is_on_its_way = line.kick.load(Relaxed) != NEVER;
        let is_busy = line.busy_until.load(Relaxed) > self.time();
        if !is_on_its_way || is_busy || line.is_executing.load(Relaxed) {
            return None;
        }
        line.kick.store(self.time(), Relaxed);
        PcpuId::new(index as u16)
    }

    pub(super) fn has_kick_under_way(&self) -> bool {
        self.kicks_under_way.load(Relaxed) > 0
    }

    /// The longest that a kick takes.
    pub(super) fn longest_kick(&self) -> u64 {
        self.kick_ticks + self.kick_jitter
    }

    pub(super) fn timer(&self, pcpu: PcpuId) -> u64 {
        self.lines[pcpu.index()].timer.load(Relaxed)
    }

    pub(super) fn set_timer(&self, pcpu: PcpuId, deadline: Option<u64>) {
        let line = &self.lines[pcpu.index()];
        let delay = self.timer_delay.load(Relaxed);
        let fires = deadline.map_or(NEVER, |deadline| deadline.saturating_add(delay));
        line.timer.store(fires, Relaxed);
        line.timer_sets
            .store(line.timer_sets.load(Relaxed) + 1, Relaxed);
    }

    pub(super) fn set_timer_delay(&self, ticks: u64) {
        self.timer_delay.store(ticks, Relaxed);
    }

    pub(super) fn timer_sets(&self, pcpu: PcpuId) -> u64 {
        self.lines[pcpu.index()].timer_sets.load(Relaxed)
    }

    /// A number below `limit`, always 0 without a seed. [Marsaglia, Xorshift RNGs: 13, 7, 17]
    pub(super) fn below(&self, limit: u64) -> u64 {
        if !self.has_seed {
            return 0;
        }
        let mut x = self.chance.load(Relaxed);
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.chance.store(x, Relaxed);
        (x >> 11) % limit
    }

    /// True once in `count` times; never without a seed.
    pub(super) fn once_in(&self, count: u64) -> bool {
        self.has_seed && self.below(count) == 0
    }
}

impl Host for World {
    fn now(&self) -> u64 {
        self.intrude();
        self.time()
    }

    fn kick(&self, pcpu: PcpuId) {
        assert!(
            self.this_pcpu() != Some(pcpu),
            "rule: a pCPU does not kick itself"
        );
        self.intrude();
        let arrival = self.time() + self.kick_ticks + self.below(self.kick_jitter + 1);
        let line = &self.lines[pcpu.index()];
        let off_since = line.off_since.load(Relaxed);
        if off_since != NEVER {
            // Whoever kicks has decided to before it went off, in the middle of the same step.
            assert!(
                off_since == self.time(),
                "rule: nobody kicks {pcpu}, which is off"
            );
            return;
        }
        let before = line.kick.load(Relaxed);
        if before == NEVER {
            let under_way = self.kicks_under_way.load(Relaxed);
            self.kicks_under_way.store(under_way + 1, Relaxed);
        }
        if arrival < before {
            line.kick.store(arrival, Relaxed);
            self.is_due(pcpu, arrival);
        }
    }

    fn this_pcpu(&self) -> Option<PcpuId> {
        self.intrude();
        self.here()
    }

    fn cluster(&self, pcpu: PcpuId) -> u64 {
        pcpu.index() as u64 / u64::from(self.cluster)
    }

    fn stopped(&self, vcpu: VcpuId) {
        let mut stopped = self.stopped.lock().expect("nobody panics with it");
        assert!(stopped.insert(vcpu), "rule: a stop is told once");
    }

    fn policy_failed(&self, failure: PolicyFailure) {
        let mut failures = self.failures.lock().expect("nobody panics with it");
        failures.push(failure);
        self.has_failure.store(true, Relaxed);
    }

    fn paused(&self, _vcpu: VcpuId) {
        self.pauses.fetch_add(1, Relaxed);
    }
}
