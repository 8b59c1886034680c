//! Why there is no pool, no vCPU in it, or no scheduler of a pCPU.

use crate::{AffinityError, Refusal};
use core::fmt;

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
