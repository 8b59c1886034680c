//! Devices of the machine that a guest drives itself: their registers are mapped for it, and their interrupts are passed to it.
//!
//! ```text
//!  device --> this machine's GIC --> pCPU --shared::pass_on--> PhysicalLine --> list register --guest's EOI--> the GIC
//! ```

use alloc::sync::Arc;
use core::ops::Range;

use trapline_demos::config::{PassedDevice, guest_machine};
use trapline_handlers::vgic::{PhysicalInterrupts, PhysicalLine, PhysicalSetup, Vgic};
use trapline_platform::{
    devices::Device,
    shared::{self, SharedInterrupt},
};

use super::Refusal;

const fn device(passed: PassedDevice) -> Device {
    match passed {
        PassedDevice::Clock => Device::Clock,
        PassedDevice::Pins => Device::Pins,
    }
}

const _: () = assert!(
    Device::Clock.page().start == guest_machine::CLOCK.start
        && Device::Clock.intid() == guest_machine::CLOCK_INTID
        && Device::Pins.page().start == guest_machine::PINS.start
        && Device::Pins.intid() == guest_machine::PINS_INTID,
    "a device is where the guest's emulated one would be"
);

/// Where the guest finds the registers of `passed`, which is where they are.
pub(super) fn page(passed: PassedDevice) -> Range<u64> {
    device(passed).page()
}

/// This machine's shared interrupts, for a guest's interrupt controller.
pub(super) struct SharedInterrupts;

impl PhysicalInterrupts for SharedInterrupts {
    fn configure(&self, physical: u32, setup: PhysicalSetup) {
        let pcpu = setup.pcpu.map(|pcpu| pcpu.index() as u16);
        shared::configure(physical, setup.is_enabled, setup.is_edge, pcpu);
    }

    fn clear_edge(&self, physical: u32) {
        shared::clear_edge(physical);
    }

    fn deactivate(&self, physical: u32) {
        shared::deactivate(physical);
    }
}

struct ToGuest(PhysicalLine);

impl SharedInterrupt for ToGuest {
    fn raise(&self) {
        self.0.raise();
    }
}

/// A device that a guest has. When this goes, the device is silent and its interrupt is disabled and inactive, for the next life. No
/// vCPU of the guest is bound then, and none reaches the registers.
pub(super) struct Passed(Device);

impl Passed {
    /// Gives `passed`, which nobody has, to the guest with `vgic`.
    pub(super) fn give(passed: PassedDevice, vgic: &Arc<Vgic>) -> Result<Self, Refusal> {
        let device = device(passed);
        device.make_silent();
        let line = PhysicalLine::claim(vgic, device.intid(), device.intid());
        let line = line.map_err(|error| (passed.name(), error))?;
        shared::give(device.intid(), Arc::new(ToGuest(line)))
            .map_err(|_| (passed.name(), "another guest has its interrupt"))?;
        Ok(Self(device))
    }
}

impl Drop for Passed {
    fn drop(&mut self) {
        shared::take_back(self.0.intid());
        self.0.make_silent();
    }
}
