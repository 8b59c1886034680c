//! What everybody may read of one pool: which pCPUs it has, who idles there, whose policy it follows.

use super::Scheduler;
use crate::{
    PcpuId, PcpuSet, PoolId, Vcpu,
    pcpu_set::AtomicPcpuSet,
    sync::{AtomicU32, AtomicU64, Ordering},
};

/// One pool. There are as many as there can be, most of them without pCPUs.
pub(crate) struct Partition {
    /// Which of those that have its number one after the other.
    id: AtomicU32,
    /// Written by whoever changes pools, one at a time.
    pcpus: AtomicPcpuSet,
    /// Those of its pCPUs that idle. A pCPU is in the set of the pool whose policy it follows.
    pub(super) idle: AtomicPcpuSet,
    /// The number of its policy; all policies that ever were have different ones.
    generation: AtomicU64,
    /// The number of the last policy here that broke its promise.
    failed: AtomicU64,
}

impl Partition {
    /// That of the policy that is there from the start. No policy that fails has a lower one.
    pub(super) const FIRST_GENERATION: u64 = 1;

    pub(super) fn new(id: PoolId, pcpus: PcpuSet) -> Self {
        Self {
            id: AtomicU32::new(id.raw()),
            pcpus: AtomicPcpuSet::new(pcpus),
            idle: AtomicPcpuSet::default(),
            generation: AtomicU64::new(Self::FIRST_GENERATION),
            failed: AtomicU64::new(0),
        }
    }

    pub(crate) fn pcpus(&self) -> PcpuSet {
        self.pcpus.load(Ordering::Relaxed)
    }

    pub(crate) fn has(&self, pcpu: PcpuId) -> bool {
        self.pcpus.contains(pcpu, Ordering::Relaxed)
    }

    pub(crate) fn set_pcpus(&self, pcpus: PcpuSet) {
        self.pcpus.store(pcpus, Ordering::Relaxed);
    }

    /// Those that have published that they idle; perhaps no longer when this returns. After `fence(SeqCst)`, if it must see
    /// who went idle before.
    pub(crate) fn idle_pcpus(&self) -> PcpuSet {
        self.idle.load(Ordering::Relaxed)
    }

    /// There is one of these.
    pub(crate) fn has_idle(&self) -> bool {
        !self.idle.is_empty(Ordering::Relaxed)
    }

    fn id(&self) -> PoolId {
        PoolId::from_raw(self.id.load(Ordering::Relaxed))
    }

    /// Before it has pCPUs.
    pub(super) fn set_id(&self, id: PoolId) {
        self.id.store(id.raw(), Ordering::Relaxed);
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    pub(crate) fn set_generation(&self, generation: u64) {
        self.generation.store(generation, Ordering::Relaxed);
    }

    /// The policy with this number has broken its promise. True for the first to say so, unless it is being replaced anyway.
    pub(crate) fn fail(&self, generation: u64) -> bool {
        generation == self.generation()
            && self.failed.fetch_max(generation, Ordering::AcqRel) < generation
    }

    pub(crate) fn has_failed(&self, generation: u64) -> bool {
        self.failed.load(Ordering::Acquire) == generation
    }
}

impl<V: Vcpu> Scheduler<V> {
    pub(crate) fn partition(&self, pool: PoolId) -> &Partition {
        &self.partitions[pool.index()]
    }

    /// The pool that has `pcpu`, unless that is unplugged. Also `None`, or the one that had it, for a moment while a pCPU changes its
    /// pool: who changes pools knows better.
    pub fn pool_of(&self, pcpu: PcpuId) -> Option<PoolId> {
        let pool = self.partitions.iter().find(|pool| pool.has(pcpu))?;
        Some(pool.id())
    }

    /// All that have published that they idle; perhaps no longer when this returns.
    pub fn idle_pcpus(&self) -> PcpuSet {
        let idle = self.partitions.iter().map(Partition::idle_pcpus);
        idle.fold(PcpuSet::EMPTY, PcpuSet::union)
    }
}
