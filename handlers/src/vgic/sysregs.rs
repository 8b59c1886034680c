//! The interrupt controller's system registers that trap: SGIs, deactivation while it is not the hardware's, and what says
//! that there are system registers. [IHI0069: AArch64 System register descriptions]

use trapline_vcpu::{
    Action, Exit, GuestFault,
    exit::{Direction, SystemRegister, SystemRegisterAccess},
    interrupts::VirtualCpuInterface,
};

use super::{
    Vgic, VgicCpu,
    record::{NOBODY, Record},
};
use crate::{ExitHandler, GuestCpu};

/// Aff3 in bits 39:32, Aff2 to Aff0 in bits 23:0, as in MPIDR_EL1 and GICD_IROUTER.
pub(super) const AFFINITY_MASK: u64 = 0xff_00ff_ffff;

const ICC_DIR_EL1: SystemRegister = SystemRegister::new(3, 0, 12, 11, 1);
const ICC_SGI1R_EL1: SystemRegister = SystemRegister::new(3, 0, 12, 11, 5);
const ICC_ASGI1R_EL1: SystemRegister = SystemRegister::new(3, 0, 12, 11, 6);
const ICC_SGI0R_EL1: SystemRegister = SystemRegister::new(3, 0, 12, 11, 7);
const ICC_SRE_EL1: SystemRegister = SystemRegister::new(3, 0, 12, 12, 5);

/// ICC_SRE_EL1: system registers are enabled, and there is no bypass.
const SYSTEM_REGISTERS_ONLY: u64 = 0b111;

impl Vgic {
    /// Answers an access of `cpu`, which is bound to `interface`, to one of [`SystemRegisters::REGISTERS`].
    pub fn system_register(
        &self,
        cpu: &mut VgicCpu,
        interface: &mut dyn VirtualCpuInterface,
        access: &SystemRegisterAccess,
    ) -> Action {
        match (access.register, access.direction) {
            (ICC_SGI1R_EL1, Direction::Write(value)) => self.send_sgi(cpu, interface, value, true),
            (ICC_SGI0R_EL1, Direction::Write(value)) => self.send_sgi(cpu, interface, value, false),
            // With one security state there is no other group 1 that it could mean.
            (ICC_ASGI1R_EL1, Direction::Write(_)) => Action::Finish,
            (ICC_DIR_EL1, Direction::Write(value)) => {
                let key = (u64::from(ICC_DIR_EL1.bits()), Some(value));
                self.deactivate(cpu, interface, (value & 0xff_ffff) as u32, key)
            }
            (ICC_SRE_EL1, Direction::Read) => Action::FinishRead(SYSTEM_REGISTERS_ONLY),
            (ICC_SRE_EL1, Direction::Write(_)) => Action::Finish,
            (ICC_SGI1R_EL1 | ICC_SGI0R_EL1 | ICC_ASGI1R_EL1 | ICC_DIR_EL1, Direction::Read) => {
                Action::Fault(GuestFault::Undefined)
            }
            _ => Action::Decline,
        }
    }

    /// Makes an SGI pending at the vCPUs that `value` names and that have it in that group; others are ignored.
    /// [ICC_SGI1R_EL1, ICC_SGI0R_EL1]
    fn send_sgi(
        &self,
        cpu: &mut VgicCpu,
        interface: &mut dyn VirtualCpuInterface,
        value: u64,
        group1: bool,
    ) -> Action {
        let intid = (value >> 24 & 15) as u32;
        let sent = |record: Record| {
            if record.is_group1() == group1 {
                record.set_pending()
            } else {
                record
            }
        };
        let to_all_others = value & 1 << 40 != 0;
        if to_all_others {
            for vcpu in (0..self.vcpu_count()).filter(|&vcpu| vcpu != cpu.index) {
                self.change(Some(vcpu), intid, sent);
            }
            return Action::Finish;
        }
        let field = |shift: u32| value >> shift & 0xff;
        let cluster = field(48) << 32 | field(32) << 16 | field(16) << 8 | (value >> 44 & 15) << 4;
        let mut targets = value & 0xffff;
        while targets != 0 {
            let target = self.vcpu_of_affinity(cluster | u64::from(targets.trailing_zeros()));
            targets &= targets - 1;
            if target == cpu.me() {
                // Nobody has to be told, nor woken: if its group is turned on meanwhile, `refresh` sees that (`Vgic::confirm_groups`).
                if let Some(record) = self.record(Some(cpu.index), intid) {
                    record.update(sent);
                }
                cpu.candidates.insert(intid);
                self.refresh(cpu, interface);
            } else if target != NOBODY {
                self.change(Some(usize::from(target)), intid, sent);
            }
        }
        Action::Finish
    }
}

/// Answers accesses to the interrupt controller's trapped system registers.
pub struct SystemRegisters;

impl SystemRegisters {
    /// The registers that it answers.
    pub const REGISTERS: [SystemRegister; 5] = [
        ICC_DIR_EL1,
        ICC_SGI1R_EL1,
        ICC_ASGI1R_EL1,
        ICC_SGI0R_EL1,
        ICC_SRE_EL1,
    ];
}

impl ExitHandler for SystemRegisters {
    fn name(&self) -> &str {
        "vgic system registers"
    }

    fn handle(&self, guest: &mut GuestCpu<'_>, exit: &Exit) -> Action {
        let Exit::SystemRegister(access) = exit else {
            return Action::Decline;
        };
        let interrupts = guest.interrupts();
        interrupts
            .vgic
            .system_register(interrupts.cpu, interrupts.interface, access)
    }
}
