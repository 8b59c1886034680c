//! Whether a configuration can be carried out on the machine where the hypervisor finds itself: all that is asked for is there,
//! and nothing lies where something else does. Whoever wrote the configuration has made a mistake otherwise.

use alloc::{format, string::String, vec::Vec};
use core::ops::Range;

use trapline_sched::{PcpuSet, PoolId};

use super::{
    BootConfig, GuestConfig, MAX_GUESTS, MAX_VCPUS, MAX_VCPUS_IN_ALL, PassedDevice, Region,
    StagedImage, guest_machine,
};

/// Stage 2 maps whole pages.
pub const PAGE: u64 = 0x1000;

/// The machine, as far as a configuration has to fit it.
pub struct Machine<'a> {
    /// How many pCPUs it has.
    pub pcpu_count: usize,
    /// Where the configuration itself lies.
    pub blob: Range<u64>,
    /// A range is RAM and holds nothing of the hypervisor's.
    pub is_free: &'a dyn Fn(&Range<u64>) -> bool,
}

/// The whole pages that hold `length` bytes from `address` on.
pub fn whole_pages(address: u64, length: u64) -> Range<u64> {
    let end = address.saturating_add(length).saturating_add(PAGE - 1);
    address & !(PAGE - 1)..end & !(PAGE - 1)
}

impl BootConfig {
    /// Checks that the configuration can be carried out on `machine`.
    ///
    /// # Errors
    /// It cannot: why not.
    pub fn check(&self, machine: &Machine<'_>) -> Result<(), String> {
        self.check_counts(machine)?;
        self.check_pools()?;
        let mut rams: Vec<Range<u64>> = Vec::new();
        for (index, guest) in self.guests.iter().enumerate() {
            self.check_name(index, guest)?;
            self.check_devices(index, guest)?;
            let refuse = |what: &str| Err(format!("guest {}: {what}", guest.name));
            if guest.vcpu_count == 0 || usize::from(guest.vcpu_count) > MAX_VCPUS {
                return refuse("it has no vCPU, or too many");
            }
            let Some(pool) = self.pools.get(usize::from(guest.pool)) else {
                return refuse("its pool does not exist");
            };
            if guest.affinity.iter().any(|set| set & pool.pcpus == 0) {
                return refuse("one of its vCPUs may run on no pCPU of its pool");
            }
            let ram = range(&guest.ram);
            if ram != whole_pages(guest.ram.address, guest.ram.length) || !(machine.is_free)(&ram) {
                return refuse("its RAM is not whole pages of the machine's free RAM");
            }
            if overlaps(&machine.blob, &ram) {
                return refuse("the configuration lies in its RAM");
            }
            if rams.iter().any(|other| overlaps(other, &ram)) {
                return refuse("its RAM is another guest's too");
            }
            let reaches_memory = guest.devices.iter().any(|device| device.reaches_memory());
            let is_elsewhere = guest.ram_base != ram.start;
            if is_elsewhere && (reaches_memory || guest.ram_base != guest_machine::RAM_BASE) {
                return refuse("it does not see its RAM where it is, or where `virt` has it");
            }
            rams.push(ram);
        }
        for guest in &self.guests {
            check_images(machine, guest, &rams)?;
        }
        Ok(())
    }

    fn check_counts(&self, machine: &Machine<'_>) -> Result<(), String> {
        let pcpu_count = usize::from(self.pcpu_count);
        if pcpu_count == 0 || pcpu_count > machine.pcpu_count {
            return Err(format!(
                "{pcpu_count} pCPUs are configured, the machine has {}",
                machine.pcpu_count
            ));
        }
        if self.guests.is_empty() || self.guests.len() > MAX_GUESTS {
            return Err(format!(
                "{} guests are configured, there can be 1 to {MAX_GUESTS}",
                self.guests.len()
            ));
        }
        let vcpus = self
            .guests
            .iter()
            .map(|guest| usize::from(guest.vcpu_count));
        let vcpus: usize = vcpus.sum();
        if vcpus > MAX_VCPUS_IN_ALL {
            return Err(format!(
                "{vcpus} vCPUs are configured, there can be {MAX_VCPUS_IN_ALL}"
            ));
        }
        Ok(())
    }

    /// Each pCPU is in one pool.
    fn check_pools(&self) -> Result<(), String> {
        let mut rest = u64::MAX >> (u64::BITS - u32::from(self.pcpu_count));
        if self.pools.len() > PoolId::LIMIT {
            let most = PoolId::LIMIT;
            return Err(format!(
                "there are {} pools, and there can be {most}",
                self.pools.len()
            ));
        }
        for pool in &self.pools {
            if pool.pcpus == 0 || pool.pcpus & !rest != 0 {
                let name = &pool.name;
                return Err(format!(
                    "pool {name} has no pCPU, or one that is absent or another's"
                ));
            }
            rest &= !pool.pcpus;
        }
        if rest != 0 {
            return Err(format!("pCPUs {} are in no pool", PcpuSet::from_bits(rest)));
        }
        Ok(())
    }

    fn check_name(&self, index: usize, guest: &GuestConfig) -> Result<(), String> {
        if guest.name.is_empty() || guest.name.contains(char::is_whitespace) {
            return Err(format!("guest {index} has no name of one word"));
        }
        let mut before = self.guests.iter().take(index);
        if before.any(|other| other.name == guest.name) {
            return Err(format!(
                "guest {}: another guest has the same name",
                guest.name
            ));
        }
        Ok(())
    }

    /// What the guest drives itself is there, is its own once, and belongs to no guest before it.
    fn check_devices(&self, index: usize, guest: &GuestConfig) -> Result<(), String> {
        for (place, &device) in guest.devices.iter().enumerate() {
            let name = device.name();
            if !is_there(device) {
                return Err(format!("guest {}: there is no such {name}", guest.name));
            }
            let before = self.guests.iter().take(index);
            let mut others = before.flat_map(|other| &other.devices);
            let is_taken = others.any(|other| other.is_bound_to(device));
            if is_taken || guest.devices[..place].contains(&device) {
                return Err(format!("the machine's {name} is given twice"));
            }
        }
        Ok(())
    }
}

/// It is one of the machine's.
fn is_there(device: PassedDevice) -> bool {
    const TRANSPORTS: u64 =
        (guest_machine::VIRTIO.end - guest_machine::VIRTIO.start) / guest_machine::VIRTIO_STRIDE;
    !matches!(device, PassedDevice::Virtio(number) if u64::from(number) >= TRANSPORTS)
}

/// The images lie where no guest writes. They are copied into the guest's RAM, or shown to it where they are.
fn check_images(
    machine: &Machine<'_>,
    guest: &GuestConfig,
    rams: &[Range<u64>],
) -> Result<(), String> {
    let is_apart = |image: &StagedImage| {
        let source = whole_pages(image.source.address, image.source.length);
        (machine.is_free)(&source) && !rams.iter().any(|ram| overlaps(ram, &source))
    };
    for image in &guest.images {
        let offset = image.destination.wrapping_sub(guest.ram_base);
        let fits = offset
            .checked_add(image.source.length)
            .is_some_and(|end| end <= guest.ram.length);
        if !is_apart(image) || !fits {
            return Err(format!(
                "guest {}: the image for {:#x} lies in RAM that is not free, or goes beyond the guest's",
                guest.name, image.destination
            ));
        }
    }
    for rom in &guest.roms {
        let is_paged = rom.source.address.is_multiple_of(PAGE) && rom.source.length != 0;
        if !is_paged || !is_apart(rom) {
            return Err(format!(
                "guest {}: the ROM at {:#x} is no whole pages of RAM that is free",
                guest.name, rom.destination
            ));
        }
    }
    Ok(())
}

fn range(region: &Region) -> Range<u64> {
    region.address..region.address.saturating_add(region.length)
}

fn overlaps(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start < b.end && b.start < a.end
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;
    use crate::config::tests::example;

    /// The machine's RAM, and what the hypervisor has of it.
    const RAM: Range<u64> = 0x4000_0000..0x2_0000_0000;
    const HYPERVISOR: Range<u64> = 0x4020_0000..0x4800_0000;
    const BLOB: Range<u64> = 0x4900_0000..0x4900_1000;

    fn check(change: impl FnOnce(&mut BootConfig)) -> Result<(), String> {
        let mut config = example();
        change(&mut config);
        let is_free = |range: &Range<u64>| {
            !range.is_empty()
                && RAM.start <= range.start
                && range.end <= RAM.end
                && !overlaps(&HYPERVISOR, range)
        };
        config.check(&Machine {
            pcpu_count: 4,
            blob: BLOB,
            is_free: &is_free,
        })
    }

    /// The first guest's RAM is there.
    fn check_ram(address: u64, length: u64) -> Result<(), String> {
        check(|config| config.guests[0].ram = Region { address, length })
    }

    #[track_caller]
    fn expect_refusal(result: Result<(), String>, part: &str) {
        let why = result.expect_err("it is a mistake");
        assert!(why.contains(part), "{why}");
    }

    #[test]
    fn what_the_runner_writes_can_be_carried_out() {
        assert_eq!(check(|_| {}), Ok(()));
    }

    #[test]
    fn a_guest_whose_ram_holds_something_else_is_refused() {
        let length = 0x20_0000;
        expect_refusal(check_ram(HYPERVISOR.end - 0x1000, length), "free RAM");
        expect_refusal(check_ram(RAM.end - 0x1000, length), "free RAM");
        expect_refusal(
            check_ram(BLOB.end - 0x1000, length),
            "the configuration lies in its RAM",
        );
        expect_refusal(check_ram(BLOB.start - length + 1, length), "whole pages");
        expect_refusal(
            check_ram(BLOB.start - length + 0x1000, length),
            "the configuration",
        );
        let image = example().guests[0].images[0].source.address;
        expect_refusal(
            check_ram(image & !0xfff, length),
            "the image for 0x40000000",
        );
        let twice = check(|config| {
            let mut other = config.guests[0].clone();
            (other.name, other.devices) = ("other".into(), vec![]);
            other.ram.address += other.ram.length - 0x1000;
            config.guests.push(other);
        });
        expect_refusal(twice, "guest other: its RAM is another guest's too");
        assert_eq!(check_ram(BLOB.end, length), Ok(()));
    }

    #[test]
    fn ram_that_is_no_whole_pages_is_refused() {
        for (address, length) in [
            (0x8000_0800, 0x1000),
            (0x8000_0000, 0x800),
            (0x8000_0000, 0),
        ] {
            expect_refusal(check_ram(address, length), "whole pages");
        }
        expect_refusal(check_ram(!0xfff, u64::MAX), "whole pages");
    }

    #[test]
    fn a_guest_sees_its_ram_where_it_is_or_where_virt_has_it() {
        let seen_at = |base| {
            check(|config| {
                let guest = &mut config.guests[0];
                guest.images[0].destination = base;
                guest.ram_base = base;
            })
        };
        let place = example().guests[0].ram.address;
        assert_eq!(seen_at(place), Ok(()));
        let with_disk = |base| {
            check(|config| {
                let guest = &mut config.guests[0];
                guest.images[0].destination = base;
                guest.ram_base = base;
                guest.devices.push(PassedDevice::Virtio(3));
            })
        };
        assert_eq!(with_disk(place), Ok(()));
        expect_refusal(with_disk(guest_machine::RAM_BASE), "where it is");
        assert_eq!(seen_at(guest_machine::RAM_BASE), Ok(()));
        expect_refusal(seen_at(place + 0x4000_0000), "does not see its RAM");
        let elsewhere = check(|config| config.guests[0].ram_base = place);
        expect_refusal(elsewhere, "the image for 0x40000000");
    }

    #[test]
    fn the_transports_of_one_page_belong_to_one_guest() {
        let two = |mine: &[u8], others: &[u8]| {
            check(|config| {
                let mut other = config.guests[0].clone();
                other.name = "other".into();
                other.ram.address += 0x4000_0000;
                let guests = [(&mut config.guests[0], mine), (&mut other, others)];
                for (guest, transports) in guests {
                    let transports = transports.iter().copied();
                    guest.devices = transports.map(PassedDevice::Virtio).collect();
                    guest.ram_base = guest.ram.address;
                    guest.images[0].destination = guest.ram_base;
                }
                config.guests.push(other);
            })
        };
        assert_eq!(two(&[0, 7], &[8, 31]), Ok(()));
        expect_refusal(two(&[0], &[7]), "transport is given twice");
        expect_refusal(two(&[0, 1, 0], &[]), "transport is given twice");
        expect_refusal(two(&[32], &[]), "no such virtio transport");
    }

    #[test]
    fn images_that_are_no_images_of_the_guest_are_refused() {
        let image =
            |change: fn(&mut StagedImage)| check(|config| change(&mut config.guests[0].images[0]));
        expect_refusal(image(|image| image.destination -= 1), "the image for");
        expect_refusal(image(|image| image.destination = u64::MAX), "the image for");
        expect_refusal(
            image(|image| image.source.length = u64::MAX),
            "the image for",
        );
        expect_refusal(
            image(|image| image.source.address = 0x8000_0000),
            "the image for",
        );
        let rom = |address, length| {
            check(|config| {
                config.guests[0].roms.push(StagedImage {
                    source: Region { address, length },
                    destination: 0,
                });
            })
        };
        expect_refusal(rom(0x4a00_0800, 0x1000), "the ROM at 0x0");
        expect_refusal(rom(0x4a00_0000, 0), "the ROM at 0x0");
        expect_refusal(rom(0x8000_0000, 0x1000), "the ROM at 0x0");
        assert_eq!(rom(0x4a00_0000, 0x800), Ok(()));
    }

    #[test]
    fn what_the_machine_has_not_is_refused() {
        expect_refusal(check(|config| config.pcpu_count = 5), "the machine has 4");
        expect_refusal(check(|config| config.pcpu_count = 3), "pool rest has");
        expect_refusal(
            check(|config| config.pools[0].pcpus = 0b111),
            "pCPUs 3 are in no pool",
        );
        expect_refusal(
            check(|config| config.pools.clear()),
            "pCPUs 0-3 are in no pool",
        );
        expect_refusal(
            check(|config| config.guests[0].pool = 1),
            "its pool does not exist",
        );
        expect_refusal(check(|config| config.pcpu_count = 0), "0 pCPUs");
        expect_refusal(check(|config| config.guests.clear()), "0 guests");
        let guest = |change: fn(&mut GuestConfig)| check(|config| change(&mut config.guests[0]));
        expect_refusal(guest(|guest| guest.vcpu_count = 0), "no vCPU, or too many");
        expect_refusal(guest(|guest| guest.vcpu_count = 65), "no vCPU, or too many");
        expect_refusal(guest(|guest| guest.vcpu_count = 513), "513 vCPUs");
        expect_refusal(guest(|guest| guest.affinity[1] = 1 << 4), "on no pCPU");
        expect_refusal(
            guest(|guest| guest.name = "a b".into()),
            "guest 0 has no name",
        );
        let twice = |change: fn(&mut GuestConfig)| {
            check(|config| {
                let mut other = config.guests[0].clone();
                change(&mut other);
                config.guests.push(other);
            })
        };
        expect_refusal(twice(|other| other.devices.clear()), "the same name");
        expect_refusal(
            twice(|other| other.name = "b".into()),
            "gpio is given twice",
        );
    }
}
