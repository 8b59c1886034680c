//! What lies where: in the machine's memory, and in the guest's.
//!
//! ```text
//!  0x4000_0000  +--------------------------+  the machine's RAM
//!  0x4020_0000  | hypervisor, its heap     |
//!  0x4800_0000  | host device tree         |  where QEMU puts it: 128 MiB into RAM
//!  0x4900_0000  | configuration            |
//!  n * 1 GiB    | each guest's RAM         |  0x4000_0000 to the guest
//!               | staged images            |  the hypervisor copies them
//!               +--------------------------+
//! ```
//! Where a guest's RAM is depends on the sizes of the guests before it alone, so it is known before any image is read.

use std::{ops::Range, sync::Arc};

use crate::{
    config::{BootConfig, GuestConfig, Region, StagedImage, guest_machine::RAM_BASE},
    host::{
        Failure,
        failure::Result,
        input::{Contents, kernel::Kernel},
        request::Place,
    },
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
const MOST_MACHINE_MIB: u64 = 255 * 1024;
/// The most that is left of it for a guest's RAM.
pub const MOST_GUEST_MIB: u64 = MOST_MACHINE_MIB - 2048;

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

/// Room for the guest's device tree.
const DEVICE_TREE_ROOM: u64 = BLOCK;

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

/// A file that QEMU puts into the machine's RAM.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Load {
    /// The physical address.
    pub address: u64,
    /// The contents.
    pub contents: Contents,
}

/// A guest whose images are not in the machine's RAM yet.
#[derive(Clone, Debug)]
pub struct UnstagedGuest {
    /// All that is known of it: no image is staged.
    pub config: GuestConfig,
    /// Where its images go, as intermediate physical addresses, and what they are.
    pub images: Vec<(u64, Contents)>,
}

/// Where in the machine the RAM of guests is that have so many bytes, in their order.
pub fn place_rams(lengths: impl IntoIterator<Item = u64>) -> Vec<Region> {
    let mut next = RAM_BASE + GIB;
    let place = |length| {
        let address = next.next_multiple_of(GIB);
        next = address.saturating_add(length);
        Region { address, length }
    };
    lengths.into_iter().map(place).collect()
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
    /// Stages the images of `guests`, whose RAM [`place_rams`] has placed, equal ones once, and adds the guests to `config`.
    ///
    /// # Errors
    /// The machine cannot have so much RAM.
    pub fn new(mut config: BootConfig, guests: Vec<UnstagedGuest>) -> Result<Self> {
        let ends = guests.iter().map(|guest| end_of(&guest.config.ram));
        let mut next = ends.max().unwrap_or(RAM_BASE + GIB);
        let mut loads: Vec<Load> = Vec::new();
        for UnstagedGuest {
            config: mut guest,
            images,
        } in guests
        {
            for (destination, contents) in images {
                let length = contents.length();
                let equal = loads.iter().find(|load| load.contents == contents);
                let address = equal.map_or(next.next_multiple_of(BLOCK), |load| load.address);
                if equal.is_none() {
                    next = address + length;
                    loads.push(Load { address, contents });
                }
                let list = if destination < guest.ram_base {
                    &mut guest.roms
                } else {
                    &mut guest.images
                };
                list.push(StagedImage {
                    source: Region { address, length },
                    destination,
                });
            }
            config.guests.push(guest);
        }
        let memory_mib = (next - RAM_BASE).div_ceil(MIB);
        if memory_mib > MOST_MACHINE_MIB {
            return Err(Failure::input(
                format!("the guests and their images take {memory_mib} MiB"),
                "memory",
                &format!(
                    "the machine has {MOST_MACHINE_MIB} at most, and each guest starts at a multiple of 1 GiB"
                ),
            ));
        }
        let blob = config.encode();
        let place = Region {
            address: STAGING,
            length: blob.len() as u64,
        };
        assert!(
            place.length <= CONFIG_ROOM,
            "the configuration has a bounded number of guests and vCPUs"
        );
        loads.insert(
            0,
            Load {
                address: STAGING,
                contents: Contents::Bytes(Arc::new(blob)),
            },
        );
        Ok(Self {
            memory_mib,
            loads,
            config: place,
        })
    }
}

fn end_of(region: &Region) -> u64 {
    region.address.saturating_add(region.length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{EntitlementConfig, OnReset, PolicyConfig, PoolPlan};

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

    fn guest(memory: u64, images: &[Vec<u8>]) -> UnstagedGuest {
        let images = images.iter().enumerate();
        UnstagedGuest {
            config: GuestConfig {
                name: "test".into(),
                vcpu_count: 1,
                pool: 0,
                affinity: vec![1],
                soft_affinity: 0,
                entitlement: EntitlementConfig::default(),
                starts: true,
                random_seed: [0; 32],
                on_reset: OnReset::End,
                ram: Region {
                    address: 0,
                    length: memory,
                },
                ram_base: RAM_BASE,
                images: Vec::new(),
                roms: Vec::new(),
                devices: Vec::new(),
                entry: RAM_BASE,
                device_tree: RAM_BASE,
            },
            images: images
                .map(|(index, bytes)| {
                    (
                        RAM_BASE + index as u64 * GIB,
                        Contents::Bytes(Arc::new(bytes.clone())),
                    )
                })
                .collect(),
        }
    }

    fn machine(mut guests: Vec<UnstagedGuest>) -> Result<(MachineLayout, BootConfig)> {
        let lengths: Vec<u64> = guests.iter().map(|guest| guest.config.ram.length).collect();
        for (guest, ram) in guests.iter_mut().zip(place_rams(lengths)) {
            guest.config.ram = ram;
        }
        let config = BootConfig {
            pcpu_count: 1,
            pools: vec![PoolPlan {
                name: "all".into(),
                pcpus: 1,
                policy: PolicyConfig::new("pinned", 1),
            }],
            boot_time: 0,
            guests: Vec::new(),
        };
        let layout = MachineLayout::new(config, guests)?;
        let Contents::Bytes(blob) = &layout.loads[0].contents else {
            panic!("the configuration is made here");
        };
        let decoded = BootConfig::decode(blob).expect("what was encoded");
        Ok((layout, decoded))
    }

    #[test]
    fn the_guests_ram_is_alone_in_its_gigabytes() {
        let images = [vec![1; 3 << 20], vec![2; 5]];
        let (layout, decoded) = machine(vec![guest(512 * MIB, &images)]).expect("it fits");
        assert_eq!(decoded.guests[0].ram.address, 2 * GIB);
        assert_eq!(layout.memory_mib, 1024 + 512 + 5);
        let ends: Vec<u64> = layout
            .loads
            .iter()
            .map(|load| load.address + load.contents.length())
            .collect();
        assert!(ends[0] <= decoded.guests[0].ram.address);
        assert!(end_of(&decoded.guests[0].ram) <= layout.loads[1].address);
        assert!(layout.loads[2].address >= ends[1]);
        assert_eq!(decoded.guests[0].images[1].destination, RAM_BASE + GIB);
    }

    #[test]
    fn firmware_stays_where_it_is_staged() {
        let mut firmware = kernel(0, 0);
        firmware.entry = 0;
        let layout = GuestLayout::new(&firmware, Some(MIB), &ram(512 * MIB), &Place::default());
        let layout = layout.expect("it fits");
        assert_eq!(layout.device_tree, RAM_BASE);
        let region = layout.initrd.expect("there is one");
        assert_eq!(region.address, RAM_BASE + INITRD_OFFSET);
        assert!(GuestLayout::new(&firmware, Some(1), &ram(128 * MIB), &Place::default()).is_err());
        let mut guest = guest(MIB, &[vec![1; 100], vec![2; 5]]);
        guest.images[0].0 = 0;
        let (_, decoded) = machine(vec![guest]).expect("it fits");
        let guest = &decoded.guests[0];
        assert_eq!((guest.roms.len(), guest.images.len()), (1, 1));
        assert_eq!(
            (
                guest.roms[0].destination,
                guest.roms[0].source.address % BLOCK
            ),
            (0, 0)
        );
    }

    #[test]
    fn guests_follow_each_other_and_share_what_is_equal() {
        let images = [vec![1; 100], vec![2; 5]];
        let mut other = images.clone();
        other[1][0] = 3;
        let guests = vec![
            guest(GIB + MIB, &images),
            guest(MIB, &other),
            guest(GIB, &images),
        ];
        let (layout, decoded) = machine(guests).expect("it fits");
        let rams: Vec<u64> = decoded
            .guests
            .iter()
            .map(|guest| guest.ram.address)
            .collect();
        assert_eq!(rams, [2 * GIB, 4 * GIB, 5 * GIB]);
        assert_eq!(layout.memory_mib, 5 * 1024 + 5);
        assert_eq!(layout.loads.len(), 1 + 3);
        let [first, second, third] = [0, 1, 2].map(|guest| &decoded.guests[guest].images);
        assert_eq!((first[0].source, first), (second[0].source, third));
        assert_ne!(first[1].source, second[1].source);
    }

    #[test]
    fn a_machine_that_is_too_large_is_refused() {
        let guests = vec![guest(GIB, &[]); 32];
        assert!(machine(guests.clone()).is_ok());
        let failure = machine([guests, vec![guest(230 * GIB, &[])]].concat());
        assert!(failure.is_err_and(|failure| failure.to_string().contains("261120 at most")));
    }
}
