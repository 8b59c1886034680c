//! What all pCPUs share: each one's cell, who has which number, and which pool has what.
//!
//! Each pCPU has a [`Cell`] that others write into: an inbox for boxes, the attention word, how many vCPUs wait there. The
//! pCPUs are divided into pools; at first one pool has all. Each pool follows its own policy, and a vCPU runs on pCPUs of
//! its pool only: where it may run is kept per vCPU as its affinity's part of its pool's pCPUs, so that nothing on the way
//! of a wake-up or a switch has to look at both.

mod errors;
mod partition;
mod place;
mod post;
mod regime;
mod regroup;

pub use errors::{CreateError, LocalError, PoolChangeError, SchedulerError};
pub(crate) use post::Caller;
pub use regime::PoolInfo;

use crate::{
    AffinityError, Entitlement, Entitlements, Host, LocalScheduler, PcpuCounters, PcpuId, PcpuSet,
    PcpuTimes, Policy, PoolId, TraceRing, Vcpu, VcpuHandle, VcpuId,
    cell::Cell,
    pcpu_set::AtomicPcpuSet,
    policies::RoundRobin,
    sync::{ArrayQueue, Ordering},
};
use alloc::{boxed::Box, string::String, sync::Arc, vec::Vec};
use partition::Partition;
use regime::Regime;

/// What a machine's pools start as: one of them has all pCPUs.
pub struct SchedulerConfig {
    /// How the first pool is called.
    pub name: String,
    /// The pCPUs that will call [`Scheduler::local`].
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

/// All pCPUs and vCPUs of the machine, in one pool or in several. The pCPUs of a pool schedule the vCPUs of that pool by its
/// policy.
pub struct Scheduler<V: Vcpu> {
    pcpus: PcpuSet,
    /// By pCPU number; one for each number up to the highest.
    cells: Vec<Arc<Cell<V>>>,
    /// By pool number.
    partitions: [Partition; PoolId::LIMIT],
    draining: AtomicPcpuSet,
    /// Those that have their scheduler.
    online: AtomicPcpuSet,
    free_ids: ArrayQueue<u16>,
    max_vcpus: u16,
    /// Whoever changes what pools or vCPUs shall get takes it out and puts it back, so they come one after the other.
    regime: ArrayQueue<Regime>,
    fallback: RoundRobin,
    entitlements: Arc<Entitlements>,
    host: Arc<dyn Host>,
}

impl<V: Vcpu> Scheduler<V> {
    /// A machine without vCPUs, whose pCPUs have yet to come.
    pub fn new(config: SchedulerConfig) -> Result<Arc<Self>, SchedulerError> {
        let SchedulerConfig {
            name,
            pcpus,
            max_vcpus,
            policy,
            fallback_slice,
            host,
        } = config;
        let last = pcpus.iter().last().ok_or(SchedulerError::NoPcpu)?;
        if max_vcpus == 0 {
            return Err(SchedulerError::NoVcpu);
        }
        let free_ids = ArrayQueue::new(usize::from(max_vcpus));
        for id in 0..max_vcpus {
            assert!(
                free_ids.push(id).is_ok(),
                "rule: there is room for every vCPU number"
            );
        }
        let now = host.now();
        let cells = (0..=last.index() as u16)
            .filter_map(PcpuId::new)
            .map(|pcpu| Arc::new(Cell::new(near(&*host, pcpu, pcpus), max_vcpus, now)))
            .collect();
        let regime = ArrayQueue::new(1);
        assert!(
            regime.push(Regime::new(name, policy.into())).is_ok(),
            "rule: there is room for one regime"
        );
        let partition = |index| {
            let id = PoolId::new(index).expect("rule: there is a partition for each pool number");
            let is_first = id == PoolId::FIRST;
            Partition::new(id, if is_first { pcpus } else { PcpuSet::EMPTY })
        };
        Ok(Arc::new(Self {
            pcpus,
            cells,
            partitions: core::array::from_fn(partition),
            draining: AtomicPcpuSet::default(),
            online: AtomicPcpuSet::default(),
            free_ids,
            max_vcpus,
            regime,
            fallback: RoundRobin::with_slice(fallback_slice.max(1)),
            entitlements: Arc::new(Entitlements::new(max_vcpus)),
            host,
        }))
    }

    /// Creates a vCPU in the first pool: parked, and off until [`VcpuHandle::claim_power_on`]. `make` gets the handle that the
    /// vCPU keeps.
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
        self.create_vcpu_in(PoolId::FIRST, affinity, entitlement, make, shared)
    }

    /// The same in `pool`.
    ///
    /// # Errors
    /// There is no such pool, no room, or `affinity` or `entitlement` cannot be kept there.
    pub fn create_vcpu_in(
        self: &Arc<Self>,
        pool: PoolId,
        affinity: PcpuSet,
        entitlement: &Entitlement,
        make: impl FnOnce(Arc<VcpuHandle<V>>) -> V,
        shared: V::Shared,
    ) -> Result<Arc<VcpuHandle<V>>, CreateError> {
        let check = || self.check_affinity(affinity, pool);
        self.create(pool, (affinity, check), entitlement, make, shared)
    }

    /// The same for a vCPU that was promised `affinity` when the pool perhaps had other pCPUs: it may run on those that the pool has
    /// now, and on the others as soon as it has them.
    ///
    /// # Errors
    /// See [`Self::create_vcpu_in`]; the machine must have all of them, and the pool one.
    pub fn restore_vcpu_in(
        self: &Arc<Self>,
        pool: PoolId,
        affinity: PcpuSet,
        entitlement: &Entitlement,
        make: impl FnOnce(Arc<VcpuHandle<V>>) -> V,
        shared: V::Shared,
    ) -> Result<Arc<VcpuHandle<V>>, CreateError> {
        let check = || {
            self.check_presence(affinity)?;
            match affinity.intersection(self.partition(pool).pcpus()) {
                none if none.is_empty() => self.check_affinity(affinity, pool),
                some => Ok(some),
            }
        };
        self.create(pool, (affinity, check), entitlement, make, shared)
    }

    /// The closure says what of the affinity counts now.
    fn create(
        self: &Arc<Self>,
        pool: PoolId,
        affinity: (PcpuSet, impl FnOnce() -> Result<PcpuSet, AffinityError>),
        entitlement: &Entitlement,
        make: impl FnOnce(Arc<VcpuHandle<V>>) -> V,
        shared: V::Shared,
    ) -> Result<Arc<VcpuHandle<V>>, CreateError> {
        let id = VcpuId::new(self.free_ids.pop().ok_or(CreateError::Full)?);
        let first = self
            .admit_new(id, pool, affinity, entitlement)
            .inspect_err(|_| self.free_id(id))?;
        let handle = Arc::new(VcpuHandle::new(id, first, Arc::clone(self), shared));
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
        let policy = self.with_regime(|regime| {
            let pool = self.pool_of(pcpu).ok_or(LocalError::Unplugged)?;
            let policy = regime.policy(pool).map_err(|_| LocalError::Unplugged)?;
            if !self.online.insert(pcpu, Ordering::AcqRel) {
                return Err(LocalError::Taken);
            }
            Ok(self.at_work(pool, policy, pcpu))
        })?;
        let cell = Arc::clone(self.cell(pcpu));
        Ok(LocalScheduler::new(Arc::clone(self), cell, pcpu, policy))
    }

    /// The pCPUs of all pools, and those that are unplugged.
    pub fn pcpus(&self) -> PcpuSet {
        self.pcpus
    }

    /// How many vCPUs there can be at a time.
    pub fn max_vcpus(&self) -> u16 {
        self.max_vcpus
    }

    /// The machine.
    pub fn host(&self) -> &dyn Host {
        &*self.host
    }

    /// The last events of `pcpu`, `None` if the machine does not have it.
    pub fn trace(&self, pcpu: PcpuId) -> Option<&TraceRing> {
        self.cells.get(pcpu.index()).map(|cell| &cell.trace)
    }

    /// What `pcpu` has done until `now`; `None` if the machine does not have it.
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

    /// What of `set` pool `pool` has: all, or `set` names every pCPU of the machine and so none in particular.
    ///
    /// # Errors
    /// It has none, or not all of them.
    pub fn check_affinity(&self, set: PcpuSet, pool: PoolId) -> Result<PcpuSet, AffinityError> {
        self.check_presence(set)?;
        let pcpus = self.partition(pool).pcpus();
        match set.difference(pcpus).first() {
            Some(outside) if set != self.pcpus => Err(AffinityError::OutsidePool {
                pcpu: outside,
                pool,
                pcpus,
            }),
            _ => Ok(set.intersection(pcpus)),
        }
    }

    /// The machine has all of `set`, and there is one.
    fn check_presence(&self, set: PcpuSet) -> Result<(), AffinityError> {
        if set.is_empty() {
            return Err(AffinityError::Empty);
        }
        match set.difference(self.pcpus).first() {
            Some(absent) => Err(AffinityError::AbsentPcpu(absent)),
            None => Ok(()),
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

    pub(crate) fn online(&self) -> PcpuSet {
        self.online.load(Ordering::Acquire)
    }

    pub(crate) fn free_id(&self, id: VcpuId) {
        assert!(
            self.free_ids.push(id.raw()).is_ok(),
            "rule: a vCPU number is freed once"
        );
    }

    pub(crate) fn cell(&self, pcpu: PcpuId) -> &Arc<Cell<V>> {
        // Every pCPU that gets here is of the machine: affinities, destinations and `local` are checked.
        &self.cells[pcpu.index()]
    }
}

/// Those of `pcpus` that share a cache with `pcpu`.
fn near(host: &dyn Host, pcpu: PcpuId, pcpus: PcpuSet) -> PcpuSet {
    let cluster = host.cluster(pcpu);
    let near = pcpus.iter().filter(|&other| host.cluster(other) == cluster);
    near.map(PcpuSet::only).fold(PcpuSet::EMPTY, PcpuSet::union)
}

#[cfg(all(test, not(loom)))]
mod tests;
