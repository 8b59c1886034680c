//! What a VM is: its vCPUs, and what they share.

use alloc::sync::Arc;

use crate::vgic::{Vgic, VgicCpu};

/// What a handler may ask of a vCPU of its VM, from any pCPU. None of it waits or allocates.
pub trait VcpuControl: Send + Sync {
    /// An interrupt became due for the vCPU, and its record says so already.
    fn wake(&self);
    /// What the vCPU's [`Action::Suspend`](trapline_vcpu::Action::Suspend) waits for has happened.
    fn complete(&self);
    /// Asks the owner to show the vCPU's interrupts as they are; `false` if the vCPU is not bound, so they are shown.
    fn request_sync(&self) -> bool;
}

/// One virtual machine.
pub struct Vm {
    vgic: Arc<Vgic>,
}

impl Vm {
    /// The interrupt controller.
    pub fn vgic(&self) -> &Vgic {
        &self.vgic
    }
}

/// What travels with each vCPU of a VM: the part of the VM's state that only the vCPU's owner touches.
pub struct VmVcpu {
    vm: Arc<Vm>,
    index: usize,
    affinity: u64,
    interrupts: VgicCpu,
}

impl VmVcpu {
    /// Which of its VM's vCPUs this is, from 0.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Aff3 in bits 39:32, Aff2 to Aff0 in bits 23:0. [MPIDR_EL1]
    pub fn affinity(&self) -> u64 {
        self.affinity
    }

    /// The VM.
    pub fn vm(&self) -> &Vm {
        &self.vm
    }

    /// The VM and the vCPU's part of the interrupt controller, at once.
    pub fn split(&mut self) -> (&Vm, &mut VgicCpu) {
        (&self.vm, &mut self.interrupts)
    }
}
