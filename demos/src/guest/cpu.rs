//! The CPU that a line of code runs on: which one it is, its interrupt mask, its counter, and how it waits.

use core::arch::asm;

use aarch64_cpu::registers::{CNTFRQ_EL0, CNTVCT_EL0, DAIF, MPIDR_EL1, Readable};

use super::{MAX_CPUS, machine, sgi};

/// The bytes of each CPU's stack; the linker script aligns the stacks to it.
pub const STACK_BYTES: usize = 0x8000;

unsafe extern "C" {
    static __stacks_start: u8;
}

/// This CPU's index in the device tree, 0 to [`MAX_CPUS`] - 1.
///
/// It comes from the stack pointer and not from TPIDR_EL1: that register is under test.
#[inline(always)]
pub fn index() -> usize {
    let stack_pointer: usize;
    // SAFETY: reads the stack pointer and nothing else.
    unsafe { asm!("mov {}, sp", out(reg) stack_pointer, options(nomem, nostack, preserves_flags)) };
    let index = (stack_pointer - (&raw const __stacks_start).addr()) / STACK_BYTES;
    debug_assert!(index < MAX_CPUS);
    index
}

/// The index that the device tree gives to this CPU's affinity.
pub fn index_by_affinity() -> Option<usize> {
    let affinity = MPIDR_EL1.get() & sgi::AFFINITY;
    (0..machine::cpu_count()).find(|&index| machine::mpidr(index) == affinity)
}

/// Lets another CPU go first in a loop that polls.
#[inline(always)]
pub fn relax() {
    // SAFETY: a hint without effect on memory; it is YIELD because ISB, which `spin_loop` becomes, keeps an emulated CPU from
    // giving way.
    unsafe { asm!("yield", options(nomem, nostack, preserves_flags)) };
}

/// Waits until an interrupt is pending, masked or not.
#[inline(always)]
pub fn wait_for_interrupt() {
    // SAFETY: a hint; without `nomem`, what an interrupt handler wrote is read after it.
    unsafe { asm!("dsb sy", "wfi", options(nostack, preserves_flags)) };
}

/// Masks IRQs on this CPU.
#[inline(always)]
pub fn mask_interrupts() {
    // SAFETY: an interrupt that is not taken now is taken later; without `nomem`, no access moves across.
    unsafe { asm!("msr daifset, #2", options(nostack, preserves_flags)) };
}

/// Takes IRQs on this CPU from here on; one that is pending is taken before this returns.
#[inline(always)]
pub fn unmask_interrupts() {
    // SAFETY: handlers save all registers and share only atomics with the code that they interrupt.
    unsafe { asm!("msr daifclr, #2", "isb", options(nostack, preserves_flags)) };
}

/// Masks FIQs on this CPU.
pub fn mask_fast_interrupts() {
    // SAFETY: an interrupt that is not taken now is taken later; without `nomem`, no access moves across.
    unsafe { asm!("msr daifset, #1", options(nostack, preserves_flags)) };
}

/// Takes FIQs on this CPU from here on; one that is pending is taken before this returns.
pub fn unmask_fast_interrupts() {
    // SAFETY: handlers save all registers and share only atomics with the code that they interrupt.
    unsafe { asm!("msr daifclr, #1", "isb", options(nostack, preserves_flags)) };
}

/// Takes SErrors on this CPU from here on; one that is pending is taken before this returns.
pub fn unmask_serrors() {
    // SAFETY: handlers save all registers and share only atomics with the code that they interrupt.
    unsafe { asm!("msr daifclr, #4", "isb", options(nostack, preserves_flags)) };
}

/// Runs `work` with IRQs masked, then restores the mask.
pub fn with_interrupts_masked<R>(work: impl FnOnce() -> R) -> R {
    let were_masked = DAIF.is_set(DAIF::I);
    mask_interrupts();
    let result = work();
    if !were_masked {
        unmask_interrupts();
    }
    result
}

/// The virtual counter, in ticks of [`frequency`].
#[inline(always)]
pub fn now() -> u64 {
    // The counter may be read early; the barrier keeps it behind what the program did before.
    aarch64_cpu::asm::barrier::isb(aarch64_cpu::asm::barrier::SY);
    CNTVCT_EL0.get()
}

/// Ticks of the counter in a second.
#[inline(always)]
pub fn frequency() -> u64 {
    CNTFRQ_EL0.get()
}

/// Ticks of the counter in this many microseconds.
pub fn microseconds(count: u64) -> u64 {
    count.saturating_mul(frequency()) / 1_000_000
}

/// Polls until `done` holds or this many ticks have passed; says whether it held.
pub fn wait_until(ticks: u64, mut done: impl FnMut() -> bool) -> bool {
    let start = now();
    loop {
        if done() {
            return true;
        }
        if now().wrapping_sub(start) > ticks {
            return false;
        }
        relax();
    }
}
