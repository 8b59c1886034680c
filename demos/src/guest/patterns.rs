//! Patterns in the FP/SIMD registers that must survive exits, switches and moves.
//!
//! The compiler uses no FP register for this target, and interrupt handlers do not either, so what [`fill`] puts there stays
//! until it is checked, whatever else the CPU does in between.

use core::{arch::naked_asm, fmt};

/// A register that no longer holds its pattern.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Changed(u64);

impl fmt::Display for Changed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            FPCR => formatter.write_str("FPCR"),
            FPSR => formatter.write_str("FPSR"),
            number => write!(formatter, "q{}", number - 1),
        }
    }
}

/// What [`check`] returns for the registers that have no number; q`n` is n + 1.
const FPCR: u64 = 33;
const FPSR: u64 = 34;

/// The first register of this CPU that does not hold what [`fill`] put there.
pub fn changed(seed: u64) -> Option<Changed> {
    match check(seed) {
        0 => None,
        register => Some(Changed(register)),
    }
}

/// Puts `seed` + n and its complement into q`n`, and bits of `seed` into FPCR (rounding, FZ, DN, AHP) and FPSR (IXC to IOC,
/// IDC, QC).
#[unsafe(naked)]
pub extern "C" fn fill(seed: u64) {
    naked_asm!(
        ".arch_extension fp",
        ".arch_extension simd",
        ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
        "add     x1, x0, #\\n",
        "mvn     x2, x1",
        "fmov    d\\n, x1",
        "fmov    v\\n\\().d[1], x2",
        ".endr",
        "and     x1, x0, #0x07c00000",
        "msr     fpcr, x1",
        "mov     w2, #0x9f",
        "movk    w2, #0x0800, lsl #16",
        "and     x1, x0, x2",
        "msr     fpsr, x1",
        "ret",
    )
}

/// 0 if the registers hold what [`fill`] put there; else n + 1 for q`n`, 33 for FPCR, 34 for FPSR.
#[unsafe(naked)]
extern "C" fn check(seed: u64) -> u64 {
    naked_asm!(
        ".arch_extension fp",
        ".arch_extension simd",
        ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
        "mov     x4, #\\n + 1",
        "add     x1, x0, #\\n",
        "mvn     x2, x1",
        "fmov    x3, d\\n",
        "cmp     x3, x1",
        "b.ne    1f",
        "fmov    x3, v\\n\\().d[1]",
        "cmp     x3, x2",
        "b.ne    1f",
        ".endr",
        "mov     x4, #33",
        "and     x1, x0, #0x07c00000",
        "mrs     x3, fpcr",
        "cmp     x3, x1",
        "b.ne    1f",
        "mov     x4, #34",
        "mov     w2, #0x9f",
        "movk    w2, #0x0800, lsl #16",
        "and     x1, x0, x2",
        "mrs     x3, fpsr",
        "cmp     x3, x1",
        "b.ne    1f",
        "mov     x4, #0",
        "1: mov  x0, x4",
        "ret",
    )
}
