//! Where in a guest's memory its kernel, its initial ramdisk and its device tree lie.

use std::ops::Range;

use super::{BLOCK, MIB};
use crate::{
    config::Region,
    host::{Failure, failure::Result, input::kernel::Kernel, request::Place},
};

/// Like QEMU, away from a kernel that moves itself up a little.
const INITRD_OFFSET: u64 = 128 * MIB;
/// Room for the guest's device tree.
const DEVICE_TREE_ROOM: u64 = BLOCK;

/// Where the guest's images go, as intermediate physical addresses.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct GuestLayout {
    /// Where the kernel starts.
    pub entry: u64,
    /// The initial ramdisk.
    pub initrd: Option<Region>,
    /// The device tree.
    pub device_tree: u64,
}

impl GuestLayout {
    /// Finds room for everything in `ram`, whose size was given at `place`.
    ///
    /// # Errors
    /// It does not fit: the error says how much memory is enough.
    pub fn new(
        kernel: &Kernel,
        initrd_length: Option<u64>,
        ram: &Range<u64>,
        place: &Place,
    ) -> Result<Self> {
        let (base, memory) = (ram.start, ram.end - ram.start);
        let too_large = |what: &str, bytes: u64| {
            let remedy = format!("give the guest at least {} MiB", bytes.div_ceil(MIB));
            Failure::input(what, place.of("memory"), &remedy)
        };
        let kernel_start = kernel.footprint.start - base;
        let kernel_end = kernel.footprint.end - base;
        if kernel_end > memory {
            return Err(too_large(
                "the kernel does not fit into the guest's memory",
                kernel_end,
            ));
        }
        if kernel.is_firmware() {
            return Self::for_firmware(kernel, initrd_length, ram).ok_or_else(|| {
                let end = INITRD_OFFSET + initrd_length.unwrap_or(0);
                too_large("the guest's images do not fit into its memory", end)
            });
        }
        let length = initrd_length.unwrap_or(0);
        let end = |offset: u64| (offset + length).next_multiple_of(BLOCK) + DEVICE_TREE_ROOM;
        let mut offset = INITRD_OFFSET
            .min((memory / 2).next_multiple_of(BLOCK))
            .max(kernel_end.next_multiple_of(BLOCK));
        if end(offset) > memory {
            // A kernel that is linked high has room below it.
            if end(0) > kernel_start {
                return Err(too_large(
                    "the guest's images do not fit into its memory",
                    end(offset),
                ));
            }
            offset = 0;
        }
        Ok(Self {
            entry: kernel.entry,
            initrd: initrd_length.map(|length| Region {
                address: base + offset,
                length,
            }),
            device_tree: base + end(offset) - DEVICE_TREE_ROOM,
        })
    }

    /// The RAM that `kernel` and what comes with it take.
    pub fn ranges(&self, kernel: &Kernel) -> Vec<Range<u64>> {
        let initrd = self
            .initrd
            .map(|region| region.address..region.address + region.length);
        let tree = self.device_tree..self.device_tree + DEVICE_TREE_ROOM;
        let all = [Some(kernel.footprint.clone()), initrd, Some(tree)];
        all.into_iter().flatten().collect()
    }

    /// Firmware looks for the device tree at the start of RAM, as QEMU has it there.
    /// [QEMU: docs/system/arm/virt, Hardware configuration information for bare-metal programming]
    fn for_firmware(kernel: &Kernel, initrd_length: Option<u64>, ram: &Range<u64>) -> Option<Self> {
        let initrd = initrd_length.map(|length| Region {
            address: ram.start + INITRD_OFFSET,
            length,
        });
        let end = initrd.map_or(DEVICE_TREE_ROOM, |region| INITRD_OFFSET + region.length);
        (end <= ram.end - ram.start).then_some(Self {
            entry: kernel.entry,
            initrd,
            device_tree: ram.start,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::guest_machine::RAM_BASE, host::layout::GIB};

    fn kernel(offset: u64, footprint: u64) -> Kernel {
        let start = RAM_BASE.saturating_add(offset);
        Kernel {
            segments: Vec::new(),
            footprint: start..start.saturating_add(footprint),
            entry: start,
            is_linux: true,
        }
    }

    fn ram(length: u64) -> Range<u64> {
        RAM_BASE..RAM_BASE + length
    }

    fn place(footprint: u64, initrd: Option<u64>, memory: u64) -> Result<GuestLayout> {
        GuestLayout::new(
            &kernel(0, footprint),
            initrd,
            &ram(memory),
            &Place::default(),
        )
    }

    #[test]
    fn nothing_overlaps_in_the_guest() {
        for (start, footprint, initrd, memory) in [
            (0, 30 * MIB, 2 * MIB, 512 * MIB),
            (0, 200 * MIB, 1, 512 * MIB),
            (0, 5 * MIB, 20 * MIB + 1, 64 * MIB),
            (480 * MIB, 32 * MIB, 200 * MIB, 512 * MIB),
        ] {
            let kernel = kernel(start, footprint);
            let layout = GuestLayout::new(&kernel, Some(initrd), &ram(memory), &Place::default());
            let layout = layout.expect("it fits");
            let region = layout.initrd.expect("there is one");
            assert!(
                kernel.footprint.end <= region.address
                    || layout.device_tree + DEVICE_TREE_ROOM <= kernel.footprint.start
            );
            assert!(region.address + initrd <= layout.device_tree);
            assert!(layout.device_tree + DEVICE_TREE_ROOM <= RAM_BASE + memory);
            assert_eq!(layout.device_tree % BLOCK, 0);
        }
    }

    #[test]
    fn everything_follows_the_start_of_ram() {
        const HIGHER: u64 = 5 * GIB;
        let low = kernel(0, 30 * MIB);
        let mut high = low.clone();
        high.footprint = low.footprint.start + HIGHER..low.footprint.end + HIGHER;
        let ram = ram(512 * MIB);
        let place = |kernel: &Kernel, ram| {
            GuestLayout::new(kernel, Some(MIB), ram, &Place::default()).expect("it fits")
        };
        let below = place(&low, &ram);
        let above = place(&high, &(ram.start + HIGHER..ram.end + HIGHER));
        assert_eq!(above.device_tree, below.device_tree + HIGHER);
        let start = |layout: &GuestLayout| layout.initrd.map(|region| region.address);
        assert_eq!(start(&above), start(&below).map(|start| start + HIGHER));
    }

    #[test]
    fn what_does_not_fit_says_how_much_would() {
        let failure = place(60 * MIB, Some(10 * MIB), 64 * MIB).expect_err("too large");
        assert!(failure.to_string().contains("at least 72 MiB"), "{failure}");
        assert!(place(u64::MAX / 2, None, GIB).is_err());
        let far = kernel(u64::MAX - 1, 8);
        assert!(GuestLayout::new(&far, None, &ram(GIB), &Place::default()).is_err());
    }

    #[test]
    fn firmware_finds_its_device_tree_at_the_start_of_ram() {
        let mut firmware = kernel(0, 0);
        firmware.entry = 0;
        let layout = GuestLayout::new(&firmware, Some(MIB), &ram(512 * MIB), &Place::default());
        let layout = layout.expect("it fits");
        assert_eq!(layout.device_tree, RAM_BASE);
        let region = layout.initrd.expect("there is one");
        assert_eq!(region.address, RAM_BASE + INITRD_OFFSET);
        assert!(GuestLayout::new(&firmware, Some(1), &ram(128 * MIB), &Place::default()).is_err());
    }
}
