//! The host's own vector table: its interrupts, its faults, and four branches for Trapline.

use core::{
    arch::{asm, global_asm},
    sync::atomic::Ordering::Relaxed,
};

use crate::interrupts;

unsafe extern "C" {
    /// The table; only its address means something.
    static HOST_VECTORS: [u32; 512];
}

// The host runs on SP_EL2, so its interrupts come by the second group of four. What the compiled handler may change is
// saved around it; the rest is the handler's to keep. The last two groups are the guest's: they are Trapline's business.
global_asm!(
    ".macro fault_vector kind",
    ".balign 128",
    "mov x0, \\kind",
    "b {fault}",
    ".endm",
    ".macro exit_vector target",
    ".balign 128",
    "b \\target",
    ".endm",
    ".pushsection .text.vectors, \"ax\"",
    ".balign 2048",
    ".global {table}",
    "{table}:",
    ".irp kind, 0, 1, 2, 3, 4",
    "fault_vector \\kind",
    ".endr",
    ".balign 128",
    "stp x29, x30, [sp, #-192]!",
    "mov x29, sp",
    "stp x0, x1, [sp, #16]",
    "stp x2, x3, [sp, #32]",
    "stp x4, x5, [sp, #48]",
    "stp x6, x7, [sp, #64]",
    "stp x8, x9, [sp, #80]",
    "stp x10, x11, [sp, #96]",
    "stp x12, x13, [sp, #112]",
    "b 1f",
    ".irp kind, 6, 7",
    "fault_vector \\kind",
    ".endr",
    ".rept 2", // AArch64 guests, then AArch32 ones
    "exit_vector trapline_vcpu_exit_sync",
    "exit_vector trapline_vcpu_exit_irq",
    "exit_vector trapline_vcpu_exit_fiq",
    "exit_vector trapline_vcpu_exit_serror",
    ".endr",
    ".balign 128",
    "1:",
    "stp x14, x15, [sp, #128]",
    "stp x16, x17, [sp, #144]",
    "mrs x0, elr_el2",
    "mrs x1, spsr_el2",
    "stp x0, x1, [sp, #160]",
    "str x18, [sp, #176]",
    "bl {interrupt}",
    "ldr x18, [sp, #176]",
    "ldp x0, x1, [sp, #160]",
    "msr elr_el2, x0",
    "msr spsr_el2, x1",
    "ldp x16, x17, [sp, #144]",
    "ldp x14, x15, [sp, #128]",
    "ldp x12, x13, [sp, #112]",
    "ldp x10, x11, [sp, #96]",
    "ldp x8, x9, [sp, #80]",
    "ldp x6, x7, [sp, #64]",
    "ldp x4, x5, [sp, #48]",
    "ldp x2, x3, [sp, #32]",
    "ldp x0, x1, [sp, #16]",
    "ldp x29, x30, [sp], #192",
    "eret",
    ".popsection",
    table = sym HOST_VECTORS,
    fault = sym fault,
    interrupt = sym interrupt,
);

/// Makes this table the pCPU's, in place of the one that it booted with.
pub fn install() {
    // SAFETY:
    // 1. The table has all sixteen vectors, aligned to 2 KiB.
    // 2. Interrupts are masked, so none comes between two tables.
    unsafe {
        asm!(
            "msr vbar_el2, {}",
            "isb",
            in(reg) &raw const HOST_VECTORS,
            options(nostack, preserves_flags),
        );
    }
}

/// Takes the interrupts that are pending and those that come while `work` runs. `work` holds no lock: a handler may want
/// it.
pub fn with_interrupts<R>(work: impl FnOnce() -> R) -> R {
    // SAFETY: this pCPU's table is installed, and its handler keeps all registers.
    unsafe { asm!("msr daifclr, #2", "isb", options(nostack)) };
    let result = work();
    // SAFETY: an interrupt that is not taken now is taken later.
    unsafe { asm!("msr daifset, #2", options(nostack)) };
    result
}

extern "C" fn interrupt() {
    interrupts::this_pcpu().taken.fetch_add(1, Relaxed);
    interrupts::take();
}

extern "C" fn fault(kind: u64) -> ! {
    let (syndrome, link, address): (u64, u64, u64);
    // SAFETY: reading what an exception left changes nothing.
    unsafe {
        asm!(
            "mrs {}, esr_el2",
            "mrs {}, elr_el2",
            "mrs {}, far_el2",
            out(reg) syndrome,
            out(reg) link,
            out(reg) address,
            options(nomem, nostack, preserves_flags),
        );
    }
    panic!("exception {kind} of the host at {link:#x}: ESR {syndrome:#x}, FAR {address:#x}");
}
