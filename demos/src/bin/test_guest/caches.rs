//! Caches and MMU off and on again, and maintenance by set and way, as boot loaders do it: no data is lost.

use core::{
    arch::{asm, naked_asm},
    cell::UnsafeCell,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use aarch64_cpu::registers::{CCSIDR_EL1, CLIDR_EL1, Readable, Writeable};
use trapline_demos::guest::{cpu, machine, mmio};

use crate::support::{self, check};

const ROUNDS: u64 = 6;
const WORDS: usize = 4096;

/// What each of two CPUs writes, by turns with its caches on and off.
#[repr(C, align(4096))]
struct Data(UnsafeCell<[u64; WORDS]>);

// SAFETY: each CPU uses its own.
unsafe impl Sync for Data {}

static DATA: [Data; 2] = [const { Data(UnsafeCell::new([0; WORDS])) }; 2];
static OPERATIONS: AtomicU64 = AtomicU64::new(0);

/// Which operation by set and way.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum SetWay {
    Invalidate,
    Clean,
    CleanAndInvalidate,
}

/// All CPUs at once, each with its own data.
pub fn off_and_on() {
    let cpus = machine::cpu_count().min(2);
    support::start(cpus);
    if cpus > 1 {
        support::run_on(1, work);
    }
    work();
    if cpus > 1 {
        support::join(1);
    }
    support::say(format_args!("operations={}", OPERATIONS.load(Relaxed)));
}

fn work() {
    let data = DATA[cpu::index()].0.get().addr();
    for round in 0..ROUNDS {
        let pattern = (round + 1) << 32 | (cpu::index() as u64) << 24;
        fill(data, pattern);
        let operation = [SetWay::Clean, SetWay::CleanAndInvalidate][round as usize % 2];
        let operations = everything(operation);
        OPERATIONS.fetch_add(operations, Relaxed);
        // SAFETY: the buffer is this CPU's own, and memory is mapped one to one.
        let wrong = unsafe { invert_uncached(data, WORDS, pattern) };
        check!(
            wrong == 0,
            "round {round}: {wrong} words were not in memory when the caches went off"
        );
        expect(data, !pattern, "what was written with the caches off");
        everything(SetWay::CleanAndInvalidate);
        expect(data, !pattern, "what was cleaned by set and way");
        // What is clean is not lost with the copy in the cache.
        everything(SetWay::Invalidate);
        expect(data, !pattern, "what was clean and invalidated");
    }
}

fn fill(data: usize, pattern: u64) {
    for index in 0..WORDS {
        mmio::write64(data + 8 * index, pattern ^ index as u64);
    }
}

fn expect(data: usize, pattern: u64, what: &str) {
    for index in 0..WORDS {
        let (seen, expected) = (mmio::read64(data + 8 * index), pattern ^ index as u64);
        check!(
            seen == expected,
            "{what}: word {index} is {seen:#x} instead of {expected:#x}"
        );
    }
}

/// The operation on each set and way of each level of data cache; how many there were. [DDI0487: CLIDR_EL1, CCSIDR_EL1]
fn everything(operation: SetWay) -> u64 {
    let levels = CLIDR_EL1.get();
    let mut count = 0;
    for level in (0..7).take_while(|level| levels >> (3 * level) & 0b111 != 0) {
        if levels >> (3 * level) & 0b111 < 0b010 {
            continue;
        }
        set_selection(level << 1);
        let size = CCSIDR_EL1.get();
        let line_bits = (size & 0b111) + 4;
        let (ways, sets) = ((size >> 3 & 0x3ff) + 1, (size >> 13 & 0x7fff) + 1);
        let way_shift = if ways == 1 {
            0
        } else {
            (ways as u32 - 1).leading_zeros()
        };
        // A sample: each way of some sets.
        for set in (0..sets).rev().step_by((sets / 8).max(1) as usize) {
            for way in (0..ways).rev() {
                maintain(operation, way << way_shift | set << line_bits | level << 1);
                count += 1;
            }
        }
    }
    // SAFETY: barriers.
    unsafe { asm!("dsb sy", "isb", options(nostack, preserves_flags)) };
    count
}

fn set_selection(value: u64) {
    aarch64_cpu::registers::CSSELR_EL1.set(value);
    aarch64_cpu::asm::barrier::isb(aarch64_cpu::asm::barrier::SY);
}

fn maintain(operation: SetWay, operand: u64) {
    // SAFETY: bare QEMU has no caches from which data could be lost, and a hypervisor must clean what it invalidates.
    unsafe {
        match operation {
            SetWay::Invalidate => asm!("dc isw, {}", in(reg) operand, options(nostack)),
            SetWay::Clean => asm!("dc csw, {}", in(reg) operand, options(nostack)),
            SetWay::CleanAndInvalidate => asm!("dc cisw, {}", in(reg) operand, options(nostack)),
        }
    }
}

/// Turns MMU and caches off, inverts `count` words, and turns them on again; then off and on once more. How many words were not
/// what [`fill`] made of `pattern`.
///
/// # Safety
/// 1. The words are the caller's, and memory is mapped one to one.
#[unsafe(naked)]
unsafe extern "C" fn invert_uncached(data: usize, count: usize, pattern: u64) -> u64 {
    naked_asm!(
        // Clean the words by address, as whoever turns caches off must.
        "mov x9, x0",
        "add x10, x0, x1, lsl #3",
        "1: dc civac, x9",
        "add x9, x9, #16",
        "cmp x9, x10",
        "b.lo 1b",
        "dsb sy",
        "mrs x11, sctlr_el1",
        "bic x12, x11, #1",
        "bic x12, x12, #4",
        "bic x12, x12, #0x1000",
        "msr sctlr_el1, x12",
        "isb",
        "mov x9, #0",
        "mov x13, #0",
        "2: eor x14, x2, x9",
        "ldr x15, [x0, x9, lsl #3]",
        "cmp x15, x14",
        "cinc x13, x13, ne",
        "mvn x15, x15",
        "str x15, [x0, x9, lsl #3]",
        "add x9, x9, #1",
        "cmp x9, x1",
        "b.lo 2b",
        "dsb sy",
        // Only the MMU, then the caches too; off, and on again as before.
        "orr x12, x12, #1",
        "msr sctlr_el1, x12",
        "isb",
        "msr sctlr_el1, x11",
        "isb",
        "bic x12, x12, #1",
        "msr sctlr_el1, x12",
        "isb",
        "msr sctlr_el1, x11",
        "isb",
        "mov x0, x13",
        "ret",
    )
}
