//! Encodings, as an assembler makes them, against what the instruction does; and all others do no harm.

use std::format;
use std::string::String;

use proptest::prelude::*;

use super::*;

extern crate std;

/// What an instruction does: registers with sign and bytes, the direction, the address, and what becomes of its base.
fn describe(load_store: &LoadStore) -> String {
    let register = |&number: &u8| match load_store.bank {
        Bank::General {
            sign_extend,
            is_64bit,
        } => {
            let size = if is_64bit { "x" } else { "w" };
            let sign = if sign_extend { "s" } else { "u" };
            format!("{size}{number}:{sign}{} ", load_store.bytes)
        }
        Bank::Vector => format!("v{number}:{} ", load_store.bytes),
    };
    let registers = &load_store.registers[..usize::from(load_store.count)];
    let registers: String = registers.iter().map(register).collect();
    let direction = if load_store.is_store { "->" } else { "<-" };
    let base = match load_store.addressing.base {
        Base::Register(31) => String::from("sp"),
        Base::Register(number) => format!("x{number}"),
        Base::ProgramCounter => String::from("pc"),
    };
    let offset = match load_store.addressing.offset {
        Offset::Immediate(0) => String::new(),
        Offset::Immediate(bytes) => format!("{bytes:+}"),
        Offset::Register {
            register,
            extension,
            shift,
        } => {
            let size = match extension {
                Extension::UnsignedWord => "uw",
                Extension::SignedWord => "sw",
                Extension::Whole => "x",
            };
            let shift = if shift == 0 {
                String::new()
            } else {
                format!("<<{shift}")
            };
            format!("+{size}{register}{shift}")
        }
    };
    let address = match load_store.addressing.index {
        Index::Offset => format!("[{base}{offset}]"),
        Index::Before => format!("[{base}{offset}]!"),
        Index::After => format!("[{base}]{offset}"),
    };
    format!("{registers}{direction} {address}")
}

#[rustfmt::skip] // read by column
const LOADS_AND_STORES: &[(u32, &str, &str)] = &[
    (0x29400861, "ldp w1, w2, [x3]", "w1:u4 w2:u4 <- [x3]"),
    (0xa9600861, "ldp x1, x2, [x3, #-512]", "x1:u8 x2:u8 <- [x3-512]"),
    (0xa9df8861, "ldp x1, x2, [x3, #504]!", "x1:u8 x2:u8 <- [x3+504]!"),
    (0xa8c17bfd, "ldp x29, x30, [sp], #16", "x29:u8 x30:u8 <- [sp]+16"),
    (0x29bffc61, "stp w1, wzr, [x3, #-4]!", "w1:u4 w31:u4 -> [x3-4]!"),
    (0xa9010be1, "stp x1, x2, [sp, #16]", "x1:u8 x2:u8 -> [sp+16]"),
    (0xa8410861, "ldnp x1, x2, [x3, #16]", "x1:u8 x2:u8 <- [x3+16]"),
    (0x28010861, "stnp w1, w2, [x3, #8]", "w1:u4 w2:u4 -> [x3+8]"),
    (0xac410861, "ldnp q1, q2, [x3, #32]", "v1:16 v2:16 <- [x3+32]"),
    (0x697f0861, "ldpsw x1, x2, [x3, #-8]", "x1:s4 x2:s4 <- [x3-8]"),
    (0x68c10861, "ldpsw x1, x2, [x3], #8", "x1:s4 x2:s4 <- [x3]+8"),
    (0x2d400861, "ldp s1, s2, [x3]", "v1:4 v2:4 <- [x3]"),
    (0x6dc08861, "ldp d1, d2, [x3, #8]!", "v1:8 v2:8 <- [x3+8]!"),
    (0xaca07c7e, "stp q30, q31, [x3], #-1024", "v30:16 v31:16 -> [x3]-1024"),
    (0x18000041, "ldr w1, . + 8", "w1:u4 <- [pc+8]"),
    (0x58ffffc1, "ldr x1, . - 8", "x1:u8 <- [pc-8]"),
    (0x987fffe1, "ldrsw x1, . + 1048572", "x1:s4 <- [pc+1048572]"),
    (0x1c000021, "ldr s1, . + 4", "v1:4 <- [pc+4]"),
    (0x5c000041, "ldr d1, . + 8", "v1:8 <- [pc+8]"),
    (0x9c800001, "ldr q1, . - 1048576", "v1:16 <- [pc-1048576]"),
    (0x38401441, "ldrb w1, [x2], #1", "w1:u1 <- [x2]+1"),
    (0x38500c41, "ldrb w1, [x2, #-256]!", "w1:u1 <- [x2-256]!"),
    (0x380ffc41, "strb w1, [x2, #255]!", "w1:u1 -> [x2+255]!"),
    (0x785fe441, "ldrh w1, [x2], #-2", "w1:u2 <- [x2]-2"),
    (0x7800245f, "strh wzr, [x2], #2", "w31:u2 -> [x2]+2"),
    (0xb8404441, "ldr w1, [x2], #4", "w1:u4 <- [x2]+4"),
    (0xb8004c41, "str w1, [x2, #4]!", "w1:u4 -> [x2+4]!"),
    (0xf84087e1, "ldr x1, [sp], #8", "x1:u8 <- [sp]+8"),
    (0xf81f0fe1, "str x1, [sp, #-16]!", "x1:u8 -> [sp-16]!"),
    (0x38c01441, "ldrsb w1, [x2], #1", "w1:s1 <- [x2]+1"),
    (0x38801c41, "ldrsb x1, [x2, #1]!", "x1:s1 <- [x2+1]!"),
    (0x78c02441, "ldrsh w1, [x2], #2", "w1:s2 <- [x2]+2"),
    (0x78802c41, "ldrsh x1, [x2, #2]!", "x1:s2 <- [x2+2]!"),
    (0xb8804441, "ldrsw x1, [x2], #4", "x1:s4 <- [x2]+4"),
    (0xf85f9041, "ldur x1, [x2, #-7]", "x1:u8 <- [x2-7]"),
    (0x38007041, "sturb w1, [x2, #7]", "w1:u1 -> [x2+7]"),
    (0xb89fc041, "ldursw x1, [x2, #-4]", "x1:s4 <- [x2-4]"),
    (0xb8404841, "ldtr w1, [x2, #4]", "w1:u4 <- [x2+4]"),
    (0x381ff841, "sttrb w1, [x2, #-1]", "w1:u1 -> [x2-1]"),
    (0x78800841, "ldtrsh x1, [x2]", "x1:s2 <- [x2]"),
    (0xb97ffc41, "ldr w1, [x2, #16380]", "w1:u4 <- [x2+16380]"),
    (0x793ffc41, "strh w1, [x2, #8190]", "w1:u2 -> [x2+8190]"),
    (0x39fffc41, "ldrsb w1, [x2, #4095]", "w1:s1 <- [x2+4095]"),
    (0xb8636841, "ldr w1, [x2, x3]", "w1:u4 <- [x2+x3]"),
    (0xb8637841, "ldr w1, [x2, x3, lsl #2]", "w1:u4 <- [x2+x3<<2]"),
    (0x78635841, "ldrh w1, [x2, w3, uxtw #1]", "w1:u2 <- [x2+uw3<<1]"),
    (0xf823dbe1, "str x1, [sp, w3, sxtw #3]", "x1:u8 -> [sp+sw3<<3]"),
    (0xb8bfe841, "ldrsw x1, [x2, xzr, sxtx]", "x1:s4 <- [x2+x31]"),
    (0x3c001441, "str b1, [x2], #1", "v1:1 -> [x2]+1"),
    (0x7c5fec41, "ldr h1, [x2, #-2]!", "v1:2 <- [x2-2]!"),
    (0xbd400441, "ldr s1, [x2, #4]", "v1:4 <- [x2+4]"),
    (0xfc1fd041, "stur d1, [x2, #-3]", "v1:8 -> [x2-3]"),
    (0x3dfffc41, "ldr q1, [x2, #65520]", "v1:16 <- [x2+65520]"),
    (0x3c9f0c41, "str q1, [x2, #-16]!", "v1:16 -> [x2-16]!"),
    (0x3ce35841, "ldr q1, [x2, w3, uxtw #4]", "v1:16 <- [x2+uw3<<4]"),
    (0x3c236841, "str b1, [x2, x3]", "v1:1 -> [x2+x3]"),
    (0x08dffc41, "ldarb w1, [x2]", "w1:u1 <- [x2]"),
    (0xc8dfffe1, "ldar x1, [sp]", "x1:u8 <- [sp]"),
    (0x489ffc41, "stlrh w1, [x2]", "w1:u2 -> [x2]"),
    (0xc89ffc41, "stlr x1, [x2]", "x1:u8 -> [x2]"),
    (0x88df7c41, "ldlar w1, [x2]", "w1:u4 <- [x2]"),
    (0x089f7c41, "stllrb w1, [x2]", "w1:u1 -> [x2]"),
    (0x78bfc041, "ldaprh w1, [x2]", "w1:u2 <- [x2]"),
    (0xf8bfc041, "ldapr x1, [x2]", "x1:u8 <- [x2]"),
    (0x995fc041, "ldapur w1, [x2, #-4]", "w1:u4 <- [x2-4]"),
    (0x19801041, "ldapursb x1, [x2, #1]", "x1:s1 <- [x2+1]"),
    (0x99800041, "ldapursw x1, [x2]", "x1:s4 <- [x2]"),
    (0x190ff041, "stlurb w1, [x2, #255]", "w1:u1 -> [x2+255]"),
];

#[rustfmt::skip] // read by column
const OTHERS: &[(u32, &str)] = &[
    (0xf9800040, "prfm pldl1keep, [x2]"),
    (0xf8801040, "prfum pldl1keep, [x2, #1]"),
    (0xd8000040, "prfm pldl1keep, . + 8"),
    (0xf8a36840, "prfm pldl1keep, [x2, x3]"),
    (0xc85f7c41, "ldxr x1, [x2]"),
    (0xc87f8861, "ldaxp x1, x2, [x3]"),
    (0xc8007c41, "stxr w0, x1, [x2]"),
    (0x0800fc41, "stlxrb w0, w1, [x2]"),
    (0xc8a17c62, "cas x1, x2, [x3]"),
    (0x48207c82, "casp x0, x1, x2, x3, [x4]"),
    (0xb8210062, "ldadd w1, w2, [x3]"),
    (0xf8e18062, "swpal x1, x2, [x3]"),
    (0x38214062, "ldsmaxb w1, w2, [x3]"),
    (0xf821005f, "stadd x1, [x2]"),
    (0x4c407040, "ld1 {v0.16b}, [x2]"),
    (0x0d9f9040, "st1 {v0.s}[1], [x2], #4"),
    (0x4d40c840, "ld1r {v0.4s}, [x2]"),
    (0x0c400040, "ld4 {v0.8b, v1.8b, v2.8b, v3.8b}, [x2]"),
    (0xf8200441, "ldraa x1, [x2]"),
    (0xf8a01c41, "ldrab x1, [x2, #8]!"),
    (0x69000861, "stgp x1, x2, [x3]"),
    (0xd9200841, "stg x1, [x2]"),
    (0xd9600041, "ldg x1, [x2]"),
    (0xf83fd082, "ld64b x2, [x4]"),
    (0xd50b7421, "dc zva, x1"),
    (0xd50b7e21, "dc civac, x1"),
    (0x19020461, "cpyfp [x1]!, [x2]!, x3!"),
    (0xd503201f, "nop"),
    (0xd65f03c0, "ret"),
    (0x8b030041, "add x1, x2, x3"),
];

#[test]
fn loads_and_stores_are_what_an_assembler_means_by_them() {
    for (word, text, expected) in LOADS_AND_STORES {
        let decoded = decode(*word).map(|load_store| describe(&load_store));
        assert_eq!(decoded.as_deref(), Some(*expected), "{word:#010x} `{text}`");
    }
}

#[test]
fn no_other_instruction_is_taken_for_one() {
    for (word, text) in OTHERS {
        assert_eq!(decode(*word), None, "{word:#010x} `{text}`");
    }
}

#[test]
fn a_timed_wait_is_told_from_other_hints() {
    for (word, expected) in [
        (0xd503_1000, true),  // wfet x0
        (0xd503_1020, true),  // wfit x0
        (0xd503_103f, true),  // wfit xzr
        (0xd503_1040, false), // not allocated
        (0xd503_207f, false), // wfi
        (0xd503_205f, false), // wfe
        (0xd503_303f, false), // msr s0_3_c3_c0_1, xzr
    ] {
        assert_eq!(is_timed_wait(word), expected, "{word:#010x}");
    }
}

proptest! {
    #[test]
    fn every_word_is_decoded_or_refused(word: u32) {
        if let Some(load_store) = decode(word) {
            prop_assert!(matches!(load_store.count, 1 | 2));
            prop_assert!(matches!(load_store.bytes, 1 | 2 | 4 | 8 | 16));
            prop_assert!(load_store.registers.iter().all(|register| *register < 32));
            let is_wide = load_store.bytes == 16;
            prop_assert!(!is_wide || load_store.bank == Bank::Vector);
        }
    }
}
