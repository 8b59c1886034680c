//! Why something that is asked of a vCPU is refused.

use crate::{PcpuId, PcpuSet, PoolId, Refusal};
use core::fmt;

/// Why an affinity is refused.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum AffinityError {
    /// A vCPU that may run nowhere never runs.
    Empty,
    /// The machine does not have this pCPU.
    AbsentPcpu(PcpuId),
    /// The vCPU's pool does not have all of them.
    OutsidePool {
        /// One that it does not have.
        pcpu: PcpuId,
        /// The pool.
        pool: PoolId,
        /// Those that it has.
        pcpus: PcpuSet,
    },
    /// The policy cannot keep there what the vCPU is entitled to.
    Entitlement(Refusal),
}

/// Why a vCPU is not sent to a pCPU.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum MigrateError {
    /// The machine does not have it.
    AbsentPcpu,
    /// The vCPU's affinity forbids it.
    NotInAffinity,
    /// It is in another pool than the vCPU.
    NotInPool,
}

/// Why PSCI CPU_ON fails. [DEN0022: CPU_ON]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PowerOnError {
    /// It is on.
    AlreadyOn,
    /// Another CPU_ON came first, and it has not been entered yet.
    OnPending,
}

/// Why a vCPU cannot be taken out of the scheduler.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RetireError {
    /// It must be off or stopped, and parked.
    StillInUse,
}

impl fmt::Display for AffinityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("an affinity needs at least one pCPU"),
            Self::AbsentPcpu(pcpu) => write!(f, "the machine has no {pcpu}"),
            Self::OutsidePool { pcpu, pool, pcpus } => write!(
                f,
                "{pcpu} is not in {pool}, which has pCPUs {pcpus}: name some of those, or all of the machine for any"
            ),
            Self::Entitlement(refusal) => refusal.fmt(f),
        }
    }
}

impl fmt::Display for MigrateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AbsentPcpu => "the machine does not have this pCPU",
            Self::NotInAffinity => "the vCPU's affinity forbids this pCPU",
            Self::NotInPool => "this pCPU is in another pool than the vCPU",
        })
    }
}

impl core::error::Error for AffinityError {}
impl core::error::Error for MigrateError {}
