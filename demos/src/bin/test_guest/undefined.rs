//! Registers that a guest may try: each read is answered, or undefined at its own instruction.

use core::{
    arch::asm,
    sync::atomic::{
        AtomicU64,
        Ordering::{Relaxed, SeqCst},
    },
};

use trapline_demos::guest::exceptions::{Frame, Kind};

use crate::support::{self, check, on_exception};

/// ESR_EL1 of an undefined instruction: class 0, IL, nothing else. [DDI0487: ESR_EL1]
const UNDEFINED: u64 = 1 << 25;
pub static SKIPPED: AtomicU64 = AtomicU64::new(0);
pub static LAST_PC: AtomicU64 = AtomicU64::new(0);

/// Steps over an undefined instruction, and counts it.
pub fn skip_undefined(kind: Kind, frame: &mut Frame) {
    check!(
        kind == Kind::Synchronous && frame.esr == UNDEFINED,
        "{kind:?} exception, esr {:#x} at {:#x}",
        frame.esr,
        frame.elr
    );
    SKIPPED.fetch_add(1, SeqCst);
    LAST_PC.store(frame.elr, Relaxed);
    frame.skip();
}

/// What came of one instruction.
#[derive(Clone, Copy, Eq, PartialEq)]
pub enum Outcome {
    Value(u64),
    Undefined,
}

/// An instruction that reads a register into `value`: what it read, or that it was undefined, at its own address.
macro_rules! read {
    ($register:literal) => {{
        let before = $crate::undefined::SKIPPED.load(core::sync::atomic::Ordering::SeqCst);
        let (value, pc): (u64, u64);
        // SAFETY: reads a register, or is undefined, which the handler steps over.
        unsafe {
            core::arch::asm!(
                "adr {pc}, 1f",
                "mov {value}, #0",
                concat!("1: mrs {value}, ", $register),
                value = out(reg) value,
                pc = out(reg) pc,
            );
        }
        if $crate::undefined::SKIPPED.load(core::sync::atomic::Ordering::SeqCst) == before {
            $crate::undefined::Outcome::Value(value)
        } else {
            let at = $crate::undefined::LAST_PC.load(core::sync::atomic::Ordering::Relaxed);
            $crate::support::check!(at == pc, "reading {} was undefined at {at:#x} instead of {pc:#x}", $register);
            $crate::support::check!(value == 0, "reading {} was undefined and left {value:#x}", $register);
            $crate::undefined::Outcome::Undefined
        }
    }};
}
pub(crate) use read;

/// Reads all of a list and counts what was undefined.
macro_rules! count_undefined {
    ($($register:literal)*) => {
        [$(read!($register)),*].into_iter().filter(|outcome| *outcome == Outcome::Undefined).count()
    };
}

/// Registers that do not exist, that belong to other exception levels, and that implementations define.
pub fn unknown_registers() {
    on_exception(skip_undefined);
    // SAFETY: undefined by definition, and stepped over.
    unsafe { asm!("udf #0", "udf #0xffff") };
    check!(
        SKIPPED.load(SeqCst) == 2,
        "two UDFs were undefined {} times",
        SKIPPED.load(SeqCst)
    );

    // Of EL2 and EL3: HCR, VTTBR, CNTHP_CTL, ICH_HCR, ICH_LR0, SCR, and SCTLR_EL12. [DDI0487]
    let levels = count_undefined!(
        "s3_4_c1_c1_0" "s3_4_c2_c1_0" "s3_4_c14_c2_1" "s3_4_c12_c11_0" "s3_4_c12_c12_0" "s3_6_c1_c1_0" "s3_5_c1_c0_0"
    );
    check!(
        levels == 7,
        "{levels} of 7 registers of higher exception levels are undefined"
    );

    // Not allocated.
    let holes = count_undefined!("s3_0_c3_c0_0" "s3_0_c8_c15_7" "s3_3_c7_c7_7" "s3_7_c2_c3_4" "s3_2_c1_c1_1" "s2_7_c1_c1_1");
    check!(
        holes == 6,
        "{holes} of 6 registers that do not exist are undefined"
    );

    // The ID space is never undefined: what is not allocated there reads as zero.
    let identification = count_undefined!(
        "s3_0_c0_c0_0" "s3_0_c0_c0_5" "s3_0_c0_c0_6"
        "s3_0_c0_c1_0" "s3_0_c0_c1_1" "s3_0_c0_c1_2" "s3_0_c0_c1_3" "s3_0_c0_c1_4" "s3_0_c0_c1_5" "s3_0_c0_c1_6" "s3_0_c0_c1_7"
        "s3_0_c0_c2_0" "s3_0_c0_c2_1" "s3_0_c0_c2_2" "s3_0_c0_c2_3" "s3_0_c0_c2_4" "s3_0_c0_c2_5" "s3_0_c0_c2_6" "s3_0_c0_c2_7"
        "s3_0_c0_c3_0" "s3_0_c0_c3_1" "s3_0_c0_c3_2" "s3_0_c0_c3_3" "s3_0_c0_c3_4" "s3_0_c0_c3_5" "s3_0_c0_c3_6" "s3_0_c0_c3_7"
        "s3_0_c0_c4_0" "s3_0_c0_c4_1" "s3_0_c0_c4_2" "s3_0_c0_c4_3" "s3_0_c0_c4_4" "s3_0_c0_c4_5" "s3_0_c0_c4_6" "s3_0_c0_c4_7"
        "s3_0_c0_c5_0" "s3_0_c0_c5_1" "s3_0_c0_c5_2" "s3_0_c0_c5_3" "s3_0_c0_c5_4" "s3_0_c0_c5_5" "s3_0_c0_c5_6" "s3_0_c0_c5_7"
        "s3_0_c0_c6_0" "s3_0_c0_c6_1" "s3_0_c0_c6_2" "s3_0_c0_c6_3" "s3_0_c0_c6_4" "s3_0_c0_c6_5" "s3_0_c0_c6_6" "s3_0_c0_c6_7"
        "s3_0_c0_c7_0" "s3_0_c0_c7_1" "s3_0_c0_c7_2" "s3_0_c0_c7_3" "s3_0_c0_c7_4" "s3_0_c0_c7_5" "s3_0_c0_c7_6" "s3_0_c0_c7_7"
    );
    check!(
        identification == 0,
        "{identification} ID registers are undefined"
    );

    enable_vectors();
    // Implementation defined, debug, PMU, and what else an implementation may or may not have: any answer, at the right place.
    let either = count_undefined!(
        "s3_1_c15_c2_0" "s3_1_c15_c2_1" "s3_1_c11_c0_2" "s3_1_c15_c0_0" "s3_0_c15_c0_0" "s3_3_c15_c0_0" "s3_1_c15_c3_0"
        "actlr_el1" "aidr_el1" "revidr_el1" "afsr0_el1" "amair_el1"
        "mdscr_el1" "oslsr_el1" "osdlr_el1" "dbgprcr_el1" "dbgclaimset_el1" "dbgbvr0_el1" "dbgbcr0_el1" "dbgwvr0_el1"
        "mdccsr_el0" "mdrar_el1" "osdtrrx_el1" "oseccr_el1"
        "pmcr_el0" "pmccntr_el0" "pmceid0_el0" "pmuserenr_el0" "pmintenset_el1" "s3_0_c9_c14_6"
        "s3_0_c10_c4_3" "s3_0_c5_c3_0" "s3_0_c9_c9_0" "s3_0_c9_c11_0" "s3_3_c13_c2_0" "s3_0_c1_c2_0" "s3_0_c1_c2_6"
    );
    support::say(format_args!("undefined={}", 2 + levels + holes + either));
}

/// A feature that the ID registers name has its register, and one that they do not name has none.
pub fn hidden_features() {
    on_exception(skip_undefined);
    let Outcome::Value(pfr0) = read!("s3_0_c0_c4_0") else {
        support::fail(format_args!("no ID_AA64PFR0_EL1"))
    };
    let Outcome::Value(pfr1) = read!("s3_0_c0_c4_1") else {
        support::fail(format_args!("no ID_AA64PFR1_EL1"))
    };
    let Outcome::Value(dfr0) = read!("s3_0_c0_c5_0") else {
        support::fail(format_args!("no ID_AA64DFR0_EL1"))
    };
    let Outcome::Value(isar0) = read!("s3_0_c0_c6_0") else {
        support::fail(format_args!("no ID_AA64ISAR0_EL1"))
    };
    let Outcome::Value(isar1) = read!("s3_0_c0_c6_1") else {
        support::fail(format_args!("no ID_AA64ISAR1_EL1"))
    };
    let Outcome::Value(mmfr1) = read!("s3_0_c0_c7_1") else {
        support::fail(format_args!("no ID_AA64MMFR1_EL1"))
    };
    enable_vectors();
    let field = |value: u64, low: u32| value >> low & 0xf;
    // A register that has no feature of its own traps or does not; each of these belongs to one feature.
    let features = [
        ("RAS", field(pfr0, 28) != 0, read!("s3_0_c5_c3_0")),
        ("SVE", field(pfr0, 32) != 0, read!("s3_0_c1_c2_0")),
        ("AMU", field(pfr0, 44) != 0, read!("s3_3_c13_c2_1")),
        ("MTE", field(pfr1, 8) > 1, read!("s3_0_c1_c0_6")),
        ("SME", field(pfr1, 24) != 0, read!("s3_0_c1_c2_6")),
        (
            "PMU",
            !matches!(field(dfr0, 8), 0 | 15),
            read!("s3_3_c9_c12_0"),
        ),
        ("SPE", field(dfr0, 32) != 0, read!("s3_0_c9_c9_0")),
        ("trace buffer", field(dfr0, 44) != 0, read!("s3_0_c9_c11_0")),
        ("RNDR", field(isar0, 60) != 0, read!("s3_3_c2_c4_0")),
        (
            "pointer authentication",
            isar1 & 0xff00_0ff0 != 0,
            read!("s3_0_c2_c1_0"),
        ),
        ("LORegions", field(mmfr1, 16) != 0, read!("s3_0_c10_c4_3")),
    ];
    for (name, is_named, outcome) in features {
        let is_there = outcome != Outcome::Undefined;
        check!(
            is_there || !is_named,
            "{name} is in the ID registers, and its register is undefined"
        );
        check!(
            !is_there || is_named,
            "{name} is not in the ID registers, and its register is there"
        );
        support::note(format_args!(
            "{name}: {}",
            if is_named { "yes" } else { "no" }
        ));
    }
}

/// CPACR_EL1.ZEN and SMEN: without them the registers of SVE and SME trap to EL1 where they exist.
fn enable_vectors() {
    // SAFETY: turns traps to EL1 off; the bits are RES0 where there is nothing to trap.
    unsafe {
        asm!(
            "mrs {value}, cpacr_el1",
            "orr {value}, {value}, #0x30000",
            "orr {value}, {value}, #0x3000000",
            "msr cpacr_el1, {value}",
            "isb",
            value = out(reg) _,
        );
    }
}
