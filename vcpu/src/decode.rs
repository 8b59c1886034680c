//! What ESR_EL2 says: from the syndrome of an exit to an [`Exit`], and from its answer to the guest's registers.
//!
//! Pure and on the path of every exit: a call costs a few instructions, and the fault address registers are read only
//! for an abort. The bits' places are in `syndrome`; what an exit means is the handlers' business.

use crate::aarch32::{advance_if_then, has_failed_condition, is_aarch32};
use crate::exit::{
    Abort, Call, Conduit, Direction, Exit, MmioAccess, SystemRegister, SystemRegisterAccess,
    WaitKind,
};
use crate::frame::TrapFrame;
use crate::syndrome::{self as esr_field, class, fault_kind};

/// SPSR_EL2.E, in AArch32 state: data is big-endian.
const SPSR_BIG_ENDIAN: u64 = 1 << 9;
/// SPSR_EL2.M\[3:2\], in AArch64 state: the exception level.
const SPSR_EXCEPTION_LEVEL: u64 = 0b11 << 2;
/// SCTLR_EL1.E0E: data is big-endian at EL0.
const SCTLR_E0E: u64 = 1 << 24;
/// SCTLR_EL1.EE: data is big-endian at EL1.
const SCTLR_EE: u64 = 1 << 25;
/// SPSR_EL2.BTYPE, in AArch64 state.
const SPSR_BRANCH_TYPE: u64 = 0b11 << 10;
/// SPSR_EL2.SS, software step.
const SPSR_STEP: u64 = 1 << 21;
/// TI of a WFIT; a WFET has both bits. [DDI0487: ESR_EL2, ISS for a WF* instruction]
const WAIT_WITH_TIMEOUT: u64 = 0b10;

/// The fault address registers of the exit that is being decoded. Read only for aborts.
pub trait FaultAddresses {
    /// FAR_EL2: the virtual address.
    fn far(&self) -> u64;
    /// HPFAR_EL2: the page of the intermediate physical address.
    fn hpfar(&self) -> u64;
    /// The intermediate physical address of `virtual_address` by the guest's own tables, for the faults that leave
    /// HPFAR_EL2 UNKNOWN; `None` if it has none. [DDI0487: HPFAR_EL2, AT S1E1R]
    fn translate(&self, virtual_address: u64) -> Option<u64>;
    /// SCTLR_EL1: how the guest's data lies in memory. Read only for an access that moves data.
    fn system_control(&self) -> u64;
}

/// Decodes the synchronous exception or SError that ended `run_guest`.
///
/// `esr` is ESR_EL2 and `frame` is as the exit saved it.
#[inline]
pub fn decode(frame: &TrapFrame, esr: u64, fault: &impl FaultAddresses) -> Exit {
    match esr_field::CLASS.of(esr) {
        class::HVC64 => call(Conduit::Hvc, esr),
        class::SMC64 => call(Conduit::Smc, esr),
        class::SYSTEM_REGISTER => system_register(frame, esr),
        class::WAIT if has_failed_condition(frame.spsr, esr) => Exit::ConditionFailed,
        class::WAIT => Exit::Wait(wait(frame, esr)),
        class::DATA_ABORT_LOWER => data_abort(frame, esr, fault),
        class::INSTRUCTION_ABORT_LOWER => Exit::InstructionAbort(abort(esr, fault)),
        class::SERROR => Exit::SError { esr },
        class => other(frame, class as u8, esr),
    }
}

#[cold]
fn other(frame: &TrapFrame, class: u8, esr: u64) -> Exit {
    if has_failed_condition(frame.spsr, esr) {
        Exit::ConditionFailed
    } else {
        Exit::Other { class, esr }
    }
}

#[inline]
fn call(conduit: Conduit, esr: u64) -> Exit {
    let immediate = esr_field::IMMEDIATE.of(esr) as u16;
    Exit::Call(Call { conduit, immediate })
}

fn system_register(frame: &TrapFrame, esr: u64) -> Exit {
    let rt = esr_field::RT.of(esr) as u8;
    let register = SystemRegister::new(
        esr_field::OP0.of(esr) as u8,
        esr_field::OP1.of(esr) as u8,
        esr_field::CRN.of(esr) as u8,
        esr_field::CRM.of(esr) as u8,
        esr_field::OP2.of(esr) as u8,
    );
    let direction = if esr_field::IS_SYSTEM_READ.is_set(esr) {
        Direction::Read
    } else {
        Direction::Write(frame.gpr(rt))
    };
    Exit::SystemRegister(SystemRegisterAccess {
        register,
        rt,
        direction,
    })
}

fn wait(frame: &TrapFrame, esr: u64) -> WaitKind {
    let instruction = esr_field::WAIT_INSTRUCTION.of(esr);
    let is_event = instruction & 1 != 0;
    if instruction & WAIT_WITH_TIMEOUT == 0 {
        return if is_event {
            WaitKind::Event
        } else {
            WaitKind::Interrupt
        };
    }
    let deadline = frame.gpr(esr_field::WAIT_REGISTER.of(esr) as u8);
    if is_event {
        WaitKind::EventUntil(deadline)
    } else {
        WaitKind::InterruptUntil(deadline)
    }
}

fn data_abort(frame: &TrapFrame, esr: u64, fault: &impl FaultAddresses) -> Exit {
    let abort = abort(esr, fault);
    let is_plain = esr_field::IS_DESCRIBED.is_set(esr)
        && !esr_field::IS_CACHE_MAINTENANCE.is_set(esr)
        && !abort.is_table_walk;
    let Some(address) = abort.address.filter(|_| is_plain) else {
        return Exit::DataAbort(abort);
    };
    let width = 1u8 << esr_field::ACCESS_SIZE.of(esr);
    let rt = esr_field::TRANSFER_REGISTER.of(esr) as u8;
    let direction = if esr_field::IS_WRITE.is_set(esr) {
        let value = frame.gpr(rt);
        Direction::Write(if is_big_endian(frame.spsr, fault.system_control()) {
            swap_bytes(value, width)
        } else {
            value & width_mask(width)
        })
    } else {
        Direction::Read
    };
    Exit::Mmio(MmioAccess {
        address,
        width,
        direction,
        rt,
        sign_extend: esr_field::SIGN_EXTEND.is_set(esr),
        is_64bit: esr_field::IS_64BIT_REGISTER.is_set(esr),
    })
}

/// The addresses of an abort, each only where the hardware defines it.
fn abort(esr: u64, fault: &impl FaultAddresses) -> Abort {
    let is_table_walk = esr_field::IS_TABLE_WALK.is_set(esr);
    let kind = esr_field::FAULT_KIND.of(esr);
    let is_stage2 = matches!(
        kind,
        fault_kind::ADDRESS_SIZE
            | fault_kind::TRANSLATION
            | fault_kind::ACCESS_FLAG
            | fault_kind::PERMISSION
    );
    // FnV means something for external aborts only; elsewhere it is zero.
    let virtual_address = (!esr_field::IS_FAR_INVALID.is_set(esr)).then(|| fault.far());
    let page = || esr_field::FAULT_PAGE.of(fault.hpfar()) << 12;
    let address = match virtual_address {
        _ if !is_stage2 => None,
        // FAR_EL2 is the address that the guest wanted, not the one in its tables.
        _ if is_table_walk => Some(page()),
        Some(far) if kind == fault_kind::PERMISSION => fault.translate(far),
        Some(far) => Some(page() | far & 0xfff),
        None => None,
    };
    Abort {
        esr,
        virtual_address,
        address,
        is_table_walk,
    }
}

const fn width_mask(width: u8) -> u64 {
    u64::MAX >> (64 - 8 * width as u32)
}

/// Data of the code with this PSTATE lies in memory with its most significant byte first. [DDI0487: BigEndian]
#[inline]
pub(crate) const fn is_big_endian(spsr: u64, system_control: u64) -> bool {
    if is_aarch32(spsr) {
        spsr & SPSR_BIG_ENDIAN != 0
    } else if spsr & SPSR_EXCEPTION_LEVEL == 0 {
        system_control & SCTLR_E0E != 0
    } else {
        system_control & SCTLR_EE != 0
    }
}

/// The low `width` bytes of `value` in the opposite order, and zeros above; `width` is 1 to 8.
#[cold]
pub(crate) const fn swap_bytes(value: u64, width: u8) -> u64 {
    value.swap_bytes() >> (64 - 8 * width as u32)
}

/// Puts the answer of an MMIO read into the guest's register, extended as the load asks.
pub fn complete_read(frame: &mut TrapFrame, access: &MmioAccess, value: u64) {
    let narrow = value & width_mask(access.width);
    let unused = 64 - 8 * u32::from(access.width);
    let extended = if access.sign_extend {
        ((narrow << unused) as i64 >> unused) as u64
    } else {
        narrow
    };
    let register_mask = if access.is_64bit {
        u64::MAX
    } else {
        u64::from(u32::MAX)
    };
    frame.set_gpr(access.rt, extended & register_mask);
}

/// Puts the value that a handler answered a read with into the guest's register; an exit that reads nothing ignores it.
///
/// What a device answers is as the bus carries it; `fault` tells how the guest's data lies there.
#[inline]
pub fn finish_read(frame: &mut TrapFrame, exit: &Exit, value: u64, fault: &impl FaultAddresses) {
    match exit {
        Exit::Mmio(access) if is_big_endian(frame.spsr, fault.system_control()) => {
            complete_read(frame, access, swap_bytes(value, access.width));
        }
        Exit::Mmio(access) => complete_read(frame, access, value),
        Exit::SystemRegister(access) => frame.set_gpr(access.rt, value),
        _ => {}
    }
}

/// `esr` is that of an FP or SIMD instruction that CPTR_EL2.TFP trapped.
#[inline]
pub fn is_fp_trap(esr: u64) -> bool {
    esr_field::CLASS.of(esr) == class::FLOATING_POINT
}

/// Moves the guest past the instruction that caused `exit`, as if it had run.
///
/// `esr` is ESR_EL2 of the exit. An HVC leaves ELR_EL2 after the HVC already, and an SError belongs to no instruction.
/// [DDI0487: Preferred exception return address]
#[inline]
pub fn step_over(frame: &mut TrapFrame, exit: &Exit, esr: u64) {
    let is_hvc = matches!(exit, Exit::Call(call) if call.conduit == Conduit::Hvc);
    if is_hvc || matches!(exit, Exit::SError { .. }) {
        return;
    }
    let length = if esr_field::IS_32BIT_INSTRUCTION.is_set(esr) {
        4
    } else {
        2
    };
    frame.elr = frame.elr.wrapping_add(length);
    if is_aarch32(frame.spsr) {
        frame.spsr = advance_if_then(frame.spsr);
    } else {
        frame.spsr &= !SPSR_BRANCH_TYPE;
    }
    frame.spsr &= !SPSR_STEP;
}

/// Moves the guest back to the instruction that caused `exit`, so that it runs again. Only an HVC is behind it already.
#[inline]
pub fn rewind(frame: &mut TrapFrame, exit: &Exit) {
    const HVC_LENGTH: u64 = 4;
    if matches!(exit, Exit::Call(call) if call.conduit == Conduit::Hvc) {
        frame.elr = frame.elr.wrapping_sub(HVC_LENGTH);
        // It counted as a step already. Where software step is off, SS is ignored. [DDI0487: SSAdvance; SPSR_EL2.SS]
        frame.spsr |= SPSR_STEP;
    }
}

/// The kinds of exit that tables and counters are indexed by.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum ExitClass {
    /// `hvc`.
    Hvc,
    /// `smc`.
    Smc,
    /// A trapped MRS, MSR or SYS.
    SystemRegister,
    /// A described load or store.
    Mmio,
    /// A data abort that is not described.
    DataAbort,
    /// A refused instruction fetch.
    InstructionAbort,
    /// WFI or WFIT.
    WaitInterrupt,
    /// WFE or WFET.
    WaitEvent,
    /// A physical SError.
    SError,
    /// Any other exception class.
    Other,
    /// A physical interrupt. No [`Exit`] has this class: `Aarch64PerCpu` answers and counts it.
    Interrupt,
    /// The first use of FP after a switch. No [`Exit`] has this class: `Aarch64PerCpu` answers and counts it.
    FloatingPoint,
}

impl ExitClass {
    /// All classes, each at its own index.
    pub const ALL: [Self; 12] = [
        Self::Hvc,
        Self::Smc,
        Self::SystemRegister,
        Self::Mmio,
        Self::DataAbort,
        Self::InstructionAbort,
        Self::WaitInterrupt,
        Self::WaitEvent,
        Self::SError,
        Self::Other,
        Self::Interrupt,
        Self::FloatingPoint,
    ];

    /// How many classes there are.
    pub const COUNT: usize = Self::ALL.len();

    /// The class's place in a table of [`ExitClass::COUNT`].
    #[inline]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// A short name for tables and traces.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hvc => "hvc",
            Self::Smc => "smc",
            Self::SystemRegister => "sysreg",
            Self::Mmio => "mmio",
            Self::DataAbort => "data abort",
            Self::InstructionAbort => "instruction abort",
            Self::WaitInterrupt => "wfi",
            Self::WaitEvent => "wfe",
            Self::SError => "serror",
            Self::Other => "other",
            Self::Interrupt => "interrupt",
            Self::FloatingPoint => "fp",
        }
    }
}

impl Exit {
    /// The kind of this exit.
    #[inline]
    pub const fn class(&self) -> ExitClass {
        match self {
            Self::Call(Call {
                conduit: Conduit::Hvc,
                ..
            }) => ExitClass::Hvc,
            Self::Call(_) => ExitClass::Smc,
            Self::SystemRegister(_) => ExitClass::SystemRegister,
            Self::Mmio(_) => ExitClass::Mmio,
            Self::DataAbort(_) => ExitClass::DataAbort,
            Self::InstructionAbort(_) => ExitClass::InstructionAbort,
            Self::Wait(WaitKind::Interrupt | WaitKind::InterruptUntil(_)) => {
                ExitClass::WaitInterrupt
            }
            Self::Wait(_) => ExitClass::WaitEvent,
            Self::SError { .. } => ExitClass::SError,
            Self::ConditionFailed | Self::Other { .. } => ExitClass::Other,
        }
    }
}

#[cfg(test)]
mod tests;
