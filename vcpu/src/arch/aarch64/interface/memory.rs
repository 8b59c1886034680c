//! The virtual CPU interface as GICv2 has it, in memory. It stays out of the way of GICv3's, which is a few instructions.

use core::cell::Cell;

use super::super::gich;
use crate::interrupts::ActivePriorities;

/// The most list registers that the vGIC fills.
const MOST_LIST_REGISTERS: usize = 16;

/// GICH of the pCPU that runs this code, at the address that the host gave. [IHI0048: GICH registers]
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

/// The interface of this pCPU, which takes and gives what GICv3 has in system registers, in its layout.
///
/// The guest's end of an interrupt that is linked to a physical one would deactivate that by itself. But QEMU does not look
/// at the physical line then, and a timer that is due by that time would be forgotten until something else happens. So the end
/// is told to us, and the link is completed here before anybody looks. [QEMU: gic_complete_irq]
#[derive(Debug)]
pub(super) struct InMemory {
    gich: Gich,
    host_deactivate: fn(u32),
    /// Bit n: list register n is linked.
    linked: Cell<u32>,
    /// The physical INTIDs of those.
    physical: [Cell<u16>; MOST_LIST_REGISTERS],
}

/// As in ICH_LR<n>_EL2: linked, and told when it ends.
const LINKED: u64 = 1 << 61;
const TELLS_END: u64 = 1 << 41;
const PHYSICAL_SHIFT: u32 = 32;
const PHYSICAL: u64 = 0x3ff << PHYSICAL_SHIFT;
const STATE: u64 = 0b11 << 62;

const fn list_register_at(index: usize) -> u64 {
    gich::LIST_REGISTERS + 4 * index as u64
}

impl InMemory {
    /// The interface with nothing listed, and how many list registers it has; `host_deactivate` deactivates a physical interrupt.
    pub(super) fn new(gich: Gich, host_deactivate: fn(u32)) -> (Self, usize) {
        let count = gich::list_register_count(gich.read(gich::TYPE));
        // Also those beyond what the vGIC fills.
        for index in 0..count {
            gich.write(list_register_at(index), 0);
        }
        let interface = Self {
            gich,
            host_deactivate,
            linked: Cell::new(0),
            physical: Default::default(),
        };
        (interface, count.min(MOST_LIST_REGISTERS))
    }

    /// Completes what was linked and has been ended.
    #[cold]
    #[inline(never)]
    pub(super) fn complete_ends(&self) {
        let mut left = self.linked.get();
        while left != 0 {
            let index = left.trailing_zeros() as usize;
            left &= left - 1;
            let value = gich::from_list_register(self.gich.read(list_register_at(index)));
            if value & STATE == 0
                && let Some(physical) = self.physical.get(index)
            {
                (self.host_deactivate)(physical.get().into());
                self.linked.set(self.linked.get() & !(1 << index));
            }
        }
    }

    #[cold]
    #[inline(never)]
    pub(super) fn list_register(&self, index: usize) -> u64 {
        let was_linked = self.linked.get() >> index & 1 != 0;
        self.complete_ends();
        let value = gich::from_list_register(self.gich.read(list_register_at(index)));
        match self.physical.get(index) {
            Some(physical) if was_linked => {
                value & !TELLS_END | LINKED | u64::from(physical.get()) << PHYSICAL_SHIFT
            }
            _ => value,
        }
    }

    #[cold]
    #[inline(never)]
    pub(super) fn set_list_register(&self, index: usize, value: u64) {
        let is_linked = value & LINKED != 0;
        let others = self.linked.get() & !(1 << index);
        self.linked.set(others | u32::from(is_linked) << index);
        let value = if is_linked {
            if let Some(physical) = self.physical.get(index) {
                physical.set(((value & PHYSICAL) >> PHYSICAL_SHIFT) as u16);
            }
            value & !(LINKED | PHYSICAL) | TELLS_END
        } else {
            value
        };
        self.gich
            .write(list_register_at(index), gich::to_list_register(value));
    }

    #[cold]
    #[inline(never)]
    pub(super) fn control(&self) -> u64 {
        self.gich.read(gich::CONTROL).into()
    }

    #[cold]
    #[inline(never)]
    pub(super) fn set_control(&self, value: u64) {
        self.gich.write(gich::CONTROL, gich::to_control(value));
    }

    #[cold]
    #[inline(never)]
    pub(super) fn machine_control(&self) -> u64 {
        self.gich.read(gich::MACHINE_CONTROL).into()
    }

    #[cold]
    #[inline(never)]
    pub(super) fn set_machine_control(&self, value: u64) {
        self.gich
            .write(gich::MACHINE_CONTROL, gich::to_machine_control(value));
    }

    /// One register has both groups: it travels as group 0's.
    #[cold]
    #[inline(never)]
    pub(super) fn active_priorities(&self) -> ActivePriorities {
        let mut value = ActivePriorities::default();
        value.group0[0] = self.gich.read(gich::ACTIVE_PRIORITIES);
        value
    }

    #[cold]
    #[inline(never)]
    pub(super) fn set_active_priorities(&self, value: ActivePriorities) {
        self.gich.write(gich::ACTIVE_PRIORITIES, value.group0[0]);
    }
}
