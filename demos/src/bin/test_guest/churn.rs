//! Reads of a device that comes and goes: each gives the device's answer or an external abort, and nothing else.
//!
//! The test hypervisor registers and removes a handler for the page at [`DEVICE`] while this runs; its register at offset 0
//! reads as `answer=` (default 0x54524150). On bare QEMU there is never a device. All CPUs read until `reads=` (default 20,000
//! each) and `seconds=` (default 1) are over, and the hypervisor says that the device has gone for good.

use core::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};

use trapline_demos::guest::{
    MAX_CPUS, cpu,
    exceptions::{Frame, Kind},
    machine, mmio, power,
};

use crate::support::{self, check, on_exception};

const DEVICE: usize = 0x0b00_0000;
const DATA_ABORT: u64 = 0x25;
/// The vendor call that starts the coming and going, and returns 0 until it is over.
const IS_OVER: u32 = 0xc600_0004;
/// So many reads come between two of these calls.
const READS_PER_CALL: u64 = 256;

static ANSWERS: AtomicU64 = AtomicU64::new(0);
static ABORTS: AtomicU64 = AtomicU64::new(0);
static HAS_ABORTED: [AtomicBool; MAX_CPUS] = [const { AtomicBool::new(false) }; MAX_CPUS];

fn count_abort(kind: Kind, frame: &mut Frame) {
    check!(
        kind == Kind::Synchronous && frame.class() == DATA_ABORT && frame.esr & 0x3f == 0x10,
        "{kind:?} exception, esr {:#x} at {:#x}, address {:#x}",
        frame.esr,
        frame.elr,
        frame.far
    );
    HAS_ABORTED[cpu::index()].store(true, Relaxed);
    frame.skip();
}

/// All CPUs read at once.
pub fn reads() {
    support::start_all();
    on_exception(count_abort);
    (1..machine::cpu_count()).for_each(|index| support::run_on(index, read_many));
    read_many();
    (1..machine::cpu_count()).for_each(support::join);
    support::say(format_args!(
        "answers={} aborts={}",
        ANSWERS.load(SeqCst),
        ABORTS.load(SeqCst)
    ));
}

fn read_many() {
    let parameters = machine::parameters();
    let answer = parameters.number("answer", 0x5452_4150) as u32;
    let reads = parameters.number("reads", 20_000);
    let end = cpu::now()
        + parameters
            .number("seconds", 1)
            .saturating_mul(cpu::frequency());
    let has_aborted = &HAS_ABORTED[cpu::index()];
    let (mut answers, mut aborts) = (0, 0);
    let mut is_over = false;
    while answers + aborts < reads || cpu::now() < end || !is_over {
        if (answers + aborts) % READS_PER_CALL == 0 {
            // Without that call, as on bare QEMU, the result is negative.
            is_over = power::call(IS_OVER, [0; 3]) != 0;
        }
        has_aborted.store(false, Relaxed);
        let value = mmio::read32(DEVICE);
        if has_aborted.load(Relaxed) {
            aborts += 1;
        } else {
            check!(
                value == answer,
                "the device read {value:#x} instead of {answer:#x}"
            );
            answers += 1;
        }
    }
    ANSWERS.fetch_add(answers, SeqCst);
    ABORTS.fetch_add(aborts, SeqCst);
}
