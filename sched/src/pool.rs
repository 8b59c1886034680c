//! What the pCPUs of a pool share: who idles, who has mail, where a woken vCPU goes.
//!
//! Each pCPU has a [`Cell`] that others write into: an inbox for boxes, the attention word, how many vCPUs wait there. An
//! idle pCPU is a bit in one bitmap; whoever clears that bit has claimed it and must post there. Where two words are
//! crossed there is `fence(SeqCst)` on both sides: who makes a vCPU wait looks for an idle pCPU afterwards, who goes idle
//! looks for mail and for ready vCPUs afterwards, so one of them sees the other.

use crate::{
    AffinityError, Entitlement, Entitlements, LocalScheduler, PcpuCounters, PcpuId, PcpuSet,
    PcpuTimes, Policy, PolicyFailure, Refusal, TraceEvent, TraceRing, Vcpu, VcpuHandle, VcpuId,
    attention::{About, Kick},
    cell::{Cell, Mail},
    pcpu_set::AtomicPcpuSet,
    policies::RoundRobin,
    sync::{ArrayQueue, AtomicU32, AtomicU64, Ordering, fence},
};
use alloc::{boxed::Box, sync::Arc, vec::Vec};
use core::fmt;

/// What the scheduler needs of the machine, on any pCPU.
pub trait Host: Send + Sync {
    /// The host's counter, in ticks. [CNTPCT_EL0]
    fn now(&self) -> u64;

    /// Makes `pcpu` leave its guest or its idle wait soon; never the pCPU that calls.
    fn kick(&self, pcpu: PcpuId);

    /// The pCPU that calls, if it is one of the pool.
    fn this_pcpu(&self) -> Option<PcpuId>;

    /// A vCPU that [`VcpuHandle::stop`] was called for is parked now. Called once per stop, on the pCPU that parked it, or
    /// by the caller of `stop` if it was parked already.
    fn stopped(&self, _vcpu: VcpuId) {}

    /// The pool's policy has broken its promise, and round-robin takes over on every pCPU. Called once for a policy, on the
    /// pCPU that noticed, in the middle of a decision: it may neither wait nor allocate.
    fn policy_failed(&self, _failure: PolicyFailure) {}

    /// Called while somebody else, on another pCPU, is about to be done. [DDI0487: YIELD]
    fn relax(&self) {
        core::hint::spin_loop();
    }

    /// A vCPU that was suspended for [`BlockReason::Paused`](crate::BlockReason::Paused) is parked now, on the pCPU that
    /// calls. One that was parked already when it was suspended is not announced; one that goes on to be stopped is only
    /// announced as stopped.
    fn paused(&self, _vcpu: VcpuId) {}
}

/// What a pool is made of.
pub struct PoolConfig {
    /// The pCPUs that will call [`Pool::local`].
    pub pcpus: PcpuSet,
    /// How many vCPUs there can be at a time; memory is reserved for all of them.
    pub max_vcpus: u16,
    /// Who runs next.
    pub policy: Box<dyn Policy>,
    /// How long vCPUs take turns, in ticks, if the policy breaks its promise and round-robin takes over.
    pub fallback_slice: u64,
    /// The machine.
    pub host: Arc<dyn Host>,
}

/// Why there is no pool.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PoolError {
    /// It needs at least one pCPU.
    NoPcpu,
    /// It needs room for at least one vCPU.
    NoVcpu,
}

/// Why a vCPU is not created.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum CreateError {
    /// The pool has its `max_vcpus`.
    Full,
    /// It could not run anywhere.
    Affinity(AffinityError),
    /// The policy cannot keep what it shall get.
    Entitlement(Refusal),
}

/// Why a pCPU gets no scheduler.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LocalError {
    /// It is not in the pool.
    AbsentPcpu,
    /// It has one.
    Taken,
}

impl fmt::Display for PoolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoPcpu => "a pool needs at least one pCPU",
            Self::NoVcpu => "a pool needs room for at least one vCPU",
        })
    }
}

impl fmt::Display for CreateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("the pool has as many vCPUs as it has room for"),
            Self::Affinity(error) => error.fmt(f),
            Self::Entitlement(refusal) => refusal.fmt(f),
        }
    }
}

impl fmt::Display for LocalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AbsentPcpu => "the pool does not have this pCPU",
            Self::Taken => "this pCPU has its scheduler already",
        })
    }
}

impl core::error::Error for PoolError {}
impl core::error::Error for CreateError {}
impl core::error::Error for LocalError {}

/// A set of pCPUs that schedule the same vCPUs by the same policy.
pub struct Pool<V: Vcpu> {
    pcpus: PcpuSet,
    /// By pCPU number; one for each number up to the highest.
    cells: Vec<Arc<Cell<V>>>,
    idle: AtomicPcpuSet,
    draining: AtomicPcpuSet,
    /// Those that have their scheduler.
    online: AtomicPcpuSet,
    free_ids: ArrayQueue<u16>,
    max_vcpus: u16,
    /// Who runs next. Whoever changes what vCPUs shall get takes it out and puts it back, so they come one after the other.
    pub(crate) policy: ArrayQueue<Arc<dyn Policy>>,
    /// What the policy says of itself: a box that is posted must be looked at now.
    is_preemptive: AtomicU32,
    /// The number of the policy.
    generation: AtomicU64,
    /// The number of the last policy that broke its promise.
    failed: AtomicU64,
    fallback: RoundRobin,
    entitlements: Arc<Entitlements>,
    host: Arc<dyn Host>,
}

impl<V: Vcpu> Pool<V> {
    /// A pool without vCPUs, whose pCPUs have yet to come.
    pub fn new(config: PoolConfig) -> Result<Arc<Self>, PoolError> {
        let PoolConfig {
            pcpus,
            max_vcpus,
            policy,
            fallback_slice,
            host,
        } = config;
        let last = pcpus.iter().last().ok_or(PoolError::NoPcpu)?;
        if max_vcpus == 0 {
            return Err(PoolError::NoVcpu);
        }
        let free_ids = ArrayQueue::new(usize::from(max_vcpus));
        for id in 0..max_vcpus {
            assert!(
                free_ids.push(id).is_ok(),
                "rule: there is room for every vCPU number"
            );
        }
        let now = host.now();
        let cells = (0..=last.index())
            .map(|_| Arc::new(Cell::new(max_vcpus, now)))
            .collect();
        let none = || AtomicPcpuSet::default();
        let (idle, draining, online) = (none(), none(), none());
        let is_preemptive = AtomicU32::new(policy.is_preemptive().into());
        let holder = ArrayQueue::new(1);
        assert!(
            holder.push(policy.into()).is_ok(),
            "rule: there is room for one policy"
        );
        Ok(Arc::new(Self {
            pcpus,
            cells,
            idle,
            draining,
            online,
            free_ids,
            max_vcpus,
            policy: holder,
            is_preemptive,
            generation: AtomicU64::new(1),
            failed: AtomicU64::new(0),
            fallback: RoundRobin::with_slice(fallback_slice.max(1)),
            entitlements: Arc::new(Entitlements::new(max_vcpus)),
            host,
        }))
    }

    /// Creates a vCPU: parked, and off until [`VcpuHandle::claim_power_on`]. `make` gets the handle that the vCPU keeps.
    ///
    /// # Errors
    /// There is no room, or `affinity` or `entitlement` cannot be kept.
    pub fn create_vcpu(
        self: &Arc<Self>,
        affinity: PcpuSet,
        entitlement: &Entitlement,
        make: impl FnOnce(Arc<VcpuHandle<V>>) -> V,
        shared: V::Shared,
    ) -> Result<Arc<VcpuHandle<V>>, CreateError> {
        let first = self
            .check_affinity(affinity)
            .map_err(CreateError::Affinity)?;
        let id = VcpuId::new(self.free_ids.pop().ok_or(CreateError::Full)?);
        if let Err(refusal) = self.admit(id, entitlement, affinity, || true) {
            self.free_id(id);
            return Err(CreateError::Entitlement(refusal));
        }
        let handle = Arc::new(VcpuHandle::new(
            id,
            affinity,
            first,
            Arc::clone(self),
            shared,
        ));
        let vcpu = Box::new(make(Arc::clone(&handle)));
        assert!(
            handle.slot.push(vcpu).is_ok(),
            "rule: the slot of a new vCPU is empty"
        );
        Ok(handle)
    }

    /// The scheduler of `pcpu`, once. Whoever drives that pCPU keeps it.
    pub fn local(self: &Arc<Self>, pcpu: PcpuId) -> Result<LocalScheduler<V>, LocalError> {
        if !self.pcpus.contains(pcpu) {
            return Err(LocalError::AbsentPcpu);
        }
        let policy = self.with_policy(|policy| {
            let is_free = self.online.insert(pcpu, Ordering::AcqRel);
            is_free.then(|| self.at_work(policy, pcpu))
        });
        Ok(LocalScheduler::new(
            Arc::clone(self),
            Arc::clone(self.cell(pcpu)),
            pcpu,
            policy.ok_or(LocalError::Taken)?,
        ))
    }

    /// The pCPUs of the pool.
    pub fn pcpus(&self) -> PcpuSet {
        self.pcpus
    }

    /// How many vCPUs there can be at a time.
    pub fn max_vcpus(&self) -> u16 {
        self.max_vcpus
    }

    /// The name of the policy that says who runs next.
    pub fn policy_name(&self) -> &'static str {
        self.with_policy(|policy| policy.name())
    }

    /// The machine.
    pub fn host(&self) -> &dyn Host {
        &*self.host
    }

    /// The last events of `pcpu`, which must be in the pool: `None` otherwise.
    pub fn trace(&self, pcpu: PcpuId) -> Option<&TraceRing> {
        self.cells.get(pcpu.index()).map(|cell| &cell.trace)
    }

    /// What `pcpu` has done until `now`; `None` if it is not in the pool.
    pub fn pcpu_counters(&self, pcpu: PcpuId, now: u64) -> Option<PcpuCounters> {
        let cell = self
            .cells
            .get(pcpu.index())
            .filter(|_| self.pcpus.contains(pcpu))?;
        let [busy, idle] = cell.account.read(now);
        Some(PcpuCounters {
            times: PcpuTimes { busy, idle },
            switches: cell.switches.read(),
            kicks_sent: cell.kicks_sent.read(),
            kicks_received: cell.kicks_received.read(),
            handed_over: cell.handed_over.read(),
            pulled: cell.pulled.read(),
            bad_picks: cell.bad_picks.read(),
        })
    }

    /// Takes `pcpu` out of service: it gives its vCPUs away and answers [`crate::Decision::Drained`]. A vCPU that may run
    /// nowhere else stays there, ready and unbound, until its affinity or the pCPU says otherwise. False if the pool does
    /// not have `pcpu`.
    pub fn drain(&self, pcpu: PcpuId) -> bool {
        self.pcpus.contains(pcpu) && {
            self.draining.insert(pcpu, Ordering::SeqCst);
            self.nudge(pcpu, About::Requests);
            true
        }
    }

    /// Puts `pcpu` back into service. False if the pool does not have it.
    pub fn undrain(&self, pcpu: PcpuId) -> bool {
        self.pcpus.contains(pcpu) && {
            self.draining.remove(pcpu, Ordering::SeqCst);
            // Those that are still drained may keep vCPUs that had nowhere to go until now.
            let drained = self.draining.load(Ordering::SeqCst);
            drained
                .union(PcpuSet::only(pcpu))
                .iter()
                .for_each(|pcpu| self.nudge(pcpu, About::Requests));
            true
        }
    }

    pub(crate) fn is_draining(&self, pcpu: PcpuId) -> bool {
        self.draining.contains(pcpu, Ordering::Relaxed)
    }

    /// The first pCPU of a valid affinity.
    pub(crate) fn check_affinity(&self, set: PcpuSet) -> Result<PcpuId, AffinityError> {
        match set.difference(self.pcpus).first() {
            Some(absent) => Err(AffinityError::AbsentPcpu(absent)),
            None => set.first().ok_or(AffinityError::Empty),
        }
    }

    /// What each vCPU shall get.
    pub fn entitlements(&self) -> &Entitlements {
        &self.entitlements
    }

    pub(crate) fn shared_entitlements(&self) -> &Arc<Entitlements> {
        &self.entitlements
    }

    pub(crate) fn fallback(&self) -> &RoundRobin {
        &self.fallback
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    /// Another policy is about to take over; only one changes policies at a time.
    pub(crate) fn next_generation(&self) {
        self.generation
            .store(self.generation() + 1, Ordering::Relaxed);
    }

    /// The policy with this number has broken its promise. True for the first to say so, unless it is being replaced anyway.
    pub(crate) fn fail(&self, generation: u64) -> bool {
        generation == self.generation()
            && self.failed.fetch_max(generation, Ordering::AcqRel) < generation
    }

    pub(crate) fn has_failed(&self, generation: u64) -> bool {
        self.failed.load(Ordering::Acquire) == generation
    }

    /// The name of the policy that broke its promise, so that round-robin is in its place.
    pub fn failed_policy(&self) -> Option<&'static str> {
        self.with_policy(|policy| self.has_failed(self.generation()).then(|| policy.name()))
    }

    pub(crate) fn online(&self) -> PcpuSet {
        self.online.load(Ordering::Acquire)
    }

    pub(crate) fn set_preemptive(&self, is_preemptive: bool) {
        self.is_preemptive
            .store(is_preemptive.into(), Ordering::Relaxed);
    }

    fn is_preemptive(&self) -> bool {
        self.is_preemptive.load(Ordering::Relaxed) != 0
    }

    pub(crate) fn free_id(&self, id: VcpuId) {
        assert!(
            self.free_ids.push(id.raw()).is_ok(),
            "rule: a vCPU number is freed once"
        );
    }

    pub(crate) fn cell(&self, pcpu: PcpuId) -> &Arc<Cell<V>> {
        // Every pCPU that gets here is of the pool: affinities, destinations and `local` are checked.
        &self.cells[pcpu.index()]
    }

    fn waiting(&self, pcpu: PcpuId) -> u32 {
        self.cell(pcpu).waiting.load(Ordering::Relaxed)
    }

    /// A vCPU with `affinity` may be run by `pcpu`: a drained pCPU runs nobody.
    pub(crate) fn may_run(&self, affinity: PcpuSet, pcpu: PcpuId) -> bool {
        affinity.contains(pcpu) && !self.is_draining(pcpu)
    }

    /// A vCPU with `affinity` may be run by a pCPU other than `here`.
    pub(crate) fn may_run_elsewhere(&self, affinity: PcpuSet, here: PcpuId) -> bool {
        let draining = self.draining.load(Ordering::Relaxed);
        !affinity
            .difference(draining)
            .difference(PcpuSet::only(here))
            .is_empty()
    }

    /// Where a vCPU with `affinity` goes that was on `last`: to an idle pCPU, which is claimed for it; else back to `last`
    /// unless that is clearly busier than another; else where the fewest wait.
    pub(crate) fn choose(&self, affinity: PcpuSet, last: Option<PcpuId>) -> PcpuId {
        let in_service = affinity.difference(self.draining.load(Ordering::Relaxed));
        // If it may run only on drained pCPUs, it waits on one of them.
        let eligible = if in_service.is_empty() {
            affinity
        } else {
            in_service
        };
        if let Some(idle) = self.claim_idle_in(eligible, last) {
            return idle;
        }
        let online = eligible.intersection(self.online.load(Ordering::Relaxed));
        let candidates = if online.is_empty() { eligible } else { online };
        let last = last.filter(|&last| candidates.contains(last));
        if let Some(last) = last.filter(|&last| self.waiting(last) <= 1) {
            return last;
        }
        let least = candidates.iter().min_by_key(|&pcpu| self.waiting(pcpu));
        let least = least.expect("rule: an affinity is never empty");
        last.filter(|&last| self.waiting(last) <= self.waiting(least) + 1)
            .unwrap_or(least)
    }

    /// Claims an idle pCPU of `set`, `first` if that is one: the caller must post to it.
    pub(crate) fn claim_idle_in(&self, set: PcpuSet, first: Option<PcpuId>) -> Option<PcpuId> {
        let set = if cfg!(mutant = "forget_affinity") {
            self.pcpus
        } else {
            set
        };
        let idle = self.idle_pcpus().intersection(set);
        first
            .filter(|&first| idle.contains(first))
            .into_iter()
            .chain(idle.iter())
            .find(|&pcpu| self.claim_idle(pcpu))
    }

    /// True for exactly one of those that want to post to an idle `pcpu`.
    pub(crate) fn claim_idle(&self, pcpu: PcpuId) -> bool {
        self.idle.remove(pcpu, Ordering::SeqCst) || cfg!(mutant = "claim_idle_twice")
    }

    /// Those that have published that they idle; perhaps no longer when this returns. After `fence(SeqCst)`, if it must see
    /// who went idle before.
    pub fn idle_pcpus(&self) -> PcpuSet {
        self.idle.load(Ordering::Relaxed)
    }

    pub(crate) fn publish_idle(&self, pcpu: PcpuId) {
        self.idle.insert(pcpu, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// The pCPU no longer idles; somebody may have claimed it already, and posts.
    pub(crate) fn retract_idle(&self, pcpu: PcpuId) {
        self.idle.remove(pcpu, Ordering::SeqCst);
    }

    /// `idler` has nothing to do: tells those that have mail to read, and the one with the most ready vCPUs of which one may
    /// run there. Their next `schedule` sees it in the bitmap. After `fence(SeqCst)`.
    pub(crate) fn ask_for_work(&self, idler: PcpuId) {
        let others = || {
            self.pcpus
                .iter()
                .filter(|&pcpu| pcpu != idler && !self.is_draining(pcpu))
        };
        others()
            .filter(|&pcpu| self.cell(pcpu).attention.has_mail())
            .for_each(|pcpu| self.nudge(pcpu, About::Work));
        // One that idles itself has none, or none that its policy lets run now.
        let idle = self.idle_pcpus();
        let givers =
            others().filter(|&pcpu| !idle.contains(pcpu) && self.cell(pcpu).reaches(idler));
        if let Some(giver) = givers.max_by_key(|&pcpu| self.waiting(pcpu)) {
            self.nudge(giver, About::Work);
        }
    }

    /// Puts a box into the inbox of `to`. The state word already says that it is queued there.
    pub(crate) fn post(&self, to: PcpuId, mail: Mail<V>) {
        let (affinity, id) = (mail.vcpu.handle().affinity(), mail.vcpu.handle().id());
        let cell = self.cell(to);
        cell.waiting.fetch_add(1, Ordering::Relaxed);
        assert!(
            cell.inbox.push(mail).is_ok(),
            "rule: an inbox has room for every vCPU of the pool"
        );
        let here = self.host.this_pcpu();
        self.trace_from(here, TraceEvent::Post(id, to));
        if here == Some(to) {
            return cell.attention.post_to_self();
        }
        if cell.attention.post(self.is_preemptive()) == Kick::Send {
            return self.kick(here, to);
        }
        fence(Ordering::SeqCst);
        // Somebody who may run it went idle meanwhile: `to` must hand it over now, not when its slice is over.
        if !affinity.intersection(self.idle_pcpus()).is_empty() {
            self.nudge(to, About::Work);
        }
    }

    /// Makes `to` look at what this is about.
    pub(crate) fn nudge(&self, to: PcpuId, about: About) {
        let here = self.host.this_pcpu();
        if here != Some(to) {
            self.nudge_other(here, to, about);
        } else if about != About::Loaded {
            // It looks at the loaded one before it enters it anyway.
            self.cell(to).attention.remind(about);
        }
    }

    #[inline(never)]
    fn nudge_other(&self, here: Option<PcpuId>, to: PcpuId, about: About) {
        if self.cell(to).attention.nudge(about) == Kick::Send {
            self.kick(here, to);
        }
    }

    fn kick(&self, from: Option<PcpuId>, to: PcpuId) {
        if let Some(cell) = from.and_then(|from| self.cells.get(from.index())) {
            cell.kicks_sent.increment();
        }
        self.trace_from(from, TraceEvent::Kick(to));
        self.host.kick(to);
    }

    /// Records an event of the pCPU that calls.
    pub(crate) fn trace_here(&self, event: TraceEvent) {
        self.trace_from(self.host.this_pcpu(), event);
    }

    fn trace_from(&self, pcpu: Option<PcpuId>, event: TraceEvent) {
        if let Some(cell) = pcpu.and_then(|pcpu| self.cells.get(pcpu.index())) {
            cell.trace.record(self.host.now(), event);
        }
    }
}
