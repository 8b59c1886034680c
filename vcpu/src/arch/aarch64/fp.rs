//! How FP and SIMD registers move: only when a vCPU uses them.
//!
//! [`FpState::restore`] runs on the first FP instruction after `bind` (CPTR_EL2.TFP), [`FpState::store`] at `unbind` if that
//! happened. EL2 itself is built without FP, so between the two nobody else touches them.

use core::mem::{offset_of, size_of};

use super::control::{CPTR_TRAP_FP, CPTR_TRAP_NONE};
use super::switch::synchronize_context;

pub(crate) use crate::frame::FpState;

const _: () = assert!(offset_of!(FpState, fpsr) == 512 && offset_of!(FpState, fpcr) == 520);
const _: () = assert!(size_of::<FpState>() == 528 && align_of::<FpState>() == 16);

/// Opens the FP registers to the guest and loads them.
pub(crate) fn open(state: &FpState) {
    write_sysreg!("cptr_el2", CPTR_TRAP_NONE);
    synchronize_context();
    // SAFETY: TFP is clear, so the instructions do not trap; `state` has the layout asserted above.
    unsafe { load(state) }
}

/// Takes the FP registers out of the hardware and traps the next use.
pub(crate) fn close(state: &mut FpState) {
    // SAFETY: TFP has been clear since `open`; `state` has the layout asserted above.
    unsafe { save(state) }
    trap();
}

/// Traps the next use of FP.
pub(crate) fn trap() {
    set_cptr(CPTR_TRAP_FP);
}

/// Writes CPTR_EL2, for a host that uses FP itself between two steps.
pub(crate) fn set_cptr(value: u64) {
    write_sysreg!("cptr_el2", value);
    synchronize_context();
}

/// # Safety
/// 1. FP instructions do not trap at EL2.
#[unsafe(naked)]
unsafe extern "C" fn save(state: &mut FpState) {
    core::arch::naked_asm!(
        ".arch_extension fp",
        ".arch_extension simd",
        "stp q0, q1, [x0]",
        "stp q2, q3, [x0, #32]",
        "stp q4, q5, [x0, #64]",
        "stp q6, q7, [x0, #96]",
        "stp q8, q9, [x0, #128]",
        "stp q10, q11, [x0, #160]",
        "stp q12, q13, [x0, #192]",
        "stp q14, q15, [x0, #224]",
        "stp q16, q17, [x0, #256]",
        "stp q18, q19, [x0, #288]",
        "stp q20, q21, [x0, #320]",
        "stp q22, q23, [x0, #352]",
        "stp q24, q25, [x0, #384]",
        "stp q26, q27, [x0, #416]",
        "stp q28, q29, [x0, #448]",
        "stp q30, q31, [x0, #480]",
        "mrs x1, fpsr",
        "mrs x2, fpcr",
        "str x1, [x0, #512]",
        "str x2, [x0, #520]",
        "ret",
        ".arch_extension nosimd",
        ".arch_extension nofp",
    )
}

/// # Safety
/// 1. FP instructions do not trap at EL2.
#[unsafe(naked)]
unsafe extern "C" fn load(state: &FpState) {
    core::arch::naked_asm!(
        ".arch_extension fp",
        ".arch_extension simd",
        "ldp q0, q1, [x0]",
        "ldp q2, q3, [x0, #32]",
        "ldp q4, q5, [x0, #64]",
        "ldp q6, q7, [x0, #96]",
        "ldp q8, q9, [x0, #128]",
        "ldp q10, q11, [x0, #160]",
        "ldp q12, q13, [x0, #192]",
        "ldp q14, q15, [x0, #224]",
        "ldp q16, q17, [x0, #256]",
        "ldp q18, q19, [x0, #288]",
        "ldp q20, q21, [x0, #320]",
        "ldp q22, q23, [x0, #352]",
        "ldp q24, q25, [x0, #384]",
        "ldp q26, q27, [x0, #416]",
        "ldp q28, q29, [x0, #448]",
        "ldp q30, q31, [x0, #480]",
        "ldr x1, [x0, #512]",
        "ldr x2, [x0, #520]",
        "msr fpsr, x1",
        "msr fpcr, x2",
        "ret",
        ".arch_extension nosimd",
        ".arch_extension nofp",
    )
}
