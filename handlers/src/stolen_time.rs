//! How a guest learns what time its vCPUs could have run and did not: paravirtualised stolen time. [DEN0057: Paravirtualized
//! Time for Arm-based systems 1.0]
//!
//! Each vCPU has a record that its VM's guest can only read. The pCPU that binds the vCPU writes it, so it
//! is right whenever the vCPU runs; it never goes back, because what the scheduler counts never does, whatever the guest resets.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use trapline_vcpu::{Action, Exit};

use crate::{
    handler::{ExitHandler, GuestCpu},
    registry::Claim,
    shared_records::SharedRecords,
    smccc::NOT_SUPPORTED,
};

/// PV_TIME_FEATURES, for which SMCCC_ARCH_FEATURES is asked whether there is stolen time.
pub(crate) const PV_TIME_FEATURES: u32 = 0xc500_0020;
const PV_TIME_ST: u32 = 0xc500_0021;

const NANOSECONDS: u128 = 1_000_000_000;

/// What the guest reads, little-endian. [DEN0057: Stolen time structure]
#[repr(C)]
struct Record {
    revision: AtomicU32,
    attributes: AtomicU32,
    stolen_nanoseconds: AtomicU64,
    reserved: [AtomicU64; 6],
}

impl Default for Record {
    fn default() -> Self {
        Self {
            revision: AtomicU32::new(0),
            attributes: AtomicU32::new(0),
            stolen_nanoseconds: AtomicU64::new(0),
            reserved: [const { AtomicU64::new(0) }; 6],
        }
    }
}

/// The stolen time of one VM's vCPUs.
pub struct StolenTime {
    /// Nanoseconds in a tick of the host's counter, times 2^32.
    scale: u64,
    records: SharedRecords<Record>,
}

impl StolenTime {
    /// Records for `vcpu_count` vCPUs, nothing stolen so far, which the guest finds from `base` on (a multiple of the page
    /// size). The host's counter makes `frequency` ticks in a second, at least 1.
    pub fn new(base: u64, vcpu_count: usize, frequency: u64) -> Arc<Self> {
        Arc::new(Self {
            scale: ((NANOSECONDS << 32) / u128::from(frequency)) as u64,
            records: SharedRecords::new(base, vcpu_count),
        })
    }

    /// The pages that the embedder maps into the guest's address space, normal memory that the guest may only read: for each
    /// the intermediate physical address and the address in the hypervisor's memory. They live as long as this does.
    pub fn pages(&self) -> impl Iterator<Item = (u64, usize)> {
        self.records.pages()
    }

    /// vCPU `index` was ready and not running for `ticks` so far. Its owner calls it, before the vCPU runs.
    pub(crate) fn publish(&self, index: usize, ticks: u64) {
        if let Some(record) = self.records.get(index) {
            // One store of 64 bits: the guest never sees half of it.
            let nanoseconds = (u128::from(ticks) * u128::from(self.scale)) >> 32;
            let word = &record.stolen_nanoseconds;
            word.store(nanoseconds as u64, Ordering::Relaxed);
        }
    }

    fn address(&self, index: usize) -> u64 {
        self.records.address(index)
    }
}

/// Tells a vCPU where its record is, in a VM that has them.
pub struct StolenTimeCalls;

impl StolenTimeCalls {
    /// The functions of DEN0057; they are SMC64 and HVC64 only.
    pub const CLAIMS: [Claim; 1] = [Claim::Calls(PV_TIME_FEATURES..=PV_TIME_ST)];
}

impl ExitHandler for StolenTimeCalls {
    fn name(&self) -> &str {
        "stolen-time"
    }

    fn handle(&self, guest: &mut GuestCpu<'_>, _exit: &Exit) -> Action {
        let Some(stolen_time) = guest.vm().stolen_time() else {
            return Action::Decline;
        };
        let answer = match guest.register(0) as u32 {
            PV_TIME_ST => stolen_time.address(guest.vcpu()),
            _ => match guest.register(1) as u32 {
                PV_TIME_FEATURES | PV_TIME_ST => 0,
                _ => NOT_SUPPORTED,
            },
        };
        guest.set_register(0, answer);
        Action::Finish
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
