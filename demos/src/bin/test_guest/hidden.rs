//! What a model may have and guests do not: the PMU's registers, and waits that end by themselves.

use core::{
    arch::asm,
    sync::atomic::Ordering::{Relaxed, SeqCst},
};

use trapline_demos::guest::{cpu, gic, timer::Timer};

use crate::{
    support::{self, check, is_strict, on_exception},
    undefined::{LAST_PC, Outcome, SKIPPED, read, skip_undefined},
};

/// Reads each of a list, by name.
macro_rules! read_all {
    ($($name:literal = $register:literal)*) => { [$(($name, read!($register))),*] };
}

fn field(value: Outcome, low: u32) -> u64 {
    match value {
        Outcome::Value(value) => value >> low & 0xf,
        Outcome::Undefined => support::fail(format_args!("an ID register is undefined")),
    }
}

/// All registers of the PMU are there if ID_AA64DFR0_EL1 says so, and none of them if it does not.
pub fn pmu() {
    on_exception(skip_undefined);
    let is_there = !matches!(field(read!("s3_0_c0_c5_0"), 8), 0 | 15);
    check!(!is_there || !is_strict(), "the ID registers name the PMU");
    let registers = read_all!(
        "PMINTENSET_EL1" = "s3_0_c9_c14_1" "PMINTENCLR_EL1" = "s3_0_c9_c14_2"
        "PMCR_EL0" = "s3_3_c9_c12_0" "PMCNTENSET_EL0" = "s3_3_c9_c12_1" "PMCNTENCLR_EL0" = "s3_3_c9_c12_2"
        "PMOVSCLR_EL0" = "s3_3_c9_c12_3" "PMSELR_EL0" = "s3_3_c9_c12_5" "PMCEID0_EL0" = "s3_3_c9_c12_6"
        "PMCEID1_EL0" = "s3_3_c9_c12_7" "PMCCNTR_EL0" = "s3_3_c9_c13_0" "PMXEVTYPER_EL0" = "s3_3_c9_c13_1"
        "PMXEVCNTR_EL0" = "s3_3_c9_c13_2" "PMUSERENR_EL0" = "s3_3_c9_c14_0" "PMOVSSET_EL0" = "s3_3_c9_c14_3"
        "PMEVCNTR0_EL0" = "s3_3_c14_c8_0" "PMEVTYPER0_EL0" = "s3_3_c14_c12_0" "PMCCFILTR_EL0" = "s3_3_c14_c15_7"
    );
    for (name, outcome) in registers {
        check!(
            (outcome == Outcome::Undefined) != is_there,
            "the PMU is {}, and {name} is {}",
            if is_there { "there" } else { "hidden" },
            if is_there { "undefined" } else { "there" }
        );
    }
    // With newer versions of the PMU, or for counters that may not be there.
    let others = read_all!(
        "PMMIR_EL1" = "s3_0_c9_c14_6" "PMEVCNTR30_EL0" = "s3_3_c14_c11_6" "PMEVTYPER30_EL0" = "s3_3_c14_c15_6"
    );
    for (name, outcome) in others {
        check!(
            is_there || outcome == Outcome::Undefined,
            "the PMU is hidden, and {name} is there"
        );
    }
    if !is_there {
        writes();
    }
    support::say(format_args!("pmu={is_there}"));
}

/// What can only be written, and what would start a counter.
fn writes() {
    let before = SKIPPED.load(SeqCst);
    // SAFETY: undefined, by the ID registers, and stepped over.
    unsafe {
        asm!(
            "msr s3_3_c9_c12_4, {value}", // PMSWINC_EL0
            "msr s3_3_c9_c12_0, {value}", // PMCR_EL0
            "msr s3_3_c9_c12_1, {value}", // PMCNTENSET_EL0
            "msr s3_3_c9_c14_0, {value}", // PMUSERENR_EL0
            value = in(reg) 1_u64,
        );
    }
    let undefined = SKIPPED.load(SeqCst) - before;
    check!(
        undefined == 4,
        "{undefined} of 4 writes to the PMU are undefined"
    );
}

/// Long enough for the other CPU to have its turn.
const WAIT_US: u64 = 20_000;

/// A wait with a timeout ends by itself where the ID registers name it. Where they do not, it is undefined; one that a pCPU
/// does not trap may also work, or do nothing.
pub fn timed_waits() {
    on_exception(skip_undefined);
    let is_named = field(read!("s3_0_c0_c6_2"), 0) != 0;
    check!(
        !is_named || !is_strict(),
        "the ID registers name waits with a timeout"
    );
    gic::enable(Timer::Virtual.intid());
    let mut undefined = 0;
    support::beside_a_busy_cpu(|| {
        undefined = try_wait("wfit", is_named, wait) + try_wait("wfet", is_named, wait_for_event);
    });
    // The other CPU wants the pCPU, so WFIT traps.
    check!(
        !is_strict() || undefined != 0,
        "no wait with a timeout is undefined"
    );
    support::say(format_args!("undefined={undefined}"));
}

/// How often the wait was undefined: 0 or 1.
fn try_wait(name: &str, is_named: bool, wait: fn(u64) -> u64) -> u64 {
    // Whatever it is, it does not last for ever.
    Timer::Virtual.arm(cpu::now() + 4 * cpu::microseconds(WAIT_US));
    let before = SKIPPED.load(SeqCst);
    let pc = wait(cpu::now() + cpu::microseconds(WAIT_US));
    let undefined = SKIPPED.load(SeqCst) - before;
    Timer::Virtual.set_control(0);
    check!(
        undefined == 0 || !is_named,
        "{name} is in the ID registers, and undefined"
    );
    check!(
        undefined == 0 || LAST_PC.load(Relaxed) == pc,
        "{name} is undefined at another place than its own"
    );
    undefined
}

/// `wfit`; its address.
fn wait(deadline: u64) -> u64 {
    let pc: u64;
    // SAFETY: a hint, or undefined, which the handler steps over.
    unsafe { asm!("adr {pc}, 1f", "1: .inst 0xd5031020", pc = out(reg) pc, in("x0") deadline) };
    pc
}

/// `wfet`; its address.
fn wait_for_event(deadline: u64) -> u64 {
    let pc: u64;
    // SAFETY: as in `wait`.
    unsafe { asm!("adr {pc}, 1f", "1: .inst 0xd5031000", pc = out(reg) pc, in("x0") deadline) };
    pc
}
