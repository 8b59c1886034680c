//! Every system register there could be: each encoding is read once, and most are written.

use core::sync::atomic::Ordering::Relaxed;

use trapline_demos::guest::machine;

use crate::{DONE, code};

/// `mrs x0, s<op0>_<op1>_c<n>_c<m>_<op2>` has op0 - 2 in bit 19, then op1, CRn, CRm and op2 down to bit 5. [DDI0487: MRS]
const MRS: u32 = 0xd530_0000;
const MSR: u32 = 0xd510_0000;
/// `sys` and `sysl` have op0 1.
const SYS: u32 = 0xd508_0000;
const SYSL: u32 = 0xd528_0000;
/// How many combinations op1, CRn, CRm and op2 have.
const FIELDS: u32 = 1 << 14;

/// What this guest itself stands on: SCTLR, SCTLR2, CPACR, TTBR0, TCR, TCR2, SPSel, MAIR, VBAR.
const KEPT: [u32; 9] = [
    encoding(3, 0, 1, 0, 0),
    encoding(3, 0, 1, 0, 3),
    encoding(3, 0, 1, 0, 2),
    encoding(3, 0, 2, 0, 0),
    encoding(3, 0, 2, 0, 2),
    encoding(3, 0, 2, 0, 3),
    encoding(3, 0, 4, 2, 0),
    encoding(3, 0, 10, 2, 0),
    encoding(3, 0, 12, 0, 0),
];

const fn encoding(op0: u32, op1: u32, crn: u32, crm: u32, op2: u32) -> u32 {
    (op0 - 2) << 19 | op1 << 16 | crn << 12 | crm << 8 | op2 << 5
}

/// All that an instruction with op0 2 or 3 can name.
fn encodings() -> impl Iterator<Item = u32> {
    (0..2 * FIELDS).map(|number| number << 5)
}

/// Reads all registers, and executes all system instructions that return something.
pub fn read_all() {
    for register in encodings() {
        code::execute(MRS | register, 0);
        DONE.fetch_add(1, Relaxed);
    }
    for instruction in (0..FIELDS).map(|fields| fields << 5) {
        code::execute(SYSL | instruction, 0);
        DONE.fetch_add(1, Relaxed);
    }
}

/// Writes random values to random registers, all but those that this guest stands on, and executes system instructions on
/// random addresses.
pub fn write_most() {
    let mut random = crate::random();
    for _ in 0..machine::parameters().number("count", 50_000) {
        let fields = (random.next() as u32 & (2 * FIELDS - 1)) << 5;
        let value = if random.below(2) == 0 {
            random.next()
        } else {
            1 << random.below(64)
        };
        if random.below(4) == 0 {
            code::execute(SYS | fields & (FIELDS - 1) << 5, value);
        } else if !KEPT.contains(&fields) {
            code::execute(MSR | fields, value);
        }
        DONE.fetch_add(1, Relaxed);
    }
}
