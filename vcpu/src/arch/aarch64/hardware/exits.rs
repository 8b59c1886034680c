//! What an exit of the vCPU that is bound here has to do with the hardware: what its handlers reach of it, and how it gets the answer.

use super::Hardware;
use crate::aarch32::is_aarch32;
use crate::action::{Action, GuestFault};
use crate::arch::aarch64::bound::HardwareRegisters;
use crate::arch::aarch64::fault::{self, HardwareAddresses};
use crate::decode::FaultAddresses;
use crate::dispatch::{BoundGuest, Dispatch};
use crate::exit::Exit;
use crate::frame::TrapFrame;
use crate::host::Host;
use crate::instruction;
use crate::vcpu::Aarch64VCpu;

impl<D: Dispatch, H: Host> Hardware<D, H> {
    /// Answers an exit of `vcpu`, which is bound here.
    #[inline]
    pub(crate) fn dispatch(&mut self, vcpu: &mut Aarch64VCpu<D::Extension>, exit: &Exit) -> Action {
        let (dispatch, enabled) = self.parts();
        let mut registers = HardwareRegisters {
            vcpu_hcr: &mut vcpu.hcr,
            hcr: &mut enabled.hcr,
            debug: &mut vcpu.registers.debug,
            hardware_debug: &mut enabled.debug,
        };
        let mut guest = BoundGuest {
            frame: &mut vcpu.registers.trap_context_regs,
            extension: &mut vcpu.extension,
            interface: &mut enabled.interface,
            registers: &mut registers,
        };
        dispatch.dispatch(&mut guest, exit)
    }

    /// What `vcpu`'s memory holds at the intermediate physical address `place`, as an instruction.
    pub(crate) fn instruction(
        &mut self,
        vcpu: &mut Aarch64VCpu<D::Extension>,
        place: u64,
    ) -> Option<u32> {
        self.dispatch.instruction(&vcpu.extension, place)
    }

    /// The wait that `exit` says is one with a timeout, which guests do not have. QEMU reports a WFIT as a WFI.
    #[inline]
    pub(crate) fn is_hidden_wait(
        &self,
        extension: &D::Extension,
        frame: &TrapFrame,
        exit: &Exit,
    ) -> bool {
        self.has_timed_waits && self.is_timed_wait(extension, frame, exit)
    }

    #[cold]
    fn is_timed_wait(&self, extension: &D::Extension, frame: &TrapFrame, exit: &Exit) -> bool {
        if !matches!(exit, Exit::Wait(_)) || is_aarch32(frame.spsr) {
            return false;
        }
        let place = HardwareAddresses.translate(frame.elr);
        let word = place.and_then(|place| self.dispatch.instruction(extension, place));
        word.is_some_and(instruction::is_timed_wait)
    }

    pub(crate) fn refresh(&mut self, vcpu: &mut Aarch64VCpu<D::Extension>) {
        let (dispatch, enabled) = self.parts();
        dispatch.refresh(&mut vcpu.extension, &mut enabled.interface);
    }

    pub(crate) fn has_deliverable_interrupt(
        &mut self,
        vcpu: &mut Aarch64VCpu<D::Extension>,
    ) -> bool {
        let (dispatch, enabled) = self.parts();
        dispatch.has_deliverable_interrupt(&mut vcpu.extension, &mut enabled.interface)
    }

    /// Makes `vcpu`, which is bound here, take `fault` at the instruction that exited.
    pub(crate) fn inject(
        &mut self,
        vcpu: &mut Aarch64VCpu<D::Extension>,
        fault: GuestFault,
        esr: u64,
    ) {
        self.inject_at(vcpu, fault, esr, fault::address());
    }

    /// The same when FAR_EL2 may have changed since the exit.
    pub(crate) fn inject_at(
        &mut self,
        vcpu: &mut Aarch64VCpu<D::Extension>,
        fault: GuestFault,
        esr: u64,
        far: u64,
    ) {
        if !fault::inject(&mut vcpu.registers.trap_context_regs, fault, esr, far) {
            let (_, bound) = self.parts();
            bound.pend_serror(&mut vcpu.hcr);
        }
    }
}
