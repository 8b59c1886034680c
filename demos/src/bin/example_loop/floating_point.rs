//! The host's use of FP registers, by hand: the image is built without FP, so that nothing touches a guest's.

use core::arch::asm;

/// Puts `seed` into all FP registers, and sees it there again.
///
/// # Panics
/// If it is not there: somebody else used them meanwhile.
pub fn compute(seed: u64) {
    let sum: u64;
    // SAFETY: no compiled code of this image uses FP registers, and between two steps none of them is a guest's.
    unsafe {
        asm!(
            ".arch_extension fp",
            ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
            "fmov d\\n, {seed}",
            ".endr",
            "mov {sum}, xzr",
            ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
            "fmov {one}, d\\n",
            "add {sum}, {sum}, {one}",
            ".endr",
            ".arch_extension nofp",
            seed = in(reg) seed,
            sum = out(reg) sum,
            one = out(reg) _,
            options(nomem, nostack, preserves_flags),
        );
    }
    assert!(
        sum == seed.wrapping_mul(32),
        "the host's FP registers are its own between two steps"
    );
}
