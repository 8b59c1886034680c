//! Patterns that must survive exits, preemption and migration: general, FP/SIMD and thread registers.
//!
//! The compiler uses no FP register for this target, and interrupt handlers do not either, so what is filled here stays until it
//! is checked, whatever else the CPU does in between.

use core::arch::naked_asm;

use aarch64_cpu::registers::{Readable, TPIDR_EL0, TPIDR_EL1, TPIDRRO_EL0, Writeable};
use trapline_demos::guest::{patterns, random::Random};

use crate::{
    locks, mail,
    state::{Doing, cpu_state, fail},
    timers,
};

/// Fills the FP/SIMD registers, does something else or just runs, and checks them.
pub fn floating_point(index: usize, random: &mut Random) {
    let seed = random.next();
    patterns::fill(seed);
    match random.below(4) {
        0 => timers::wait(index, random),
        1 => locks::round(index, random),
        2 => mail::ask(index, random),
        _ => general(index, random),
    }
    cpu_state(index).enter(Doing::CheckingRegisters, seed);
    if let Some(register) = patterns::changed(seed) {
        fail(format_args!(
            "{register} changed; the pattern was {seed:#x}"
        ));
    }
}

/// Runs with patterns in x2 to x30 for up to about 100,000 steps.
pub fn general(index: usize, random: &mut Random) {
    let seed = random.next();
    cpu_state(index).enter(Doing::CheckingRegisters, seed);
    let number = hold_general(seed, random.below(50_000) + 1);
    if number != 0 {
        fail(format_args!(
            "x{number} changed while the CPU ran; the pattern was {seed:#x}"
        ));
    }
}

/// Puts this CPU's mark into the thread registers.
pub fn mark_threads(index: usize, value: u64) {
    let [el0, read_only, el1] = marks(index, value);
    TPIDR_EL0.set(el0);
    TPIDRRO_EL0.set(read_only);
    TPIDR_EL1.set(el1);
}

/// Checks the marks that were put there long ago, and puts others.
pub fn threads(index: usize, random: &mut Random) {
    let value = TPIDR_EL1.get() >> 16;
    let expected = marks(index, value);
    let seen = [TPIDR_EL0.get(), TPIDRRO_EL0.get(), TPIDR_EL1.get()];
    if seen != expected {
        fail(format_args!(
            "TPIDR_EL0, TPIDRRO_EL0, TPIDR_EL1 are {seen:#x?} instead of {expected:#x?}"
        ));
    }
    mark_threads(index, random.next() >> 16);
}

fn marks(index: usize, value: u64) -> [u64; 3] {
    let mark = value << 16 | index as u64;
    [!mark, mark.rotate_left(8), mark]
}

/// Fills x2 to x30 with `seed` + n, counts `steps` down, and returns the number of a register that changed, or 0.
#[unsafe(naked)]
extern "C" fn hold_general(seed: u64, steps: u64) -> u64 {
    naked_asm!(
        "stp     x29, x30, [sp, #-96]!",
        "stp     x19, x20, [sp, #16]",
        "stp     x21, x22, [sp, #32]",
        "stp     x23, x24, [sp, #48]",
        "stp     x25, x26, [sp, #64]",
        "stp     x27, x28, [sp, #80]",
        ".irp n,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30",
        "add     x\\n, x0, #\\n",
        ".endr",
        "1: subs x1, x1, #1",
        "b.ne    1b",
        ".irp n,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30",
        "mov     x1, #\\n",
        "sub     x\\n, x\\n, x0",
        "cmp     x\\n, x1",
        "b.ne    2f",
        ".endr",
        "mov     x1, #0",
        "2: mov  x0, x1",
        "ldp     x27, x28, [sp, #80]",
        "ldp     x25, x26, [sp, #64]",
        "ldp     x23, x24, [sp, #48]",
        "ldp     x21, x22, [sp, #32]",
        "ldp     x19, x20, [sp, #16]",
        "ldp     x29, x30, [sp], #96",
        "ret",
    )
}
