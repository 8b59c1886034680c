//! What a handler is, and what it sees of the vCPU that exited.

use trapline_vcpu::{
    Action, Exit, TrapFrame,
    dispatch::{BoundGuest, BoundRegisters},
    interrupts::VirtualCpuInterface,
};

use crate::{
    sysregs::CacheWork,
    vgic::{Vgic, VgicCpu},
    vm::{Vm, VmVcpu},
};

/// Answers one kind of exit, on any pCPU and on several at once.
///
/// It is called with physical interrupts masked on the pCPU that has the vCPU bound, so it must be short: it neither
/// allocates nor waits. It never moves the guest PC: the core does, as the [`Action`] says.
pub trait ExitHandler: Send + Sync {
    /// What messages and counters call it.
    fn name(&self) -> &str;

    /// Answers `exit` of `guest`, or declines it. Only exits that the handler has claimed come here.
    fn handle(&self, guest: &mut GuestCpu<'_>, exit: &Exit) -> Action;
}

/// The vCPU that exited, as a handler sees it: everything but its PC.
pub struct GuestCpu<'a> {
    frame: &'a mut TrapFrame,
    vcpu: &'a mut VmVcpu,
    interface: &'a mut dyn VirtualCpuInterface,
    registers: &'a mut dyn BoundRegisters,
}

impl<'a> GuestCpu<'a> {
    /// The view of `guest` that handlers get.
    pub fn new(guest: &'a mut BoundGuest<'_, VmVcpu>) -> Self {
        Self {
            frame: &mut *guest.frame,
            vcpu: &mut *guest.extension,
            interface: &mut *guest.interface,
            registers: &mut *guest.registers,
        }
    }

    /// General register `index` of 0..=31; 31 is XZR.
    pub fn register(&self, index: u8) -> u64 {
        self.frame.gpr(index)
    }

    /// Writes general register `index` of 0..=31; a write of 31, which is XZR, is ignored.
    pub fn set_register(&mut self, index: u8, value: u64) {
        self.frame.set_gpr(index, value);
    }

    /// Where the vCPU is in its program; only the core moves it.
    pub fn pc(&self) -> u64 {
        self.frame.elr
    }

    /// Which of its VM's vCPUs this is, from 0.
    pub fn vcpu(&self) -> usize {
        self.vcpu.index()
    }

    /// The vCPU's affinity as in MPIDR_EL1: Aff3 in bits 39:32, Aff2 to Aff0 in bits 23:0.
    pub fn affinity(&self) -> u64 {
        self.vcpu.affinity()
    }

    /// The VM: its other vCPUs, its memory, its power.
    pub fn vm(&self) -> &Vm {
        self.vcpu.vm()
    }

    /// The system registers of this vCPU that live in hardware.
    pub fn registers(&mut self) -> &mut dyn BoundRegisters {
        self.registers
    }

    /// The VM and how far this vCPU's cache maintenance is.
    pub(crate) fn cache_work(&mut self) -> (&Vm, &mut CacheWork) {
        self.vcpu.split_cache_work()
    }

    /// The interrupt controller, as this vCPU's owner uses it.
    pub fn interrupts(&mut self) -> Interrupts<'_> {
        let (vm, cpu) = self.vcpu.split();
        Interrupts {
            vgic: vm.vgic(),
            cpu,
            interface: self.interface,
        }
    }
}

/// The parts of the interrupt controller that only the pCPU with the vCPU bound may touch, with the shared part.
pub struct Interrupts<'a> {
    /// The VM's interrupt controller.
    pub vgic: &'a Vgic,
    /// The vCPU's own part of it.
    pub cpu: &'a mut VgicCpu,
    /// The list registers and timers of this pCPU.
    pub interface: &'a mut dyn VirtualCpuInterface,
}
