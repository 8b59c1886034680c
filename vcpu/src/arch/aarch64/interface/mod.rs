//! How the vGIC reaches this pCPU's list registers and timers.
//!
//! It is in [`system_registers`] with GICv3, and in [`memory`] with GICv2. One type has both, and asks each time, which costs
//! less than a call through a table would: the compiler knows what it calls.

mod memory;
mod system_registers;

use aarch64_cpu::registers::{CNTP_CTL_EL0, CNTV_CTL_EL0, Readable};

use super::{control::InterfaceRegisters, registers::is_timer_firing};
use crate::{
    host::{Host, InterfaceAccess},
    interrupts::{ActivePriorities, TimerPpi, VirtualCpuInterface},
};
use memory::{Gich, InMemory};
use system_registers::InSystemRegisters;

/// The virtual CPU interface of the pCPU that runs this code.
#[derive(Debug)]
pub(crate) struct HardwareInterface {
    place: Place,
    list_register_count: usize,
    timers: Timers,
}

/// Where it is.
#[derive(Debug)]
enum Place {
    SystemRegisters(InSystemRegisters),
    Memory(InMemory),
}

impl HardwareInterface {
    /// The interface with nothing listed, for `H`'s machine.
    pub(crate) fn new<H: Host>(access: InterfaceAccess) -> Self {
        let (place, list_register_count) = match access {
            InterfaceAccess::SystemRegisters => {
                let (interface, list_register_count) = InSystemRegisters::new();
                (Place::SystemRegisters(interface), list_register_count)
            }
            InterfaceAccess::Memory(address) => {
                let (interface, list_register_count) = InMemory::new(Gich(address), H::deactivate);
                (Place::Memory(interface), list_register_count)
            }
        };
        Self {
            place,
            list_register_count,
            timers: Timers {
                host_is_active: H::is_ppi_active,
                host_deactivate: H::deactivate,
            },
        }
    }
}

/// Calls the method of whichever interface it is.
macro_rules! either {
    ($self:ident.$method:ident($($argument:expr),*)) => {
        match &$self.place {
            Place::SystemRegisters(interface) => interface.$method($($argument),*),
            Place::Memory(interface) => interface.$method($($argument),*),
        }
    };
}

impl VirtualCpuInterface for HardwareInterface {
    fn list_register_count(&self) -> usize {
        self.list_register_count
    }

    fn list_register(&self, index: usize) -> u64 {
        either!(self.list_register(index))
    }

    fn set_list_register(&mut self, index: usize, value: u64) {
        either!(self.set_list_register(index, value));
    }

    fn control(&self) -> u64 {
        either!(self.control())
    }

    fn set_control(&mut self, value: u64) {
        either!(self.set_control(value));
    }

    fn machine_control(&self) -> u64 {
        either!(self.machine_control())
    }

    fn set_machine_control(&mut self, value: u64) {
        either!(self.set_machine_control(value));
    }

    fn active_priorities(&self) -> ActivePriorities {
        either!(self.active_priorities())
    }

    fn set_active_priorities(&mut self, value: ActivePriorities) {
        either!(self.set_active_priorities(value));
    }

    fn timer_line(&self, ppi: TimerPpi) -> bool {
        self.timers.line(ppi)
    }

    fn is_timer_active(&self, ppi: TimerPpi) -> bool {
        if let Place::Memory(interface) = &self.place {
            interface.complete_ends();
        }
        self.timers.is_active(ppi)
    }

    fn deactivate_timer(&mut self, ppi: TimerPpi) {
        self.timers.deactivate(ppi);
    }
}

/// The timers' outputs, and their physical interrupts.
#[derive(Clone, Copy, Debug)]
struct Timers {
    host_is_active: fn(u32) -> bool,
    host_deactivate: fn(u32),
}

impl Timers {
    #[inline(always)]
    fn line(self, ppi: TimerPpi) -> bool {
        is_timer_firing(match ppi {
            TimerPpi::Virtual => CNTV_CTL_EL0.get(),
            TimerPpi::Physical => CNTP_CTL_EL0.get(),
        })
    }

    #[inline(always)]
    fn is_active(self, ppi: TimerPpi) -> bool {
        (self.host_is_active)(ppi.intid())
    }

    #[inline(always)]
    fn deactivate(self, ppi: TimerPpi) {
        (self.host_deactivate)(ppi.intid());
    }
}

/// The controls of the virtual CPU interface as the host had them, from `hardware_enable` to `hardware_disable`.
#[derive(Debug)]
pub(super) enum HostInterface {
    SystemRegisters(InterfaceRegisters),
    Memory {
        gich: Gich,
        control: u32,
        machine_control: u32,
    },
}

impl HostInterface {
    /// Saves the host's values and turns the interface off: no vCPU is bound.
    pub(super) fn take_over(access: InterfaceAccess) -> Self {
        match access {
            InterfaceAccess::SystemRegisters => {
                let ours = InterfaceRegisters::default();
                let mut host = ours.clone();
                host.store();
                ours.restore();
                Self::SystemRegisters(host)
            }
            InterfaceAccess::Memory(address) => {
                let gich = Gich(address);
                let (control, machine_control) = gich.controls();
                gich.set_controls(0, 0);
                Self::Memory {
                    gich,
                    control,
                    machine_control,
                }
            }
        }
    }

    /// Puts the host's values back.
    pub(super) fn give_back(&self) {
        match self {
            Self::SystemRegisters(host) => _ = host.restore(),
            Self::Memory {
                gich,
                control,
                machine_control,
            } => gich.set_controls(*control, *machine_control),
        }
    }
}
