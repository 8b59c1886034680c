//! Trapped registers that hold nothing: they read as a constant, and ignore writes.

use trapline_vcpu::{
    Action, Exit,
    exit::{Direction, SystemRegister},
};

use crate::{
    handler::{ExitHandler, GuestCpu},
    registry::Claim,
};

/// A register that reads as `value`.
struct Row {
    name: &'static str,
    register: SystemRegister,
    value: u64,
}

const fn one(name: &'static str, register: SystemRegister, value: u64) -> Row {
    Row {
        name,
        register,
        value,
    }
}

/// Nobody is at the other end of the debug communication channel, and no debugger holds claim tags or powers the CPU.
#[rustfmt::skip] // read by column
const ROWS: &[Row] = &[
    one("OSDTRRX_EL1",           SystemRegister::new(2, 0, 0, 0, 2),  0),
    one("MDCCINT_EL1",           SystemRegister::new(2, 0, 0, 2, 0),  0),
    one("OSDTRTX_EL1",           SystemRegister::new(2, 0, 0, 3, 2),  0),
    one("OSECCR_EL1",            SystemRegister::new(2, 0, 0, 6, 2),  0),
    one("MDRAR_EL1",             SystemRegister::new(2, 0, 1, 0, 0),  0),
    one("OSDLR_EL1",             SystemRegister::new(2, 0, 1, 3, 4),  0),
    one("DBGPRCR_EL1",           SystemRegister::new(2, 0, 1, 4, 4),  0),
    one("DBGCLAIMSET_EL1",       SystemRegister::new(2, 0, 7, 8, 6),  0),
    one("DBGCLAIMCLR_EL1",       SystemRegister::new(2, 0, 7, 9, 6),  0),
    one("DBGAUTHSTATUS_EL1",     SystemRegister::new(2, 0, 7, 14, 6), 0),
    one("MDCCSR_EL0",            SystemRegister::new(2, 3, 0, 1, 0),  0),
    one("DBGDTR_EL0",            SystemRegister::new(2, 3, 0, 4, 0),  0),
    one("DBGDTRRX_EL0, TX",      SystemRegister::new(2, 3, 0, 5, 0),  0),
    one("ACTLR_EL1",             SystemRegister::new(3, 0, 1, 0, 1),  0),
];

const _: () = {
    let mut index = 1;
    while index < ROWS.len() {
        assert!(
            ROWS[index - 1].register.bits() < ROWS[index].register.bits(),
            "rows must be in order"
        );
        index += 1;
    }
};

/// Answers ACTLR_EL1 and the debug registers that hold nothing.
pub struct FixedRegisters;

impl FixedRegisters {
    /// All rows.
    pub fn claims() -> alloc::vec::Vec<Claim> {
        ROWS.iter()
            .map(|row| Claim::system_register(row.register))
            .collect()
    }

    /// What the registers are called, with how each reads.
    pub fn names() -> impl Iterator<Item = (&'static str, u64)> {
        ROWS.iter().map(|row| (row.name, row.value))
    }
}

impl ExitHandler for FixedRegisters {
    fn name(&self) -> &str {
        "fixed-registers"
    }

    fn handle(&self, _guest: &mut GuestCpu<'_>, exit: &Exit) -> Action {
        let Exit::SystemRegister(access) = exit else {
            return Action::Decline;
        };
        match access.direction {
            Direction::Read => {
                let index = ROWS.partition_point(|row| row.register < access.register);
                Action::FinishRead(ROWS.get(index).map_or(0, |row| row.value))
            }
            Direction::Write(_) => Action::Finish,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use trapline_vcpu::GuestFault;

    use super::*;
    use crate::support::Machine;

    #[test]
    fn fixed_registers_read_their_constant_and_ignore_writes() {
        let machine = Machine::with_vcpus(1);
        machine.register(&FixedRegisters::claims(), FixedRegisters);
        for row in ROWS {
            let mut cpu = machine.cpu(0);
            let written = cpu.write_register(row.register, u64::MAX);
            assert_eq!(written, Action::Finish, "{}", row.name);
            let read = cpu.read_register(row.register);
            assert_eq!(read, Action::FinishRead(row.value), "{}", row.name);
        }
    }

    #[test]
    fn what_is_hidden_is_undefined() {
        let machine = Machine::with_vcpus(1);
        machine.register(&FixedRegisters::claims(), FixedRegisters);
        let hidden = [
            ("PMCR_EL0", SystemRegister::new(3, 3, 9, 12, 0)),
            ("PMCCNTR_EL0", SystemRegister::new(3, 3, 9, 13, 0)),
            ("LORC_EL1", SystemRegister::new(3, 0, 10, 4, 3)),
            ("ERRIDR_EL1", SystemRegister::new(3, 0, 5, 3, 0)),
            ("S3_1_C15_C2_0", SystemRegister::new(3, 1, 15, 2, 0)),
            ("ZCR_EL1", SystemRegister::new(3, 0, 1, 2, 0)),
            ("GMID_EL1", SystemRegister::new(3, 1, 0, 0, 4)),
            ("SCXTNUM_EL1", SystemRegister::new(3, 0, 13, 0, 7)),
        ];
        for (name, register) in hidden {
            let undefined = Action::Fault(GuestFault::Undefined);
            assert_eq!(machine.cpu(0).read_register(register), undefined, "{name}");
            assert_eq!(
                machine.cpu(0).write_register(register, 0),
                undefined,
                "{name}"
            );
        }
    }
}
