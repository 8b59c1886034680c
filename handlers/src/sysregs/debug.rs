//! The debug registers that do something: breakpoints, watchpoints, software step and the OS lock, by which a guest debugs
//! itself. They are the bound vCPU's own; what this pCPU does not have is undefined.

use trapline_vcpu::{
    Action, Exit,
    exit::{Direction, SystemRegister},
};

use crate::{
    handler::{ExitHandler, GuestCpu},
    registry::Claim,
};

/// MDSCR_EL1.
const MDSCR_EL1: SystemRegister = SystemRegister::new(2, 0, 0, 2, 2);
/// OSLAR_EL1.
const OSLAR_EL1: SystemRegister = SystemRegister::new(2, 0, 1, 0, 4);
/// OSLSR_EL1.
const OSLSR_EL1: SystemRegister = SystemRegister::new(2, 0, 1, 1, 4);
/// DBGBVR\<n\>_EL1 is S2_0_C0_C\<n\>_4; DBGBCR, DBGWVR and DBGWCR follow it.
const FIRST_OF_COMPARATOR: u8 = 4;

/// Answers them.
pub struct DebugRegisters;

impl DebugRegisters {
    /// All that there can be.
    pub fn claims() -> alloc::vec::Vec<Claim> {
        let comparators = (0..16).map(|index| {
            let first = SystemRegister::new(2, 0, 0, index, FIRST_OF_COMPARATOR);
            Claim::SystemRegisters(first..=SystemRegister::new(2, 0, 0, index, 7))
        });
        comparators
            .chain([MDSCR_EL1, OSLAR_EL1, OSLSR_EL1].map(Claim::system_register))
            .collect()
    }
}

impl ExitHandler for DebugRegisters {
    fn name(&self) -> &str {
        "debug-registers"
    }

    fn handle(&self, guest: &mut GuestCpu<'_>, exit: &Exit) -> Action {
        let Exit::SystemRegister(access) = exit else {
            return Action::Decline;
        };
        match access.direction {
            Direction::Read => guest
                .registers()
                .read(access.register)
                .map_or(Action::Decline, Action::FinishRead),
            Direction::Write(value) if guest.registers().write(access.register, value) => {
                Action::Finish
            }
            Direction::Write(_) => Action::Decline,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use trapline_vcpu::GuestFault;

    use super::*;
    use crate::support::Machine;

    #[test]
    fn debug_registers_are_the_vcpus_own() {
        let machine = Machine::with_vcpus(1);
        machine.register(&DebugRegisters::claims(), DebugRegisters);
        let mut cpu = machine.cpu(0);
        let kinds = (0..16).flat_map(|index| (4..8).map(move |kind| (index, kind)));
        let comparators = kinds.map(|(index, kind)| SystemRegister::new(2, 0, 0, index, kind));
        for (value, register) in (1..).zip(comparators.chain([MDSCR_EL1])) {
            assert_eq!(cpu.write_register(register, value), Action::Finish);
            assert_eq!(cpu.read_register(register), Action::FinishRead(value));
        }
    }

    #[test]
    fn what_the_pcpu_does_not_have_is_undefined() {
        let machine = Machine::with_vcpus(1);
        machine.register(&DebugRegisters::claims(), DebugRegisters);
        let mut cpu = machine.cpu(0);
        cpu.lose_registers();
        let undefined = Action::Fault(GuestFault::Undefined);
        let register = SystemRegister::new(2, 0, 0, 15, 7);
        assert_eq!(cpu.read_register(register), undefined);
        assert_eq!(cpu.write_register(register, 1), undefined);
    }
}
