//! From what the user asked for to a QEMU that is ready to start: everything is checked and built here, nothing runs yet.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;
use trapline_sched::{PcpuId, PcpuSet, policies};

use super::{
    Failure,
    cross::{self, Built},
    device_tree,
    failure::{Result, at},
    input::{initrd, kernel::Kernel},
    layout::{GuestLayout, MOST_GUEST_MIB, MachineLayout, unstaged_guest},
    machine::Machine,
    setup::{guest::StockGuest, qemu::Qemu},
};
use crate::config::BootConfig;

const MIB: u64 = 1 << 20;
/// What QEMU and the hypervisor need beside the guest's RAM.
const OVERHEAD: u64 = 256 * MIB;
/// Linux keeps no longer command line. [Linux: arch/arm64, COMMAND_LINE_SIZE]
const LONGEST_BOOTARGS: usize = 2047;
/// Bytes for the guest's random numbers to start from.
const SEED_LENGTH: usize = 40;

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

/// A run, as asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// Which guest.
    pub guest: GuestSource,
    /// Its initial ramdisk; the stock guest has one of its own.
    pub initrd: Option<PathBuf>,
    /// Its command line.
    pub bootargs: String,
    /// How many CPUs the guest has.
    pub vcpus: usize,
    /// How many CPUs the machine has.
    pub pcpus: usize,
    /// The guest's RAM.
    pub memory_mib: u64,
    /// The model of the machine's CPUs.
    pub cpu: String,
    /// The scheduling policy's name.
    pub policy: String,
    /// How long a vCPU runs while others wait, in microseconds.
    pub slice_us: u32,
    /// Lists of pCPUs, `0-1:2:3`: one for each vCPU, or one for all.
    pub affinity: Option<String>,
    /// Count instructions instead of time.
    pub is_counting: bool,
    /// No hypervisor: the guest's kernel directly on QEMU, to compare with.
    pub is_bare: bool,
    /// The hypervisor image.
    pub hypervisor: String,
}

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
    /// Checks everything, sets up what is missing, builds the images.
    pub fn prepare(&self) -> Result<Launch> {
        let affinity = self.check_plain_values()?;
        // What the user named is checked before anything is set up for it.
        let named = match &self.guest {
            GuestSource::File(path) => Some((path.clone(), Kernel::read(path)?)),
            GuestSource::Stock | GuestSource::Own(_) => None,
        };
        let is_linux = named.as_ref().is_none_or(|(_, kernel)| kernel.is_linux);
        let mut ramdisk = match &self.initrd {
            Some(path) => Some((path.clone(), initrd::read(path, is_linux)?)),
            None => None,
        };
        self.check_memory()?;
        let qemu = Qemu::set_up()?;
        self.check_model(&qemu)?;
        let (path, kernel) = match named {
            Some(named) => named,
            None => {
                let (path, own_ramdisk) = self.set_up_guest()?;
                if let (None, Some(path)) = (&ramdisk, own_ramdisk) {
                    ramdisk = Some((path.clone(), initrd::read(&path, true)?));
                }
                let kernel = Kernel::read(&path)?;
                (path, kernel)
            }
        };
        let machine = Machine {
            qemu: &qemu,
            cpu: &self.cpu,
            cpu_count: if self.is_bare { self.vcpus } else { self.pcpus },
            is_counting: self.is_counting,
        };
        let files = tempfile::Builder::new()
            .prefix("trapline-")
            .tempdir()
            .map_err(at("the directory for temporary files"))?;
        let (command, hypervisor) = if self.is_bare {
            let initrd = ramdisk.as_ref().map(|(path, _)| path);
            (
                machine.boot_bare(&path, initrd, &self.bootargs, self.memory_mib),
                None,
            )
        } else {
            let layout = self.lay_out(kernel, ramdisk.map(|(_, bytes)| bytes), affinity)?;
            let built = cross::build(&[&self.hypervisor])?.remove(0);
            let command = machine.boot_hypervisor(&built.flat, &layout, files.path())?;
            (command, Some(built))
        };
        Ok(Launch {
            command,
            hypervisor,
            qemu_version: qemu.version,
            _files: files,
        })
    }

    fn lay_out(
        &self,
        kernel: Kernel,
        ramdisk: Option<Vec<u8>>,
        affinity: Vec<u64>,
    ) -> Result<MachineLayout> {
        let memory = self.memory_mib * MIB;
        let layout = GuestLayout::new(
            &kernel,
            ramdisk.as_ref().map(|bytes| bytes.len() as u64),
            memory,
        )?;
        let tree = device_tree::build(&device_tree::Guest {
            vcpu_count: self.vcpus,
            memory,
            bootargs: &self.bootargs,
            initrd: layout.initrd,
            seed: self.seed()?,
        })
        .map_err(|error| {
            Failure::input(error, "--append", "give a command line without zero bytes")
        })?;
        let config = BootConfig {
            pcpu_count: self.pcpus as u16,
            policy: self.policy.clone(),
            slice_us: self.slice_us,
            guests: vec![unstaged_guest(&self.name(), affinity, &layout)],
        };
        let mut images = vec![(layout.kernel, kernel.bytes), (layout.device_tree, tree)];
        if let (Some(region), Some(bytes)) = (layout.initrd, ramdisk) {
            images.push((region.address, bytes));
        }
        Ok(MachineLayout::new(config, images, memory))
    }

    fn name(&self) -> String {
        match &self.guest {
            GuestSource::Stock => "linux".into(),
            GuestSource::Own(name) => name.clone(),
            GuestSource::File(path) => {
                let name = path
                    .file_name()
                    .map(|name| name.to_string_lossy().into_owned());
                name.unwrap_or_else(|| "guest".into())
            }
        }
    }

    /// Random, except when runs shall be equal.
    fn seed(&self) -> Result<[u8; SEED_LENGTH]> {
        let mut seed = [0x5a; SEED_LENGTH];
        if !self.is_counting {
            let source = Path::new("/dev/urandom");
            let mut file = fs::File::open(source).map_err(at(source.display()))?;
            std::io::Read::read_exact(&mut file, &mut seed).map_err(at(source.display()))?;
        }
        Ok(seed)
    }

    /// The kernel, and the initial ramdisk that belongs to it.
    fn set_up_guest(&self) -> Result<(PathBuf, Option<PathBuf>)> {
        if let GuestSource::Own(name) = &self.guest {
            return Ok((cross::build(&[name])?.remove(0).flat, None));
        }
        let stock = StockGuest::set_up()?;
        Ok((stock.kernel, Some(stock.initrd)))
    }

    /// Checks what needs no file and no program; returns the affinity of each vCPU.
    fn check_plain_values(&self) -> Result<Vec<u64>> {
        if !policies::NAMES.contains(&self.policy.as_str()) {
            let remedy = format!("choose one of {}", policies::NAMES.join(", "));
            return Err(Failure::input(
                format!("unknown policy `{}`", self.policy),
                "--policy",
                &remedy,
            ));
        }
        if self.bootargs.len() > LONGEST_BOOTARGS {
            let what = format!("the command line has {} bytes", self.bootargs.len());
            let remedy = format!("give at most {LONGEST_BOOTARGS}");
            return Err(Failure::input(what, "--append", &remedy));
        }
        if let GuestSource::Own(name) = &self.guest
            && !cross::GUESTS.contains(&name.as_str())
        {
            let remedy = format!("choose one of {}", cross::GUESTS.join(", "));
            return Err(Failure::input(
                format!("unknown guest `{name}`"),
                "--guest",
                &remedy,
            ));
        }
        match &self.affinity {
            Some(lists) => parse_affinity(lists, self.vcpus, self.pcpus),
            None => Ok(vec![all_pcpus(self.pcpus).bits(); self.vcpus]),
        }
    }

    fn check_memory(&self) -> Result<()> {
        let available = fs::read_to_string("/proc/meminfo")
            .ok()
            .and_then(|text| available_memory(&text));
        let most = available.map_or(MOST_GUEST_MIB, |bytes| bytes.saturating_sub(OVERHEAD) / MIB);
        let most = most.min(MOST_GUEST_MIB);
        if self.memory_mib <= most {
            return Ok(());
        }
        let what = format!(
            "this machine lacks memory for a guest of {} MiB",
            self.memory_mib
        );
        Err(Failure::input(
            what,
            "--memory",
            &format!("give at most {most}"),
        ))
    }

    fn check_model(&self, qemu: &Qemu) -> Result<()> {
        let models = qemu.cpu_models();
        if models.contains(&self.cpu) {
            return Ok(());
        }
        let what = format!("unknown CPU model `{}`", self.cpu);
        Err(Failure::input(
            what,
            "--cpu",
            &format!("choose one of {}", models.join(", ")),
        ))
    }
}

fn all_pcpus(count: usize) -> PcpuSet {
    PcpuSet::all(u16::try_from(count).unwrap_or(PcpuId::LIMIT))
}

/// One set for each vCPU from `lists`, as in [`Request::affinity`].
fn parse_affinity(lists: &str, vcpus: usize, pcpus: usize) -> Result<Vec<u64>> {
    let refuse = |what: String| {
        let remedy = "give lists of pCPUs like 0-1:2:3, one for each vCPU or one for all";
        Err(Failure::input(what, "--affinity", remedy))
    };
    let mut sets = Vec::new();
    for list in lists.split(':') {
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

/// What Linux says can be allocated without swapping, in bytes. [Linux: proc(5), MemAvailable]
fn available_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn affinity_is_for_each_vcpu_or_for_all() {
        assert_eq!(parse_affinity("0-1", 3, 4), Ok(vec![0b11; 3]));
        assert_eq!(
            parse_affinity("0-1:2:3,0", 3, 4),
            Ok(vec![0b11, 0b100, 0b1001])
        );
        for (lists, vcpus) in [
            ("0:1", 3),
            ("4", 1),
            ("", 1),
            ("a", 1),
            ("0:", 2),
            ("3-1", 1),
            ("0:1:2", 2),
        ] {
            let failure = parse_affinity(lists, vcpus, 4).expect_err(lists);
            assert!(failure.to_string().contains("--affinity"));
        }
    }

    #[test]
    fn available_memory_is_read() {
        let text = "MemTotal:       24 kB\nMemFree: 3 kB\nMemAvailable:    1024 kB\n";
        assert_eq!(available_memory(text), Some(1 << 20));
        assert_eq!(available_memory(""), None);
    }
}
