//! What lies where: in the machine's memory, and in the guest's.
//!
//! ```text
//!  0x4000_0000  +--------------------------+  the machine's RAM
//!  0x4020_0000  | hypervisor, its heap     |
//!  0x4800_0000  | host device tree         |  where QEMU puts it: 128 MiB into RAM
//!  0x4900_0000  | configuration            |
//!               | staged images            |  the hypervisor copies them
//!  n * 1 GiB    | the guest's RAM          |  0x4000_0000 to the guest
//!               +--------------------------+
//! ```

use crate::{
    config::{BootConfig, GuestConfig, OnReset, Region, StagedImage, guest_machine::RAM_BASE},
    host::{Failure, failure::Result, input::kernel::Kernel},
};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// Images start at multiples of this: a block of stage 2 and of the guest's own tables.
const BLOCK: u64 = 2 * MIB;
/// After the largest device tree that QEMU makes, with room to spare.
const STAGING: u64 = 0x4900_0000;
/// Room for the encoded configuration.
const CONFIG_ROOM: u64 = BLOCK;
/// Like QEMU, away from a kernel that moves itself up a little.
const INITRD_OFFSET: u64 = 128 * MIB;
/// The most RAM that `virt` has below its second device window.
pub const MOST_GUEST_MIB: u64 = 255 * 1024 - 2048;

/// A guest's share when nobody says otherwise.
pub const DEFAULT_WEIGHT: u32 = 1024;

/// Where the guest's images go, as intermediate physical addresses.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct GuestLayout {
    /// The kernel's first byte, where it also starts.
    pub kernel: u64,
    /// The initial ramdisk.
    pub initrd: Option<Region>,
    /// The device tree.
    pub device_tree: u64,
}

/// Room for the guest's device tree.
const DEVICE_TREE_ROOM: u64 = BLOCK;

impl GuestLayout {
    /// Finds room for everything in `memory` bytes.
    ///
    /// # Errors
    /// It does not fit: the error says how much memory is enough.
    pub fn new(kernel: &Kernel, initrd_length: Option<u64>, memory: u64) -> Result<Self> {
        let kernel_end = kernel.offset.saturating_add(kernel.footprint);
        if kernel_end > memory {
            return Err(too_large(
                "the kernel does not fit into the guest's memory",
                kernel_end,
            ));
        }
        let kernel_end = kernel_end.next_multiple_of(BLOCK);
        let offset = INITRD_OFFSET
            .min((memory / 2).next_multiple_of(BLOCK))
            .max(kernel_end);
        let initrd = initrd_length.map(|length| Region {
            address: RAM_BASE + offset,
            length,
        });
        let device_tree = (offset + initrd_length.unwrap_or(0)).next_multiple_of(BLOCK);
        let end = device_tree + DEVICE_TREE_ROOM;
        if end > memory {
            return Err(too_large(
                "the guest's images do not fit into its memory",
                end,
            ));
        }
        Ok(Self {
            kernel: RAM_BASE + kernel.offset,
            initrd,
            device_tree: RAM_BASE + device_tree,
        })
    }
}

fn too_large(what: &str, bytes: u64) -> Failure {
    let least = bytes.div_ceil(MIB);
    Failure::input(
        what,
        "--memory",
        &format!("give the guest at least {least} MiB"),
    )
}

/// A file that QEMU puts into the machine's RAM.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Load {
    /// The physical address.
    pub address: u64,
    /// The contents.
    pub bytes: Vec<u8>,
}

/// The machine's memory, ready for QEMU.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MachineLayout {
    /// How much RAM the machine has, in MiB.
    pub memory_mib: u64,
    /// What QEMU loads, the encoded configuration first.
    pub loads: Vec<Load>,
    /// The configuration's place, for the bootargs.
    pub config: Region,
}

impl MachineLayout {
    /// Stages `images` (where they go in the guest, and their bytes) for a guest with `memory` bytes, and completes
    /// `config`, whose images and RAM are not known before.
    pub fn new(mut config: BootConfig, images: Vec<(u64, Vec<u8>)>, memory: u64) -> Self {
        let mut next = STAGING + CONFIG_ROOM;
        let mut loads = Vec::new();
        let guest = &mut config.guests[0];
        guest.images.clear();
        for (destination, bytes) in images {
            let source = Region {
                address: next,
                length: bytes.len() as u64,
            };
            guest.images.push(StagedImage {
                source,
                destination,
            });
            next = (next + source.length).next_multiple_of(BLOCK);
            loads.push(Load {
                address: source.address,
                bytes,
            });
        }
        guest.ram = Region {
            address: next.next_multiple_of(GIB),
            length: memory,
        };
        let blob = config.encode();
        let place = Region {
            address: STAGING,
            length: blob.len() as u64,
        };
        assert!(
            place.length <= CONFIG_ROOM,
            "the configuration has a bounded number of vCPUs"
        );
        loads.insert(
            0,
            Load {
                address: STAGING,
                bytes: blob,
            },
        );
        let end = config.guests[0].ram.address + memory;
        Self {
            memory_mib: (end - RAM_BASE).div_ceil(MIB),
            loads,
            config: place,
        }
    }
}

/// A guest's configuration before its images are staged.
pub fn unstaged_guest(name: &str, affinity: Vec<u64>, layout: &GuestLayout) -> GuestConfig {
    GuestConfig {
        name: name.to_owned(),
        vcpu_count: affinity.len() as u16,
        affinity,
        weight: DEFAULT_WEIGHT,
        starts: true,
        on_reset: OnReset::End,
        ram: Region {
            address: 0,
            length: 0,
        },
        images: Vec::new(),
        entry: layout.kernel,
        device_tree: layout.device_tree,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(offset: u64, footprint: u64) -> Kernel {
        Kernel {
            bytes: vec![0; 16],
            offset,
            footprint,
            is_linux: true,
        }
    }

    #[test]
    fn nothing_overlaps_in_the_guest() {
        for (footprint, initrd, memory) in [
            (30 * MIB, 2 * MIB, 512 * MIB),
            (200 * MIB, 1, 512 * MIB),
            (5 * MIB, 20 * MIB + 1, 64 * MIB),
        ] {
            let layout =
                GuestLayout::new(&kernel(0, footprint), Some(initrd), memory).expect("it fits");
            let region = layout.initrd.expect("there is one");
            assert!(layout.kernel + footprint <= region.address);
            assert!(region.address + initrd <= layout.device_tree);
            assert!(layout.device_tree + DEVICE_TREE_ROOM <= RAM_BASE + memory);
            assert_eq!(layout.device_tree % BLOCK, 0);
        }
    }

    #[test]
    fn what_does_not_fit_says_how_much_would() {
        let failure = GuestLayout::new(&kernel(0, 60 * MIB), Some(10 * MIB), 64 * MIB)
            .expect_err("too large");
        assert!(failure.to_string().contains("at least 72 MiB"), "{failure}");
        assert!(GuestLayout::new(&kernel(u64::MAX - 1, 8), None, GIB).is_err());
        assert!(GuestLayout::new(&kernel(0, u64::MAX / 2), None, GIB).is_err());
    }

    #[test]
    fn the_guests_ram_is_alone_in_its_gigabytes() {
        let config = BootConfig {
            pcpu_count: 1,
            policy: "pinned".into(),
            slice_us: 1,
            guests: vec![unstaged_guest(
                "test",
                vec![1],
                &GuestLayout::new(&kernel(0, 1), None, GIB).expect("it fits"),
            )],
        };
        let images = vec![(RAM_BASE, vec![1; 3 << 20]), (RAM_BASE + GIB, vec![2; 5])];
        let layout = MachineLayout::new(config, images, 512 * MIB);
        let decoded = BootConfig::decode(&layout.loads[0].bytes).expect("what was encoded");
        assert_eq!(decoded.guests[0].ram.address, 2 * GIB);
        assert_eq!(layout.memory_mib, 1024 + 512);
        let ends: Vec<u64> = layout
            .loads
            .iter()
            .map(|load| load.address + load.bytes.len() as u64)
            .collect();
        assert!(layout.loads[1].address >= ends[0] && layout.loads[2].address >= ends[1]);
        assert!(ends[2] <= decoded.guests[0].ram.address);
        assert_eq!(decoded.guests[0].images[1].destination, RAM_BASE + GIB);
    }
}
