//! From what the user asked for to a QEMU that is ready to start: everything is checked and built here, nothing runs yet.

mod inputs;

use std::{
    fs,
    ops::Range,
    path::Path,
    process::Command,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use tempfile::TempDir;

use super::{
    Failure,
    cross::Built,
    device_tree,
    failure::{Result, at},
    input::{Contents, dtb},
    layout::{GuestLayout, MOST_GUEST_MIB, MachineLayout, UnstagedGuest, place_rams},
    machine::{self, Machine},
    memory,
    request::{GuestRequest, Request},
    virtio,
};
use crate::config::{BootConfig, GicVersion, GuestConfig, PassedDevice, Region, guest_machine};

pub use inputs::{Emulator, Inputs};

const MIB: u64 = 1 << 20;
/// What QEMU and the hypervisor need beside the guests' RAM.
const OVERHEAD: u64 = 256 * MIB;
/// When runs that shall be equal begin: 2026-01-01, 00:00:00 UTC.
const FIXED_BOOT_TIME: u64 = 1_767_225_600;

/// A QEMU that is ready to start.
#[derive(Debug)]
pub struct Launch {
    /// QEMU, with all its arguments.
    pub command: Command,
    /// The hypervisor, unless the run is bare.
    pub hypervisor: Option<Built>,
    /// QEMU's version.
    pub qemu_version: String,
    /// The files that QEMU loads; they go with this value.
    _files: TempDir,
}

impl Request {
    /// Checks everything, sets up what is missing, builds the images. What `inputs` has from an earlier run is used again.
    ///
    /// # Errors
    /// The first thing that is wrong, and where.
    pub fn prepare(&self, inputs: &mut Inputs) -> Result<Launch> {
        let affinities = self.check_plain_values()?;
        self.check_memory(memory::available())?;
        let places = self.places()?;
        // What the user named is checked before anything is set up for it.
        for (guest, place) in self.guests.iter().zip(&places) {
            inputs.read_named(guest, place)?;
        }
        virtio::check_files(&self.guests)?;
        let Emulator { qemu, models } = inputs.emulator()?;
        self.check_model(&models)?;
        inputs.set_up(&self.guests)?;
        let machine = Machine {
            qemu: &qemu,
            cpu: &self.cpu,
            cpu_count: if self.is_bare {
                self.guests[0].vcpus
            } else {
                self.pcpus
            },
            gic: self.gic,
            is_counting: self.is_counting,
        };
        let files = tempfile::Builder::new()
            .prefix("trapline-")
            .tempdir()
            .map_err(at("the directory for temporary files"))?;
        let transports = places.iter().map(|place| place.transports.as_slice());
        let devices = virtio::arguments(&self.guests, transports);
        let (command, hypervisor) = if self.is_bare {
            let guest = &self.guests[0];
            let files = inputs.files(guest);
            let initrd = files.initrd.as_ref();
            let kernel = inputs.kernel(&files.kernel, &places[0].seen())?;
            let mut command = machine.bare(guest.memory_mib);
            if let Some(path) = &guest.dtb {
                command.arg("-dtb").arg(path);
            }
            if kernel.is_firmware() {
                command.arg("-bios").arg(&files.kernel);
            } else {
                machine::boot(&mut command, &files.kernel, initrd, &guest.bootargs);
            }
            command.args(devices);
            (command, None)
        } else {
            let layout = self.lay_out(inputs, affinities, &places)?;
            let built = inputs.hypervisor(&self.hypervisor)?;
            let mut command = machine.boot_hypervisor(&built.flat, &layout, files.path())?;
            command.args(devices);
            (command, Some(built))
        };
        Ok(Launch {
            command,
            hypervisor,
            qemu_version: qemu.version,
            _files: files,
        })
    }

    /// Where each guest is in the machine.
    fn places(&self) -> Result<Vec<GuestPlace>> {
        let rams = place_rams(self.guests.iter().map(|guest| guest.memory_mib * MIB));
        let placed = self.guests.iter().zip(rams);
        let placed = placed.zip(virtio::transports(&self.guests)?);
        let place = |((guest, ram), transports): ((&GuestRequest, Region), _)| GuestPlace {
            ram,
            // A device reads and writes where the driver says: there the guest's memory must be.
            ram_base: if guest.virtio.is_empty() || self.is_bare {
                guest_machine::RAM_BASE
            } else {
                ram.address
            },
            transports,
            gic: self.gic,
        };
        Ok(placed.map(place).collect())
    }

    fn lay_out(
        &self,
        inputs: &mut Inputs,
        affinities: Vec<Vec<u64>>,
        places: &[GuestPlace],
    ) -> Result<MachineLayout> {
        let mut guests = Vec::new();
        let (pools, of_guests) = self.pool_plans()?;
        let asked = self.guests.iter().zip(affinities).zip(of_guests);
        for (((guest, affinity), pool), place) in asked.zip(places) {
            guests.push(guest.lay_out(inputs, (affinity, pool), place, self.is_counting)?);
        }
        let config = BootConfig {
            pcpu_count: self.pcpus as u16,
            pools,
            boot_time: boot_time(self.is_counting),
            guests: Vec::new(),
        };
        MachineLayout::new(config, guests)
    }

    fn check_memory(&self, available: Option<u64>) -> Result<()> {
        let most = available.map_or(MOST_GUEST_MIB, |bytes| bytes.saturating_sub(OVERHEAD) / MIB);
        let most = most.min(MOST_GUEST_MIB);
        let sizes = self.guests.iter().map(|guest| guest.memory_mib);
        let sum = sizes.fold(0, u64::saturating_add);
        if sum <= most {
            return Ok(());
        }
        // The guest that asks for most is the one to look at.
        let largest = self.guests.iter().max_by_key(|guest| guest.memory_mib);
        let place = largest.map(|guest| guest.place.of("memory"));
        let (whom, remedy) = match self.guests.len() {
            1 => ("a guest", format!("give at most {most}")),
            _ => ("guests", format!("give them at most {most} together")),
        };
        let what = format!("this machine lacks memory for {whom} of {sum} MiB");
        Err(Failure::input(what, place.unwrap_or_default(), &remedy))
    }

    fn check_model(&self, models: &[String]) -> Result<()> {
        if models.contains(&self.cpu) {
            return Ok(());
        }
        let what = format!("unknown CPU model `{}`", self.cpu);
        let remedy = format!("choose one of {}", models.join(", "));
        Err(Failure::input(what, self.place.of("cpu"), &remedy))
    }
}

impl GuestRequest {
    /// What its device tree says of it, but for what is loaded.
    fn described<'a>(&'a self, place: &'a GuestPlace) -> device_tree::Guest<'a> {
        device_tree::Guest {
            gic: place.gic,
            vcpu_count: self.vcpus,
            ram: place.seen(),
            bootargs: &self.bootargs,
            initrd: None,
            transports: &place.transports,
            seed: [0; 40],
        }
    }

    /// The devices of the machine that it drives itself.
    fn passed(&self, place: &GuestPlace) -> Vec<PassedDevice> {
        let transports = place.transports.iter().copied().map(PassedDevice::Virtio);
        self.devices.iter().copied().chain(transports).collect()
    }

    fn lay_out(
        &self,
        inputs: &mut Inputs,
        (affinity, pool): (Vec<u64>, u16),
        place: &GuestPlace,
        is_counting: bool,
    ) -> Result<UnstagedGuest> {
        let files = inputs.files(self);
        let ram = place.seen();
        let kernel = inputs.kernel(&files.kernel, &ram)?;
        let ramdisk = match &files.initrd {
            Some(path) => Some(inputs.ramdisk(path, kernel.is_linux, place.ram.length)?),
            None => None,
        };
        let ramdisk_length = ramdisk.as_ref().map(Contents::length);
        let layout = GuestLayout::new(&kernel, ramdisk_length, &ram, &self.place)?;
        let machine = device_tree::Guest {
            initrd: layout.initrd,
            seed: seed(is_counting)?,
            ..self.described(place)
        };
        let tree = match &self.dtb {
            Some(path) => {
                let own = dtb::read(path, &machine)?;
                dtb::check_images(path, &own, &layout.ranges(&kernel))?;
                device_tree::complete(&own, &machine).map_err(|error| {
                    Failure::input(error, path.display(), "give a flattened device tree")
                })?
            }
            None => device_tree::build(&machine).map_err(|error| {
                let remedy = "give a command line without zero bytes";
                Failure::input(error, self.place.of("append"), remedy)
            })?,
        };
        let segments = kernel.segments.into_iter();
        let mut images: Vec<_> = segments
            .map(|segment| (segment.address, Contents::Bytes(segment.bytes)))
            .collect();
        images.push((layout.device_tree, Contents::Bytes(Arc::new(tree))));
        if let (Some(region), Some(contents)) = (layout.initrd, ramdisk) {
            images.push((region.address, contents));
        }
        let config = GuestConfig {
            name: self.name.clone(),
            vcpu_count: affinity.len() as u16,
            pool,
            affinity,
            soft_affinity: self.soft_affinity()?.bits(),
            entitlement: self.entitlement,
            starts: self.starts,
            random_seed: seed(is_counting)?,
            on_reset: self.on_reset,
            ram: place.ram,
            ram_base: place.ram_base,
            images: Vec::new(),
            roms: Vec::new(),
            devices: self.passed(place),
            entry: layout.entry,
            device_tree: layout.device_tree,
        };
        Ok(UnstagedGuest { config, images })
    }
}

/// Where a guest is in the machine.
struct GuestPlace {
    /// Its RAM.
    ram: Region,
    /// Where it sees its RAM.
    ram_base: u64,
    /// The numbers of its virtio devices' transports.
    transports: Vec<u8>,
    /// The interrupt controller of the machine, and of the guest.
    gic: GicVersion,
}

impl GuestPlace {
    /// Its RAM as it sees it.
    fn seen(&self) -> Range<u64> {
        self.ram_base..self.ram_base.saturating_add(self.ram.length)
    }
}

/// Random, except when runs shall be equal.
fn seed<const LENGTH: usize>(is_counting: bool) -> Result<[u8; LENGTH]> {
    let mut seed = [0x5a; LENGTH];
    if !is_counting {
        let source = Path::new("/dev/urandom");
        let mut file = fs::File::open(source).map_err(at(source.display()))?;
        std::io::Read::read_exact(&mut file, &mut seed).map_err(at(source.display()))?;
    }
    Ok(seed)
}

/// Now, in seconds since 1970, except when runs shall be equal.
fn boot_time(is_counting: bool) -> u64 {
    if is_counting {
        return FIXED_BOOT_TIME;
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::PolicyConfig,
        host::request::{GuestSource, Place},
    };

    #[test]
    fn all_guests_together_must_fit_into_this_machine() {
        let guest = |memory_mib| GuestRequest {
            memory_mib,
            ..GuestRequest::new(GuestSource::Stock, String::new(), 1)
        };
        let request = |guests| Request {
            guests,
            pcpus: 1,
            cpu: "max".into(),
            gic: GicVersion::V3,
            policy: PolicyConfig::new("round-robin", 5000),
            pools: Vec::new(),
            is_counting: false,
            is_bare: false,
            hypervisor: "hypervisor".into(),
            place: Place::default(),
        };
        let available = Some(1256 * MIB);
        let fits = |guests: Vec<u64>| {
            request(guests.into_iter().map(guest).collect()).check_memory(available)
        };
        assert_eq!(fits(vec![1000]), Ok(()));
        assert_eq!(fits(vec![600, 400]), Ok(()));
        for (guests, said) in [
            (vec![1001], "give at most 1000"),
            (vec![600, 401], "guests of 1001 MiB"),
            (vec![u64::MAX, u64::MAX], "at most 1000 together"),
        ] {
            let failure = fits(guests).expect_err(said).to_string();
            assert!(failure.contains(said), "{failure}");
        }
    }
}
