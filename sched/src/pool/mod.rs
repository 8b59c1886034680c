//! What the pCPUs of a pool share: who idles, who has mail, where a woken vCPU goes.
//!
//! Each pCPU has a [`Cell`] that others write into: an inbox for boxes, the attention word, how many vCPUs wait there.

mod errors;
mod place;
mod post;

pub use errors::{CreateError, LocalError, PoolError};

use crate::{
    AffinityError, Entitlement, Entitlements, Host, LocalScheduler, PcpuCounters, PcpuId, PcpuSet,
    PcpuTimes, Policy, TraceRing, Vcpu, VcpuHandle, VcpuId,
    cell::Cell,
    pcpu_set::AtomicPcpuSet,
    policies::RoundRobin,
    sync::{ArrayQueue, AtomicU32, AtomicU64, Ordering},
};
use alloc::{boxed::Box, sync::Arc, vec::Vec};

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
}
