//! How an engine takes its pCPU into service and gives it back, and lets go of what has ended.

use axerrno::{AxError, AxResult};
use trapline_sched::CloseError;

use super::Aarch64PerCpu;
use crate::dispatch::Dispatch;
use crate::host::Host;
use crate::stage2::{PhysicalAddress, Stage2};

impl<D: Dispatch, H: Host> Aarch64PerCpu<D, H> {
    /// Takes EL2's guest-facing control registers over, on the pCPU that this engine is for. The host's values are kept for
    /// [`Aarch64PerCpu::hardware_disable`]; what a guest of the host's own left in EL1, in the list registers and in the EL1
    /// timers is not.
    ///
    /// # Errors
    /// `AlreadyExists`: it is enabled.
    ///
    /// # Safety
    /// 1. The caller runs at EL2 with E2H=0 on the pCPU whose id the scheduler has, with interrupts masked, and does so for
    ///    every later call.
    /// 2. The lower-EL slots of its VBAR_EL2 branch to `trapline_vcpu_exit_sync`, `_irq`, `_fiq` and `_serror`, with all
    ///    registers as the guest left them.
    /// 3. If the host's `interface` is in memory, a GICv2's GICH is mapped at that address as device memory, and nobody else
    ///    writes it until `hardware_disable`.
    pub unsafe fn hardware_enable(&mut self) -> AxResult {
        if self.is_enabled() {
            return Err(AxError::AlreadyExists);
        }
        self.hardware.enable();
        Ok(())
    }

    /// Gives EL2's control registers back as the host had them, and disarms the hypervisor timer. Deadlines are kept for the
    /// next `hardware_enable`; vCPUs that wait here for longer are better moved, by a drain.
    ///
    /// # Errors
    /// `BadState`: it is not enabled. `ResourceBusy`: drain the pCPU first, so that it has no vCPU and gets none.
    pub fn hardware_disable(&mut self) -> AxResult {
        if !self.is_enabled() {
            return Err(AxError::BadState);
        }
        if !self.scheduler.is_drained() {
            return Err(AxError::ResourceBusy);
        }
        self.hardware.disable();
        Ok(())
    }

    /// `hardware_enable` was called, and `hardware_disable` was not called since.
    pub fn is_enabled(&self) -> bool {
        self.hardware.is_enabled()
    }

    /// Lets go of whatever this pCPU has of vCPUs that are retired, and of their VM: of their handles, of the VM's stage 2, of
    /// its handlers. Once every pCPU has done so, nobody walks the VM's tables any more, and dropping its VMID from the
    /// TLBs is all that is left before they are freed. `nobody` is a stage 2 that maps nothing and lives as long as the
    /// engine. Not for exit paths.
    pub fn let_go<P: PhysicalAddress>(&mut self, nobody: &Stage2<P>) {
        self.scheduler.forget_retired();
        if self.scheduler.loaded().is_none() {
            self.hardware.leave_stage2(nobody.vttbr(0));
            self.hardware.dispatch_mut().release();
        }
    }

    /// The pCPU, which is drained, is about to go off: nobody kicks it any more, and nobody sends it a vCPU. Between this and
    /// [`Aarch64PerCpu::reopen`] no step is taken.
    ///
    /// # Errors
    /// There is something here that a step has to look at, or a vCPU that may run nowhere else.
    pub fn close(&mut self) -> Result<(), CloseError> {
        self.scheduler.close()
    }

    /// The pCPU is back: its steps look at what was asked meanwhile. It is drained still.
    pub fn reopen(&mut self) {
        self.scheduler.reopen();
        self.must_schedule = true;
    }
}
