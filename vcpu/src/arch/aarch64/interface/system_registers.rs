//! The virtual CPU interface as GICv3 has it, in system registers.

use aarch64_cpu::registers::{
    ICH_AP0R0_EL2, ICH_AP0R1_EL2, ICH_AP0R2_EL2, ICH_AP0R3_EL2, ICH_AP1R0_EL2, ICH_AP1R1_EL2,
    ICH_AP1R2_EL2, ICH_AP1R3_EL2, ICH_HCR_EL2, ICH_VMCR_EL2, ICH_VTR_EL2, Readable, Writeable,
};

use crate::interrupts::ActivePriorities;

/// The virtual CPU interface of the pCPU that runs this code. [IHI0069: ICH registers]
#[derive(Debug)]
pub(super) struct InSystemRegisters {
    active_priority_count: usize,
}

/// Calls `$macro` with the arm for each list register; they are registers, not memory, so no index reaches them.
macro_rules! list_registers {
    ($index:expr, $access:ident $(, $value:expr)?) => {
        match $index {
            0 => $access!("S3_4_C12_C12_0" $(, $value)?),
            1 => $access!("S3_4_C12_C12_1" $(, $value)?),
            2 => $access!("S3_4_C12_C12_2" $(, $value)?),
            3 => $access!("S3_4_C12_C12_3" $(, $value)?),
            4 => $access!("S3_4_C12_C12_4" $(, $value)?),
            5 => $access!("S3_4_C12_C12_5" $(, $value)?),
            6 => $access!("S3_4_C12_C12_6" $(, $value)?),
            7 => $access!("S3_4_C12_C12_7" $(, $value)?),
            8 => $access!("S3_4_C12_C13_0" $(, $value)?),
            9 => $access!("S3_4_C12_C13_1" $(, $value)?),
            10 => $access!("S3_4_C12_C13_2" $(, $value)?),
            11 => $access!("S3_4_C12_C13_3" $(, $value)?),
            12 => $access!("S3_4_C12_C13_4" $(, $value)?),
            13 => $access!("S3_4_C12_C13_5" $(, $value)?),
            14 => $access!("S3_4_C12_C13_6" $(, $value)?),
            15 => $access!("S3_4_C12_C13_7" $(, $value)?),
            _ => unreachable!("the vGIC asks for a list register below list_register_count"),
        }
    };
}

impl InSystemRegisters {
    /// The interface of this pCPU, with nothing listed, and how many list registers it has.
    pub(super) fn new() -> (Self, usize) {
        let vtr = ICH_VTR_EL2.get();
        let list_register_count = (vtr & 0x1f) as usize + 1;
        // [IHI0069: ICH_VTR_EL2.ListRegs, PREbits: 5, 6 or 7 preemption bits need 1, 2 or 4 registers a group]
        let preemption_bits = (vtr >> 26 & 0x7) + 1;
        let interface = Self {
            active_priority_count: 1 << preemption_bits.saturating_sub(5).min(2),
        };
        // They are UNKNOWN at reset, and the vGIC writes only those that it uses.
        for index in 0..list_register_count {
            interface.set_list_register(index, 0);
        }
        (interface, list_register_count)
    }
}

impl InSystemRegisters {
    #[inline(always)]
    pub(super) fn list_register(&self, index: usize) -> u64 {
        list_registers!(index, read_sysreg)
    }

    #[inline(always)]
    pub(super) fn set_list_register(&self, index: usize, value: u64) {
        list_registers!(index, write_sysreg, value)
    }

    #[inline(always)]
    pub(super) fn control(&self) -> u64 {
        ICH_HCR_EL2.get()
    }

    #[inline(always)]
    pub(super) fn set_control(&self, value: u64) {
        ICH_HCR_EL2.set(value);
    }

    #[inline(always)]
    pub(super) fn machine_control(&self) -> u64 {
        ICH_VMCR_EL2.get()
    }

    #[inline(always)]
    pub(super) fn set_machine_control(&self, value: u64) {
        ICH_VMCR_EL2.set(value);
    }

    #[inline(always)]
    pub(super) fn active_priorities(&self) -> ActivePriorities {
        let mut value = ActivePriorities::default();
        value.group0[0] = ICH_AP0R0_EL2.get() as u32;
        value.group1[0] = ICH_AP1R0_EL2.get() as u32;
        if self.active_priority_count > 1 {
            value.group0[1] = ICH_AP0R1_EL2.get() as u32;
            value.group1[1] = ICH_AP1R1_EL2.get() as u32;
        }
        if self.active_priority_count > 2 {
            value.group0[2] = ICH_AP0R2_EL2.get() as u32;
            value.group0[3] = ICH_AP0R3_EL2.get() as u32;
            value.group1[2] = ICH_AP1R2_EL2.get() as u32;
            value.group1[3] = ICH_AP1R3_EL2.get() as u32;
        }
        value
    }

    #[inline(always)]
    pub(super) fn set_active_priorities(&self, value: ActivePriorities) {
        ICH_AP0R0_EL2.set(value.group0[0].into());
        ICH_AP1R0_EL2.set(value.group1[0].into());
        if self.active_priority_count > 1 {
            ICH_AP0R1_EL2.set(value.group0[1].into());
            ICH_AP1R1_EL2.set(value.group1[1].into());
        }
        if self.active_priority_count > 2 {
            ICH_AP0R2_EL2.set(value.group0[2].into());
            ICH_AP0R3_EL2.set(value.group0[3].into());
            ICH_AP1R2_EL2.set(value.group1[2].into());
            ICH_AP1R3_EL2.set(value.group1[3].into());
        }
    }
}
