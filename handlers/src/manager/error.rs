//! Why the user does not get what was asked for.

use alloc::{borrow::ToOwned, string::String, vec::Vec};
use core::fmt;

use trapline_sched::{
    AffinityError, PolicyError, PoolChangeError, PoolId, Scheduler, Vcpu, policies::NAMES,
};

/// Why nothing was done. Its text has the numbers, and what there is to choose from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ManageError {
    /// No VM is called so.
    UnknownVm {
        /// What was asked for.
        name: String,
        /// What the VMs are called.
        known: Vec<String>,
    },
    /// The VM has fewer vCPUs.
    UnknownVcpu {
        /// The VM.
        vm: String,
        /// The index that was asked for.
        vcpu: usize,
        /// How many it has.
        count: usize,
    },
    /// A cap of nothing, or of more than the pool has, in hundredths of a pCPU.
    BadCap {
        /// What was asked for.
        cap: u32,
        /// What there is.
        most: u32,
    },
    /// No pool is called so.
    UnknownPool {
        /// What was asked for.
        name: String,
        /// What the pools are called.
        known: Vec<String>,
    },
    /// The pool cannot go because a VM belongs to it.
    PoolInUse {
        /// The pool.
        pool: PoolId,
        /// One that belongs to it.
        vm: String,
    },
    /// A vCPU could not run there, or its policy cannot keep it.
    Vcpu {
        /// The VM's name, and the vCPU's index.
        vcpu: (String, usize),
        /// The policy of its pool.
        policy: &'static str,
        /// Why not.
        error: AffinityError,
    },
    /// A policy cannot keep what some vCPU of the pool shall get, or there is no such pool.
    TakeOver {
        /// The policy.
        policy: &'static str,
        /// Why not.
        error: PoolChangeError,
    },
    /// A pool cannot be so.
    Pool {
        /// The vCPU that is in the way: its VM's name, and its index.
        vcpu: Option<(String, usize)>,
        /// Why not.
        error: PoolChangeError,
    },
    /// There is no such policy.
    Policy {
        /// What was asked for.
        name: String,
        /// Why not.
        error: PolicyError,
    },
}

impl fmt::Display for ManageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownVm { name, known } => {
                write!(f, "there is no VM {name:?}; there are: {}", known.join(" "))
            }
            Self::UnknownVcpu { vm, vcpu, count } => {
                write!(f, "{vm} has no vCPU {vcpu}: it has {count}, from 0")
            }
            Self::BadCap { cap, most } => write!(
                f,
                "a cap of {cap} hundredths of a pCPU: it must be 1 to {most}, which is all that the pool has"
            ),
            Self::UnknownPool { name, known } => {
                write!(
                    f,
                    "there is no pool {name:?}; there are: {}",
                    known.join(" ")
                )
            }
            Self::PoolInUse { pool, vm } => write!(f, "{vm} belongs to {pool}: move it first"),
            Self::Vcpu {
                vcpu: (vm, vcpu),
                policy,
                error: AffinityError::Entitlement(refusal),
            } => write!(
                f,
                "policy {policy} refuses it for vCPU {vcpu} of {vm}: {refusal}"
            ),
            Self::Vcpu { error, .. } => error.fmt(f),
            Self::TakeOver { policy, error } => {
                write!(f, "policy {policy} cannot take over: {error}")
            }
            Self::Pool {
                vcpu: Some((vm, vcpu)),
                error,
            } => write!(f, "vCPU {vcpu} of {vm}: {error}"),
            Self::Pool { error, .. } => error.fmt(f),
            Self::Policy {
                name,
                error: PolicyError::UnknownName,
            } => write!(
                f,
                "there is no policy {name:?}; there are: {}",
                NAMES.join(" ")
            ),
            Self::Policy { error, .. } => error.fmt(f),
        }
    }
}

impl core::error::Error for ManageError {}

/// What is wrong with a VM's settings, before it is known whose they are.
pub(super) enum SettingsError {
    NoSuchVcpu {
        vcpu: usize,
        count: usize,
    },
    Refused {
        pool: PoolId,
        vcpu: usize,
        error: AffinityError,
    },
}

impl SettingsError {
    pub(super) fn named<V: Vcpu>(self, vm: &str, scheduler: &Scheduler<V>) -> ManageError {
        match self {
            Self::NoSuchVcpu { vcpu, count } => ManageError::UnknownVcpu {
                vm: vm.to_owned(),
                vcpu,
                count,
            },
            Self::Refused {
                pool: of,
                vcpu,
                error,
            } => ManageError::Vcpu {
                vcpu: (vm.to_owned(), vcpu),
                policy: scheduler.policy_name(of).unwrap_or_default(),
                error,
            },
        }
    }
}
