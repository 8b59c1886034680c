//! 32-bit instructions at EL0 that nobody wrote, long and short ones, under any condition. A timer ends those that wait or go
//! round in circles.

use core::sync::atomic::Ordering::Relaxed;

use aarch64_cpu::registers::{CNTKCTL_EL1, ID_AA64PFR0_EL1, Readable, SCTLR_EL1, Writeable};
use trapline_demos::guest::{
    cpu,
    el0::{self, A32, T32, Visit},
    gic, mmio,
    random::Random,
    timer::Timer,
};

use crate::{DONE, EXCEPTIONS};

/// How long a word may take.
const PATIENCE_US: u64 = 300;
/// SPSR.I: IRQs are masked.
const MASKED: u64 = 1 << 7;
/// The vector of IRQs from 32-bit code at EL0.
const INTERRUPT: u64 = 0x680;
const SVC: u32 = 0xef00_0000;
const SVC_SHORT: u16 = 0xdf00;

/// Executes words until the time is over, on a model that has such code.
pub fn run() {
    if ID_AA64PFR0_EL1.get() & 0xf != 2 {
        return;
    }
    el0::open();
    // nTWI and nTWE: waits are not EL1's business. The counters may be read; the timers are this program's own.
    SCTLR_EL1.set(SCTLR_EL1.get() | 1 << 16 | 1 << 18);
    CNTKCTL_EL1.set(0b11);
    gic::enable(Timer::Virtual.intid());
    let control = mmio::read32(gic::DISTRIBUTOR + gic::offset::CTLR);
    let mut random = crate::random();
    let end = crate::deadline();
    while cpu::now() < end {
        one(&mut random, control);
        DONE.fetch_add(1, Relaxed);
    }
}

fn one(random: &mut Random, control: u32) {
    // Whatever the last one stored in the distributor, whose own registers are not where timers are.
    if mmio::read32(gic::DISTRIBUTOR + gic::offset::CTLR) != control {
        gic::enable_distributor();
    }
    let is_short = random.below(2) == 0;
    let (pc, state) = if is_short {
        (place_short(random), T32)
    } else {
        (place_long(random), A32)
    };
    // Flags are in the bits from 28 on, Q is bit 27, GE and E are below, and PSTATE has no IT block to begin with.
    let flags = random.next() & (0xf800_0000 | 0xf << 16 | 1 << 9);
    let mut visit = Visit::new(pc, state & !MASKED | flags);
    visit.registers = core::array::from_fn(|_| value(random));
    Timer::Virtual.arm(cpu::now() + cpu::microseconds(PATIENCE_US));
    let ended = visit.begin();
    Timer::Virtual.set_control(0);
    if ended.vector == INTERRUPT {
        let intid = gic::acknowledge();
        if intid != gic::SPURIOUS {
            gic::end(intid);
        }
    } else {
        EXCEPTIONS.fetch_add(1, Relaxed);
    }
}

fn place_long(random: &mut Random) -> u64 {
    el0::place(&[word(random), word(random), SVC, SVC])
}

/// A random word, more often one from where a hypervisor has something to say.
fn word(random: &mut Random) -> u32 {
    let any = random.next() as u32;
    // AL more often than chance has it.
    let condition = if random.below(2) == 0 {
        0xe000_0000
    } else {
        any & 0xf000_0000
    };
    let rest = any & 0x0fff_ffff;
    match random.below(8) {
        // Coprocessors: FP and SIMD, debug, system registers.
        0..=2 => {
            let coprocessor = [10, 11, 14, 15][random.below(4) as usize];
            condition | 0x0c00_0000 | rest & 0x03ff_f0ff | coprocessor << 8
        }
        // Hints.
        3 => condition | 0x0320_f000 | rest & 0xff,
        // Loads and stores, of one register and of several.
        4 => condition | 0x0400_0000 | rest & 0x05ff_ffff,
        5 => condition | 0x0000_0090 | rest & 0x01ff_ff6f,
        _ => condition | rest,
    }
}

/// Half words, of which two may be one instruction, in an IT block or not. IT skips four at most.
fn place_short(random: &mut Random) -> u64 {
    let any = random.next();
    let mut halves = [SVC_SHORT; 12];
    halves[0] = match random.below(2) {
        0 => 0xbf00 | any as u16 & 0xff,
        _ => any as u16,
    };
    for half in &mut halves[1..5] {
        *half = random.next() as u16;
    }
    if random.below(2) == 0 {
        // A long one of a coprocessor.
        let coprocessor = [10, 11, 14, 15][random.below(4) as usize];
        halves[1] = 0xec00 | (any >> 16) as u16 & 0x13ff;
        halves[2] = (any >> 32) as u16 & 0xf0ff | coprocessor << 8;
    }
    el0::place_short(&halves)
}

/// A random value, more often an address that means something.
fn value(random: &mut Random) -> u64 {
    match random.below(5) {
        0 => el0::DEVICES as u64 + gic::DISTRIBUTOR as u64 + random.below(0x1_0000),
        1 => el0::DEVICES as u64 + 0x0901_0000 + random.below(0x1000),
        2 => el0::MEMORY as u64 + random.below(0x1000_0000),
        3 => random.below(0x1_0000),
        _ => random.next() & 0xffff_ffff,
    }
}
