//! What the hardware says about a fault, and how a guest takes one.

use aarch64_cpu::registers::{
    ELR_EL1, ESR_EL1, ESR_EL2, FAR_EL1, FAR_EL2, HPFAR_EL2, PAR_EL1, Readable, SCTLR_EL1, SPSR_EL1,
    VBAR_EL1, Writeable,
};

use super::switch::synchronize_context;
use crate::action::GuestFault;
use crate::decode::FaultAddresses;
use crate::frame::TrapFrame;
use crate::inject::{self, FaultContext, Injection};

/// ESR_EL2 of the exit that just happened.
#[inline]
pub(crate) fn syndrome() -> u64 {
    ESR_EL2.get()
}

/// FAR_EL2 of the exit that just happened.
pub(crate) fn address() -> u64 {
    FAR_EL2.get()
}

/// The stack pointer of the bound guest's code with this PSTATE. [DDI0487: SPSR_EL2.M]
pub(crate) fn stack_pointer(spsr: u64) -> u64 {
    if uses_sp_el1(spsr) {
        read_sysreg!("sp_el1")
    } else {
        read_sysreg!("sp_el0")
    }
}

/// Moves the stack pointer of the bound guest's code with this PSTATE.
pub(crate) fn set_stack_pointer(spsr: u64, value: u64) {
    if uses_sp_el1(spsr) {
        write_sysreg!("sp_el1", value);
    } else {
        write_sysreg!("sp_el0", value);
    }
}

/// EL1 with a stack pointer of its own: EL1h. EL1t and EL0 use SP_EL0.
const fn uses_sp_el1(spsr: u64) -> bool {
    spsr & 0b1_1111 == 0b0_0101
}

/// The fault address registers of the exit that just happened.
pub(crate) struct HardwareAddresses;

impl FaultAddresses for HardwareAddresses {
    fn far(&self) -> u64 {
        FAR_EL2.get()
    }

    fn hpfar(&self) -> u64 {
        HPFAR_EL2.get()
    }

    fn system_control(&self) -> u64 {
        SCTLR_EL1.get()
    }

    fn translate(&self, virtual_address: u64) -> Option<u64> {
        translate_as(virtual_address, false, false)
    }
}

/// Where the bound guest's own tables lead an access to `virtual_address` by EL0, else by EL1, that writes or reads; `None`: the
/// guest may not make it.
pub(super) fn translate_as(virtual_address: u64, is_el0: bool, is_store: bool) -> Option<u64> {
    macro_rules! translate {
        ($operation:literal) => {
            // SAFETY: AT only writes PAR_EL1, which is put back below; the walk uses the bound guest's own tables.
            unsafe { core::arch::asm!(concat!("at ", $operation, ", {}"), in(reg) virtual_address, options(nostack, preserves_flags)) }
        };
    }
    // PAR_EL1 is the guest's: it may sit between its own AT and the read of the answer.
    let guest_par = PAR_EL1.get();
    match (is_el0, is_store) {
        (false, false) => translate!("s1e1r"),
        (false, true) => translate!("s1e1w"),
        (true, false) => translate!("s1e0r"),
        (true, true) => translate!("s1e0w"),
    }
    synchronize_context();
    let answer = PAR_EL1.get();
    PAR_EL1.set(guest_par);
    // [DDI0487: PAR_EL1.F, PAR_EL1.PA]
    let has_failed = answer & 1 != 0;
    (!has_failed).then_some(answer & 0x000f_ffff_ffff_f000 | virtual_address & 0xfff)
}

/// Makes the bound guest take `fault`. `false`: it is an SError, which the caller makes pending.
pub(crate) fn inject(frame: &mut TrapFrame, fault: GuestFault, esr: u64, far: u64) -> bool {
    let context = FaultContext {
        esr,
        far,
        vector_base: VBAR_EL1.get(),
        system_control: SCTLR_EL1.get(),
    };
    let Injection::Taken(registers) = inject::inject(frame, fault, &context) else {
        return false;
    };
    ELR_EL1.set(registers.elr);
    SPSR_EL1.set(registers.spsr);
    ESR_EL1.set(registers.esr);
    if let Some(far) = registers.far {
        FAR_EL1.set(far);
    }
    true
}
