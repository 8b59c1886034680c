//! What the scheduler needs of the machine, on any pCPU.

use crate::{PcpuId, PolicyFailure, VcpuId};

/// What the scheduler needs of the machine, on any pCPU.
pub trait Host: Send + Sync {
    /// The host's counter, in ticks. [CNTPCT_EL0]
    fn now(&self) -> u64;

    /// Makes `pcpu` leave its guest or its idle wait soon; never the pCPU that calls.
    fn kick(&self, pcpu: PcpuId);

    /// The pCPU that calls, if it is one of the scheduler's.
    fn this_pcpu(&self) -> Option<PcpuId>;

    /// Which cache `pcpu` shares with others, by any number: those that have the same are near each other. Asked when the
    /// scheduler is made; without an answer all are near.
    fn cluster(&self, _pcpu: PcpuId) -> u64 {
        0
    }

    /// How many microseconds `ticks` are, for the texts of refusals; `None`: these are in ticks.
    fn microseconds(&self, _ticks: u64) -> Option<u64> {
        None
    }

    /// A vCPU that [`crate::VcpuHandle::stop`] was called for is parked now. Called once per stop, on the pCPU that parked it, or
    /// by the caller of `stop` if it was parked already, or by whoever finds it at a closed pCPU, perhaps in the middle of a change of
    /// pools: it asks nothing that a policy or a pool is asked for.
    fn stopped(&self, _vcpu: VcpuId) {}

    /// A pool's policy has broken its promise, and round-robin takes over on all pCPUs of that. Called once for a policy, on the
    /// pCPU that noticed, in the middle of a decision: it may neither wait nor allocate.
    fn policy_failed(&self, _failure: PolicyFailure) {}

    /// Called while somebody else, on another pCPU, is about to be done, and between two looks of a pCPU that polls. [DDI0487: YIELD]
    fn relax(&self) {
        core::hint::spin_loop();
    }

    /// A vCPU that [`crate::VcpuHandle::pause`] was called for is parked now, on the pCPU that calls, or by whoever finds it at a closed
    /// one, as for [`Self::stopped`]. One that was parked already when it was paused is not announced; one that goes on to be stopped is
    /// only announced as stopped.
    fn paused(&self, _vcpu: VcpuId) {}
}
