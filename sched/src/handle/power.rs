//! How a vCPU is turned on: PSCI CPU_ON in two halves.

use super::{PowerOnError, VcpuHandle};
use crate::{BlockReason, PowerState, Vcpu, state::Claim};

impl<V: Vcpu> VcpuHandle<V> {
    /// PSCI CPU_ON, first half: of several callers exactly one gets the claim, writes the entry point and commits.
    pub fn claim_power_on(&self) -> Result<PowerOnClaim<'_, V>, PowerOnError> {
        match self.state.update(|state| state.claim_power_on()) {
            Claim::Claimed => Ok(PowerOnClaim {
                handle: self,
                is_committed: false,
            }),
            Claim::AlreadyOn => Err(PowerOnError::AlreadyOn),
            Claim::OnPending => Err(PowerOnError::OnPending),
        }
    }

    /// What PSCI AFFINITY_INFO says about it.
    pub fn power_state(&self) -> PowerState {
        self.state.load().power()
    }
}

/// The right to turn a vCPU on, between the two halves of PSCI CPU_ON. Dropped without [`Self::commit`] it leaves the vCPU off.
#[must_use]
pub struct PowerOnClaim<'a, V: Vcpu> {
    handle: &'a VcpuHandle<V>,
    is_committed: bool,
}

impl<V: Vcpu> PowerOnClaim<'_, V> {
    /// The entry point is written: the vCPU is reset and runs.
    pub fn commit(mut self) {
        self.is_committed = true;
        self.handle.unblock(BlockReason::Off);
    }
}

impl<V: Vcpu> Drop for PowerOnClaim<'_, V> {
    fn drop(&mut self) {
        if !self.is_committed {
            self.handle.state.update(|state| state.without_reset());
        }
    }
}
