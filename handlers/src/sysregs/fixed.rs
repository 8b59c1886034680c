//! Trapped registers that hold nothing: they read as a constant, and ignore writes.

use trapline_vcpu::{
    Action, Exit,
    exit::{Direction, SystemRegister},
};

use crate::{
    handler::{ExitHandler, GuestCpu},
    registry::Claim,
};

/// MDSCR_EL1, which is switched with the vCPU: single-stepping within the guest works.
const MDSCR_EL1: SystemRegister = SystemRegister::new(2, 0, 0, 2, 2);

/// OSLSR_EL1: an OS lock is implemented (OSLM) and not locked. [DDI0487: OSLSR_EL1]
const OSLSR_UNLOCKED: u64 = 1 << 3;

/// Registers from `first` to `last` that read as `value`.
struct Row {
    name: &'static str,
    first: SystemRegister,
    last: SystemRegister,
    value: u64,
}

const fn one(name: &'static str, register: SystemRegister, value: u64) -> Row {
    Row {
        name,
        first: register,
        last: register,
        value,
    }
}

const fn block(name: &'static str, first: SystemRegister, last: SystemRegister) -> Row {
    Row {
        name,
        first,
        last,
        value: 0,
    }
}

/// Breakpoints and watchpoints can be written, and never hit: their registers are not switched. Nobody is at the other end
/// of the debug communication channel.
#[rustfmt::skip] // read by column
const ROWS: &[Row] = &[
    block("OSDTRRX_EL1, DBGB*<n>_EL1, DBGW*<n>_EL1, MDCCINT_EL1, OSDTRTX_EL1, OSECCR_EL1",
                                 SystemRegister::new(2, 0, 0, 0, 0),  SystemRegister::new(2, 0, 0, 15, 7)),
    one("MDRAR_EL1",             SystemRegister::new(2, 0, 1, 0, 0),  0),
    one("OSLAR_EL1",             SystemRegister::new(2, 0, 1, 0, 4),  0),
    one("OSLSR_EL1",             SystemRegister::new(2, 0, 1, 1, 4),  OSLSR_UNLOCKED),
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
            ROWS[index - 1].last.bits() < ROWS[index].first.bits(),
            "rows must be in order and must not overlap"
        );
        index += 1;
    }
};

/// Answers ACTLR_EL1 and the debug registers.
pub struct FixedRegisters;

impl FixedRegisters {
    /// All rows.
    pub fn claims() -> alloc::vec::Vec<Claim> {
        ROWS.iter()
            .map(|row| Claim::SystemRegisters(row.first..=row.last))
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

    fn handle(&self, guest: &mut GuestCpu<'_>, exit: &Exit) -> Action {
        let Exit::SystemRegister(access) = exit else {
            return Action::Decline;
        };
        match access.direction {
            Direction::Read if access.register == MDSCR_EL1 => {
                Action::FinishRead(guest.registers().read(MDSCR_EL1).unwrap_or(0))
            }
            Direction::Read => {
                let index = ROWS.partition_point(|row| row.last < access.register);
                Action::FinishRead(ROWS.get(index).map_or(0, |row| row.value))
            }
            Direction::Write(value) => {
                if access.register == MDSCR_EL1 {
                    guest.registers().write(MDSCR_EL1, value);
                }
                Action::Finish
            }
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
            for register in [row.first, row.last] {
                let mut cpu = machine.cpu(0);
                assert_eq!(
                    cpu.write_register(register, u64::MAX),
                    Action::Finish,
                    "{}",
                    row.name
                );
                assert_eq!(
                    cpu.read_register(register),
                    Action::FinishRead(row.value),
                    "{}",
                    row.name
                );
            }
        }
    }

    #[test]
    fn mdscr_is_the_vcpus_own() {
        let machine = Machine::with_vcpus(1);
        machine.register(&FixedRegisters::claims(), FixedRegisters);
        let mut cpu = machine.cpu(0);
        assert_eq!(cpu.write_register(MDSCR_EL1, 1), Action::Finish);
        assert_eq!(cpu.read_register(MDSCR_EL1), Action::FinishRead(1));
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
