//! What a guest sees of a GICv2's CPU interface that is not the hardware's.
//!
//! Its first page is the hardware's own, which the embedder maps for the guest. GICC_DIR, alone in the second page, would
//! deactivate behind our back, and no control makes it trap: so that page is not mapped. [IHI0048: GICV_DIR]

use trapline_vcpu::{
    Action,
    exit::{Direction, MmioAccess},
    interrupts::VirtualCpuInterface,
};

use super::{Version, Vgic, VgicCpu};

/// The bytes of the CPU interface's frame, as a guest sees it.
pub const CPU_INTERFACE_SIZE: u64 = 0x1_0000;
/// How many of them are the hardware's.
pub const CPU_INTERFACE_MAPPED_SIZE: u64 = 0x1000;

/// GICC_DIR.
const DEACTIVATE: u64 = 0x1000;
/// GICC_DIR.InterruptID; the sender of an SGI is above. It need not be looked at: one SGI of a number is active at a time.
const INTID: u64 = 0x3ff;

impl Vgic {
    /// Answers an access to the part of the frame that is not mapped.
    #[cold]
    pub(super) fn cpu_interface(
        &self,
        cpu: &mut VgicCpu,
        interface: &mut dyn VirtualCpuInterface,
        access: &MmioAccess,
    ) -> Action {
        let Version::V2 { cpu_interface_base } = self.version else {
            return Action::Decline;
        };
        let offset = access.address.checked_sub(cpu_interface_base);
        match (offset, access.direction) {
            (Some(DEACTIVATE), Direction::Write(value)) if access.width == 4 => {
                let key = (access.address, Some(value));
                self.deactivate(cpu, interface, (value & INTID) as u32, key)
            }
            (Some(..CPU_INTERFACE_SIZE), Direction::Read) => Action::FinishRead(0),
            (Some(..CPU_INTERFACE_SIZE), Direction::Write(_)) => Action::Finish,
            _ => Action::Decline,
        }
    }
}
