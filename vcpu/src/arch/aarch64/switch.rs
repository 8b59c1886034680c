//! How a pCPU enters a guest and comes back.
//!
//! ```text
//!  run_guest(frame)                                 vectors of the host, lower-EL slots
//!    push x19-x30 and the frame pointer               b trapline_vcpu_exit_{sync,irq,fiq,serror}
//!    load ELR, SPSR, x0-x30                             |
//!    eret  ------------------> guest ------------------>+  find the frame on the stack
//!    ret to the caller of run_guest  <------------------'  store x0-x30, ELR, SPSR; pop x19-x30
//! ```
//! Only general registers move here. Everything else of a vCPU is in the hardware from `bind` to `unbind`.

use core::mem::{offset_of, size_of};

use crate::frame::TrapFrame;

/// Which vector a guest left by.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u64)]
pub(crate) enum Vector {
    /// A synchronous exception: ESR_EL2 says which.
    Synchronous = 0,
    /// A physical IRQ.
    Irq = 1,
    /// A physical FIQ.
    Fiq = 2,
    /// A physical SError.
    SError = 3,
}

/// Enters the guest whose registers are in `frame` and in the hardware, and returns when it exits.
///
/// # Safety
/// 1. A vCPU is bound on this pCPU: its stage 2, EL1 registers and interrupts are in the hardware, and `frame` is its own.
/// 2. Interrupts, SErrors and debug exceptions are masked at EL2 until this returns.
/// 3. The lower-EL slots of VBAR_EL2 branch to `trapline_vcpu_exit_*` with all registers as the guest left them, and
///    SP_EL2 is in use (SPSel=1).
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn run_guest(frame: &mut TrapFrame) -> Vector {
    core::arch::naked_asm!(
        "stp x29, x30, [sp, #-112]!",
        "stp x27, x28, [sp, #16]",
        "stp x25, x26, [sp, #32]",
        "stp x23, x24, [sp, #48]",
        "stp x21, x22, [sp, #64]",
        "stp x19, x20, [sp, #80]",
        "str x0, [sp, #96]",
        "ldp x1, x2, [x0, #{elr}]",
        "msr elr_el2, x1",
        "msr spsr_el2, x2",
        "ldr x30, [x0, #240]",
        "ldp x28, x29, [x0, #224]",
        "ldp x26, x27, [x0, #208]",
        "ldp x24, x25, [x0, #192]",
        "ldp x22, x23, [x0, #176]",
        "ldp x20, x21, [x0, #160]",
        "ldp x18, x19, [x0, #144]",
        "ldp x16, x17, [x0, #128]",
        "ldp x14, x15, [x0, #112]",
        "ldp x12, x13, [x0, #96]",
        "ldp x10, x11, [x0, #80]",
        "ldp x8, x9, [x0, #64]",
        "ldp x6, x7, [x0, #48]",
        "ldp x4, x5, [x0, #32]",
        "ldp x2, x3, [x0, #16]",
        "ldp x0, x1, [x0]",
        "eret",
        // No speculation past the ERET. [DDI0487: straight-line speculation]
        "dsb nsh",
        "isb",
        elr = const offset_of!(TrapFrame, elr),
    )
}

const _: () = assert!(
    offset_of!(TrapFrame, gpr) == 0,
    "run_guest loads x0 from the start of the frame"
);
const _: () = assert!(
    offset_of!(TrapFrame, elr) == 248 && offset_of!(TrapFrame, spsr) == 256,
    "ELR and SPSR are a pair"
);
const _: () = assert!(size_of::<TrapFrame>() == 264);

/// One entry point for each vector. The host's vector table branches here with every register as the guest left it.
macro_rules! exit_entry {
    ($name:ident, $vector:expr) => {
        /// A lower-EL slot of the host's EL2 vector table branches here; it is not a function to call.
        #[unsafe(no_mangle)]
        #[unsafe(naked)]
        unsafe extern "C" fn $name() {
            core::arch::naked_asm!(
                "stp x0, x1, [sp, #-16]!",
                "mov x0, #{vector}",
                "b {leave}",
                vector = const $vector as u64,
                leave = sym leave_guest,
            )
        }
    };
}

exit_entry!(trapline_vcpu_exit_sync, Vector::Synchronous);
exit_entry!(trapline_vcpu_exit_irq, Vector::Irq);
exit_entry!(trapline_vcpu_exit_fiq, Vector::Fiq);
exit_entry!(trapline_vcpu_exit_serror, Vector::SError);

/// The second half of `run_guest`: x0 is the vector, the guest's x0 and x1 are on top of what `run_guest` pushed.
#[unsafe(naked)]
unsafe extern "C" fn leave_guest() {
    core::arch::naked_asm!(
        "ldr x1, [sp, #112]",
        "stp x2, x3, [x1, #16]",
        "stp x4, x5, [x1, #32]",
        "stp x6, x7, [x1, #48]",
        "stp x8, x9, [x1, #64]",
        "stp x10, x11, [x1, #80]",
        "stp x12, x13, [x1, #96]",
        "stp x14, x15, [x1, #112]",
        "stp x16, x17, [x1, #128]",
        "stp x18, x19, [x1, #144]",
        "stp x20, x21, [x1, #160]",
        "stp x22, x23, [x1, #176]",
        "stp x24, x25, [x1, #192]",
        "stp x26, x27, [x1, #208]",
        "stp x28, x29, [x1, #224]",
        "str x30, [x1, #240]",
        "ldp x2, x3, [sp], #16",
        "stp x2, x3, [x1]",
        "mrs x2, elr_el2",
        "mrs x3, spsr_el2",
        "stp x2, x3, [x1, #{elr}]",
        "ldp x27, x28, [sp, #16]",
        "ldp x25, x26, [sp, #32]",
        "ldp x23, x24, [sp, #48]",
        "ldp x21, x22, [sp, #64]",
        "ldp x19, x20, [sp, #80]",
        "ldp x29, x30, [sp], #112",
        "ret",
        elr = const offset_of!(TrapFrame, elr),
    )
}

/// Makes writes to system registers count for what follows.
pub(crate) fn synchronize_context() {
    aarch64_cpu::asm::barrier::isb(aarch64_cpu::asm::barrier::SY);
}
