//! `trapline run --config FILE`: a machine and its guests, described in TOML.
//!
//! [`read`] takes the text apart (`text`), and checks each value with the line that it stands in at hand. What concerns
//! several guests together is checked by [`super::request::Request`], and what concerns files by `launch`.

pub(super) mod scheduling;
mod text;

use std::{ops::RangeInclusive, path::Path};

use trapline_sched::policies;

use self::text::{DeviceText, DmaText, FileText, ResetText, VmText};
use super::{
    Failure,
    consoles::Target,
    cross,
    failure::Result,
    request::{DEFAULT_MEMORY_MIB, GuestRequest, GuestSource, Place, PoolRequest},
    toml_text::{self, PoolText, choose, within},
    virtio::Backend,
};
use crate::config::{
    GicVersion, MAX_PCPUS, MAX_VCPUS, OnReset, PassedDevice, PolicyConfig, WindowConfig,
};

pub use self::scheduling::{HALT_POLL_US, SLICE_US};

/// What explains such a file.
const GUIDE: &str = "docs/guide/several-guests.md";
/// The longest timeout, in seconds.
const TIMEOUT: RangeInclusive<i64> = 1..=u32::MAX as i64;

/// What the file says.
#[derive(Clone, Debug)]
pub struct ConfigFile {
    /// What it says of the machine.
    pub machine: MachineKeys,
    /// Its pools of pCPUs.
    pub pools: Vec<PoolKeys>,
    /// The guests, in their order.
    pub vms: Vec<Vm>,
}

/// What the file says of the machine; the command line may say otherwise.
#[derive(Clone, Debug, Default)]
pub struct MachineKeys {
    /// How many CPUs it has.
    pub pcpus: Option<u16>,
    /// Their model.
    pub cpu: Option<String>,
    /// Its interrupt controller.
    pub gic: Option<GicVersion>,
    /// The scheduling policy's name.
    pub policy: Option<String>,
    /// How long a vCPU runs while others wait, in microseconds.
    pub slice_us: Option<u32>,
    /// In what time a cap holds, in microseconds.
    pub period_us: Option<u32>,
    /// For how long at most pCPUs look for wake-ups of guests that do not say, in microseconds.
    pub halt_poll_us: Option<u32>,
    /// The windows of the pCPUs' frames.
    pub windows: Vec<WindowConfig>,
    /// Count instructions instead of time.
    pub icount: bool,
    /// End after so many seconds.
    pub timeout: Option<u32>,
    /// Where all this stands.
    pub place: Place,
}

/// One pool of the file.
#[derive(Clone, Debug)]
pub struct PoolKeys {
    name: String,
    pcpus: String,
    policy: Option<String>,
    slice_us: Option<u32>,
    period_us: Option<u32>,
    place: Place,
}

impl PoolKeys {
    /// The pool on a machine with `policy`: what it does not say is as there.
    pub fn request(self, policy: &PolicyConfig) -> PoolRequest {
        let mut own = policy.clone();
        own.name = self.policy.unwrap_or(own.name);
        own.slice_us = self.slice_us.unwrap_or(own.slice_us);
        own.period_us = self.period_us.unwrap_or(own.period_us);
        PoolRequest {
            name: self.name,
            pcpus: self.pcpus,
            policy: own,
            place: self.place,
        }
    }
}

/// One guest of the file.
#[derive(Clone, Debug)]
pub struct Vm {
    /// The guest, with the command line that the file gives it.
    pub guest: GuestRequest,
    /// Where its console goes, if not to the terminal.
    pub console: Option<Target>,
}

/// Reads the file at `path`.
///
/// # Errors
/// It cannot be read, or something in it is wrong: the first such thing, with its line.
pub fn read(path: &Path) -> Result<ConfigFile> {
    let text = toml_text::read(path, GUIDE)?;
    parse(&text, path)
}

fn parse(text: &str, path: &Path) -> Result<ConfigFile> {
    let file = path.display().to_string();
    let (parsed, lines) = text::parse(text, &file)?;
    let place = Place {
        file: Some((file.clone(), None)),
        lines: lines.machine,
    };
    let base = path.parent().unwrap_or(Path::new(""));
    let mut vms = Vec::new();
    for (vm, (heading, lines)) in parsed.vm.iter().zip(lines.vms) {
        let name = vm.name.as_deref().or(vm.guest.as_deref());
        let owner = name.map_or_else(
            || "this vm".into(),
            |name| format!("vm `{}`", name.escape_debug()),
        );
        let place = Place {
            file: Some((file.clone(), Some((owner, heading)))),
            lines,
        };
        vms.push(vm_of(vm, base, place)?);
    }
    let mut pools = Vec::new();
    for (pool, (heading, lines)) in parsed.pool.iter().zip(lines.pools) {
        let owner = format!("pool `{}`", pool.name.escape_debug());
        let place = Place {
            file: Some((file.clone(), Some((owner, heading)))),
            lines,
        };
        pools.push(pool_of(pool, parsed.policy.as_deref(), place)?);
    }
    if vms.is_empty() {
        return Err(Failure::input(
            "there is no guest",
            file,
            "describe at least one in a [[vm]]",
        ));
    }
    Ok(ConfigFile {
        machine: machine_of(&parsed, &vms, place)?,
        pools,
        vms,
    })
}

fn machine_of(text: &FileText, vms: &[Vm], place: Place) -> Result<MachineKeys> {
    let within = |value: Option<i64>, range, key| within(value, range, key, &place);
    let policy = text.policy.as_deref().unwrap_or(policies::RoundRobin::NAME);
    scheduling::check_options(policy, &text.policy_options, "policy_options.", &place)?;
    let option = text.policy_options.get("slice_us").copied();
    if option.is_some() && text.slice_us.is_some() {
        let what = "the slice is given twice";
        return Err(Failure::input(
            what,
            place.of("slice_us"),
            "give it once, here or in policy_options",
        ));
    }
    let period = text.policy_options.get("period_us").copied();
    let slice_us = match option {
        Some(_) => within(option, SLICE_US, "policy_options.slice_us")?,
        None => within(text.slice_us, SLICE_US, "slice_us")?,
    };
    let names: Vec<&str> = vms.iter().map(|vm| vm.guest.name.as_str()).collect();
    let windows = scheduling::windows_of(&text.window, &names, MAX_PCPUS as u16, &place)?;
    let window = |window: scheduling::CheckedWindow| WindowConfig {
        pcpus: window.pcpus.bits(),
        guest: window.guest,
        us: window.us,
    };
    Ok(MachineKeys {
        pcpus: within(text.pcpus, 1..=MAX_PCPUS as i64, "pcpus")?.map(|count| count as u16),
        cpu: text.cpu.clone(),
        gic: within(text.gic, 2..=3, "gic")?.and_then(GicVersion::from_number),
        policy: text.policy.clone(),
        slice_us: slice_us.map(|slice| slice as u32),
        period_us: within(
            period,
            scheduling::RESERVATION_US,
            "policy_options.period_us",
        )?
        .map(|period| period as u32),
        halt_poll_us: within(text.halt_poll_us, HALT_POLL_US, "halt_poll_us")?.map(|us| us as u32),
        windows: windows.into_iter().map(window).collect(),
        icount: text.icount,
        timeout: within(text.timeout, TIMEOUT, "timeout")?.map(|seconds| seconds as u32),
        place,
    })
}

fn pool_of(text: &PoolText, machines: Option<&str>, place: Place) -> Result<PoolKeys> {
    let policy = text.policy.as_deref().or(machines);
    let policy = policy.unwrap_or(policies::RoundRobin::NAME);
    scheduling::check_options(policy, &text.policy_options, "policy_options.", &place)?;
    let option = |name, range| {
        let value = text.policy_options.get(name).copied();
        let value = within(value, range, &format!("policy_options.{name}"), &place)?;
        Ok(value.map(|value| value as u32))
    };
    Ok(PoolKeys {
        name: text.name.clone(),
        pcpus: text.pcpus.clone(),
        policy: text.policy.clone(),
        slice_us: option("slice_us", SLICE_US)?,
        period_us: option("period_us", scheduling::RESERVATION_US)?,
        place,
    })
}

fn vm_of(text: &VmText, base: &Path, place: Place) -> Result<Vm> {
    let within = |value: Option<i64>, range, key, default| {
        within(value, range, key, &place).map(|value| value.unwrap_or(default))
    };
    let path = |path: &String| base.join(path);
    let (mut devices, mut virtio) = (Vec::new(), Vec::new());
    for device in &text.device {
        match device_of(device, base, &place)? {
            Device::OfTheMachine(device) => devices.push(device),
            Device::Virtio(backend) => virtio.push(backend),
        }
    }
    let source = source_of(text, base, &place)?;
    let vcpus = within(text.vcpus, 1..=MAX_VCPUS as i64, "vcpus", 1)? as usize;
    let memory_mib = text
        .memory
        .as_ref()
        .map_or(DEFAULT_MEMORY_MIB, |memory| memory.0);
    let console = text
        .console
        .as_ref()
        .map(|target| Target::parse(target, base));
    Ok(Vm {
        guest: GuestRequest {
            name: text.name.clone().unwrap_or_else(|| source.name()),
            source,
            initrd: text.initrd.as_ref().map(path),
            dtb: text.dtb.as_ref().map(path),
            bootargs: text.append.clone().unwrap_or_default(),
            vcpus,
            memory_mib,
            pool: text.pool.clone(),
            affinity: text.affinity.clone().unwrap_or_default().0,
            soft_affinity: text.soft_affinity.clone(),
            entitlement: scheduling::entitlement_of!(text).check(MAX_PCPUS, &place)?,
            starts: text.start.unwrap_or(true),
            on_reset: match text.on_reset {
                Some(ResetText::Restart) => OnReset::Restart,
                Some(ResetText::End) | None => OnReset::End,
            },
            devices,
            virtio,
            is_dma_trusted: matches!(text.dma, Some(DmaText::Trusted)),
            place,
        },
        console,
    })
}

/// A `[[vm.device]]`.
enum Device {
    OfTheMachine(PassedDevice),
    Virtio(Backend),
}

fn device_of(text: &DeviceText, base: &Path, place: &Place) -> Result<Device> {
    let refuse = |what: String, remedy: &str| Err(Failure::input(what, place.of("device"), remedy));
    let kind = text.kind.as_str();
    if kind == Backend::DISK {
        let Some(file) = &text.file else {
            return refuse("the disk has no file".into(), "give it a file = \"FILE\"");
        };
        return Ok(Device::Virtio(Backend::Disk {
            file: base.join(file),
            is_read_only: text.read_only.unwrap_or(false),
        }));
    }
    if text.file.is_some() || text.read_only.is_some() {
        let what = format!("a {} has no file", kind.escape_debug());
        return refuse(what, "leave file and read_only out");
    }
    if kind == Backend::RANDOM_NUMBERS {
        return Ok(Device::Virtio(Backend::RandomNumbers));
    }
    let named = |device: &PassedDevice| device.name() == kind;
    match PassedDevice::SINGLE.into_iter().find(named) {
        Some(device) => Ok(Device::OfTheMachine(device)),
        None => {
            let [clock, pins] = PassedDevice::SINGLE.map(PassedDevice::name);
            let known = [clock, pins, Backend::DISK, Backend::RANDOM_NUMBERS];
            let what = format!("there is no kind of device `{}`", kind.escape_debug());
            refuse(what, &choose(kind, &known))
        }
    }
}

fn source_of(text: &VmText, base: &Path, place: &Place) -> Result<GuestSource> {
    let refuse = |what: &str, key, remedy: &str| Err(Failure::input(what, place.of(key), remedy));
    match (&text.kernel, text.guest.as_deref()) {
        (Some(_), Some(_)) => refuse("it has a kernel and a guest", "guest", "give one of them"),
        (None, None) => {
            let remedy = "give kernel = \"FILE\", or guest = \"linux\" for Debian's stock Linux";
            refuse("it has no kernel", "kernel", remedy)
        }
        (Some(kernel), None) => Ok(GuestSource::File(base.join(kernel))),
        (None, Some("linux")) => Ok(GuestSource::Stock),
        (None, Some("stress")) => Ok(GuestSource::Own("stress-guest".into())),
        (None, Some(name)) if cross::GUESTS.contains(&name) => Ok(GuestSource::Own(name.into())),
        (None, Some(name)) => {
            let known: Vec<&str> = ["linux", "stress"]
                .into_iter()
                .chain(cross::GUESTS)
                .collect();
            let what = format!("unknown guest `{}`", name.escape_debug());
            refuse(&what, "guest", &choose(name, &known))
        }
    }
}

#[cfg(test)]
mod tests;
