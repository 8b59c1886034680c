//! The virtual CPU interface as GICv2 has it, in memory.

use super::super::gich;
use crate::interrupts::ActivePriorities;

/// The most list registers that the vGIC fills.
const MOST_LIST_REGISTERS: usize = 16;

/// GICH of the pCPU that runs this code, at the address that the host gave. Out of the way of GICv3's, which is a few
/// instructions. [IHI0048: GICH registers]
#[derive(Clone, Copy, Debug)]
pub(in crate::arch::aarch64) struct Gich(pub(super) u64);

impl Gich {
    #[inline(always)]
    fn read(self, offset: u64) -> u32 {
        // SAFETY: the host has promised (see `hardware_enable`) that a GICv2's GICH is mapped there as device memory; reading
        // the registers of `gich` changes nothing.
        unsafe { ((self.0 + offset) as *const u32).read_volatile() }
    }

    #[inline(always)]
    fn write(self, offset: u64, value: u32) {
        // SAFETY: as in `read`, and nobody else writes them; they decide which interrupts a guest takes, and affect no memory.
        unsafe { ((self.0 + offset) as *mut u32).write_volatile(value) }
    }

    /// GICH_HCR and GICH_VMCR.
    pub(super) fn controls(self) -> (u32, u32) {
        (self.read(gich::CONTROL), self.read(gich::MACHINE_CONTROL))
    }

    pub(super) fn set_controls(self, control: u32, machine_control: u32) {
        self.write(gich::CONTROL, control);
        self.write(gich::MACHINE_CONTROL, machine_control);
    }
}

impl Gich {
    /// How many list registers there are, of which none has anything any more.
    pub(super) fn list_registers(self) -> usize {
        let count = gich::list_register_count(self.read(gich::TYPE));
        // Also those beyond what the vGIC fills.
        for index in 0..count {
            self.set_list_register(index, 0);
        }
        count.min(MOST_LIST_REGISTERS)
    }
}

const fn list_register_at(index: usize) -> u64 {
    gich::LIST_REGISTERS + 4 * index as u64
}

/// What GICv3 has in system registers, in its layout.
impl Gich {
    #[cold]
    #[inline(never)]
    pub(super) fn list_register(self, index: usize) -> u64 {
        gich::from_list_register(self.read(list_register_at(index)))
    }

    #[cold]
    #[inline(never)]
    pub(super) fn set_list_register(self, index: usize, value: u64) {
        self.write(list_register_at(index), gich::to_list_register(value));
    }

    #[cold]
    #[inline(never)]
    pub(super) fn control(self) -> u64 {
        self.read(gich::CONTROL).into()
    }

    #[cold]
    #[inline(never)]
    pub(super) fn set_control(self, value: u64) {
        self.write(gich::CONTROL, gich::to_control(value));
    }

    #[cold]
    #[inline(never)]
    pub(super) fn machine_control(self) -> u64 {
        self.read(gich::MACHINE_CONTROL).into()
    }

    #[cold]
    #[inline(never)]
    pub(super) fn set_machine_control(self, value: u64) {
        self.write(gich::MACHINE_CONTROL, gich::to_machine_control(value));
    }

    /// One register has both groups: it travels as group 0's.
    #[cold]
    #[inline(never)]
    pub(super) fn active_priorities(self) -> ActivePriorities {
        let mut value = ActivePriorities::default();
        value.group0[0] = self.read(gich::ACTIVE_PRIORITIES);
        value
    }

    #[cold]
    #[inline(never)]
    pub(super) fn set_active_priorities(self, value: ActivePriorities) {
        self.write(gich::ACTIVE_PRIORITIES, value.group0[0]);
    }
}
