//! How pCPUs and the machine are switched on and off: firmware PSCI, by SMC. [DEN0022: PSCI]

use super::relax::relax;
use core::arch::asm;
use smccc::{
    Smc,
    psci::{self, AffinityState, LowestAffinityLevel, error::Error},
};

/// Starts the pCPU with affinity `mpidr` at physical address `entry`, with `context` in its x0, MMU off.
pub(super) fn start_pcpu(mpidr: u64, entry: u64, context: u64) -> Result<(), Error> {
    psci::cpu_on::<Smc>(mpidr, entry, context)
}

/// The pCPU with affinity `mpidr` executes nothing any more, and may be started.
pub(super) fn is_off(mpidr: u64) -> Result<bool, Error> {
    let state = psci::affinity_info::<Smc>(mpidr, LowestAffinityLevel::All)?;
    Ok(state == AffinityState::Off)
}

/// Switches the machine off. QEMU ends with status 0, so results go out as frames before this.
pub fn off() -> ! {
    // Firmware that refuses leaves nothing to try; the runner's deadline ends the machine.
    let _ = psci::system_off::<Smc>();
    loop {
        relax();
    }
}

/// Waits until an interrupt is due on this pCPU. It is not taken, as interrupts stay masked: acknowledge it.
#[inline]
pub fn wait_for_interrupt() {
    // SAFETY: WFI changes nothing. The barrier completes what the pCPU did before it sleeps.
    unsafe { asm!("dsb sy", "wfi", options(nostack, preserves_flags)) };
}
