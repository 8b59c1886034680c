//! Why something that is asked of a vCPU is refused.

use crate::{PcpuId, Refusal};
use core::fmt;

/// Why an affinity is refused.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum AffinityError {
    /// A vCPU that may run nowhere never runs.
    Empty,
    /// The pool does not have this pCPU.
    AbsentPcpu(PcpuId),
    /// The policy cannot keep there what the vCPU is entitled to.
    Entitlement(Refusal),
}

/// Why a vCPU is not sent to a pCPU.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum MigrateError {
    /// The pool does not have it.
    AbsentPcpu,
    /// The vCPU's affinity forbids it.
    NotInAffinity,
}

/// Why PSCI CPU_ON fails. [DEN0022: CPU_ON]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PowerOnError {
    /// It is on.
    AlreadyOn,
    /// Another CPU_ON came first, and it has not been entered yet.
    OnPending,
}

/// Why a vCPU cannot be taken out of the pool.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RetireError {
    /// It must be off or stopped, and parked.
    StillInUse,
}

impl fmt::Display for AffinityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("an affinity needs at least one pCPU"),
            Self::AbsentPcpu(pcpu) => write!(f, "the pool has no {pcpu}"),
            Self::Entitlement(refusal) => refusal.fmt(f),
        }
    }
}

impl fmt::Display for MigrateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AbsentPcpu => "the pool does not have this pCPU",
            Self::NotInAffinity => "the vCPU's affinity forbids this pCPU",
        })
    }
}

impl core::error::Error for AffinityError {}
impl core::error::Error for MigrateError {}
