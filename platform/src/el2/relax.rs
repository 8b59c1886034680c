//! How a pCPU waits for another one: YIELD, everywhere.
//!
//! `core::hint::spin_loop` is ISB on AArch64; under QEMU's `-icount` that keeps the other pCPUs from running
//! for milliseconds, while YIELD lets them run at once.

use core::arch::asm;
use spin::{RelaxStrategy, mutex::SpinMutex};

/// Lets other pCPUs go first, once.
#[inline(always)]
pub fn relax() {
    // SAFETY: YIELD is a hint; it changes no register and no memory.
    unsafe { asm!("yield", options(nomem, nostack, preserves_flags)) };
}

/// The way that locks of this platform wait.
pub struct Yield;

impl RelaxStrategy for Yield {
    #[inline(always)]
    fn relax() {
        relax();
    }
}

/// A lock that waits with YIELD. Interrupts are always masked at EL2, so its holder is never interrupted.
pub type Lock<T> = SpinMutex<T, Yield>;

/// A value that is set once; whoever comes meanwhile waits with YIELD.
pub(super) type Once<T> = spin::once::Once<T, Yield>;
