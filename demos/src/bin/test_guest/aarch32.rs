//! 32-bit code at EL0: its calls, waits, conditions, registers, devices and faults, each ended at EL1 as the manual says.

use aarch64_cpu::{
    asm::barrier,
    registers::{CNTKCTL_EL1, ID_AA64PFR0_EL1, Readable, SCTLR_EL1, TPIDRRO_EL0, Writeable},
};
use trapline_demos::guest::{
    cpu,
    el0::{self, A32, T32, Visit},
    gic, mmio,
    timer::Timer,
};

use crate::support::{self, check};

/// The vector of synchronous exceptions from 32-bit code at EL0. [DDI0487: Exception vectors]
const VECTOR: u64 = 0x600;
/// Exception classes. [DDI0487: ESR_EL1.EC]
const UNKNOWN: u64 = 0x00;
const MRC_CP15: u64 = 0x03;
const MRRC_CP15: u64 = 0x04;
const MRC_CP14: u64 = 0x05;
const MRRC_CP14: u64 = 0x0c;
const SUPERVISOR_CALL: u64 = 0x11;
const DATA_ABORT: u64 = 0x24;
const EXTERNAL: u64 = 0x10;
const UNDEFINED: u64 = 1 << 25;

const SVC: u32 = 0xef00_0000;
const SVC_SHORT: u16 = 0xdf00;
/// `cmp r0, r0`: the flags are those of equal.
const COMPARE: u32 = 0xe150_0000;
const COMPARE_SHORT: u16 = 0x4280;
/// `itte eq` and `ite eq`.
const IF_THEN_THEN_ELSE: u16 = 0xbf06;
const IF_THEN_ELSE: u16 = 0xbf0c;

const HOLE: usize = 0x0bf0_0000;
const UART_IDENTIFICATION: usize = 0x0900_0fe0;
const FIRST_IDENTIFICATION: u64 = 0x11;

/// All of it.
pub fn all() {
    let at_el0 = ID_AA64PFR0_EL1.get() & 0xf;
    if at_el0 != 2 {
        support::say(format_args!("aarch32=none"));
        return;
    }
    el0::open();
    let_el0_wait();
    support::beside_a_busy_cpu(|| {
        calls();
        waits();
        conditions();
        counters();
        other_registers();
        floating_point();
        devices();
        aborts();
        undefined();
    });
    support::say(format_args!("aarch32=yes"));
}

/// SCTLR_EL1.nTWI and nTWE: waits at EL0 are not the program's business.
fn let_el0_wait() {
    SCTLR_EL1.set(SCTLR_EL1.get() | 1 << 16 | 1 << 18);
    barrier::isb(barrier::SY);
}

fn long(words: &[u32], registers: &[u64]) -> (u64, Visit) {
    let pc = el0::place(words);
    (pc, Visit::new(pc, A32).with(registers).begin())
}

fn short(halves: &[u16], registers: &[u64]) -> (u64, Visit) {
    let pc = el0::place_short(halves);
    (pc, Visit::new(pc, T32).with(registers).begin())
}

/// The code came to its end, which is a call, `bytes` after its start.
fn expect_call(what: &str, (pc, visit): &(u64, Visit), bytes: u64) {
    check!(
        visit.vector == VECTOR && visit.class() == SUPERVISOR_CALL,
        "{what}: ended by the vector {:#x} with esr {:#x} at {:#x} + {:#x}",
        visit.vector,
        visit.esr,
        pc,
        visit.pc.wrapping_sub(*pc)
    );
    let end = visit.pc.wrapping_sub(*pc);
    check!(end == bytes, "{what}: called after {end} bytes of {bytes}");
}

/// The code ended at its first instruction, which has changed nothing.
fn expect_fault(what: &str, (pc, visit): &(u64, Visit), before: &[u64], classes: &[u64]) {
    check!(
        visit.vector == VECTOR && classes.contains(&visit.class()),
        "{what}: ended by the vector {:#x} with esr {:#x}",
        visit.vector,
        visit.esr
    );
    check!(
        visit.pc == *pc,
        "{what}: faulted at {:#x} instead of {pc:#x}",
        visit.pc
    );
    let after = &visit.registers[..before.len()];
    check!(after == before, "{what}: faulted and left {after:#x?}");
}

fn calls() {
    let visit = long(&[0xe3a0_002a, SVC | 7], &[]);
    expect_call("mov, svc #7", &visit, 8);
    check!(
        visit.1.registers[0] == 42 && visit.1.esr & 0xffff == 7,
        "svc #7: r0 is {}, esr {:#x}",
        visit.1.registers[0],
        visit.1.esr
    );
    let visit = short(&[0x202a, SVC_SHORT | 7], &[]);
    expect_call("short mov, svc #7", &visit, 4);
    check!(
        visit.1.registers[0] == 42 && visit.1.pstate & T32 == T32,
        "short svc: r0 is {}, pstate {:#x}",
        visit.1.registers[0],
        visit.1.pstate
    );
    // `mov r0, sp` and `mov r1, lr`: r13 and r14 are x13 and x14.
    let mut visit = Visit::new(el0::place(&[0xe1a0_000d, 0xe1a0_100e, SVC]), A32);
    visit.registers[13..15].copy_from_slice(&[13, 14]);
    let ended = visit.begin().registers;
    check!(
        ended[..2] == [13, 14],
        "r13 and r14 are {:#x?}",
        &ended[..2]
    );
}

/// WFI ends with an interrupt that is masked; WFE and YIELD end. An instruction of an IT block that waits is one of the block.
fn waits() {
    gic::enable(Timer::Virtual.intid());
    let arm = || Timer::Virtual.arm(cpu::now() + cpu::microseconds(2_000));
    arm();
    let visit = long(&[0xe320_f003, 0xe320_f002, 0xe320_f001, SVC], &[]);
    expect_call("wfi, wfe, yield", &visit, 16);
    arm();
    let in_block = [
        COMPARE_SHORT,
        IF_THEN_THEN_ELSE,
        0xbf30, // wfieq
        0x2205, // moveq r2, #5
        0x2306, // movne r3, #6
        SVC_SHORT,
    ];
    let visit = short(&in_block, &[]);
    expect_call("wfi in an IT block", &visit, 12);
    let results = &visit.1.registers[2..4];
    check!(
        results == [5, 0],
        "after wfi in an IT block r2 and r3 are {results:?}"
    );
    Timer::Virtual.set_control(0);
    gic::disable(Timer::Virtual.intid());
}

/// What fails its condition does nothing, whatever it is: no timer would end these waits.
fn conditions() {
    #[rustfmt::skip] // read by column
    let never = [
        COMPARE,
        0x1320_f003, // wfine
        0x1320_f002, // wfene
        0x1591_0000, // ldrne r0, [r1]
        0x1581_0000, // strne r0, [r1]
        0x1e19_0f1e, // mrcne PMUSERENR
        0x1c51_0f1e, // mrrcne CNTVCT
        0x1e10_0e10, // mrcne DBGDIDR
        0x1e00_0a10, // vmovne s0, r0
        0x1f00_0001, // svcne
        SVC,
    ];
    let nowhere = el0::address_of(HOLE);
    let visit = long(&never, &[1, nowhere]);
    expect_call("what fails its condition", &visit, 4 * never.len() as u64);
    check!(
        visit.1.registers[..2] == [1, nowhere] && visit.1.esr & 0xffff == 0,
        "what fails its condition has an effect"
    );
}

/// The counters trap to EL1, or are there, as CNTKCTL_EL1 says.
fn counters() {
    const COUNTER: u32 = 0xec51_0f1e;
    const FREQUENCY: u32 = 0xee1e_0f10;
    CNTKCTL_EL1.set(0);
    expect_fault(
        "CNTVCT",
        &long(&[COUNTER, SVC], &[1, 2]),
        &[1, 2],
        &[MRRC_CP15],
    );
    expect_fault("CNTFRQ", &long(&[FREQUENCY, SVC], &[1]), &[1], &[MRC_CP15]);
    // EL0PCTEN, EL0VCTEN.
    CNTKCTL_EL1.set(0b11);
    let before = cpu::now();
    let visit = long(&[COUNTER, SVC], &[]);
    let after = cpu::now();
    expect_call("CNTVCT", &visit, 8);
    let [low, high] = [0, 1].map(|register| visit.1.registers[register]);
    let seen = high << 32 | low;
    check!(
        (before..=after).contains(&seen),
        "CNTVCT is {seen} between {before} and {after}"
    );
    let visit = long(&[FREQUENCY, SVC], &[]);
    expect_call("CNTFRQ", &visit, 8);
    check!(
        visit.1.registers[0] == cpu::frequency(),
        "CNTFRQ is {}",
        visit.1.registers[0]
    );
    CNTKCTL_EL1.set(0);
}

/// The thread register is there. What belongs to EL1, to a debugger or to a PMU has a value, traps to EL1, or is undefined.
fn other_registers() {
    TPIDRRO_EL0.set(0x1234_5678);
    let visit = long(&[0xee1d_0f70, SVC], &[]);
    expect_call("TPIDRURO", &visit, 8);
    check!(
        visit.1.registers[0] == 0x1234_5678,
        "TPIDRURO is {:#x}",
        visit.1.registers[0]
    );
    #[rustfmt::skip] // read by column
    let either = [
        ("PMUSERENR",  0xee19_0f1e, MRC_CP15),
        ("PMCR",       0xee19_0f1c, MRC_CP15),
        ("PMCCNTR",    0xec51_0f09, MRRC_CP15),
        ("DBGDIDR",    0xee10_0e10, MRC_CP14),
        ("DBGDSCRint", 0xee10_0e11, MRC_CP14),
        ("DBGDRAR",    0xec51_0e01, MRRC_CP14),
    ];
    let mut undefined = 0;
    for (name, word, class) in either {
        let visit = long(&[word, SVC], &[1, 2]);
        if visit.1.class() != SUPERVISOR_CALL {
            expect_fault(name, &visit, &[1, 2], &[UNKNOWN, class]);
            undefined += 1;
        }
    }
    support::say(format_args!("hidden={undefined} "));
}

/// The first use of FP after a switch comes in the middle of a visit, more often than not.
fn floating_point() {
    // vmov s0, r0; vadd.f32 s0, s0, s0; vmov r1, s0
    let add = [0xee00_0a10, 0xee30_0a00, 0xee10_1a10, SVC];
    for round in 0..20 {
        support::pause();
        let one = 0x3f80_0000 + (round << 23);
        let visit = long(&add, &[one]);
        expect_call("vadd.f32", &visit, 16);
        let sum = visit.1.registers[1];
        check!(sum == one + (1 << 23), "{one:#x} twice is {sum:#x}");
    }
}

/// Loads and stores that a syndrome describes, alone and in an IT block.
fn devices() {
    let identification = el0::address_of(UART_IDENTIFICATION);
    let visit = long(&[0xe591_0000, SVC], &[u64::MAX, identification]);
    expect_call("ldr of a device", &visit, 8);
    check!(
        visit.1.registers[0] == FIRST_IDENTIFICATION,
        "ldr of a device: r0 is {:#x}",
        visit.1.registers[0]
    );
    let priority = gic::DISTRIBUTOR + gic::offset::IPRIORITYR + 40;
    // strb r0, [r1]; ldrb r2, [r1]; ldrsb r3, [r1]
    let bytes = [0xe5c1_0000, 0xe5d1_2000, 0xe1d1_30d0, SVC];
    let visit = long(&bytes, &[0x1_23b8, el0::address_of(priority)]);
    expect_call("bytes of a device", &visit, 16);
    let read = &visit.1.registers[2..4];
    check!(
        read == [0xb8, 0xffff_ffb8] && mmio::read32(priority) & 0xff == 0xb8,
        "bytes of a device: r2 and r3 are {read:#x?}"
    );
    // ldreq r0, [r1]; ldrne r2, [r1]
    let in_block = [COMPARE_SHORT, IF_THEN_ELSE, 0x6808, 0x680a, SVC_SHORT];
    let visit = short(&in_block, &[1, identification, 2]);
    expect_call("ldr of a device in an IT block", &visit, 10);
    let read = [0, 2].map(|register| visit.1.registers[register]);
    check!(
        read == [FIRST_IDENTIFICATION, 2],
        "ldr of a device in an IT block: r0 and r2 are {read:#x?}"
    );
    const BIG_ENDIAN: u64 = 1 << 9;
    let pc = el0::place(&[0xe591_0000, SVC]);
    let swapped = Visit::new(pc, A32 | BIG_ENDIAN).with(&[0, identification]);
    let swapped = swapped.begin().registers[0];
    check!(
        swapped == FIRST_IDENTIFICATION << 24,
        "big-endian ldr of a device: r0 is {swapped:#x}"
    );
    // ldrd r2, r3, [r1] is not described: done, or an abort.
    let visit = long(&[0xe1c1_20d0, SVC], &[0, identification, 7, 8]);
    if visit.1.class() != SUPERVISOR_CALL {
        expect_fault("ldrd", &visit, &[0, identification, 7, 8], &[DATA_ABORT]);
    }
}

fn aborts() {
    let nowhere = el0::address_of(HOLE);
    let before = [1, nowhere];
    let expect = |what, visit: &(u64, Visit)| {
        expect_fault(what, visit, &before, &[DATA_ABORT]);
        let esr = visit.1.esr;
        check!(esr & 0x3f == EXTERNAL, "{what}: esr {esr:#x}");
        let is_known = esr & 1 << 10 == 0;
        check!(
            !is_known || visit.1.far == nowhere,
            "{what}: far is {:#x}",
            visit.1.far
        );
    };
    expect("ldr from nowhere", &long(&[0xe591_0000, SVC], &before));
    expect("str to nowhere", &long(&[0xe581_0000, SVC], &before));
    expect("ldr, short", &short(&[0x6808, SVC_SHORT], &before));
    expect("ldr, post-indexed", &long(&[0xe491_0004, SVC], &before));
}

/// Whatever EL0 calls by HVC or SMC, it is not the hypervisor.
fn undefined() {
    #[rustfmt::skip] // read by column
    let words = [
        ("udf",        0xe7f0_00f0),
        ("hvc",        0xe140_0070),
        ("hvc #0x123", 0xe140_1273),
        ("smc",        0xe160_0070),
        ("MIDR",       0xee10_0f10),
    ];
    for (name, word) in words {
        let visit = long(&[word, SVC], &[0x8400_0000]);
        expect_fault(name, &visit, &[0x8400_0000], &[UNKNOWN]);
        check!(
            visit.1.esr == UNDEFINED,
            "{name}: esr is {:#x}",
            visit.1.esr
        );
    }
    let visit = short(&[0xde00, SVC_SHORT], &[1]);
    expect_fault("udf, short", &visit, &[1], &[UNKNOWN]);
}
