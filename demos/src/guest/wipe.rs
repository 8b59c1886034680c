//! The end of a program that leaves nothing of itself: whoever starts again must bring the image anew.

use core::arch::naked_asm;

use super::power::{Conduit, SYSTEM_RESET};

/// Overwrites the program in memory, its tables included, and resets the machine. Only the boot CPU runs, and RAM is where the program
/// is linked.
pub fn wipe_and_reset() -> ! {
    // SAFETY: the function never returns to what it overwrites, it uses no stack, and the MMU is off before its tables go; the
    // map is one to one, so the instructions stay where they are. No other CPU runs, by the contract above.
    unsafe { wipe((Conduit::of_machine() == Conduit::Smc).into(), SYSTEM_RESET) }
}

/// # Safety
/// No CPU runs anything of this program but this function, ever again.
#[unsafe(naked)]
unsafe extern "C" fn wipe(uses_smc: u64, function: u32) -> ! {
    naked_asm!(
        "msr daifset, #15",
        "mrs x9, sctlr_el1",
        "bic x9, x9, #1",      // M
        "bic x9, x9, #4",      // C
        "bic x9, x9, #0x1000", // I
        "msr sctlr_el1, x9",
        "isb",
        "adrp x2, guest_start",
        "add x2, x2, :lo12:guest_start",
        "adrp x3, __bss_end",
        "add x3, x3, :lo12:__bss_end",
        "adr x4, {start}",
        "adr x5, 6f",
        // All ones: no instruction, no table, no pointer.
        "mov w6, #-1",
        "2: cmp x2, x3",
        "b.hs 4f",
        // It keeps itself.
        "cmp x2, x4",
        "b.lo 7f",
        "cmp x2, x5",
        "b.lo 3f",
        "7: str w6, [x2]",
        "3: add x2, x2, #4",
        "b 2b",
        "4: cbnz x0, 5f",
        "mov w0, w1",
        "hvc #0",
        "5: mov w0, w1",
        "smc #0",
        "b .",
        "6:",
        start = sym wipe,
    )
}
