//! A program that maintains its TLB and its instruction cache for its own CPU only, and whose CPU is moved meanwhile.
//!
//! Bare QEMU moves nobody. [DDI0487: TLB maintenance instructions; HCR_EL2.FB]

use core::{arch::asm, cell::UnsafeCell, hint::black_box};

use aarch64_cpu::registers::{TTBR0_EL1, Writeable};
use trapline_demos::guest::{mmio, power};

use crate::{
    migrate::MIGRATE,
    support::{self, check, is_strict},
};

/// Where the page is that is mapped now here, now there: above all that the flat map has memory at.
const WINDOW: usize = 0x70_0000_0000;
const GIBIBYTE: usize = 1 << 30;
const ROUNDS: u64 = 60;

const TABLE: u64 = 0b11;
/// A page of memory: accessed, inner shareable, attribute 0.
const PAGE: u64 = 0b11 | 1 << 10 | 3 << 8;

/// A table, or a page.
#[repr(C, align(4096))]
struct Page(UnsafeCell<[u64; 512]>);

// SAFETY: one CPU uses these.
unsafe impl Sync for Page {}

static TABLES: [Page; 3] = [const { Page(UnsafeCell::new([0; 512])) }; 3];
static PAGES: [Page; 2] = [const { Page(UnsafeCell::new([0; 512])) }; 2];

impl Page {
    fn address(&self) -> u64 {
        self.0.get().addr() as u64
    }

    fn write(&self, index: usize, value: u64) {
        mmio::write64(self.0.get().addr() + 8 * index, value);
    }
}

/// Moves this CPU; it stays where there is nobody to move it.
fn go(pcpu: u64) {
    let result = power::call(MIGRATE, [pcpu, 0, 0]);
    check!(
        result == 0 || !is_strict(),
        "the move to pCPU {pcpu} returned {result}"
    );
}

/// The ways to drop what the TLB of this CPU has of the window.
fn invalidate(way: u64) {
    let page = (WINDOW >> 12) as u64;
    macro_rules! maintain {
        ($instruction:literal) => {
            // SAFETY: invalidation only costs refills.
            unsafe {
                asm!("dsb nshst", $instruction, "dsb nsh", "isb", page = in(reg) page, options(nostack, preserves_flags))
            }
        };
    }
    match way {
        0 => maintain!("tlbi vmalle1 // {page}"),
        1 => maintain!("tlbi vae1, {page}"),
        2 => maintain!("tlbi vaae1, {page}"),
        3 => maintain!("tlbi vaale1, {page}"),
        4 => maintain!("tlbi vale1, {page}"),
        _ => maintain!("tlbi aside1, xzr // {page}"),
    }
}

/// Maps one page after the other at one address, on one pCPU, and reads it on another that has seen the one before.
pub fn local_maintenance() {
    map();
    for (index, page) in PAGES.iter().enumerate() {
        page.write(0, index as u64);
    }
    for round in 0..ROUNDS {
        let next = round % 2;
        go(0);
        black_box(mmio::read64(WINDOW));
        go(1);
        black_box(mmio::read64(WINDOW));
        // Break before make.
        TABLES[2].write(0, 0);
        invalidate(round % 6);
        TABLES[2].write(0, PAGES[next as usize].address() | PAGE);
        // SAFETY: a barrier.
        unsafe { asm!("dsb ishst", "isb", options(nostack, preserves_flags)) };
        for pcpu in [1, 0, 1] {
            go(pcpu);
            let seen = mmio::read64(WINDOW);
            check!(
                seen == next,
                "round {round}: on pCPU {pcpu} the window shows page {seen}, not {next}"
            );
        }
        code(round);
    }
    support::say(format_args!("rounds={ROUNDS}"));
}

/// A map like the present one, with tables for the window.
fn map() {
    let present = TTBR0_EL1.get_baddr();
    for index in 0..512 {
        TABLES[0].write(index, mmio::read64(present as usize + 8 * index));
    }
    TABLES[0].write(WINDOW / GIBIBYTE, TABLES[1].address() | TABLE);
    TABLES[1].write(0, TABLES[2].address() | TABLE);
    TABLES[2].write(0, PAGES[0].address() | PAGE);
    TTBR0_EL1.set(TABLES[0].address());
    invalidate(0);
}

/// Code that is written anew, with maintenance for this CPU only, runs anew wherever the CPU is then.
fn code(round: u64) {
    const RET: u32 = 0xd65f_03c0;
    let place = PAGES[0].address() as usize + 64;
    // movz x0, #round
    let words = [0xd280_0000 | (round as u32) << 5, RET];
    for (index, word) in words.into_iter().enumerate() {
        mmio::write32(place + 4 * index, word);
    }
    // SAFETY: maintenance of memory that this file owns.
    unsafe {
        asm!("dc cvau, {}", "dsb nsh", "ic iallu", "dsb nsh", "isb", in(reg) place, options(nostack, preserves_flags))
    };
    for pcpu in [1, 0] {
        go(pcpu);
        let value: u64;
        // SAFETY: the code sets x0 and returns.
        unsafe { asm!("blr {}", in(reg) place, out("x0") value, out("x30") _) };
        check!(
            value == round,
            "round {round}: on pCPU {pcpu} the code is that of round {value}"
        );
    }
}
