//! What is different when 32-bit code exits: its condition, which may have failed, and its IT block.
//!
//! Pure. EL1 is AArch64, so the only 32-bit code is at EL0.

use crate::syndrome::{self as esr_field, class};

/// SPSR_EL2.M\[4\]: the guest was in AArch32 state. [DDI0487: SPSR_EL2]
const SPSR_AARCH32: u64 = 1 << 4;
/// SPSR_EL2.IT\[7:2\] and IT\[1:0\].
const IF_THEN_HIGH: u64 = 0b11_1111 << 10;
const IF_THEN_LOW: u64 = 0b11 << 25;
/// The conditions AL and its reserved opposite: whatever the flags are.
const ALWAYS: u64 = 0b1110;

/// The code with this PSTATE is AArch32 code.
#[inline]
pub(crate) const fn is_aarch32(spsr: u64) -> bool {
    spsr & SPSR_AARCH32 != 0
}

/// The exit is of an AArch32 instruction that the guest would not have executed: it may be trapped although its condition
/// fails. [DDI0487: ESR_EL2.ISS.CV, COND]
#[inline]
pub(crate) fn has_failed_condition(spsr: u64, esr: u64) -> bool {
    is_aarch32(spsr) && has_condition(esr) && fails(spsr, esr)
}

#[cold]
fn fails(spsr: u64, esr: u64) -> bool {
    !passes(condition(spsr, esr), spsr) && !cfg!(mutant = "ignore_condition")
}

/// The syndromes that have a condition: waits, coprocessor registers, FP, and none after them but calls, which EL0 has not.
const fn has_condition(esr: u64) -> bool {
    matches!(
        esr_field::CLASS.of(esr),
        class::WAIT..=class::LAST_COPROCESSOR
    )
}

/// A syndrome without it says that the IT block has the condition. [DDI0487: ESR_EL2.ISS.CV; CurrentCond]
const fn condition(spsr: u64, esr: u64) -> u64 {
    if esr_field::IS_CONDITION_VALID.is_set(esr) {
        return esr_field::CONDITION.of(esr);
    }
    let state = if_then(spsr);
    if state & 0b1111 == 0 {
        ALWAYS
    } else {
        state >> 4
    }
}

/// [DDI0487: ConditionHolds]
fn passes(condition: u64, spsr: u64) -> bool {
    let flag = |bit: u32| spsr >> bit & 1 != 0;
    let (negative, zero, carry, overflow) = (flag(31), flag(30), flag(29), flag(28));
    let holds = match condition >> 1 {
        0b000 => zero,
        0b001 => carry,
        0b010 => negative,
        0b011 => overflow,
        0b100 => carry && !zero,
        0b101 => negative == overflow,
        0b110 => negative == overflow && !zero,
        _ => return true,
    };
    holds != (condition & 1 != 0)
}

const fn if_then(spsr: u64) -> u64 {
    (spsr & IF_THEN_HIGH) >> 8 | (spsr & IF_THEN_LOW) >> 25
}

/// PSTATE after one instruction of an IT block. [DDI0487: ITAdvance; SPSR_EL2.IT]
pub(crate) const fn advance_if_then(spsr: u64) -> u64 {
    let state = if_then(spsr);
    let next = if state & 0b111 == 0 {
        0
    } else if cfg!(mutant = "stay_in_if_then") {
        state
    } else {
        state & 0xe0 | state << 1 & 0x1f
    };
    spsr & !(IF_THEN_LOW | IF_THEN_HIGH) | next << 8 & IF_THEN_HIGH | next << 25 & IF_THEN_LOW
}

#[cfg(test)]
mod tests {
    use super::*;

    const USER: u64 = 0b1_0000;
    const VALID: u64 = 1 << 24;

    /// What a condition asks of N, Z, C and V.
    type Holds = fn(bool, bool, bool, bool) -> bool;

    fn failed(spsr: u64, class: u64, iss: u64) -> bool {
        has_failed_condition(spsr, class << 26 | iss)
    }

    #[test]
    fn a_condition_is_that_of_the_syndrome() {
        #[rustfmt::skip] // read by column
        let cases: [(u64, Holds); 15] = [
            (0x0, |_, z, _, _| z),           (0x1, |_, z, _, _| !z),
            (0x2, |_, _, c, _| c),           (0x3, |_, _, c, _| !c),
            (0x4, |n, _, _, _| n),           (0x5, |n, _, _, _| !n),
            (0x6, |_, _, _, v| v),           (0x7, |_, _, _, v| !v),
            (0x8, |_, z, c, _| c && !z),     (0x9, |_, z, c, _| !c || z),
            (0xa, |n, _, _, v| n == v),      (0xb, |n, _, _, v| n != v),
            (0xc, |n, z, _, v| !z && n == v), (0xd, |n, z, _, v| z || n != v),
            (0xe, |_, _, _, _| true),
        ];
        for (condition, holds) in cases {
            for flags in 0..16u64 {
                let flag = |bit: u64| flags >> bit & 1 != 0;
                let expected = holds(flag(3), flag(2), flag(1), flag(0));
                let spsr = USER | flags << 28;
                let has_failed = failed(spsr, 0x01, VALID | condition << 20);
                assert_eq!(has_failed, !expected, "{condition:#x} with {flags:#x}");
            }
        }
        assert!(!failed(USER, 0x01, VALID | 0xf << 20));
    }

    #[test]
    fn a_condition_that_the_syndrome_does_not_have_is_that_of_the_it_block() {
        const ZERO: u64 = 1 << 30;
        // The first instruction of ITE NE: IT is 0b0001_0100, and EQ follows.
        let block = USER | 1 << 5 | 0b000101 << 10;
        assert!(!failed(block, 0x03, 0));
        assert!(failed(block | ZERO, 0x03, 0));
        let next = advance_if_then(block);
        assert!(failed(next, 0x03, 0));
        assert!(!failed(next | ZERO, 0x03, 0));
        assert!(!failed(advance_if_then(next), 0x03, 0), "out of the block");
    }

    #[test]
    fn only_what_has_a_condition_can_fail_it() {
        let never = VALID | 0x1 << 20;
        let spsr = USER | 1 << 30;
        for class in 0..64 {
            let has_failed = failed(spsr, class, never);
            assert_eq!(has_failed, (0x01..=0x0c).contains(&class), "{class:#x}");
            assert!(!failed(1 << 30, class, never), "AArch64 has none");
        }
    }
}
