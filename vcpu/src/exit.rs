//! Why a guest stopped: one type for everything that a guest can cause.

/// An exit, decoded. Interrupts and lazy FP never get this far: `Aarch64PerCpu` answers them itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Exit {
    /// `hvc #immediate` or `smc #immediate`.
    Call(Call),
    /// An access to a trapped system register.
    SystemRegister(SystemRegisterAccess),
    /// A load or store that stage 2 refused and that the syndrome describes (ISV=1).
    Mmio(MmioAccess),
    /// A data abort from stage 2 that the syndrome does not describe (ISV=0, cache maintenance, table walks).
    DataAbort(Abort),
    /// An instruction fetch that stage 2 refused.
    InstructionAbort(Abort),
    /// WFI, WFE, WFIT or WFET.
    Wait(WaitKind),
    /// A physical SError taken while the guest ran.
    SError {
        /// ESR_EL2 as the hardware left it.
        esr: u64,
    },
    /// An AArch32 instruction that trapped although its condition fails: it does nothing. Of the class of [`Exit::Other`].
    ConditionFailed,
    /// Any other exception class. [DDI0487: ESR_EL2.EC]
    Other {
        /// The exception class, 6 bits.
        class: u8,
        /// ESR_EL2 as the hardware left it.
        esr: u64,
    },
}

/// The instruction with which a guest calls its hypervisor.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Conduit {
    /// `hvc`.
    Hvc,
    /// `smc`, trapped by HCR_EL2.TSC.
    Smc,
}

/// A call to the hypervisor; the function number is in x0 when `immediate` is 0. [DEN0028: SMCCC]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Call {
    /// Which instruction.
    pub conduit: Conduit,
    /// Its 16-bit immediate.
    pub immediate: u16,
}

/// A system register's encoding: op0, op1, CRn, CRm, op2.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SystemRegister(u16);

impl SystemRegister {
    /// The register S`op0`_`op1`_C`crn`_C`crm`_`op2`; bits beyond each field's width are dropped.
    pub const fn new(op0: u8, op1: u8, crn: u8, crm: u8, op2: u8) -> Self {
        let (op0, op1, crn) = (op0 as u16 & 3, op1 as u16 & 7, crn as u16 & 15);
        Self(op0 << 14 | op1 << 11 | crn << 7 | (crm as u16 & 15) << 3 | op2 as u16 & 7)
    }

    /// op0 in bits 15:14, op1 in 13:11, CRn in 10:7, CRm in 6:3, op2 in 2:0, as in MRS and MSR.
    pub const fn bits(self) -> u16 {
        self.0
    }
}

/// Which way a value moves.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Direction {
    /// From the register or device to the guest.
    Read,
    /// From the guest: the value is here.
    Write(u64),
}

/// A trapped MRS, MSR or SYS.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SystemRegisterAccess {
    /// Which register.
    pub register: SystemRegister,
    /// The general register, 31 for XZR.
    pub rt: u8,
    /// Which way, with the value of a write.
    pub direction: Direction,
}

/// A load or store to an address that stage 2 does not map.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct MmioAccess {
    /// The intermediate physical address.
    pub address: u64,
    /// The width in bytes: 1, 2, 4 or 8.
    pub width: u8,
    /// Which way, with the value of a write (zero-extended from `width`).
    pub direction: Direction,
    /// The general register, 31 for XZR.
    pub rt: u8,
    /// A read is sign-extended from `width`.
    pub sign_extend: bool,
    /// The register is 64 bits wide (X, not W).
    pub is_64bit: bool,
}

/// An abort that is not a plain load or store.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Abort {
    /// ESR_EL2 as the hardware left it.
    pub esr: u64,
    /// The virtual address, if the hardware knows it.
    pub virtual_address: Option<u64>,
    /// The intermediate physical address, if the hardware knows it.
    pub address: Option<u64>,
    /// The access was a walk of the guest's own tables. [DDI0487: ESR_EL2.ISS.S1PTW]
    pub is_table_walk: bool,
}

/// Which wait instruction.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum WaitKind {
    /// `wfi`.
    Interrupt,
    /// `wfe`.
    Event,
    /// `wfit`, with its deadline as a value of CNTVCT_EL0.
    InterruptUntil(u64),
    /// `wfet`, with its deadline as a value of CNTVCT_EL0.
    EventUntil(u64),
}
