//! The frames of the interrupt controller, by which its registers are reached in memory.

use trapline_vcpu::{Action, Exit, exit::MmioAccess, interrupts::VirtualCpuInterface};

use super::{
    DISTRIBUTOR_SIZE, Version, Vgic, VgicCpu, distributor, distributor_v2, registers::Place,
};
use crate::{ExitHandler, GuestCpu};

/// Answers accesses to a frame, or to all that are alike.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Frame {
    /// The distributor's.
    Distributor,
    /// Those of all redistributors.
    Redistributors,
    /// Of the CPU interface's, the part that is not mapped.
    CpuInterface,
    /// Those of the ITS.
    Its,
}

impl ExitHandler for Frame {
    fn name(&self) -> &str {
        match self {
            Self::Distributor => "vgic distributor",
            Self::Redistributors => "vgic redistributors",
            Self::CpuInterface => "vgic cpu interface",
            Self::Its => "vgic its",
        }
    }

    fn handle(&self, guest: &mut GuestCpu<'_>, exit: &Exit) -> Action {
        let Exit::Mmio(access) = exit else {
            return Action::Decline;
        };
        let interrupts = guest.interrupts();
        interrupts
            .vgic
            .mmio(interrupts.cpu, interrupts.interface, access)
    }
}

impl Vgic {
    /// Answers an access of `cpu`, which is bound to `interface`, to the distributor, a redistributor, the ITS, or what of a CPU
    /// interface is not the hardware's.
    pub fn mmio(
        &self,
        cpu: &mut VgicCpu,
        interface: &mut dyn VirtualCpuInterface,
        access: &MmioAccess,
    ) -> Action {
        match self.place(access.address, cpu.index) {
            Some(place) => self.access_place(cpu, interface, &place, access),
            None => self.cpu_interface(cpu, interface, access),
        }
    }

    /// What the architecture calls the register at `address`, for messages; `None` if there is none.
    pub fn register_name(&self, address: u64) -> Option<&'static str> {
        self.place(address, 0)?.row().map(|row| row.name)
    }

    /// Where `address` is to vCPU `me`.
    fn place(&self, address: u64, me: usize) -> Option<Place> {
        match address.checked_sub(self.distributor_base) {
            Some(offset) if offset < DISTRIBUTOR_SIZE => Some(match self.version {
                Version::V2 { .. } => Place {
                    rows: distributor_v2::ROWS,
                    vcpu: Some(me),
                    offset,
                },
                Version::V3 { .. } => Place {
                    rows: distributor::ROWS,
                    vcpu: None,
                    offset,
                },
            }),
            _ => self
                .redistributor_place(address)
                .or_else(|| self.its_place(address)),
        }
    }
}
