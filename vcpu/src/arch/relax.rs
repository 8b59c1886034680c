//! How a pCPU waits for another one: YIELD, since `core::hint::spin_loop` is an ISB, for which the other pCPUs wait
//! milliseconds under QEMU's `-icount`.

/// Lets other pCPUs go first, once.
#[inline]
pub fn relax() {
    #[cfg(target_arch = "aarch64")]
    // SAFETY: YIELD is a hint; it changes no register and no memory.
    unsafe {
        core::arch::asm!("yield", options(nomem, nostack, preserves_flags))
    }
    #[cfg(not(target_arch = "aarch64"))]
    core::hint::spin_loop();
}
