//! The devices of QEMU's `virt` that a guest may drive itself: none of them reaches memory.

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
}

impl Device {
    /// Where its registers are: one page.
    pub const fn page(self) -> Range<u64> {
        let base = match self {
            Self::Clock => 0x0901_0000,
            Self::Pins => 0x0903_0000,
        };
        base..base + PAGE
    }

    /// Its shared interrupt, which is level-sensitive.
    pub const fn intid(self) -> u32 {
        match self {
            Self::Clock => 34,
            Self::Pins => 39,
        }
    }

    /// The registers that make it silent, as offsets, and what to write there.
    const fn silence(self) -> &'static [(u64, u32)] {
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
        }
    }

    /// Masks and clears its interrupts, whatever a guest has left in it; no guest drives it meanwhile. The time that a clock shows
    /// stays. Not for exit paths: it may allocate.
    pub fn make_silent(self) {
        let page = self.page();
        mmu::map_device(&page).expect("the device is one page and lies below RAM");
        for &(offset, value) in self.silence() {
            let register = (page.start + offset) as *mut u32;
            // SAFETY:
            // 1. `virt` has the device there, and its page has just been mapped as device memory.
            // 2. Nobody in EL2 has a reference to its registers, and none of them makes it reach memory.
            unsafe { register.write_volatile(value) };
        }
    }
}
