//! How a guest takes an exception that its hypervisor decided on: the registers at the first instruction of the vector.
//!
//! Pure: the caller reads and writes the EL1 registers. [DDI0487: AArch64.TakeException]
//!
//! ```text
//! SPSR_EL2 -> SPSR_EL1     ELR_EL2 -> ELR_EL1     EL1h, DAIF masked -> SPSR_EL2     VBAR_EL1 + slot -> ELR_EL2
//! ```

use crate::action::GuestFault;
use crate::frame::TrapFrame;
use crate::syndrome::{self as esr_field, class};

/// What the hardware says about the exit and about EL1, read by the pCPU that has the vCPU bound.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FaultContext {
    /// ESR_EL2 of the exit.
    pub esr: u64,
    /// FAR_EL2 of the exit; used only if the exit is an abort that defines it.
    pub far: u64,
    /// VBAR_EL1.
    pub vector_base: u64,
    /// SCTLR_EL1.
    pub system_control: u64,
}

/// What the caller does to make the guest take the exception.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use]
pub enum Injection {
    /// The frame enters the vector: write these registers before the guest runs.
    Taken(ExceptionRegisters),
    /// The frame is unchanged: make a virtual SError pending, which the hardware delivers once PSTATE.A allows it.
    /// [DDI0487: HCR_EL2.VSE]
    PendSError,
}

/// The EL1 registers that tell the guest what happened.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ExceptionRegisters {
    /// ELR_EL1: the instruction that faulted.
    pub elr: u64,
    /// SPSR_EL1: PSTATE of the instruction that faulted.
    pub spsr: u64,
    /// ESR_EL1.
    pub esr: u64,
    /// FAR_EL1; `None` leaves it as it is, which the syndrome allows.
    pub far: Option<u64>,
}

/// Bits of a saved PSTATE. [DDI0487: SPSR_EL1, SPSR_EL2]
mod pstate {
    pub(super) const EL1H: u64 = 0b0101;
    pub(super) const USES_SP_ELX: u64 = 1;
    pub(super) const EXCEPTION_LEVEL: u64 = 0b11 << 2;
    pub(super) const IS_AARCH32: u64 = 1 << 4;
    pub(super) const DAIF: u64 = 0b1111 << 6;
    pub(super) const SSBS: u64 = 1 << 12;
    pub(super) const PAN: u64 = 1 << 22;
    pub(super) const DIT: u64 = 1 << 24;
    pub(super) const NZCV: u64 = 0b1111 << 28;
}

/// SCTLR_EL1.SPAN: PAN keeps its value on exceptions to EL1.
const SCTLR_SPAN: u64 = 1 << 23;
/// SCTLR_EL1.DSSBS: the value of SSBS on exceptions to EL1.
const SCTLR_DSSBS: u64 = 1 << 44;
/// VBAR_EL1\[10:0\] are RES0.
const VECTOR_ALIGNMENT: u64 = 0x800;

/// Makes the guest take `fault` at EL1, at the instruction that exited.
///
/// `frame` is as the exit left it: call it instead of [`crate::decode::step_over`], never after it.
pub fn inject(frame: &mut TrapFrame, fault: GuestFault, context: &FaultContext) -> Injection {
    let (esr, far) = match fault {
        GuestFault::Undefined => (syndrome(class::UNKNOWN, 0), None),
        GuestFault::ExternalAbort => external_abort(frame.spsr, context),
        GuestFault::SError => return Injection::PendSError,
    };
    let registers = ExceptionRegisters {
        elr: instruction_address(frame.elr, context.esr),
        spsr: frame.spsr,
        esr,
        far,
    };
    frame.elr =
        (context.vector_base & !(VECTOR_ALIGNMENT - 1)).wrapping_add(synchronous_slot(frame.spsr));
    frame.spsr = handler_pstate(frame.spsr, context.system_control);
    Injection::Taken(registers)
}

/// A syndrome of a fault: IL is one for all of them.
const fn syndrome(class: u64, iss: u64) -> u64 {
    esr_field::CLASS.place(class) | esr_field::IS_32BIT_INSTRUCTION.place(1) | iss
}

/// ESR_EL1 and FAR_EL1 of a synchronous external abort of the access that exited.
///
/// Whether the guest's table walk aborted, it cannot be told: the syndrome has the level of stage 2 only.
fn external_abort(spsr: u64, context: &FaultContext) -> (u64, Option<u64>) {
    let from_el1 = is_from_el1(spsr);
    let status = esr_field::FAULT_STATUS.place(esr_field::EXTERNAL_ABORT);
    let exit_class = esr_field::CLASS.of(context.esr);
    let is_instruction = exit_class == class::INSTRUCTION_ABORT_LOWER;
    let is_data = exit_class == class::DATA_ABORT_LOWER;
    let class = match (is_instruction, from_el1) {
        (true, true) => class::INSTRUCTION_ABORT_SAME,
        (true, false) => class::INSTRUCTION_ABORT_LOWER,
        (false, true) => class::DATA_ABORT_SAME,
        (false, false) => class::DATA_ABORT_LOWER,
    };
    let knows_far = (is_instruction || is_data) && !esr_field::IS_FAR_INVALID.is_set(context.esr);
    let mut iss = status | esr_field::IS_FAR_INVALID.place(u64::from(!knows_far));
    if is_data {
        for copied in [esr_field::IS_WRITE, esr_field::IS_CACHE_MAINTENANCE] {
            iss |= copied.place(copied.of(context.esr));
        }
    }
    (syndrome(class, iss), knows_far.then_some(context.far))
}

/// Where the instruction that exited is: an HVC alone leaves ELR_EL2 after itself.
fn instruction_address(elr: u64, esr: u64) -> u64 {
    if esr_field::CLASS.of(esr) == class::HVC64 {
        elr.wrapping_sub(4)
    } else {
        elr
    }
}

const fn is_from_el1(spsr: u64) -> bool {
    spsr & pstate::IS_AARCH32 == 0 && spsr & pstate::EXCEPTION_LEVEL != 0
}

/// The vector's offset for a synchronous exception. [DDI0487: Exception vectors]
const fn synchronous_slot(spsr: u64) -> u64 {
    if spsr & pstate::IS_AARCH32 != 0 {
        0x600
    } else if !is_from_el1(spsr) {
        0x400
    } else if spsr & pstate::USES_SP_ELX != 0 {
        0x200
    } else {
        0x000
    }
}

/// PSTATE at the vector: flags and DIT stay; UAO, SS, IL, BTYPE become zero.
///
/// TCO and ALLINT become zero too, because our guests see neither MTE nor NMI.
const fn handler_pstate(old: u64, system_control: u64) -> u64 {
    let mut new = old & (pstate::NZCV | pstate::DIT | pstate::PAN) | pstate::DAIF | pstate::EL1H;
    // Without FEAT_PAN, SPAN is RES1.
    if system_control & SCTLR_SPAN == 0 {
        new |= pstate::PAN;
    }
    if system_control & SCTLR_DSSBS != 0 {
        new |= pstate::SSBS;
    }
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    const EL0: u64 = 0b0000;
    const EL1T: u64 = 0b0100;
    const EL1H: u64 = 0b0101;
    const AARCH32_USER: u64 = 0b1_0000;
    const DAIF: u64 = 0x3c0;
    const IL: u64 = 1 << 25;

    fn frame(elr: u64, spsr: u64) -> TrapFrame {
        let mut frame = TrapFrame::default();
        (frame.elr, frame.spsr) = (elr, spsr);
        frame
    }

    fn context(class: u64, iss: u64) -> FaultContext {
        FaultContext {
            esr: class << 26 | IL | iss,
            far: 0xffff_0000_dead_b000,
            vector_base: 0xffff_8000_0001_0800,
            system_control: SCTLR_SPAN,
        }
    }

    fn taken(
        frame: &mut TrapFrame,
        fault: GuestFault,
        context: &FaultContext,
    ) -> ExceptionRegisters {
        match inject(frame, fault, context) {
            Injection::Taken(registers) => registers,
            Injection::PendSError => panic!("{fault:?} is synchronous"),
        }
    }

    #[test]
    fn the_vector_depends_on_where_the_guest_was() {
        for (spsr, offset) in [
            (EL1T, 0x000),
            (EL1H, 0x200),
            (EL0, 0x400),
            (AARCH32_USER, 0x600),
        ] {
            let mut frame = frame(0x1000, spsr);
            let context = context(0x18, 0);
            let registers = taken(&mut frame, GuestFault::Undefined, &context);
            assert_eq!(frame.elr, 0xffff_8000_0001_0800 + offset);
            assert_eq!(frame.spsr, DAIF | EL1H);
            assert_eq!((registers.elr, registers.spsr), (0x1000, spsr));
            assert_eq!((registers.esr, registers.far), (IL, None));
        }
    }

    #[test]
    fn an_undefined_hvc_faults_at_the_hvc() {
        let mut frame = frame(0x1004, EL1H);
        let registers = taken(&mut frame, GuestFault::Undefined, &context(0x16, 0));
        assert_eq!(registers.elr, 0x1000);
        let mut wrapped = self::frame(0, EL1H);
        let registers = taken(&mut wrapped, GuestFault::Undefined, &context(0x16, 0));
        assert_eq!(registers.elr, u64::MAX - 3);
    }

    #[test]
    fn pstate_keeps_what_an_exception_keeps() {
        let (nzcv, dit, pan) = (0b1010 << 28, 1 << 24, 1 << 22);
        let (uao, step, illegal, branch_type, ssbs) = (1 << 23, 1 << 21, 1 << 20, 3 << 10, 1 << 12);
        let old = EL0 | nzcv | dit | pan | uao | step | illegal | branch_type | ssbs;
        let mut frame = frame(0, old);
        let registers = taken(&mut frame, GuestFault::Undefined, &context(0x18, 0));
        assert_eq!(frame.spsr, DAIF | EL1H | nzcv | dit | pan);
        assert_eq!(registers.spsr, old);
    }

    #[test]
    fn sctlr_decides_on_pan_and_ssbs() {
        let mut frame = frame(0, EL1H);
        let context = FaultContext {
            system_control: SCTLR_DSSBS,
            ..context(0x18, 0)
        };
        let _ = taken(&mut frame, GuestFault::Undefined, &context);
        assert_eq!(frame.spsr, DAIF | EL1H | 1 << 22 | 1 << 12);
    }

    #[test]
    fn an_aarch32_pstate_leaves_no_trace_in_the_handlers() {
        let (if_then, thumb, greater_equal) = (3 << 25 | 0x3f << 10, 1 << 5, 0xf << 16);
        let mut frame = frame(0, AARCH32_USER | if_then | thumb | greater_equal);
        let _ = taken(&mut frame, GuestFault::Undefined, &context(0x03, 0));
        assert_eq!(frame.spsr, DAIF | EL1H);
    }

    #[test]
    fn a_refused_access_is_an_external_abort_with_its_address() {
        let (write, cache) = (1 << 6, 1 << 8);
        #[rustfmt::skip] // read by column
        let cases = [
            // from, exit class, its ISS, ESR_EL1 class, ESR_EL1 ISS
            (EL1H, 0x24, 0b000111 | write,         0x25, 0x10 | write),
            (EL0,  0x24, 0b000111,                 0x24, 0x10),
            (EL0,  0x24, 0b000111 | write | cache, 0x24, 0x10 | write | cache),
            (EL1T, 0x20, 0b000110,                 0x21, 0x10),
            (EL0,  0x20, 0b000110,                 0x20, 0x10),
        ];
        for (spsr, class, iss, expected_class, expected_iss) in cases {
            let mut frame = frame(0x2000, spsr);
            let context = context(class, iss);
            let registers = taken(&mut frame, GuestFault::ExternalAbort, &context);
            assert_eq!(registers.esr, expected_class << 26 | IL | expected_iss);
            assert_eq!(registers.far, Some(context.far));
            assert_eq!(registers.elr, 0x2000);
        }
    }

    #[test]
    fn an_abort_without_an_address_says_so() {
        let far_invalid = 1 << 10;
        for context in [context(0x24, far_invalid | 0x10), context(0x18, 0)] {
            let mut frame = frame(0, EL1H);
            let registers = taken(&mut frame, GuestFault::ExternalAbort, &context);
            assert_eq!(registers.esr, 0x25 << 26 | IL | far_invalid | 0x10);
            assert_eq!(registers.far, None);
        }
    }

    #[test]
    fn an_serror_waits_for_the_hardware() {
        let mut frame = frame(0x3000, EL1H);
        let before = frame.clone();
        let injection = inject(&mut frame, GuestFault::SError, &context(0x24, 0));
        assert_eq!(injection, Injection::PendSError);
        assert_eq!(frame, before);
    }
}
