//! Devices of the machine that a guest drives itself: their registers are mapped for it, and their interrupts are passed to it.
//!
//! ```text
//!  device --> this machine's GIC --> pCPU --shared::pass_on--> PhysicalLine --> list register --guest's EOI--> the GIC
//! ```

use alloc::{sync::Arc, vec::Vec};
use core::ops::Range;

use trapline_demos::config::{PassedDevice, guest_machine};
use trapline_handlers::vgic::{PhysicalInterrupts, PhysicalLine, PhysicalSetup, Vgic};
use trapline_platform::{
    devices::{Device, VirtioTransport},
    shared::{self, SharedInterrupt},
};

use super::Refusal;

const fn device(passed: PassedDevice) -> Device {
    match passed {
        PassedDevice::Clock => Device::Clock,
        PassedDevice::Pins => Device::Pins,
        PassedDevice::Virtio(number) => match VirtioTransport::new(number) {
            Some(transport) => Device::Virtio(transport),
            None => panic!("the configuration is checked"),
        },
    }
}

const LAST_TRANSPORT: Device = device(PassedDevice::Virtio(VirtioTransport::COUNT - 1));

const _: () = assert!(
    Device::Clock.page().start == guest_machine::CLOCK.start
        && Device::Clock.intid() == guest_machine::CLOCK_INTID
        && Device::Pins.page().start == guest_machine::PINS.start
        && Device::Pins.intid() == guest_machine::PINS_INTID
        && device(PassedDevice::Virtio(0)).page().start == guest_machine::VIRTIO.start
        && LAST_TRANSPORT.page().end == guest_machine::VIRTIO.end
        && LAST_TRANSPORT.intid()
            == guest_machine::VIRTIO_FIRST_INTID + VirtioTransport::COUNT as u32 - 1
        && VirtioTransport::STRIDE == guest_machine::VIRTIO_STRIDE,
    "a device is where the guest's device tree says"
);

/// Where the guest finds the registers of `passed`, which is where they are: pages, each once.
pub(super) fn pages(passed: &[PassedDevice]) -> Vec<Range<u64>> {
    let mut pages: Vec<_> = passed.iter().map(|&passed| device(passed).page()).collect();
    pages.sort_by_key(|page| page.start);
    pages.dedup();
    pages
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

/// A device that a guest has. When this goes, its interrupt is disabled and inactive, for the next life; before, [`Passed::make_silent`]
/// has stopped the device. No vCPU of the guest is bound then, and none reaches the registers.
pub(super) struct Passed(Device);

impl Passed {
    /// Gives `passed`, which nobody has, to the guest with `vgic`.
    pub(super) fn give(passed: PassedDevice, vgic: &Arc<Vgic>) -> Result<Self, Refusal> {
        let device = device(passed);
        if !device.make_silent() {
            return Err((passed.name(), "it does not reset").into());
        }
        let line = PhysicalLine::claim(vgic, device.intid(), device.intid());
        let line = line.map_err(|error| (passed.name(), error))?;
        shared::give(device.intid(), Arc::new(ToGuest(line)))
            .map_err(|_| (passed.name(), "another guest has its interrupt"))?;
        Ok(Self(device))
    }

    /// Stops the device, which no vCPU reaches any more; false if it is still at it, and may still reach the guest's RAM.
    pub(super) fn make_silent(&self) -> bool {
        self.0.make_silent()
    }
}

impl Drop for Passed {
    fn drop(&mut self) {
        shared::take_back(self.0.intid());
    }
}
