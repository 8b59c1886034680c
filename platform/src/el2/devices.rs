//! The devices of QEMU's `virt` that a guest may drive itself.
//!
//! A virtio transport is the only one that reaches memory: all of it, EL2's too, with whatever addresses its driver writes, because
//! there is no SMMU. Who gives one to a guest trusts that guest, and takes it back with [`Device::make_silent`] before the guest's
//! memory is anybody else's.

use super::mmu;
use core::ops::Range;

const PAGE: u64 = 4096;

/// A device of this machine that neither EL2 nor the firmware uses.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Device {
    /// The PL031 at 0x0901_0000. [DDI0224: PrimeCell Real Time Clock]
    Clock,
    /// The PL061 at 0x0903_0000. [DDI0190: PrimeCell GPIO]
    Pins,
    /// One of the virtio transports from 0x0a00_0000 on, of which 8 share a page. [VIRTIO: Virtio Over MMIO]
    Virtio(VirtioTransport),
}

/// The number of a virtio transport.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct VirtioTransport(u8);

impl VirtioTransport {
    /// How many there are.
    pub const COUNT: u8 = 32;
    /// How far apart they are.
    pub const STRIDE: u64 = 0x200;
    const BASE: u64 = 0x0a00_0000;
    const FIRST_INTID: u32 = 48;

    /// `None` from [`Self::COUNT`] on.
    pub const fn new(number: u8) -> Option<Self> {
        if number < Self::COUNT {
            Some(Self(number))
        } else {
            None
        }
    }

    const fn registers(self) -> u64 {
        Self::BASE + self.0 as u64 * Self::STRIDE
    }
}

/// Offsets of registers that make a device silent, and what to write there.
type Silence = &'static [(u64, u32)];

impl Device {
    /// The page that its registers are in.
    pub const fn page(self) -> Range<u64> {
        let base = self.registers() & !(PAGE - 1);
        base..base + PAGE
    }

    const fn registers(self) -> u64 {
        match self {
            Self::Clock => 0x0901_0000,
            Self::Pins => 0x0903_0000,
            Self::Virtio(transport) => transport.registers(),
        }
    }

    /// Its shared interrupt.
    pub const fn intid(self) -> u32 {
        match self {
            Self::Clock => 34,
            Self::Pins => 39,
            Self::Virtio(transport) => VirtioTransport::FIRST_INTID + transport.0 as u32,
        }
    }

    const fn silence(self) -> Silence {
        match self {
            // RTCIMSC, RTCICR.
            Self::Clock => &[(0x10, 0), (0x1c, 1)],
            // GPIOIE, GPIODIR, GPIOIS, GPIOIBE, GPIOIEV, GPIOAFSEL, GPIOIC.
            Self::Pins => &[
                (0x410, 0),
                (0x400, 0),
                (0x404, 0),
                (0x408, 0),
                (0x40c, 0),
                (0x420, 0),
                (0x41c, 0xff),
            ],
            // Status: a reset.
            Self::Virtio(_) => &[(VIRTIO_STATUS, 0)],
        }
    }

    /// Masks and clears its interrupts, and lets it reach no memory any more, whatever a guest has left in it; no guest drives it
    /// meanwhile. The time that a clock shows stays. Not for exit paths: it may allocate.
    ///
    /// False if the device is still at it: then it may reach memory until a later call says true.
    #[must_use]
    pub fn make_silent(self) -> bool {
        mmu::map_device(&self.page()).expect("the device is in one page and lies below RAM");
        let register = |offset| (self.registers() + offset) as *mut u32;
        for &(offset, value) in self.silence() {
            // SAFETY:
            // 1. `virt` has the device there, and its page has just been mapped as device memory.
            // 2. Nobody in EL2 has a reference to its registers, and none of these makes it reach memory.
            unsafe { register(offset).write_volatile(value) };
        }
        match self {
            Self::Clock | Self::Pins => true,
            // A driver waits until it reads 0. [VIRTIO: Device Initialization, 4.2.3.1]
            // SAFETY: as above; reading Status has no side effect.
            Self::Virtio(_) => unsafe { register(VIRTIO_STATUS).read_volatile() == 0 },
        }
    }
}

const VIRTIO_STATUS: u64 = 0x070;
