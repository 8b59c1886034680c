//! Why there is no scheduler, no vCPU in it, no part of it for a pCPU, or no change of pools.

use crate::{AffinityError, PcpuId, PcpuSet, PoolId, Refusal, VcpuId};
use alloc::string::String;
use core::fmt;

/// Why there is no scheduler.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SchedulerError {
    /// It needs at least one pCPU.
    NoPcpu,
    /// It needs room for at least one vCPU.
    NoVcpu,
}

/// Why a vCPU is not created.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum CreateError {
    /// The scheduler has its `max_vcpus`.
    Full,
    /// There is no such pool.
    NoPool(PoolId),
    /// It could not run anywhere.
    Affinity(AffinityError),
    /// The policy cannot keep what it shall get.
    Entitlement(Refusal),
}

/// Why a pCPU gets no scheduler.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LocalError {
    /// The machine does not have it.
    AbsentPcpu,
    /// It has one.
    Taken,
    /// It was unplugged before it came.
    Unplugged,
}

/// Why pools stay as they are.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum PoolChangeError {
    /// No pool has this number.
    NoPool(PoolId),
    /// There are [`PoolId::LIMIT`] already.
    TooManyPools,
    /// A pool cannot be called so: a name has letters, digits and `-_.`, and is no pool's number.
    BadName(String),
    /// A pool has this name.
    NameTaken(String, PoolId),
    /// A pool needs at least one pCPU.
    NoPcpu,
    /// The machine does not have this pCPU.
    AbsentPcpu(PcpuId),
    /// These are all that the pool has.
    NoPcpuLeft {
        /// The pool.
        pool: PoolId,
        /// Its pCPUs.
        pcpus: PcpuSet,
    },
    /// This pCPU belongs to no pool until it is plugged in.
    Unplugged(PcpuId),
    /// This pCPU belongs to this pool.
    Plugged(PcpuId, PoolId),
    /// This pCPU is off, or about to be: it is plugged in once it has called
    /// [`LocalScheduler::reopen`](crate::LocalScheduler::reopen).
    Closed(PcpuId),
    /// A vCPU could run nowhere.
    NoPlace {
        /// Which.
        vcpu: VcpuId,
        /// Where it may run.
        affinity: PcpuSet,
        /// Its pool.
        pool: PoolId,
        /// What that would have.
        pcpus: PcpuSet,
    },
    /// A pool with vCPUs is not removed.
    HasVcpus {
        /// The pool.
        pool: PoolId,
        /// How many it has.
        count: usize,
    },
    /// The first pool is not removed.
    First,
    /// A policy cannot keep what a vCPU shall get.
    Refused(Refusal),
}

impl fmt::Display for SchedulerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoPcpu => "a scheduler needs at least one pCPU",
            Self::NoVcpu => "a scheduler needs room for at least one vCPU",
        })
    }
}

impl fmt::Display for CreateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("there are as many vCPUs as there is room for"),
            Self::NoPool(pool) => write!(f, "there is no {pool}"),
            Self::Affinity(error) => error.fmt(f),
            Self::Entitlement(refusal) => refusal.fmt(f),
        }
    }
}

impl fmt::Display for LocalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AbsentPcpu => "the scheduler does not have this pCPU",
            Self::Taken => "this pCPU has its scheduler already",
            Self::Unplugged => "this pCPU was unplugged and belongs to no pool",
        })
    }
}

impl fmt::Display for PoolChangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPool(pool) => write!(f, "there is no {pool}"),
            Self::TooManyPools => {
                write!(
                    f,
                    "there are {} pools, and no more are possible",
                    PoolId::LIMIT
                )
            }
            Self::BadName(name) => write!(
                f,
                "`{}` is no name for a pool: give letters, digits and -_., and not a number such as pool0",
                name.escape_debug()
            ),
            Self::NameTaken(name, pool) => write!(f, "{pool} is called `{name}` already"),
            Self::NoPcpu => f.write_str("a pool needs at least one pCPU"),
            Self::AbsentPcpu(pcpu) => write!(f, "the machine has no {pcpu}"),
            Self::NoPcpuLeft { pool, pcpus } => {
                write!(f, "{pool} has no pCPUs but {pcpus}, and needs at least one")
            }
            Self::Unplugged(pcpu) => write!(f, "{pcpu} is unplugged: it belongs to no pool"),
            Self::Plugged(pcpu, pool) => {
                write!(f, "{pcpu} is not unplugged: it belongs to {pool}")
            }
            Self::Closed(pcpu) => write!(f, "{pcpu} is off"),
            Self::NoPlace {
                vcpu,
                affinity,
                pool,
                pcpus,
            } => write!(
                f,
                "{vcpu} may run on pCPUs {affinity} only, and {pool} would have {pcpus}"
            ),
            Self::HasVcpus { pool, count } => {
                write!(f, "{pool} still has {count} vCPUs: move them first")
            }
            Self::First => write!(
                f,
                "{} is for all that name no other pool, and stays",
                PoolId::FIRST
            ),
            Self::Refused(refusal) => refusal.fmt(f),
        }
    }
}

impl core::error::Error for SchedulerError {}
impl core::error::Error for CreateError {}
impl core::error::Error for LocalError {}
impl core::error::Error for PoolChangeError {}
