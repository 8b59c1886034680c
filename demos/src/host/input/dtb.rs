//! A device tree of the user's: whether it says the truth about the guest's machine.
//!
//! What it leaves out is its own business. Each device, CPU and piece of memory that it describes must be there, or the
//! guest would find a hole: it is compared with the tree that Trapline makes for the same guest.

use std::{ops::Range, path::Path};

use dtoolkit::{
    Node, Property,
    fdt::{Fdt, FdtNode},
    standard::{NodeStandard, Status},
};

use super::{open, read_at_most};
use crate::{
    config::{
        GicVersion,
        guest_machine::{GICR_BASE, mpidr_affinity},
    },
    host::{
        Failure,
        device_tree::{self, GIC_V2, GIC_V3},
        failure::{Result, at},
    },
};

const REMEDY: &str = "give a flattened device tree, as `dtc` makes it";
/// Linux maps no larger one. [Linux: Documentation/arch/arm64/booting, Setup the device tree]
const LARGEST: u64 = 2 << 20;
/// Deeper than any machine is described.
const DEEPEST: usize = 32;
/// In a description of an interrupt: kind, number and flags. [Linux: bindings, arm,gic-v3]
const INTERRUPT_CELLS: usize = 3;

type Refusal = (String, String);

/// Reads the device tree at `path`, for `guest`.
pub fn read(path: &Path, guest: &device_tree::Guest<'_>) -> Result<Vec<u8>> {
    let refuse = |(what, remedy): Refusal| {
        Failure::input(format!("the device tree {what}"), path.display(), &remedy)
    };
    let (file, _) = open(path, REMEDY)?;
    let bytes = read_at_most(file, LARGEST).map_err(at(path.display()))?;
    let bytes = bytes.ok_or_else(|| {
        refuse((
            format!("is longer than {LARGEST} bytes"),
            "make it shorter".into(),
        ))
    })?;
    check(bytes, guest).map_err(refuse)
}

fn check(
    mut bytes: Vec<u8>,
    guest: &device_tree::Guest<'_>,
) -> std::result::Result<Vec<u8>, Refusal> {
    // A file may be padded.
    let length = bytes.get(4..8).and_then(|field| field.try_into().ok());
    if let Some(length) = length.map(|field| u32::from_be_bytes(field) as usize)
        && length >= 8
    {
        bytes.truncate(length);
    }
    let tree = Fdt::new(&bytes)
        .map_err(|error| (format!("is none, or cut off ({error})"), REMEDY.into()))?;
    if !is_flat_enough(tree.root(), DEEPEST) {
        return Err((
            format!("has nodes inside each other more than {DEEPEST} deep"),
            REMEDY.into(),
        ));
    }
    let machine = device_tree::build(&device_tree::Guest {
        bootargs: "",
        initrd: None,
        ..guest.clone()
    });
    let machine = machine.expect("a command line without zero bytes");
    let machine = Fdt::new(&machine).expect("what was made here");
    let controller = match guest.gic {
        GicVersion::V2 => GIC_V2,
        GicVersion::V3 => GIC_V3,
    };
    let machine = Machine::new(&machine, controller);
    check_memory(&tree, &guest.ram)?;
    check_cpus(&tree, guest.vcpu_count)?;
    check_psci(&tree)?;
    let mut has_controller = false;
    machine.check_children(tree.root(), "", &[], &mut has_controller)?;
    if !has_controller {
        let what = format!("has no interrupt controller `{controller}`");
        return Err((what, machine.inventory()));
    }
    Ok(bytes)
}

fn is_flat_enough(node: FdtNode<'_>, left: usize) -> bool {
    left > 0 && node.children().all(|child| is_flat_enough(child, left - 1))
}

fn is_enabled(node: &FdtNode<'_>) -> bool {
    node.status() == Ok(Status::Okay)
}

fn says(node: &FdtNode<'_>, name: &str, value: &str) -> bool {
    let property = node.property(name);
    property.is_some_and(|property| {
        property
            .value()
            .split(|byte| *byte == 0)
            .any(|part| part == value.as_bytes())
    })
}

/// The ranges in `reg`; what is no list of ranges is told by an error.
fn ranges_of(node: FdtNode<'_>, path: &str) -> std::result::Result<Vec<(u64, u64)>, Refusal> {
    let malformed = || {
        (
            format!("has a malformed `reg` in {path}"),
            REMEDY.to_owned(),
        )
    };
    let reg = node.reg().map_err(|_| malformed())?;
    reg.into_iter()
        .flatten()
        .map(|reg| match (reg.address::<u64>(), reg.size::<u64>()) {
            (Ok(address), Ok(size)) => Ok((address, size)),
            _ => Err(malformed()),
        })
        .collect()
}

/// The ranges that `tree` says are RAM.
fn memory_of(tree: &Fdt<'_>) -> std::result::Result<Vec<Range<u64>>, Refusal> {
    let mut memory = Vec::new();
    for node in tree.root().children() {
        if is_memory(&node) {
            let ranges = ranges_of(node, &format!("/{}", node.name()))?;
            memory.extend(
                ranges
                    .into_iter()
                    .map(|(start, size)| start..start.saturating_add(size)),
            );
        }
    }
    Ok(memory)
}

fn is_memory(node: &FdtNode<'_>) -> bool {
    says(node, "device_type", "memory") && is_enabled(node)
}

fn check_memory(tree: &Fdt<'_>, ram: &Range<u64>) -> std::result::Result<(), Refusal> {
    let described = memory_of(tree)?;
    if described.is_empty() {
        let what = "has no memory".to_owned();
        return Err((
            what,
            format!("the guest has {:#x}..{:#x}", ram.start, ram.end),
        ));
    }
    for range in described {
        if range.start < ram.start || range.end > ram.end {
            let what = format!("has memory at {:#x}..{:#x}", range.start, range.end);
            let remedy = format!(
                "the guest has {:#x}..{:#x}: give it more by --memory, or describe that",
                ram.start, ram.end
            );
            return Err((what, remedy));
        }
    }
    Ok(())
}

/// What is loaded lies in memory that the tree `blob`, which was read from `path`, describes.
pub fn check_images(path: &Path, blob: &[u8], images: &[Range<u64>]) -> Result<()> {
    are_in_memory(blob, images).map_err(|(what, remedy)| {
        Failure::input(format!("the device tree {what}"), path.display(), &remedy)
    })
}

fn are_in_memory(blob: &[u8], images: &[Range<u64>]) -> std::result::Result<(), Refusal> {
    let tree = Fdt::new(blob).map_err(|error| (error.to_string(), REMEDY.to_owned()))?;
    let mut memory = memory_of(&tree)?;
    memory.sort_by_key(|range| range.start);
    for image in images {
        // Pieces that touch count as one.
        let mut reached = image.start;
        for range in &memory {
            if range.contains(&reached) {
                reached = range.end;
            }
        }
        if reached < image.end {
            let what = format!(
                "leaves out memory that the guest's images need, {:#x}..{:#x}",
                image.start, image.end
            );
            return Err((what, "describe all of the guest's memory".into()));
        }
    }
    Ok(())
}

fn check_cpus(tree: &Fdt<'_>, vcpu_count: usize) -> std::result::Result<(), Refusal> {
    let has = |what: String| {
        let remedy = format!("the guest has {vcpu_count} CPUs, see --vcpus, numbered as QEMU does");
        Err((what, remedy))
    };
    let mut seen = Vec::new();
    let cpus = tree.root().child("cpus");
    let cpus = cpus.iter().flat_map(|cpus| cpus.children());
    for cpu in cpus.filter(|node| says(node, "device_type", "cpu") && is_enabled(node)) {
        let id = cpu.property("reg").map_or(u64::MAX, |reg| {
            let bytes = reg.value().iter();
            bytes.fold(0, |id, byte| id << 8 | u64::from(*byte))
        });
        if !(0..vcpu_count).any(|index| mpidr_affinity(index) == id) || seen.contains(&id) {
            return has(format!("has a CPU {id:#x}, {}", cpu.name()));
        }
        if !says(&cpu, "enable-method", "psci") && id != 0 {
            return has(format!("does not start CPU {id:#x} by PSCI"));
        }
        seen.push(id);
    }
    if !seen.contains(&0) {
        return has("has no CPU 0".into());
    }
    Ok(())
}

fn check_psci(tree: &Fdt<'_>) -> std::result::Result<(), Refusal> {
    let refuse = |what: &str| {
        let remedy = "the guest has PSCI 1.0 by hvc, `arm,psci-1.0`";
        Err((what.to_owned(), remedy.to_owned()))
    };
    let Some(psci) = tree.root().child("psci").filter(is_enabled) else {
        return refuse("has no /psci");
    };
    if !says(&psci, "compatible", "arm,psci-1.0") && !says(&psci, "compatible", "arm,psci-0.2") {
        return refuse("has a /psci of another version");
    }
    if !says(&psci, "method", "hvc") {
        return refuse("calls PSCI by another method than hvc");
    }
    Ok(())
}

/// A device as a tree describes it.
struct Device {
    compatible: Vec<String>,
    registers: Vec<(u64, u64)>,
    /// Kind and number of each.
    interrupts: Vec<[u8; 8]>,
}

impl Device {
    fn new(node: FdtNode<'_>, path: &str) -> std::result::Result<Self, Refusal> {
        let interrupts = node.property("interrupts");
        let interrupts = interrupts.as_ref().map_or(&[][..], |value| value.value());
        let names = node.compatible().into_iter().flatten();
        Ok(Self {
            compatible: names.map(str::to_owned).collect(),
            registers: ranges_of(node, path)?,
            interrupts: interrupts
                .chunks_exact(INTERRUPT_CELLS * 4)
                .filter_map(|cells| cells[..8].try_into().ok())
                .collect(),
        })
    }

    fn is_like(&self, other: &Self) -> bool {
        self.compatible
            .iter()
            .any(|name| other.compatible.contains(name))
    }
}

/// The devices of the guest's machine.
struct Machine {
    devices: Vec<Device>,
    /// What its interrupt controller is compatible with.
    controller: &'static str,
}

impl Machine {
    fn new(tree: &Fdt<'_>, controller: &'static str) -> Self {
        let mut devices = Vec::new();
        for node in tree.root().children() {
            // What lies below another device, as the ITS does below the GIC, has the addresses of the CPUs.
            let below = node.children().filter_map(Self::device);
            devices.extend(Self::device(node).into_iter().chain(below));
        }
        Self {
            devices,
            controller,
        }
    }

    /// The device at `node`, if it is one.
    fn device(node: FdtNode<'_>) -> Option<Device> {
        let is_device = node.compatible().is_some();
        is_device.then(|| Device::new(node, node.name()).ok())?
    }

    /// What there is, for whoever described something else.
    fn inventory(&self) -> String {
        let all = self.devices.iter().filter_map(|device| {
            let (address, _) = device.registers.first()?;
            Some(format!("{} at {address:#x}", device.compatible.first()?))
        });
        let all: Vec<String> = all.collect();
        format!("the guest's machine has {}", all.join(", "))
    }

    /// Compares what is under `parent`, whose addresses `buses` translate, the innermost last.
    fn check_children(
        &self,
        parent: FdtNode<'_>,
        parent_path: &str,
        buses: &[Vec<(u64, u64, u64)>],
        has_controller: &mut bool,
    ) -> std::result::Result<(), Refusal> {
        let skipped = ["cpus", "chosen", "aliases", "reserved-memory"];
        for node in parent.children() {
            let is_skipped = buses.is_empty() && skipped.contains(&node.name());
            if is_skipped || is_memory(&node) || !is_enabled(&node) {
                continue;
            }
            let path = format!("{parent_path}/{}", node.name());
            let mut device = Device::new(node, &path)?;
            for (address, _) in &mut device.registers {
                *address = translate(*address, buses);
            }
            self.check_device(&device, &path)?;
            *has_controller |= says(&node, "compatible", self.controller);
            let Some(ranges) = node.ranges().ok().flatten() else {
                continue;
            };
            let ranges = ranges.filter_map(|range| {
                Some((
                    range.child_bus_address().ok()?,
                    range.parent_bus_address().ok()?,
                    range.length().ok()?,
                ))
            });
            let inner = [buses, &[ranges.collect()]].concat();
            self.check_children(node, &path, &inner, has_controller)?;
        }
        Ok(())
    }

    fn check_device(&self, device: &Device, path: &str) -> std::result::Result<(), Refusal> {
        let refuse = |what: String| Err((what, self.inventory()));
        let Some(ours) = self
            .devices
            .iter()
            .find(|ours| device.is_like(ours) && starts(device) == starts(ours))
        else {
            return match (device.registers.first(), device.compatible.first()) {
                (Some((address, _)), Some(name)) => refuse(format!(
                    "has {path}, a `{}` at {address:#x}",
                    name.escape_debug()
                )),
                _ => Ok(()),
            };
        };
        for (index, (address, size)) in device.registers.iter().enumerate() {
            let known = ours.registers.get(index);
            // Linux looks at redistributors until one says that it is the last. [Linux: drivers/irqchip/irq-gic-v3.c]
            if *address == GICR_BASE && known.is_some_and(|(_, room)| size < room) {
                let what = format!("has {path} with fewer redistributors than the guest has CPUs");
                return refuse(what);
            }
            let is_there = known.is_some_and(|(start, room)| {
                address == start && (size <= room || *start == GICR_BASE)
            });
            if !is_there {
                return refuse(format!(
                    "has {path} with registers at {address:#x}, size {size:#x}"
                ));
            }
        }
        let ours = ours.interrupts.get(..device.interrupts.len());
        if ours != Some(&device.interrupts) {
            return refuse(format!("has {path} with other interrupts"));
        }
        Ok(())
    }
}

/// Where its registers start, if it has any.
fn starts(device: &Device) -> Option<u64> {
    device.registers.first().map(|(address, _)| *address)
}

/// `address` below `buses`, as the CPUs see it. A bus without ranges has the addresses of its parent.
fn translate(address: u64, buses: &[Vec<(u64, u64, u64)>]) -> u64 {
    buses.iter().rev().fold(address, |address, ranges| {
        let range = ranges
            .iter()
            .find(|(child, _, length)| address.wrapping_sub(*child) < *length);
        range.map_or(address, |(child, parent, _)| {
            parent.wrapping_add(address.wrapping_sub(*child))
        })
    })
}

#[cfg(test)]
mod tests;
