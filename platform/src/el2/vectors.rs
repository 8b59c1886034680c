//! Where do EL2's exceptions go: a guest's to the vCPU engine, EL2's own to the last report.
//!
//! Interrupts are masked at EL2 at all times, so any exception from EL2 itself is a bug of ours. It is reported from
//! the pCPU's emergency stack, because the usual one may be what is broken.

use super::{panic, pcpu};
use core::{
    arch::{global_asm, naked_asm},
    mem::{offset_of, size_of},
};

unsafe extern "C" {
    /// The vector table; only its address means something.
    pub(super) static VECTORS: [u32; 512];
}

/// The registers of a pCPU that took a fatal exception.
#[repr(C)]
pub(super) struct FaultFrame {
    /// x0 to x30.
    pub gpr: [u64; 31],
    /// SP_EL2 when it happened.
    pub sp: u64,
    /// ELR_EL2.
    pub elr: u64,
    /// SPSR_EL2.
    pub spsr: u64,
    /// ESR_EL2.
    pub esr: u64,
    /// FAR_EL2.
    pub far: u64,
}

const FRAME_SIZE: usize = size_of::<FaultFrame>();
const _: () = assert!(
    FRAME_SIZE.is_multiple_of(16),
    "SP stays aligned below the frame"
);

// The first eight vectors are EL2's own; x1 tells `fatal` which. The other eight belong to `trapline-vcpu`, which finds
// the guest's registers untouched and SP_EL2 as it left it.
//
// A fatal exception needs one register before it has a stack. CNTHP_CVAL_EL2 lends itself: 64 bits wide, EL2's own,
// and this pCPU will not need its timer again. `.percpu` is shorter than 4 KiB (the linker script asserts it), so one
// LDR reaches the pointer in it.
global_asm!(
    ".macro fatal_vector kind",
    ".balign 128",
    "msr cnthp_cval_el2, x0",
    "mrs x0, tpidr_el2",
    "ldr x0, [x0, :lo12:trapline_current_pcpu]",
    "ldr x0, [x0, {emergency_stack_top}]",
    "sub x0, x0, {frame_size}",
    "str x1, [x0, #8]",
    "mov x1, \\kind",
    "b {fatal}",
    ".endm",
    ".macro guest_vector target",
    ".balign 128",
    "b \\target",
    ".endm",
    ".pushsection .text.vectors, \"ax\"",
    ".balign 2048",
    ".global {vectors}",
    "{vectors}:",
    ".irp kind, 0, 1, 2, 3, 4, 5, 6, 7",
    "fatal_vector \\kind",
    ".endr",
    ".rept 2", // AArch64 guests, then AArch32 ones
    "guest_vector trapline_vcpu_exit_sync",
    "guest_vector trapline_vcpu_exit_irq",
    "guest_vector trapline_vcpu_exit_fiq",
    "guest_vector trapline_vcpu_exit_serror",
    ".endr",
    ".balign 128",
    ".popsection",
    vectors = sym VECTORS,
    emergency_stack_top = const offset_of!(pcpu::Pcpu, emergency_stack_top),
    frame_size = const FRAME_SIZE,
    fatal = sym fatal,
);

/// Saves the rest of the registers and reports: x0 = the frame, x1 = which vector; their old values are in
/// CNTHP_CVAL_EL2 and in the frame.
///
/// # Safety
/// Only the vectors above branch to it.
#[unsafe(naked)]
unsafe extern "C" fn fatal() -> ! {
    naked_asm!(
        "stp x2, x3, [x0, #16]",
        "stp x4, x5, [x0, #32]",
        "stp x6, x7, [x0, #48]",
        "stp x8, x9, [x0, #64]",
        "stp x10, x11, [x0, #80]",
        "stp x12, x13, [x0, #96]",
        "stp x14, x15, [x0, #112]",
        "stp x16, x17, [x0, #128]",
        "stp x18, x19, [x0, #144]",
        "stp x20, x21, [x0, #160]",
        "stp x22, x23, [x0, #176]",
        "stp x24, x25, [x0, #192]",
        "stp x26, x27, [x0, #208]",
        "stp x28, x29, [x0, #224]",
        "mrs x2, cnthp_cval_el2",
        "str x2, [x0]",
        "mov x2, sp",
        "stp x30, x2, [x0, #240]",
        "mrs x2, elr_el2",
        "mrs x3, spsr_el2",
        "stp x2, x3, [x0, {elr}]",
        "mrs x2, esr_el2",
        "mrs x3, far_el2",
        "stp x2, x3, [x0, {esr}]",
        "mov sp, x0",
        "b {report}",
        elr = const offset_of!(FaultFrame, elr),
        esr = const offset_of!(FaultFrame, esr),
        report = sym panic::fatal_exception,
    )
}

const _: () = assert!(
    offset_of!(FaultFrame, sp) == 31 * 8,
    "x30 and SP are stored as a pair"
);
const _: () = assert!(offset_of!(FaultFrame, spsr) == offset_of!(FaultFrame, elr) + 8);
const _: () = assert!(offset_of!(FaultFrame, far) == offset_of!(FaultFrame, esr) + 8);
