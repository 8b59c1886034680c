//! Accesses of every width to every place in the frames of devices, and between them.

use core::sync::atomic::Ordering::Relaxed;

use trapline_demos::guest::{gic, machine, random::Random};

use crate::{DONE, code};

/// A frame: its first byte and how many there are. The console's is not among them: what is written there is seen.
const FRAMES: &[(u64, u64)] = &[
    (gic::DISTRIBUTOR as u64, 0x1_0000),
    (gic::REDISTRIBUTORS as u64, 0x10_0000),
    // Where GICv2 has its CPU interface, where the ITS is, and where `virt` has devices that a guest need not have.
    (0x0801_0000, 0x2_0000),
    (0x0808_0000, 0x2_0000),
    (0x0901_0000, 0x1_0000),
    (0x0902_0000, 0x1_0000),
    (0x0a00_0000, 0x4000),
    (0x0c00_0000, 0x1_0000),
    (0x3eff_0000, 0x1_0000),
];

/// Loads and stores of x0 at [x1], by width; the aligned ones, pairs and atomics.
#[rustfmt::skip] // read by column
const ACCESSES: &[u32] = &[
    0x3940_0020, 0x7940_0020, 0xb940_0020, 0xf940_0020, // ldrb, ldrh, ldr w, ldr x
    0x3980_0020, 0x7980_0020, 0xb980_0020,              // ldrsb, ldrsh, ldrsw
    0x3900_0020, 0x7900_0020, 0xb900_0020, 0xf900_0020, // strb, strh, str w, str x
    0xa940_0820, 0xa900_0020,                           // ldp x0, x2, stp x0, x0
    0xc85f_7c20, 0xc802_7c20,                           // ldxr, stxr w2
    0x08df_fc20, 0x889f_fc20,                           // ldarb, stlr w
];

/// Loads x1 with the address, does the access, and returns.
pub fn everywhere() {
    let mut random = crate::random();
    for _ in 0..machine::parameters().number("count", 20_000) {
        let (base, length) = FRAMES[random.below(FRAMES.len() as u64) as usize];
        let access = ACCESSES[random.below(ACCESSES.len() as u64) as usize];
        access_at(&mut random, access, base, length);
        DONE.fetch_add(1, Relaxed);
    }
}

fn access_at(random: &mut Random, access: u32, base: u64, length: u64) {
    let offset = match random.below(4) {
        // A register is at its beginning more often than not.
        0 => random.below(length),
        1 => random.below(0x100) & !3,
        _ => random.below(length) & !7,
    };
    let address = base + offset;
    let value = match random.below(4) {
        0 => u64::MAX,
        1 => 1 << random.below(64),
        _ => random.next(),
    };
    // movz x1, #low; movk x1, #high, lsl #16
    let low = 0xd280_0001 | (address as u32 & 0xffff) << 5;
    let high = 0xf2a0_0001 | (address as u32 >> 16) << 5;
    code::execute_all(&[low, high, access, code::RET], value);
}
