//! Where the fields of an exception syndrome are: the one table behind decoding and injection.
//!
//! [DDI0487: ESR_EL2, ESR_EL1; ISS encodings are named at their group]

/// A field of a 64-bit register, by its first and last bit.
#[derive(Clone, Copy)]
pub(crate) struct Field {
    low: u32,
    mask: u64,
}

impl Field {
    const fn bits(high: u32, low: u32) -> Self {
        Self {
            low,
            mask: u64::MAX >> (63 - (high - low)),
        }
    }

    const fn bit(position: u32) -> Self {
        Self::bits(position, position)
    }

    /// The field's value in `register`.
    #[inline]
    pub(crate) const fn of(self, register: u64) -> u64 {
        register >> self.low & self.mask
    }

    /// The field is not zero in `register`.
    #[inline]
    pub(crate) const fn is_set(self, register: u64) -> bool {
        self.of(register) != 0
    }

    /// `value` at the field's place; bits beyond its width are dropped.
    pub(crate) const fn place(self, value: u64) -> u64 {
        (value & self.mask) << self.low
    }
}

#[rustfmt::skip] // read by column
mod layout {
    use super::Field;

    // Every class.
    pub(crate) const CLASS: Field                  = Field::bits(31, 26); // EC
    pub(crate) const IS_32BIT_INSTRUCTION: Field   = Field::bit(25);      // IL
    // HVC, SMC.
    pub(crate) const IMMEDIATE: Field              = Field::bits(15, 0);  // imm16
    // Trapped AArch32 instructions.
    pub(crate) const IS_CONDITION_VALID: Field     = Field::bit(24);      // CV
    pub(crate) const CONDITION: Field              = Field::bits(23, 20); // COND
    // Trapped MSR, MRS or System instruction.
    pub(crate) const OP0: Field                    = Field::bits(21, 20);
    pub(crate) const OP2: Field                    = Field::bits(19, 17);
    pub(crate) const OP1: Field                    = Field::bits(16, 14);
    pub(crate) const CRN: Field                    = Field::bits(13, 10);
    pub(crate) const RT: Field                     = Field::bits(9, 5);
    pub(crate) const CRM: Field                    = Field::bits(4, 1);
    pub(crate) const IS_SYSTEM_READ: Field         = Field::bit(0);       // Direction
    // WFI, WFE, WFIT, WFET.
    pub(crate) const WAIT_REGISTER: Field          = Field::bits(9, 5);   // RN
    pub(crate) const WAIT_INSTRUCTION: Field       = Field::bits(1, 0);   // TI
    // Data Abort; FnV, S1PTW and the fault status also Instruction Abort.
    pub(crate) const IS_DESCRIBED: Field           = Field::bit(24);      // ISV
    pub(crate) const ACCESS_SIZE: Field            = Field::bits(23, 22); // SAS
    pub(crate) const SIGN_EXTEND: Field            = Field::bit(21);      // SSE
    pub(crate) const TRANSFER_REGISTER: Field      = Field::bits(20, 16); // SRT
    pub(crate) const IS_64BIT_REGISTER: Field      = Field::bit(15);      // SF
    pub(crate) const IS_FAR_INVALID: Field         = Field::bit(10);      // FnV
    pub(crate) const IS_CACHE_MAINTENANCE: Field   = Field::bit(8);       // CM
    pub(crate) const IS_TABLE_WALK: Field          = Field::bit(7);       // S1PTW
    pub(crate) const IS_WRITE: Field               = Field::bit(6);       // WnR
    pub(crate) const FAULT_STATUS: Field           = Field::bits(5, 0);   // DFSC, IFSC
    pub(crate) const FAULT_KIND: Field             = Field::bits(5, 2);   // the same without the level
    // Bits 55:12 of the faulting address. [DDI0487: HPFAR_EL2.FIPA]
    pub(crate) const FAULT_PAGE: Field             = Field::bits(47, 4);
}
pub(crate) use layout::*;

/// Exception classes. [DDI0487: ESR_EL2.EC]
#[rustfmt::skip] // read by column
pub(crate) mod class {
    pub(crate) const UNKNOWN: u64                 = 0x00;
    pub(crate) const WAIT: u64                    = 0x01;
    pub(crate) const FLOATING_POINT: u64          = 0x07;
    pub(crate) const LAST_COPROCESSOR: u64        = 0x0c; // MRRC of CP14
    pub(crate) const HVC64: u64                   = 0x16;
    pub(crate) const SMC64: u64                   = 0x17;
    pub(crate) const SYSTEM_REGISTER: u64         = 0x18;
    pub(crate) const INSTRUCTION_ABORT_LOWER: u64 = 0x20;
    pub(crate) const INSTRUCTION_ABORT_SAME: u64  = 0x21;
    pub(crate) const DATA_ABORT_LOWER: u64        = 0x24;
    pub(crate) const DATA_ABORT_SAME: u64         = 0x25;
    pub(crate) const SERROR: u64                  = 0x2f;
}

/// [`FAULT_STATUS`] of a synchronous external abort that is not on a table walk. [DDI0487: ESR_EL1.DFSC]
pub(crate) const EXTERNAL_ABORT: u64 = 0b01_0000;

/// Values of [`FAULT_KIND`]. [DDI0487: ESR_EL2.DFSC]
#[rustfmt::skip] // read by column
pub(crate) mod fault_kind {
    pub(crate) const ADDRESS_SIZE: u64            = 0b0000;
    pub(crate) const TRANSLATION: u64             = 0b0001;
    pub(crate) const ACCESS_FLAG: u64             = 0b0010;
    pub(crate) const PERMISSION: u64              = 0b0011;
}
