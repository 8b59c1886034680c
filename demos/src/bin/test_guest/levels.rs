//! Exception levels and states that a program may not have: returns to them are illegal, calls from EL0 reach nobody.

use trapline_demos::guest::{
    el0::{self, A32, A64, T32, Visit},
    exceptions::{Frame, Kind},
    machine,
    random::Random,
};

use crate::support::{self, check, on_exception};

// [DDI0487: ESR_EL1.EC]
const ILLEGAL_STATE: u64 = 0x0e;
const SUPERVISOR_CALL_32: u64 = 0x11;
const SUPERVISOR_CALL: u64 = 0x15;
const PC_ALIGNMENT: u64 = 0x22;
const INSTRUCTION_ABORT: u64 = 0x20;
const UNDEFINED: u64 = 1 << 25;

/// SPSR_EL1.IL.
const ILLEGAL: u64 = 1 << 20;
const SVC: u32 = 0xd400_0001;
const SVC_32: u32 = 0xef00_0000;

/// The vectors of synchronous exceptions from EL1 and from EL0. [DDI0487: Exception vectors]
const FROM_EL1: u64 = 0x200;
const FROM_EL0: u64 = 0x400;

/// HVC and SMC at EL0, with any immediate, are undefined at their own address, and change nothing.
pub fn calls_from_el0() {
    el0::open();
    for number in [0, 1, 0x42, 0xffff] {
        for (name, word) in [("hvc", 0xd400_0002), ("smc", 0xd400_0003)] {
            let pc = el0::place(&[word | number << 5, SVC]);
            // SYSTEM_OFF, if anybody listens.
            let visit = Visit::new(pc, A64).with(&[0x8400_0008, 1, 2, 3]).begin();
            check!(
                visit.vector == FROM_EL0 && visit.esr == UNDEFINED && visit.pc == pc,
                "{name} #{number:#x}: vector {:#x}, esr {:#x}, at {:#x} instead of {pc:#x}",
                visit.vector,
                visit.esr,
                visit.pc
            );
            let registers = &visit.registers[..4];
            check!(
                registers == [0x8400_0008, 1, 2, 3],
                "{name} #{number:#x}: x0 to x3 are {registers:#x?}"
            );
        }
    }
    plain_visit();
}

/// Code that may run does, as ever.
fn plain_visit() {
    let visit = Visit::new(el0::place(&[SVC]), A64).begin();
    check!(
        visit.vector == FROM_EL0 && visit.class() == SUPERVISOR_CALL,
        "a call from EL0: vector {:#x}, esr {:#x}",
        visit.vector,
        visit.esr
    );
}

/// A return to a level or a state that is not below ends in an illegal state at EL1, and a return to an address that is none
/// in a fault; so do random ones, whatever else they are.
pub fn illegal_returns() {
    on_exception(unexpected);
    el0::open();
    let pc = el0::place(&[SVC; 4]);
    #[rustfmt::skip] // read by column
    let states = [
        ("EL0 with SP_EL1",  0b0_0001), ("no EL0",         0b0_0010), ("EL1 with no SP",  0b0_0110),
        ("EL2t",             0b0_1000), ("EL2h",           0b0_1001), ("EL3t",            0b0_1100),
        ("EL3h",             0b0_1101), ("AArch32 FIQ",    0b1_0001), ("AArch32 IRQ",     0b1_0010),
        ("AArch32 SVC",      0b1_0011), ("AArch32 Monitor", 0b1_0110), ("AArch32 Abort",  0b1_0111),
        ("AArch32 Hyp",      0b1_1010), ("AArch32 Undef",  0b1_1011), ("AArch32 System",  0b1_1111),
    ];
    // Where EL1 may execute: a fetch that aborts comes before the state. [DDI0487: Synchronous exception prioritization]
    let at_el1 = el0::program_address(pc);
    for (name, mode) in states {
        let visit = Visit::new(at_el1, A64 | mode).begin();
        check!(
            visit.vector == FROM_EL1 && visit.class() == ILLEGAL_STATE,
            "a return to {name}: vector {:#x}, esr {:#x}",
            visit.vector,
            visit.esr
        );
        check!(
            visit.pc == at_el1 && visit.pstate & ILLEGAL != 0,
            "a return to {name}: at {:#x}, pstate {:#x}",
            visit.pc,
            visit.pstate
        );
        plain_visit();
    }
    let visit = Visit::new(pc, A64 | ILLEGAL).begin();
    check!(
        visit.vector == FROM_EL0 && visit.class() == ILLEGAL_STATE,
        "a return with IL: vector {:#x}, esr {:#x}",
        visit.vector,
        visit.esr
    );
    for (address, class) in [(pc + 2, PC_ALIGNMENT), (1 << 47, INSTRUCTION_ABORT)] {
        let visit = Visit::new(address, A64).begin();
        check!(
            visit.vector == FROM_EL0 && visit.class() == class && visit.far == address,
            "a return to {address:#x}: vector {:#x}, esr {:#x}, far {:#x}",
            visit.vector,
            visit.esr,
            visit.far
        );
    }
    random_returns();
}

/// Every mode with random bits beside it. The code is calls in whichever state it is; IT skips four of them at most.
fn random_returns() {
    let parameters = machine::parameters();
    let mut random = Random::new(parameters.number("seed", 1), 0);
    let rounds = parameters.number("rounds", 2_000);
    let (mut illegal, mut called) = (0, 0);
    for round in 0..rounds {
        // D, A, I and F stay masked where they are these; bit 9 is E in AArch32.
        let pstate = random.next() & !(A64 | 0b1_1111) | A64 | (round % 32);
        let pc = match pstate & (T32 & !A32 | 1 << 4) {
            0b01_0000 => el0::place(&[SVC_32; 16]),
            0b11_0000 => el0::place_short(&[0xdf00; 16]),
            _ => el0::place(&[SVC; 16]),
        };
        let visit = Visit::new(pc, pstate).begin();
        illegal += u64::from(visit.pstate & ILLEGAL != 0);
        called += u64::from([SUPERVISOR_CALL, SUPERVISOR_CALL_32].contains(&visit.class()));
    }
    plain_visit();
    support::say(format_args!("illegal={illegal} called={called}"));
    check!(
        illegal > rounds / 4,
        "{illegal} of {rounds} random returns were illegal"
    );
}

fn unexpected(kind: Kind, frame: &mut Frame) {
    support::fail(format_args!(
        "{kind:?} exception outside of a visit, esr {:#x} at {:#x}",
        frame.esr, frame.elr
    ));
}
