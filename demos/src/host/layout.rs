//! What lies where: in the machine's memory, and in the guest's ([`guest`]).
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

mod guest;

use std::sync::Arc;

use crate::{
    config::{BootConfig, GuestConfig, Region, StagedImage, guest_machine::RAM_BASE},
    host::{Failure, failure::Result, input::Contents},
};

pub use guest::GuestLayout;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// Images start at multiples of this: a block of stage 2 and of the guest's own tables.
const BLOCK: u64 = 2 * MIB;
/// After the largest device tree that QEMU makes, with room to spare.
const STAGING: u64 = 0x4900_0000;
/// Room for the encoded configuration.
const CONFIG_ROOM: u64 = BLOCK;
/// The most RAM that `virt` has below its second device window.
const MOST_MACHINE_MIB: u64 = 255 * 1024;
/// The most that is left of it for a guest's RAM.
pub const MOST_GUEST_MIB: u64 = MOST_MACHINE_MIB - 2048;

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
