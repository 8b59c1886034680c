//! A run, as asked for: one machine and its guests. What needs no file and no program to check is checked here.

mod scheduling;

use std::{collections::BTreeMap, path::PathBuf};

use trapline_sched::{PcpuId, PcpuSet};

pub use self::scheduling::PoolRequest;

use super::{
    Failure, cross,
    failure::Result,
    virtio::{self, Backend},
};
use crate::config::{
    EntitlementConfig, GicVersion, MAX_GUESTS, MAX_VCPUS_IN_ALL, OnReset, PassedDevice,
    PolicyConfig,
};

/// Linux keeps no longer command line. [Linux: arch/arm64, COMMAND_LINE_SIZE]
const LONGEST_BOOTARGS: usize = 2047;
/// Names are said at the start of lines.
const LONGEST_NAME: usize = 32;

/// The RAM of a guest when nobody says otherwise.
pub const DEFAULT_MEMORY_MIB: u64 = 512;

/// Where a value was given, for what is said about it: by an option of the command line, or in a line of a file.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Place {
    /// The file and, if the value belongs to one part of it, which part that is and where it starts.
    pub file: Option<(String, Option<(String, usize)>)>,
    /// The line of each key that the file gives.
    pub lines: BTreeMap<String, usize>,
}

impl Place {
    /// How to name the place of `key`.
    pub fn of(&self, key: &str) -> String {
        match (&self.file, self.lines.get(key)) {
            (Some((file, Some((owner, _)))), Some(line)) => {
                format!("{file}:{line}: {key} of {owner}")
            }
            (Some((file, None)), Some(line)) => format!("{file}:{line}: {key}"),
            (Some((file, Some((owner, line)))), None) => format!("{file}:{line}: {owner}"),
            _ => format!("--{key}"),
        }
    }
}

/// Which guest to run.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum GuestSource {
    /// Debian's stock Linux.
    Stock,
    /// A kernel of the user's.
    File(PathBuf),
    /// One of [`cross::GUESTS`].
    Own(String),
}

impl GuestSource {
    /// A name for a guest that was given none.
    pub fn name(&self) -> String {
        let name = match self {
            Self::Stock => "linux".into(),
            Self::Own(name) => name.clone(),
            Self::File(path) => path
                .file_name()
                .map(|name| {
                    name.to_string_lossy()
                        .replace(|c| !is_name_character(c), "-")
                })
                .unwrap_or_default(),
        };
        match name.trim_start_matches(|c: char| !c.is_ascii_alphanumeric()) {
            "" => "guest".into(),
            name => name.chars().take(LONGEST_NAME).collect(),
        }
    }
}

/// One guest, as asked for.
#[derive(Clone, Debug)]
pub struct GuestRequest {
    /// Its name in all that is said about it.
    pub name: String,
    /// Which guest.
    pub source: GuestSource,
    /// Its initial ramdisk; the stock guest has one of its own.
    pub initrd: Option<PathBuf>,
    /// The description of its machine, in place of the one that is made for it.
    pub dtb: Option<PathBuf>,
    /// Its command line.
    pub bootargs: String,
    /// How many CPUs it has.
    pub vcpus: usize,
    /// Its RAM.
    pub memory_mib: u64,
    /// The name of its pool; `None`: the one of the pCPUs that are in no other.
    pub pool: Option<String>,
    /// Lists of pCPUs: one for each vCPU, or one for all; none for any pCPU.
    pub affinity: Vec<String>,
    /// A list of pCPUs that its vCPUs run on rather than elsewhere.
    pub soft_affinity: Option<String>,
    /// What each of its vCPUs shall get.
    pub entitlement: EntitlementConfig,
    /// It starts with the machine.
    pub starts: bool,
    /// What becomes of it when it asks for a reset.
    pub on_reset: OnReset,
    /// The devices of the machine that it drives itself, of those that the machine has one of.
    pub devices: Vec<PassedDevice>,
    /// The virtio devices that it drives itself.
    pub virtio: Vec<Backend>,
    /// It may have such devices, though they reach all of the machine's memory.
    pub is_dma_trusted: bool,
    /// Where all this was given.
    pub place: Place,
}

impl GuestRequest {
    /// A guest with `vcpus` CPUs and nothing special.
    pub fn new(source: GuestSource, bootargs: String, vcpus: usize) -> Self {
        Self {
            name: source.name(),
            source,
            initrd: None,
            dtb: None,
            bootargs,
            vcpus,
            memory_mib: DEFAULT_MEMORY_MIB,
            pool: None,
            affinity: Vec::new(),
            soft_affinity: None,
            entitlement: EntitlementConfig::default(),
            starts: true,
            on_reset: OnReset::End,
            devices: Vec::new(),
            virtio: Vec::new(),
            is_dma_trusted: false,
            place: Place::default(),
        }
    }
}

/// A run, as asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// The guests; a run without a hypervisor has one.
    pub guests: Vec<GuestRequest>,
    /// How many CPUs the machine has.
    pub pcpus: usize,
    /// The model of the machine's CPUs.
    pub cpu: String,
    /// The machine's interrupt controller; its guests have one like it.
    pub gic: GicVersion,
    /// Who runs next on the pCPUs that are in none of `pools`.
    pub policy: PolicyConfig,
    /// Pools of pCPUs.
    pub pools: Vec<PoolRequest>,
    /// Count instructions instead of time.
    pub is_counting: bool,
    /// No hypervisor: the guest's kernel directly on QEMU, to compare with.
    pub is_bare: bool,
    /// The hypervisor image.
    pub hypervisor: String,
    /// Where what concerns the machine was given.
    pub place: Place,
}

impl Request {
    /// Checks what needs no file and no program; returns for each guest the affinity of each of its vCPUs.
    ///
    /// # Errors
    /// The first thing that is wrong, and where.
    pub fn check_plain_values(&self) -> Result<Vec<Vec<u64>>> {
        let pools = self.pools()?;
        self.check_sums()?;
        self.check_gic()?;
        for (index, guest) in self.guests.iter().enumerate() {
            guest.check_plain_values()?;
            if self.guests[..index]
                .iter()
                .any(|other| other.name == guest.name)
            {
                return Err(Failure::input(
                    format!("two guests have the name `{}`", guest.name),
                    guest.place.of("name"),
                    "give each a name of its own",
                ));
            }
        }
        self.check_devices()?;
        let affinities = self.guests.iter().map(|guest| {
            if guest.affinity.is_empty() {
                return Ok(vec![all_pcpus(self.pcpus).bits(); guest.vcpus]);
            }
            parse_affinity(&guest.affinity, guest.vcpus, self.pcpus, &guest.place)
        });
        let affinities = affinities.collect::<Result<Vec<_>>>()?;
        self.check_scheduling(&pools, &affinities)?;
        Ok(affinities)
    }

    fn check_sums(&self) -> Result<()> {
        let refuse = |what: String, key: &str, remedy: &str| {
            Err(Failure::input(what, self.place.of(key), remedy))
        };
        if self.guests.is_empty() {
            return refuse(
                "there is no guest".into(),
                "config",
                "describe at least one in a [[vm]]",
            );
        }
        if self.guests.len() > MAX_GUESTS {
            let what = format!("there are {} guests", self.guests.len());
            return refuse(what, "config", &format!("give at most {MAX_GUESTS}"));
        }
        let vcpus: usize = self.guests.iter().map(|guest| guest.vcpus).sum();
        if vcpus > MAX_VCPUS_IN_ALL {
            let what = format!("the guests have {vcpus} vCPUs together");
            return refuse(
                what,
                "config",
                &format!("give them at most {MAX_VCPUS_IN_ALL}"),
            );
        }
        if self.is_bare && self.guests.len() > 1 {
            return refuse(
                "several guests need a hypervisor".into(),
                "bare",
                "leave it out",
            );
        }
        Ok(())
    }

    /// Not every interrupt controller serves as many CPUs as there can be.
    fn check_gic(&self) -> Result<()> {
        let (most, version) = (self.gic.most_cpus(), self.gic.number());
        let refuse = |what: String, place: String| {
            let what = format!("{what}, and a GICv{version} serves {most}");
            let remedy = format!("give at most {most}, or another --gic");
            Err(Failure::input(what, place, &remedy))
        };
        if !self.is_bare && self.pcpus > most {
            let what = format!("the machine has {} pCPUs", self.pcpus);
            return refuse(what, self.place.of("pcpus"));
        }
        match self.guests.iter().find(|guest| guest.vcpus > most) {
            Some(guest) => {
                let what = format!("`{}` has {} vCPUs", guest.name, guest.vcpus);
                refuse(what, guest.place.of("vcpus"))
            }
            None => Ok(()),
        }
    }

    /// The machine has one of each device, and room for so many virtio devices.
    fn check_devices(&self) -> Result<()> {
        for device in PassedDevice::SINGLE {
            let mut given = self.guests.iter().flat_map(|guest| {
                let has = |other: &&PassedDevice| **other == device;
                guest.devices.iter().filter(has).map(move |_| guest)
            });
            if let Some(second) = given.nth(1) {
                return Err(Failure::input(
                    format!("the machine's {} is given twice", device.name()),
                    second.place.of("device"),
                    "give it to one guest: the others have one that is emulated",
                ));
            }
        }
        virtio::transports(&self.guests).map(drop)
    }
}

const fn is_name_character(character: char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, '-' | '_' | '.')
}

/// A name has letters, digits and `-_.`, as it stands in log lines and commands.
pub(super) fn check_name(name: &str, key: &str, place: &Place) -> Result<()> {
    let is_name = name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.len() <= LONGEST_NAME
        && name.chars().all(is_name_character);
    if is_name {
        return Ok(());
    }
    let what = format!("`{}` is no name", name.escape_debug());
    let remedy = format!(
        "give letters, digits and -_. only, at most {LONGEST_NAME}, a letter or digit first"
    );
    Err(Failure::input(what, place.of(key), &remedy))
}

impl GuestRequest {
    fn check_plain_values(&self) -> Result<()> {
        let refuse = |what: String, key: &str, remedy: &str| {
            Err(Failure::input(what, self.place.of(key), remedy))
        };
        check_name(&self.name, "name", &self.place)?;
        if self.bootargs.len() > LONGEST_BOOTARGS {
            let what = format!("the command line has {} bytes", self.bootargs.len());
            return refuse(what, "append", &format!("give at most {LONGEST_BOOTARGS}"));
        }
        if self.bootargs.contains('\0') {
            let what = "the command line has a zero byte in it".into();
            return refuse(what, "append", "give a command line without zero bytes");
        }
        if let GuestSource::Own(name) = &self.source
            && !cross::GUESTS.contains(&name.as_str())
        {
            let remedy = format!("choose one of {}", cross::GUESTS.join(", "));
            return refuse(format!("unknown guest `{name}`"), "guest", &remedy);
        }
        Ok(())
    }
}

fn all_pcpus(count: usize) -> PcpuSet {
    PcpuSet::all(u16::try_from(count).unwrap_or(PcpuId::LIMIT))
}

/// One set for each vCPU from `lists`, as in [`GuestRequest::affinity`].
fn parse_affinity(lists: &[String], vcpus: usize, pcpus: usize, place: &Place) -> Result<Vec<u64>> {
    let refuse = |what: String| {
        let remedy = if place.file.is_some() {
            "give a list of pCPUs like \"0-1,3\" for all vCPUs, or an array of them with one for each vCPU"
        } else {
            "give lists of pCPUs like 0-1:2:3, one for each vCPU or one for all"
        };
        Err(Failure::input(what, place.of("affinity"), remedy))
    };
    let mut sets = Vec::new();
    for list in lists {
        let Ok(set) = list.parse::<PcpuSet>() else {
            return refuse(format!("`{list}` is no list of pCPUs"));
        };
        if set.is_empty() || !set.difference(all_pcpus(pcpus)).is_empty() {
            return refuse(format!("`{list}` is not among the {pcpus} pCPUs"));
        }
        sets.push(set.bits());
    }
    match sets.len() {
        1 => Ok(vec![sets[0]; vcpus]),
        count if count == vcpus => Ok(sets),
        count => refuse(format!("{count} lists for {vcpus} vCPUs")),
    }
}

#[cfg(test)]
mod tests;
