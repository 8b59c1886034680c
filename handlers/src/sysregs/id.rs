//! Which features a guest is told that its CPU has.
//!
//! The ID registers show the hardware's values, field by field: a field is kept if what it stands for is switched with the
//! vCPU or has no state, and is 0 otherwise, which means "not implemented" for all fields that are treated so here.
//! Registers without a row, and the encodings that are reserved for more of them, read as 0. So a feature that is newer than
//! this table is hidden. [DDI0487: Principles of the ID scheme for fields in ID registers; HCR_EL2.TID3]

use trapline_vcpu::{
    Action, Exit,
    exit::{Direction, SystemRegister},
};

use crate::{
    handler::{ExitHandler, GuestCpu},
    registry::Claim,
};

/// The first register of the space that HCR_EL2.TID3 traps: ID_PFR0_EL1.
const FIRST: SystemRegister = SystemRegister::new(3, 0, 0, 1, 0);
/// The last one, which is reserved.
const LAST: SystemRegister = SystemRegister::new(3, 0, 0, 7, 7);
/// How many there are.
const COUNT: usize = (LAST.bits() - FIRST.bits()) as usize + 1;

/// What a guest sees of one register.
struct Row {
    name: &'static str,
    crm: u8,
    op2: u8,
    /// The hardware's bits that are shown.
    keep: u64,
    /// Fields, by their lowest bit, that are shown no higher than this.
    at_most: &'static [(u32, u64)],
    /// Bits that are shown whatever the hardware has.
    set: u64,
}

const fn row(name: &'static str, crm: u8, op2: u8, keep: u64) -> Row {
    Row {
        name,
        crm,
        op2,
        keep,
        at_most: &[],
        set: 0,
    }
}

impl Row {
    const fn at_most(self, at_most: &'static [(u32, u64)]) -> Self {
        Self { at_most, ..self }
    }

    const fn set(self, set: u64) -> Self {
        Self { set, ..self }
    }

    const fn register(&self) -> SystemRegister {
        SystemRegister::new(3, 0, 0, self.crm, self.op2)
    }

    fn shown(&self, hardware: u64) -> u64 {
        let limit = |value: u64, &(shift, most): &(u32, u64)| {
            if value >> shift & FIELD > most {
                value & !(FIELD << shift) | most << shift
            } else {
                value
            }
        };
        self.at_most.iter().fold(hardware & self.keep, limit) | self.set
    }
}

/// ID register fields are 4 bits wide.
const FIELD: u64 = 0xf;

/// The fields whose lowest bits are these.
const fn fields(shifts: &[u32]) -> u64 {
    let (mut mask, mut index) = (0, 0);
    while index < shifts.len() {
        mask |= FIELD << shifts[index];
        index += 1;
    }
    mask
}

const ALL: u64 = u64::MAX;

/// In the order of their encodings. What a row leaves out is named beside it.
#[rustfmt::skip] // read by column
const ROWS: &[Row] = &[
    // AArch32, for a guest with 32-bit programs: CSV2 without SCXTNUM; no AMU, RAS.
    row("ID_PFR0_EL1",      1, 0, fields(&[0, 4, 8, 12, 16, 24])).at_most(&[(16, 1)]),
    // No Security, Virtualization, and their fractions; GIC by system registers.
    row("ID_PFR1_EL1",      1, 1, fields(&[0, 8, 16, 28])).at_most(&[(28, 1)]),
    // CopDbg only: no trace, PMU, secure debug, MTPMU.
    row("ID_DFR0_EL1",      1, 2, fields(&[0])).at_most(&[(0, 8)]),
    row("ID_AFR0_EL1",      1, 3, 0),
    row("ID_MMFR0_EL1",     1, 4, ALL),
    row("ID_MMFR1_EL1",     1, 5, ALL),
    row("ID_MMFR2_EL1",     1, 6, ALL),
    row("ID_MMFR3_EL1",     1, 7, ALL),
    row("ID_ISAR0_EL1",     2, 0, ALL),
    row("ID_ISAR1_EL1",     2, 1, ALL),
    row("ID_ISAR2_EL1",     2, 2, ALL),
    row("ID_ISAR3_EL1",     2, 3, ALL),
    row("ID_ISAR4_EL1",     2, 4, ALL),
    row("ID_ISAR5_EL1",     2, 5, ALL),
    // No EVT.
    row("ID_MMFR4_EL1",     2, 6, !fields(&[28])),
    row("ID_ISAR6_EL1",     2, 7, ALL),
    row("MVFR0_EL1",        3, 0, ALL),
    row("MVFR1_EL1",        3, 1, ALL),
    row("MVFR2_EL1",        3, 2, ALL),
    // CSV3 and SSBS; no RAS_frac.
    row("ID_PFR2_EL1",      3, 4, fields(&[0, 4])),
    row("ID_DFR1_EL1",      3, 5, 0),
    row("ID_MMFR5_EL1",     3, 6, fields(&[0, 4])),

    // EL0 as it is, EL1 in AArch64 only (HCR_EL2.RW), no EL2 and EL3; FP, AdvSIMD, GIC by system registers, DIT, CSV2
    // without SCXTNUM, CSV3; no RAS, SVE, Secure EL2, MPAM, AMU, RME.
    row("ID_AA64PFR0_EL1",  4, 0, fields(&[0, 16, 20, 24, 48, 56, 60])).at_most(&[(24, 1), (56, 1)]).set(1 << 4),
    // BTI and SSBS, whose state is in SCTLR_EL1 and PSTATE; CSV2_frac without SCXTNUM; no MTE, SME, NMI, GCS, THE.
    row("ID_AA64PFR1_EL1",  4, 1, fields(&[0, 4, 32])).at_most(&[(32, 1)]),
    // Breakpoints and watchpoints as many as there are (see `debug`), and no OS double lock; no PMU, trace, SPE, TRBE,
    // BRBE.
    row("ID_AA64DFR0_EL1",  5, 0, fields(&[0, 12, 20, 28])).at_most(&[(0, 8)]).set(0xf << 36),
    // No TME; the rest has no state.
    row("ID_AA64ISAR0_EL1", 6, 0, !fields(&[0, 24])),
    // Pointer authentication is switched; no XS, LS64 (HCRX_EL2).
    row("ID_AA64ISAR1_EL1", 6, 1, !fields(&[56, 60])),
    // RPRES, GPA3, APA3, BC, PAC_frac, CLRBHB, RPRFM, CSSC; no WFxT (EL2 would have to time it), MOPS (HCRX_EL2).
    row("ID_AA64ISAR2_EL1", 6, 2, fields(&[4, 8, 12, 20, 24, 28, 48, 52])),
    // PARange (as stage 2 allows), ASIDBits, endianness, granules of stage 1, ExS; no FGT, ECV.
    row("ID_AA64MMFR0_EL1", 7, 0, fields(&[0, 4, 8, 16, 20, 24, 28, 44])),
    // HAFDBS without HAFT (TCR2_EL1), HPDS, PAN, SpecSEI, ETS, AFP, nTLBPA, TIDCP1, ECBHB; no VMIDs, VHE, LORegions, XNX,
    // TWED, HCX.
    row("ID_AA64MMFR1_EL1", 7, 1, fields(&[0, 12, 20, 24, 36, 44, 48, 52, 60])).at_most(&[(0, 2)]),
    // CnP, UAO, LSMAOC, VARange, CCIDX, ST, AT, TTL, BBM, E0PD; no IESB, nested virtualization, IDST, FWB, EVT.
    row("ID_AA64MMFR2_EL1", 7, 2, fields(&[0, 4, 8, 16, 20, 28, 32, 48, 52, 60])),
];

const _: () = {
    let mut index = 1;
    while index < ROWS.len() {
        assert!(
            ROWS[index - 1].register().bits() < ROWS[index].register().bits(),
            "rows must be in order"
        );
        index += 1;
    }
};

/// ID_AA64PFR0_EL1.EL0 of a CPU that has AArch32 there; without it the AArch32 ID registers are UNKNOWN.
const EL0_WITH_AARCH32: u64 = 2;

/// How many bits of physical address each value of ID_AA64MMFR0_EL1.PARange stands for.
const PHYSICAL_ADDRESS_BITS: [u8; 7] = [32, 36, 40, 42, 44, 48, 52];

/// The ID registers of a VM's vCPUs, the same on all of them. Answers reads of them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct IdRegisters {
    values: [u64; COUNT],
}

impl IdRegisters {
    /// The whole space that HCR_EL2.TID3 traps.
    pub const CLAIMS: [Claim; 1] = [Claim::SystemRegisters(FIRST..=LAST)];

    /// What a guest sees on hardware whose ID registers `read` returns; it is asked for no others. `address_bits` is how
    /// many bits of intermediate physical address the VM's stage 2 translates, 32 or more.
    pub fn from_hardware(mut read: impl FnMut(SystemRegister) -> u64, address_bits: u8) -> Self {
        let has_aarch32 = read(SystemRegister::new(3, 0, 0, 4, 0)) & FIELD == EL0_WITH_AARCH32;
        let mut registers = Self { values: [0; COUNT] };
        for row in ROWS {
            let is_aarch32 = row.crm < 4;
            if has_aarch32 || !is_aarch32 {
                registers.values[index_of(row.register())] = row.shown(read(row.register()));
            }
        }
        let fits = PHYSICAL_ADDRESS_BITS
            .iter()
            .rposition(|&bits| bits <= address_bits)
            .unwrap_or(0) as u64;
        let memory_model = &mut registers.values[index_of(SystemRegister::new(3, 0, 0, 7, 0))];
        *memory_model = *memory_model & !FIELD | fits.min(*memory_model & FIELD);
        registers
    }

    /// What the guest reads; 0 for registers that are not ID registers.
    pub fn value(&self, register: SystemRegister) -> u64 {
        self.values.get(index_of(register)).copied().unwrap_or(0)
    }

    /// The registers that are not always 0, by name.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
        ROWS.iter()
            .map(|row| (row.name, self.value(row.register())))
    }
}

/// A register's place in the space; past its end for a register outside it.
const fn index_of(register: SystemRegister) -> usize {
    (register.bits() as usize).wrapping_sub(FIRST.bits() as usize)
}

impl ExitHandler for IdRegisters {
    fn name(&self) -> &str {
        "id-registers"
    }

    fn handle(&self, _guest: &mut GuestCpu<'_>, exit: &Exit) -> Action {
        match exit {
            Exit::SystemRegister(access) if access.direction == Direction::Read => {
                Action::FinishRead(self.value(access.register))
            }
            // They cannot be written: what hardware does about that is UNDEFINED.
            _ => Action::Decline,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
