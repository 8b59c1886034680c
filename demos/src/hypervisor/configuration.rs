//! What the runner wants, read and checked: what the rest of this module is given can be carried out, or the machine says why
//! not.

use alloc::{format, vec::Vec};
use core::ops::Range;

use trapline_demos::config::{
    self, BootConfig, GuestConfig, MAX_GUESTS, MAX_VCPUS, MAX_VCPUS_IN_ALL, PassedDevice, Region,
};
use trapline_platform::{BootInfo, mmu::Access, ram::Ram};

use super::{Refusal, memory::whole_pages};

/// The configuration that the bootargs name.
pub(super) fn read(boot: &BootInfo) -> Result<BootConfig, Refusal> {
    let config = decode(boot)?;
    check(boot, &config)?;
    Ok(config)
}

fn decode(boot: &BootInfo) -> Result<BootConfig, Refusal> {
    let place = config::locate(boot.machine.bootargs).ok_or_else(|| {
        Refusal(format!(
            "the bootargs lack {}=ADDRESS,LENGTH",
            config::BOOTARGS_KEY
        ))
    })?;
    let pages = whole_pages(place.address, place.length);
    if !boot.is_free(&pages) {
        return Err(Refusal(format!(
            "the configuration at {:#x} is not in free RAM",
            place.address
        )));
    }
    let ram = Ram::map(pages.clone(), Access::ReadOnly)
        .map_err(|error| Refusal(format!("configuration: {error:?}")))?;
    let mut blob = alloc::vec![0; place.length as usize];
    ram.read(place.address - pages.start, &mut blob)
        .map_err(|error| Refusal(format!("configuration: {error:?}")))?;
    BootConfig::decode(&blob).map_err(|error| Refusal(format!("configuration: {error:?}")))
}

fn check(boot: &BootInfo, config: &BootConfig) -> Result<(), Refusal> {
    let pcpu_count = usize::from(config.pcpu_count);
    if pcpu_count == 0 || pcpu_count > boot.pcpu_count() {
        return Err(Refusal(format!(
            "{pcpu_count} pCPUs are configured, the machine has {}",
            boot.pcpu_count()
        )));
    }
    if config.guests.is_empty() || config.guests.len() > MAX_GUESTS {
        return Err(Refusal(format!(
            "{} guests are configured, there can be 1 to {MAX_GUESTS}",
            config.guests.len()
        )));
    }
    let vcpus: usize = config
        .guests
        .iter()
        .map(|guest| usize::from(guest.vcpu_count))
        .sum();
    if vcpus > MAX_VCPUS_IN_ALL {
        return Err(Refusal(format!(
            "{vcpus} vCPUs are configured, there can be {MAX_VCPUS_IN_ALL}"
        )));
    }
    for device in PassedDevice::ALL {
        let given = config.guests.iter().flat_map(|guest| &guest.devices);
        if given.filter(|&&other| other == device).count() > 1 {
            let name = device.name();
            return Err(Refusal(format!("the machine's {name} is given twice")));
        }
    }
    let mut taken: Vec<Range<u64>> = Vec::new();
    for (index, guest) in config.guests.iter().enumerate() {
        let refuse = |what: &str| Err(Refusal(format!("guest {}: {what}", guest.name)));
        if guest.name.is_empty() || guest.name.contains(char::is_whitespace) {
            return Err(Refusal(format!("guest {index} has no name of one word")));
        }
        if config.guests[..index]
            .iter()
            .any(|other| other.name == guest.name)
        {
            return refuse("another guest has the same name");
        }
        if guest.vcpu_count == 0 || usize::from(guest.vcpu_count) > MAX_VCPUS {
            return refuse("it has no vCPU, or too many");
        }
        let ram = range(&guest.ram);
        if !boot.is_free(&ram) {
            return refuse("its RAM is not free RAM of the machine");
        }
        if taken.iter().any(|other| overlaps(other, &ram)) {
            return refuse("its RAM is another guest's too");
        }
        taken.push(ram);
    }
    config
        .guests
        .iter()
        .try_for_each(|guest| check_images(boot, guest, &taken))
}

/// The images lie where no guest writes. They are copied into the guest's RAM, or shown to it where they are.
fn check_images(boot: &BootInfo, guest: &GuestConfig, rams: &[Range<u64>]) -> Result<(), Refusal> {
    for image in &guest.images {
        let source = whole_pages(image.source.address, image.source.length);
        let offset = image
            .destination
            .wrapping_sub(config::guest_machine::RAM_BASE);
        let fits = offset
            .checked_add(image.source.length)
            .is_some_and(|end| end <= guest.ram.length);
        if !boot.is_free(&source) || rams.iter().any(|ram| overlaps(ram, &source)) || !fits {
            return Err(Refusal(format!(
                "guest {}: the image for {:#x} lies in RAM that is not free, or goes beyond the guest's",
                guest.name, image.destination
            )));
        }
    }
    for rom in &guest.roms {
        let source = whole_pages(rom.source.address, rom.source.length);
        let is_paged = source.start == rom.source.address && !source.is_empty();
        if !is_paged || !boot.is_free(&source) || rams.iter().any(|ram| overlaps(ram, &source)) {
            return Err(Refusal(format!(
                "guest {}: the ROM at {:#x} is no whole pages of RAM that is free",
                guest.name, rom.destination
            )));
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
