//! What each ID register shows of hardware that has everything, and of two real ones.

use proptest::prelude::*;

use trapline_vcpu::GuestFault;

use super::*;
use crate::support::Machine;

const PFR0: SystemRegister = SystemRegister::new(3, 0, 0, 4, 0);
const MMFR0: SystemRegister = SystemRegister::new(3, 0, 0, 7, 0);

fn named(registers: &IdRegisters, name: &str) -> u64 {
    registers
        .named()
        .find(|(row, _)| *row == name)
        .expect("there is such a register")
        .1
}

/// Every field has its highest value, but PFR0.EL0 says that EL0 has AArch32.
fn everything(register: SystemRegister) -> u64 {
    if register == PFR0 {
        u64::MAX << 4 | 2
    } else {
        u64::MAX
    }
}

#[test]
fn hardware_that_has_everything_shows_what_is_switched() {
    let registers = IdRegisters::from_hardware(everything, 40);
    #[rustfmt::skip] // read by column
    let expected = [
        ("ID_PFR0_EL1",      0x0000_0000_0f01_ffff),
        ("ID_PFR1_EL1",      0x0000_0000_100f_0f0f),
        ("ID_DFR0_EL1",      0x0000_0000_0000_0008),
        ("ID_AFR0_EL1",      0x0000_0000_0000_0000),
        ("ID_MMFR4_EL1",     0xffff_ffff_0fff_ffff),
        ("ID_PFR2_EL1",      0x0000_0000_0000_00ff),
        ("ID_DFR1_EL1",      0x0000_0000_0000_0000),
        ("ID_MMFR5_EL1",     0x0000_0000_0000_00ff),
        ("ID_AA64PFR0_EL1",  0xf10f_0000_01ff_0012),
        ("ID_AA64PFR1_EL1",  0x0000_0001_0000_00ff),
        ("ID_AA64DFR0_EL1",  0x0000_00f0_f0f0_f008),
        ("ID_AA64ISAR0_EL1", 0xffff_ffff_f0ff_fff0),
        ("ID_AA64ISAR1_EL1", 0x00ff_ffff_ffff_ffff),
        ("ID_AA64ISAR2_EL1", 0x00ff_0000_fff0_fff0),
        ("ID_AA64MMFR0_EL1", 0x0000_f000_ffff_0ff2),
        ("ID_AA64MMFR1_EL1", 0xf0ff_f0f0_0ff0_f002),
        ("ID_AA64MMFR2_EL1", 0xf0ff_000f_f0ff_0fff),
    ];
    for (name, value) in expected {
        assert_eq!(
            named(&registers, name),
            value,
            "{name}: {:#018x}",
            named(&registers, name)
        );
    }
}

/// The fields that must never show, whatever the hardware has.
#[test]
fn what_is_not_switched_is_hidden() {
    let registers = IdRegisters::from_hardware(everything, 48);
    #[rustfmt::skip] // read by column
    let hidden = [
        ("ID_AA64PFR0_EL1",  &[("EL2", 8), ("EL3", 12), ("RAS", 28), ("SVE", 32), ("SEL2", 36), ("MPAM", 40), ("AMU", 44)][..]),
        ("ID_AA64PFR1_EL1",  &[("MTE", 8), ("SME", 24), ("NMI", 36), ("GCS", 44)]),
        ("ID_AA64DFR0_EL1",  &[("TraceVer", 4), ("PMUVer", 8), ("PMSVer", 32), ("TraceFilt", 40), ("TraceBuffer", 44), ("BRBE", 52)]),
        ("ID_AA64ISAR0_EL1", &[("TME", 24)]),
        ("ID_AA64ISAR1_EL1", &[("LS64", 60)]),
        ("ID_AA64ISAR2_EL1", &[("WFxT", 0), ("MOPS", 16)]),
        ("ID_AA64MMFR0_EL1", &[("FGT", 56), ("ECV", 60)]),
        ("ID_AA64MMFR1_EL1", &[("VMIDBits", 4), ("VH", 8), ("LO", 16), ("HCX", 40)]),
        ("ID_AA64MMFR2_EL1", &[("IESB", 12), ("NV", 24), ("EVT", 56)]),
    ];
    for (name, fields) in hidden {
        for (field, shift) in fields {
            assert_eq!(named(&registers, name) >> shift & 0xf, 0, "{name}.{field}");
        }
    }
}

#[test]
fn what_is_switched_is_kept() {
    let cortex_a72 = |register| match (register == PFR0, register == MMFR0) {
        (true, _) => 0x2222 | 1 << 24,
        (_, true) => 0x1124,
        _ => 0,
    };
    let registers = IdRegisters::from_hardware(cortex_a72, 40);
    assert_eq!(
        named(&registers, "ID_AA64PFR0_EL1"),
        1 << 24 | 0x12,
        "FP, AArch32 at EL0, no EL2 and EL3"
    );
    assert_eq!(
        named(&registers, "ID_AA64MMFR0_EL1"),
        0x0122,
        "40 of 44 bits, as stage 2 translates"
    );
}

#[test]
fn guests_see_no_more_address_bits_than_stage_2_and_the_hardware_have() {
    for (address_bits, hardware, expected) in [
        (32, 5, 0),
        (35, 5, 0),
        (36, 5, 1),
        (40, 5, 2),
        (48, 5, 5),
        (48, 2, 2),
        (52, 6, 6),
        (255, 6, 6),
    ] {
        let registers = IdRegisters::from_hardware(|_| hardware, address_bits);
        assert_eq!(
            registers.value(MMFR0) & 0xf,
            expected,
            "{address_bits} bits"
        );
    }
}

#[test]
fn without_aarch32_its_registers_are_zero() {
    let registers =
        IdRegisters::from_hardware(|register| if register == PFR0 { 1 } else { u64::MAX }, 48);
    for row in ROWS.iter().filter(|row| row.crm < 4) {
        assert_eq!(registers.value(row.register()), 0, "{}", row.name);
    }
}

#[test]
fn every_register_of_the_space_reads_and_none_can_be_written() {
    let machine = Machine::with_vcpus(1);
    let registers = IdRegisters::from_hardware(everything, 48);
    machine.register(&IdRegisters::CLAIMS, registers.clone());
    for (crm, op2) in (1..8).flat_map(|crm| (0..8).map(move |op2| (crm, op2))) {
        let register = SystemRegister::new(3, 0, 0, crm, op2);
        let has_row = ROWS.iter().any(|row| row.register() == register);
        let value = registers.value(register);
        assert!(has_row || value == 0, "reserved registers read as zero");
        assert_eq!(
            machine.cpu(0).read_register(register),
            Action::FinishRead(value)
        );
        assert_eq!(
            machine.cpu(0).write_register(register, 0),
            Action::Fault(GuestFault::Undefined)
        );
    }
}

proptest! {
    /// Nothing is shown that the hardware does not have, the few constants aside.
    #[test]
    fn no_field_is_higher_than_the_hardwares(hardware in any::<[u64; 7]>(), address_bits in 32u8..=52) {
        let registers = IdRegisters::from_hardware(|register| hardware[register.bits() as usize / 8 % 7], address_bits);
        for row in ROWS {
            let (shown, real) = (registers.value(row.register()), hardware[row.register().bits() as usize / 8 % 7]);
            for shift in (0..64).step_by(4).filter(|&shift| row.set >> shift & 0xf == 0) {
                prop_assert!(shown >> shift & 0xf <= real >> shift & 0xf, "{} bit {}", row.name, shift);
            }
        }
    }
}
