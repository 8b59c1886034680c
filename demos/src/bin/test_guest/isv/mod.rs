//! Loads and stores of a device that a hypervisor gets no description of (ISV=0), and those that it does: each form moves what
//! it moves on hardware. [DDI0487: ESR_EL2.ISS.ISV]

#[macro_use]
mod registers;

use core::{arch::asm, sync::atomic::Ordering::SeqCst};

use aarch64_cpu::registers::{ID_AA64ISAR0_EL1, Readable};
use trapline_demos::guest::mmio;

use self::registers::*;
use crate::support::{self, check, on_exception};

/// Every form of load and store.
pub fn forms() {
    on_exception(skip_abort);
    let (before, unused) = (divisors(), routes());
    described();
    pairs();
    moving_bases();
    vectors();
    big_endian();
    if support::is_strict() {
        unsupported();
    }
    harmless();
    set_divisors(before);
    set_routes(unused);
    support::say(format_args!("forms={}", FORMS.load(SeqCst)));
}

/// What the syndrome describes: width, sign, and size of the register.
#[rustfmt::skip] // read by column
fn described() {
    set_divisors([0x8281, 0x15]);
    loads!(DIVISORS, "ldrb w10, [x9]", 0, 0x81);
    loads!(DIVISORS, "ldrsb w10, [x9]", 0, 0xffff_ff81);
    loads!(DIVISORS, "ldrsb x10, [x9]", 0, 0xffff_ffff_ffff_ff81);
    loads!(DIVISORS, "ldrh w10, [x9]", 0, 0x8281);
    loads!(DIVISORS, "ldrsh w10, [x9]", 0, 0xffff_8281);
    loads!(DIVISORS, "ldrsh x10, [x9]", 0, 0xffff_ffff_ffff_8281);
    loads!(DIVISORS, "ldr w10, [x9]", 0, 0x8281);
    loads!(DIVISORS, "ldr wzr, [x9]", 0, OLD);
    loads!(DIVISORS, "ldar w10, [x9]", 0, 0x8281);
    loads!(DIVISORS - 4, "ldr w10, [x9, #4]", 0, 0x8281);
    loads!(DIVISORS + 3, "ldur w10, [x9, #-3]", 0, 0x8281);
    loads!(DIVISORS - 4, "ldr w10, [x9, x12, lsl #2]", 0, 0x8281);
    mmio::write32(PRIORITIES, 0xf0a0_9088);
    loads!(PRIORITIES, "ldr w10, [x9]", 0, 0xf0a0_9088);
    loads!(PRIORITIES, "ldrsw x10, [x9]", 0, 0xffff_ffff_f0a0_9088);
    loads!(PRIORITIES + 2, "ldrsb x10, [x9, w12, uxtw]", 0, 0xffff_ffff_ffff_fff0);
    set_routes(ROUTE);
    loads!(ROUTES, "ldr x10, [x9]", 0, ROUTE[0]);
    stores!(DIVISORS, "strb w10, [x9]", 0, [OLD, 0], divisors(), [0xfe, 0x15]);
    stores!(DIVISORS, "strh w10, [x9]", 0, [OLD, 0], divisors(), [0xcafe, 0x15]);
    stores!(DIVISORS, "str wzr, [x9]", 0, [OLD, 0], divisors(), [0, 0x15]);
    stores!(DIVISORS, "stlr w10, [x9]", 0, [0x1234, 0], divisors(), [0x1234, 0x15]);
    stores!(ROUTES, "str x10, [x9]", 0, [ROUTE[3], 0], routes()[0], ROUTE[3]);
}

/// Two registers in one instruction.
#[rustfmt::skip] // read by column
fn pairs() {
    set_divisors([0x8281, 0x15]);
    loads!(DIVISORS, "ldp w10, w11, [x9]", 0, 0x8281, 0x15);
    loads!(DIVISORS - 8, "ldp w10, w11, [x9, #8]", 0, 0x8281, 0x15);
    loads!(DIVISORS - 8, "ldp w10, w11, [x9, #8]!", 8, 0x8281, 0x15);
    loads!(DIVISORS, "ldp w10, w11, [x9], #-8", -8, 0x8281, 0x15);
    loads!(DIVISORS, "ldnp w10, w11, [x9]", 0, 0x8281, 0x15);
    loads!(DIVISORS, "ldp wzr, w11, [x9]", 0, OLD, 0x15);
    loads!(DIVISORS, "ldpsw x10, x11, [x9]", 0, 0x8281, 0x15);
    if support::is_strict() {
        // QEMU makes one access of 64 bits of it, which this register does not take.
        mmio::write32(PRIORITIES, 0xf0a0_9088);
        mmio::write32(PRIORITIES + 4, 0x8018_1008);
        loads!(PRIORITIES, "ldpsw x10, x11, [x9]", 0, 0xffff_ffff_f0a0_9088, 0xffff_ffff_8018_1008);
        loads!(PRIORITIES, "ldpsw x10, x11, [x9], #8", 8, 0xffff_ffff_f0a0_9088, 0xffff_ffff_8018_1008);
    }
    set_routes(ROUTE);
    loads!(ROUTES, "ldp x10, x11, [x9]", 0, ROUTE[0], ROUTE[1]);
    loads!(ROUTES - 16, "ldp x10, x11, [x9, #16]!", 16, ROUTE[0], ROUTE[1]);
    loads!(ROUTES, "ldp x10, x11, [x9], #16", 16, ROUTE[0], ROUTE[1]);

    stores!(DIVISORS, "stp w10, w11, [x9]", 0, [0x4321, 0x2a], divisors(), [0x4321, 0x2a]);
    stores!(DIVISORS + 8, "stp w10, w11, [x9, #-8]!", -8, [0x1111, 0x11], divisors(), [0x1111, 0x11]);
    stores!(DIVISORS, "stp w10, wzr, [x9], #8", 8, [0x2222, 0], divisors(), [0x2222, 0]);
    stores!(DIVISORS, "stnp w10, w11, [x9]", 0, [0x3333, 0x33], divisors(), [0x3333, 0x33]);
    stores!(ROUTES, "stp x10, x11, [x9], #16", 16, [ROUTE[2], ROUTE[3]], routes(), [ROUTE[2], ROUTE[3], ROUTE[2], ROUTE[3]]);
}

/// One register, and the base changes.
#[rustfmt::skip] // read by column
fn moving_bases() {
    set_divisors([0x8281, 0x15]);
    loads!(DIVISORS, "ldr w10, [x9], #4", 4, 0x8281);
    loads!(DIVISORS - 4, "ldr w10, [x9, #4]!", 4, 0x8281);
    loads!(DIVISORS, "ldrb w10, [x9], #1", 1, 0x81);
    loads!(DIVISORS, "ldrsb w10, [x9], #-1", -1, 0xffff_ff81);
    loads!(DIVISORS, "ldrsb x10, [x9], #1", 1, 0xffff_ffff_ffff_ff81);
    loads!(DIVISORS, "ldrh w10, [x9], #2", 2, 0x8281);
    loads!(DIVISORS - 2, "ldrsh w10, [x9, #2]!", 2, 0xffff_8281);
    loads!(DIVISORS - 2, "ldrsh x10, [x9, #2]!", 2, 0xffff_ffff_ffff_8281);
    mmio::write32(PRIORITIES, 0xf0a0_9088);
    loads!(PRIORITIES, "ldrsw x10, [x9], #4", 4, 0xffff_ffff_f0a0_9088);
    set_routes(ROUTE);
    loads!(ROUTES, "ldr x10, [x9], #255", 255, ROUTE[0]);
    loads!(ROUTES + 256, "ldr x10, [x9, #-256]!", -256, ROUTE[0]);
    stores!(DIVISORS, "str w10, [x9], #4", 4, [0x1111, 0], divisors(), [0x1111, 0x15]);
    stores!(DIVISORS - 4, "str w10, [x9, #4]!", 4, [0x2222, 0], divisors(), [0x2222, 0x15]);
    stores!(DIVISORS, "strb w10, [x9], #1", 1, [OLD, 0], divisors(), [0xfe, 0x15]);
    stores!(DIVISORS, "strh w10, [x9], #-2", -2, [OLD, 0], divisors(), [0xcafe, 0x15]);
    stores!(ROUTES, "str x10, [x9], #8", 8, [ROUTE[1], 0], routes()[0], ROUTE[1]);

    set_divisors([0x8281, 0x15]);
    let mut expected = Registers::at(DIVISORS);
    (expected.x9, expected.x10, expected.x11) = (DIVISORS as u64 + 8, 0x8281, 0x15);
    run!(
        Registers::at(DIVISORS),
        "mov x14, sp",
        "mov sp, x9",
        "ldp w10, w11, [sp], #8",
        "mov x9, sp",
        "mov sp, x14"
    )
    .expect("ldp w10, w11, [sp], #8", &expected);
}

/// Vector registers: what a load does not fill becomes zero.
#[rustfmt::skip] // read by column
fn vectors() {
    set_divisors([0x8281, 0x15]);
    loads_vectors!(DIVISORS, "ldr b0, [x9]", 0, [0x81, 0]);
    loads_vectors!(DIVISORS, "ldr h0, [x9], #2", 2, [0x8281, 0]);
    loads_vectors!(DIVISORS - 4, "ldr s0, [x9, x12, lsl #2]", 0, [0x8281, 0]);
    loads_vectors!(DIVISORS, "ldp s0, s1, [x9], #8", 8, [0x8281, 0], [0x15, 0]);
    set_routes(ROUTE);
    loads_vectors!(ROUTES, "ldr d0, [x9]", 0, [ROUTE[0], 0]);
    loads_vectors!(ROUTES - 1, "ldur d1, [x9, #1]", 0, [OLD; 2], [ROUTE[0], 0]);
    loads_vectors!(ROUTES - 16, "ldp d0, d1, [x9, #16]!", 16, [ROUTE[0], 0], [ROUTE[1], 0]);
    loads_vectors!(ROUTES, "ldr q0, [x9], #16", 16, [ROUTE[0], ROUTE[1]]);
    loads_vectors!(ROUTES, "ldp q0, q1, [x9]", 0, [ROUTE[0], ROUTE[1]], [ROUTE[2], ROUTE[3]]);
    stores!(DIVISORS, "str b0, [x9], #1", 1, [OLD, 0], divisors(), [0xfe, 0x15]);
    stores!(DIVISORS, "str h0, [x9]", 0, [OLD, 0], divisors(), [0xcafe, 0x15]);
    stores!(DIVISORS, "stp s0, s1, [x9]", 0, [0x1234, 0x21], divisors(), [0x1234, 0x21]);
    stores!(ROUTES, "str d0, [x9]", 0, [ROUTE[3], 0], routes()[0], ROUTE[3]);
    const MASK: u64 = 0xff_00ff_ffff;
    stores!(ROUTES, "str q0, [x9, #-16]!", -16, [0, 0], routes()[0], ROUTE[3]);
    stores!(ROUTES + 32, "stp q0, q1, [x9, #-32]!", -32, [ROUTE[0], ROUTE[1]], routes().map(|route| route & MASK), [ROUTE[0], !ROUTE[0] & MASK, ROUTE[1], !ROUTE[1] & MASK]);
}

/// Data in the opposite order, with the MMU off: its tables keep theirs. [DDI0487: SCTLR_EL1.EE]
macro_rules! big_endian {
    ($registers:expr, $instruction:literal) => {
        run!(
            $registers,
            "mrs x14, sctlr_el1",
            "orr x15, x14, #0x2000000",
            "and x15, x15, #~1",
            "msr sctlr_el1, x15",
            "isb",
            $instruction,
            "msr sctlr_el1, x14",
            "isb"
        )
    };
}

fn big_endian() {
    set_routes(ROUTE);
    let swapped = ROUTE.map(u64::swap_bytes);
    let at = Registers::at(ROUTES);
    let expected = Registers {
        x10: swapped[0],
        ..at
    };
    big_endian!(at, "ldr x10, [x9]").expect("big-endian ldr", &expected);
    let expected = Registers {
        x10: swapped[0],
        x11: swapped[1],
        x9: at.x9 + 16,
        ..at
    };
    big_endian!(at, "ldp x10, x11, [x9], #16").expect("big-endian ldp", &expected);
    let expected = Registers {
        vectors: [[swapped[1], swapped[0]], [OLD; 2]],
        ..at
    };
    big_endian!(at, "ldr q0, [x9]").expect("big-endian ldr q", &expected);
    let given = Registers {
        x10: swapped[2],
        x11: swapped[3],
        ..at
    };
    big_endian!(given, "str x10, [x9]").expect("big-endian str", &given);
    check!(
        routes()[0] == ROUTE[2],
        "a big-endian str left {:#x}",
        routes()[0]
    );
    big_endian!(given, "stp x11, x10, [x9]").expect("big-endian stp", &given);
    check!(
        routes()[..2] == [ROUTE[3], ROUTE[2]],
        "a big-endian stp left {:#x?}",
        routes()
    );
    mmio::write32(PRIORITIES, 0xf0a0_9088);
    let at = Registers::at(PRIORITIES);
    let expected = Registers {
        x10: 0xffff_ffff_8890_a0f0,
        ..at
    };
    big_endian!(at, "ldrsw x10, [x9]").expect("big-endian ldrsw", &expected);
    let given = Registers {
        x10: 0x1808_90a0,
        ..at
    };
    big_endian!(given, "str w10, [x9]").expect("big-endian str w", &given);
    let left = mmio::read32(PRIORITIES);
    check!(left == 0xa090_0818, "a big-endian str w left {left:#x}");
}

/// What hardware may refuse for a device, and QEMU alone does not: nothing is half done.
fn unsupported() {
    aborts!(DIVISORS, "ldxr w10, [x9]");
    aborts!(DIVISORS - 4, "ldaxp w10, w11, [x9]");
    // ID_AA64ISAR0_EL1.Atomic.
    if ID_AA64ISAR0_EL1.get() >> 20 & 0xf != 0 {
        aborts!(DIVISORS, ".arch_extension lse; ldadd w10, w11, [x9]");
        aborts!(DIVISORS, ".arch_extension lse; cas w10, w11, [x9]");
    }
    aborts!(DIVISORS, "ld1 {{v0.s}}[1], [x9], #4");
    aborts!(DIVISORS, "st1 {{v0.4s}}, [x9], #16");
    // The second half meets with nothing.
    aborts!(UART_END, "ldp w10, w11, [x9]");
    aborts!(UART_END, "ldp w10, w11, [x9], #8");
    aborts!(UART_END, "ldp s0, s1, [x9]");
}

/// What does nothing to a device.
fn harmless() {
    let before = ABORTS.load(SeqCst);
    let at = Registers::at(DIVISORS);
    run!(at, "prfm pldl1keep, [x9]").expect("prfm", &at);
    run!(at, "dc civac, x9").expect("dc civac", &at);
    run!(at, "dc cvac, x9").expect("dc cvac", &at);
    run!(at, "ic ivau, x9").expect("ic ivau", &at);
    check!(
        ABORTS.load(SeqCst) == before,
        "maintenance of a device's address aborted"
    );
}
