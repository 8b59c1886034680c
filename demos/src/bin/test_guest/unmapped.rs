//! Accesses to addresses where there is nothing: each is an external abort of its own instruction, and nothing else changes.

use core::{
    arch::{asm, naked_asm},
    sync::atomic::{AtomicU64, Ordering::SeqCst},
};

use trapline_demos::guest::{
    cpu,
    exceptions::{Frame, Kind},
    gic,
    timer::Timer,
};

use crate::support::{self, check, expect_taken, on_exception, on_interrupt};

/// Between the devices of `virt`.
const HOLE: usize = 0x0bf0_0000;
/// Beyond all memory and all windows of `virt`, where the runtime maps memory that may be executed.
const FAR_HOLE: usize = 0x30_0000_0000;

const DATA_ABORT: u64 = 0x25;
const INSTRUCTION_ABORT: u64 = 0x21;
const EXTERNAL: u64 = 0x10;
const FAULT_ADDRESS_NOT_VALID: u64 = 1 << 10;
const WRITE: u64 = 1 << 6;

static ABORTS: AtomicU64 = AtomicU64::new(0);
static LAST_ESR: AtomicU64 = AtomicU64::new(0);
static LAST_FAR: AtomicU64 = AtomicU64::new(0);
static LAST_PC: AtomicU64 = AtomicU64::new(0);

fn record_abort(kind: Kind, frame: &mut Frame) {
    check!(
        kind == Kind::Synchronous,
        "{kind:?} exception, esr {:#x} at {:#x}",
        frame.esr,
        frame.elr
    );
    LAST_ESR.store(frame.esr, SeqCst);
    LAST_FAR.store(frame.far, SeqCst);
    LAST_PC.store(frame.elr, SeqCst);
    ABORTS.fetch_add(1, SeqCst);
    if frame.class() == INSTRUCTION_ABORT {
        frame.elr = frame.registers[30];
    } else {
        frame.skip();
    }
}

/// One instruction that accesses memory at x9: it must abort there, write or read, and leave x9, x10 and x11 alone.
macro_rules! expect_abort {
    ($address:expr, $write:expr, $instruction:literal) => {{
        let before = ABORTS.load(SeqCst);
        let (pc, base, first, second): (u64, u64, u64, u64);
        // SAFETY: there is no memory at the address; the handler steps over the abort.
        unsafe {
            asm!(
                ".arch_extension fp",
                ".arch_extension simd",
                "adr x12, 1f",
                concat!("1: ", $instruction),
                inout("x9") $address => base,
                inout("x10") 0x1010_u64 => first,
                inout("x11") 0x1111_u64 => second,
                out("x12") pc,
            );
        }
        check!(ABORTS.load(SeqCst) == before + 1, "`{}` did not abort", $instruction);
        check_abort($instruction, DATA_ABORT, pc, $address as u64);
        let is_write = LAST_ESR.load(SeqCst) & WRITE != 0;
        check!(is_write == $write, "`{}`: esr {:#x} has WnR wrong", $instruction, LAST_ESR.load(SeqCst));
        check!(
            (base, first, second) == ($address as u64, 0x1010, 0x1111),
            "`{}` aborted and left x9 {base:#x}, x10 {first:#x}, x11 {second:#x}",
            $instruction
        );
    }};
}

fn check_abort(what: &str, class: u64, pc: u64, address: u64) {
    let (esr, at, far) = (
        LAST_ESR.load(SeqCst),
        LAST_PC.load(SeqCst),
        LAST_FAR.load(SeqCst),
    );
    check!(
        esr >> 26 == class && esr & 0x3f == EXTERNAL,
        "`{what}`: esr {esr:#x} is no external abort"
    );
    check!(at == pc, "`{what}` aborted at {at:#x} instead of {pc:#x}");
    check!(
        far == address || esr & FAULT_ADDRESS_NOT_VALID != 0,
        "`{what}` at {address:#x} aborted with the address {far:#x}"
    );
}

/// Loads, stores and fetches, those that a syndrome describes and those that it does not.
pub fn aborts() {
    on_exception(record_abort);
    for hole in [HOLE, FAR_HOLE] {
        expect_abort!(hole, false, "ldr x10, [x9]");
        expect_abort!(hole, false, "ldr w10, [x9]");
        expect_abort!(hole, false, "ldrsb x10, [x9]");
        expect_abort!(hole, false, "ldrh w10, [x9]");
        expect_abort!(hole, false, "ldp x10, x11, [x9]");
        expect_abort!(hole, false, "ldr x10, [x9], #8");
        expect_abort!(hole, false, "ldxr x10, [x9]");
        expect_abort!(hole, false, "ldar x10, [x9]");
        expect_abort!(hole, false, "ldr q0, [x9]");
        expect_abort!(hole, true, "str x10, [x9]");
        expect_abort!(hole, true, "strb w10, [x9]");
        expect_abort!(hole, true, "stp x10, x11, [x9]");
        expect_abort!(hole, true, "str x10, [x9], #8");
        expect_abort!(hole, true, "stlr x10, [x9]");
        expect_abort!(hole, true, "str q0, [x9]");
    }
    let before = ABORTS.load(SeqCst);
    call(FAR_HOLE);
    check!(
        ABORTS.load(SeqCst) == before + 1,
        "a fetch from nowhere did not abort"
    );
    check_abort("fetch", INSTRUCTION_ABORT, FAR_HOLE as u64, FAR_HOLE as u64);
    still_works();
    support::say(format_args!("aborts={}", ABORTS.load(SeqCst)));
}

/// Calls an address; the handler of the abort returns here.
#[unsafe(naked)]
extern "C" fn call(address: usize) {
    naked_asm!(
        "stp x29, x30, [sp, #-16]!",
        "blr x0",
        "ldp x29, x30, [sp], #16",
        "ret"
    )
}

fn still_works() {
    on_interrupt(|intid| {
        Timer::Virtual.set_control(0);
        support::log_and_end(intid);
    });
    gic::enable(Timer::Virtual.intid());
    Timer::Virtual.arm(cpu::now() + cpu::microseconds(100));
    expect_taken("the timer after all aborts", &[Timer::Virtual.intid()]);
}
