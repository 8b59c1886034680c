//! What others write about one pCPU, and what it writes for others.

use crate::{
    LocalPolicy, PcpuId, PcpuSet, Policy, PoolId, Ready, TraceRing,
    accounting::{Counter, pcpu},
    attention::Attention,
    entitlement::Entry,
    hurry::Named,
    pcpu_set::AtomicPcpuSet,
    sync::{ArrayQueue, AtomicU32, Ordering},
};
use alloc::{boxed::Box, sync::Arc};

/// A pCPU that takes a policy over takes one instead that came meanwhile, and so many times at most.
pub(crate) const RECONSIDERED: usize = 2;
/// How many policies a pCPU may have replaced before somebody drops them: those of two changes, and what it has reconsidered.
const RETIRED: usize = 2 + RECONSIDERED;

/// A box in flight.
pub(crate) struct Mail<V> {
    pub(crate) vcpu: Box<V>,
    pub(crate) why: Ready,
}

/// A policy, and its part on one pCPU.
pub(crate) struct AtWork {
    pub(crate) pool: PoolId,
    pub(crate) policy: Arc<dyn Policy>,
    /// The number of the policy.
    pub(crate) generation: u64,
    pub(crate) local: Box<dyn LocalPolicy>,
    /// What takes over if the policy breaks its promise.
    pub(crate) fallback: Box<dyn LocalPolicy>,
}

/// What others write about one pCPU, and what it writes for others.
#[repr(align(64))]
pub(crate) struct Cell<V> {
    /// Those that share a cache with it.
    pub(crate) near: PcpuSet,
    pub(crate) attention: Attention,
    /// How many boxes are in the inbox and the ready set.
    pub(crate) waiting: AtomicU32,
    /// Where those that are ready here may run, all together. Only the pCPU writes it; it may say too much for a while.
    reach: AtomicPcpuSet,
    /// Who idles and has asked this pCPU for a vCPU since it last looked.
    askers: AtomicPcpuSet,
    /// What the policy of the pCPU says of itself: a box that is posted must be looked at now.
    pub(crate) is_preemptive: AtomicU32,
    pub(crate) inbox: ArrayQueue<Mail<V>>,
    /// The policy that is to take over here.
    pub(crate) successor: ArrayQueue<AtWork>,
    /// Those that others have taken over from.
    pub(crate) retired: ArrayQueue<AtWork>,
    /// Who is ready here and should run next.
    pub(crate) hurried: Named,
    pub(crate) account: pcpu::Account,
    pub(crate) switches: Counter,
    pub(crate) kicks_sent: Counter,
    pub(crate) kicks_received: Counter,
    pub(crate) handed_over: Counter,
    pub(crate) pulled: Counter,
    pub(crate) bad_picks: Counter,
    pub(crate) trace: TraceRing,
}

impl<V> Cell<V> {
    pub(crate) fn new(near: PcpuSet, max_vcpus: u16, now: u64) -> Self {
        Self {
            near,
            attention: Attention::new(),
            waiting: AtomicU32::new(0),
            reach: AtomicPcpuSet::default(),
            askers: AtomicPcpuSet::default(),
            is_preemptive: AtomicU32::new(0),
            inbox: ArrayQueue::new(usize::from(max_vcpus)),
            successor: ArrayQueue::new(1),
            retired: ArrayQueue::new(RETIRED),
            hurried: Named::default(),
            account: pcpu::Account::new(pcpu::IDLE, now),
            switches: Counter::default(),
            kicks_sent: Counter::default(),
            kicks_received: Counter::default(),
            handed_over: Counter::default(),
            pulled: Counter::default(),
            bad_picks: Counter::default(),
            trace: TraceRing::new(),
        }
    }

    pub(crate) fn is_preemptive(&self) -> bool {
        self.is_preemptive.load(Ordering::Relaxed) != 0
    }

    /// The vCPU of `entry` is ready here. Only the pCPU itself calls it.
    pub(crate) fn add_reach(&self, entry: &Entry) {
        entry.add_affinity_to(&self.reach);
    }

    /// None is ready here. Only the pCPU itself calls it.
    pub(crate) fn clear_reach(&self) {
        if !self.reach.is_empty(Ordering::Relaxed) {
            self.reach.store(PcpuSet::EMPTY, Ordering::Relaxed);
        }
    }

    /// Exactly where those that are ready here may run. Only the pCPU itself calls it.
    pub(crate) fn set_reach(&self, reach: PcpuSet) {
        if self.reach.load(Ordering::Relaxed) != reach {
            self.reach.store(reach, Ordering::Relaxed);
        }
    }

    /// Where those that are ready here may run, and perhaps more.
    pub(crate) fn reach(&self) -> PcpuSet {
        self.reach.load(Ordering::Relaxed)
    }

    /// `asker` idles, and asks this pCPU for a vCPU. It tells it so afterwards.
    pub(crate) fn ask(&self, asker: PcpuId) {
        self.askers.insert(asker, Ordering::Relaxed);
    }

    /// Who has asked, each once. Only the pCPU itself calls it.
    pub(crate) fn take_askers(&self) -> PcpuSet {
        self.askers.take(Ordering::Relaxed)
    }

    pub(crate) fn reaches(&self, pcpu: PcpuId) -> bool {
        self.reach.contains(pcpu, Ordering::Relaxed)
    }
}
