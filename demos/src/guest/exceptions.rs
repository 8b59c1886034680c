//! From the vector table to the program's handlers and back.
//!
//! Everything is taken on the stack of the CPU that was interrupted. A handler gets the general registers, may change them and
//! the return address, and may unmask IRQs to be interrupted itself.

use core::arch::global_asm;

use super::{console, cpu, power};

/// The interrupted context; a handler that changes it changes what is resumed.
#[derive(Debug)]
#[repr(C)]
pub struct Frame {
    /// x0 to x30.
    pub registers: [u64; 31],
    /// Where the exception was taken, and where it returns to.
    pub elr: u64,
    /// PSTATE of the interrupted code.
    pub spsr: u64,
    /// Why. [DDI0487: ESR_EL1]
    pub esr: u64,
    /// The faulting address, for aborts.
    pub far: u64,
    reserved: u64,
}

const _: () = assert!(size_of::<Frame>() == 288, "the vectors below lay it out");

impl Frame {
    /// The exception class: ESR_EL1.EC.
    pub const fn class(&self) -> u64 {
        self.esr >> 26 & 0x3f
    }

    /// Resumes after the instruction that failed.
    pub const fn skip(&mut self) {
        self.elr += 4;
    }
}

/// Which of the four kinds of vector was taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u64)]
pub enum Kind {
    /// A synchronous exception.
    Synchronous = 0,
    /// An IRQ.
    Interrupt = 1,
    /// An FIQ.
    FastInterrupt = 2,
    /// An SError.
    SystemError = 3,
}

unsafe extern "Rust" {
    // `guest_program!` defines both.
    safe fn guest_interrupt(frame: &mut Frame);
    safe fn guest_exception(kind: Kind, frame: &mut Frame);
}

/// Called by the vectors with the frame that they have just stored.
#[unsafe(no_mangle)]
extern "C" fn guest_take_exception(kind: Kind, frame: &mut Frame) {
    match kind {
        Kind::Interrupt => guest_interrupt(frame),
        _ => guest_exception(kind, frame),
    }
}

/// For programs that expect no exception but interrupts: prints what was taken where, and ends the run.
pub fn report(kind: Kind, frame: &mut Frame) {
    console::last_line(format_args!(
        "GUEST EXCEPTION cpu={} {kind:?} class={:#x} esr={:#x} elr={:#x} far={:#x} spsr={:#x}",
        cpu::index(),
        frame.class(),
        frame.esr,
        frame.elr,
        frame.far,
        frame.spsr,
    ));
    power::system_off();
}

// SPSel is always 1 here and nothing runs at EL0, so the first and the last two groups of vectors are taken only by mistake:
// they report like the others.
global_asm!(
    r#"
    .macro save_and_handle kind
    .balign 128
    sub     sp, sp, #288
    stp     x0, x1, [sp]
    mov     x0, #\kind
    b       guest_store_frame
    .endm

    .pushsection .text.guest_vectors, "ax"
    .balign 2048
    .global guest_vectors
guest_vectors:
    .rept 4
    save_and_handle 0
    save_and_handle 1
    save_and_handle 2
    save_and_handle 3
    .endr

guest_store_frame:
    stp     x2, x3, [sp, #16]
    stp     x4, x5, [sp, #32]
    stp     x6, x7, [sp, #48]
    stp     x8, x9, [sp, #64]
    stp     x10, x11, [sp, #80]
    stp     x12, x13, [sp, #96]
    stp     x14, x15, [sp, #112]
    stp     x16, x17, [sp, #128]
    stp     x18, x19, [sp, #144]
    stp     x20, x21, [sp, #160]
    stp     x22, x23, [sp, #176]
    stp     x24, x25, [sp, #192]
    stp     x26, x27, [sp, #208]
    stp     x28, x29, [sp, #224]
    mrs     x1, elr_el1
    stp     x30, x1, [sp, #240]
    mrs     x1, spsr_el1
    mrs     x2, esr_el1
    stp     x1, x2, [sp, #256]
    mrs     x1, far_el1
    str     x1, [sp, #272]
    mov     x1, sp
    bl      guest_take_exception
    ldp     x30, x1, [sp, #240]
    msr     elr_el1, x1
    ldr     x1, [sp, #256]
    msr     spsr_el1, x1
    ldp     x28, x29, [sp, #224]
    ldp     x26, x27, [sp, #208]
    ldp     x24, x25, [sp, #192]
    ldp     x22, x23, [sp, #176]
    ldp     x20, x21, [sp, #160]
    ldp     x18, x19, [sp, #144]
    ldp     x16, x17, [sp, #128]
    ldp     x14, x15, [sp, #112]
    ldp     x12, x13, [sp, #96]
    ldp     x10, x11, [sp, #80]
    ldp     x8, x9, [sp, #64]
    ldp     x6, x7, [sp, #48]
    ldp     x4, x5, [sp, #32]
    ldp     x2, x3, [sp, #16]
    ldp     x0, x1, [sp], #16
    add     sp, sp, #272
    eret
    .popsection
"#
);
