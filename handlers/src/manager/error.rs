//! Why the user does not get what was asked for.

use alloc::{borrow::ToOwned, string::String, vec::Vec};
use core::fmt;

use trapline_sched::{AffinityError, PcpuSet, PolicyError, Pool, Refusal, Vcpu, policies::NAMES};

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
    /// The vCPU could not run there.
    Affinity {
        /// The pCPUs of the pool.
        pcpus: PcpuSet,
        /// Why not.
        error: AffinityError,
    },
    /// The policy cannot keep it.
    Refused {
        /// Its name.
        policy: &'static str,
        /// Whose settings it refuses, if one VM's are changed: the VM's name, and the vCPU's index.
        vcpu: Option<(String, usize)>,
        /// What it says.
        refusal: Refusal,
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
            Self::Affinity {
                pcpus,
                error: AffinityError::AbsentPcpu(pcpu),
            } => write!(f, "the pool has no {pcpu}: it has {pcpus}"),
            Self::Affinity { error, .. } => error.fmt(f),
            Self::Refused {
                policy,
                vcpu: Some((vm, vcpu)),
                refusal,
            } => write!(
                f,
                "policy {policy} refuses it for vCPU {vcpu} of {vm}: {refusal}"
            ),
            Self::Refused {
                policy, refusal, ..
            } => write!(f, "policy {policy} cannot take over: {refusal}"),
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
    NoSuchVcpu { vcpu: usize, count: usize },
    Refused { vcpu: usize, error: AffinityError },
}

impl SettingsError {
    pub(super) fn named<V: Vcpu>(self, vm: &str, pool: &Pool<V>) -> ManageError {
        match self {
            Self::NoSuchVcpu { vcpu, count } => ManageError::UnknownVcpu {
                vm: vm.to_owned(),
                vcpu,
                count,
            },
            Self::Refused {
                vcpu,
                error: AffinityError::Entitlement(refusal),
            } => ManageError::Refused {
                policy: pool.policy_name(),
                vcpu: Some((vm.to_owned(), vcpu)),
                refusal,
            },
            Self::Refused { error, .. } => ManageError::Affinity {
                pcpus: pool.pcpus(),
                error,
            },
        }
    }
}
