//! What the host's device tree says about this machine, and whether Trapline can run on it.
//!
//! Pure: it reads a slice and answers with numbers. What it refuses, it names, so that the report on the
//! outside channel says what to change. [devicetree specification 0.4; Linux bindings of arm,pl011, arm,psci,
//! arm,armv8-timer]

mod gic;
#[cfg(test)]
mod tests;

use core::{fmt, ops::Range};
use dtoolkit::{
    Node, Property,
    fdt::{Fdt, FdtNode},
};

pub use gic::{Gic, GicV2, GicV3};

/// The most pCPUs that this platform drives.
pub const MAX_PCPUS: usize = 64;

/// The INTID of the hypervisor timer, CNTHP. [BSA: PPI assignments]
pub const HYPERVISOR_TIMER_INTID: u32 = 26;

/// The affinity fields of an MPIDR: Aff3 in bits 39:32, Aff2 to Aff0 in 23:0. [DDI0487: MPIDR_EL1]
pub const AFFINITY_MASK: u64 = 0xff_00ff_ffff;

/// The machine, as its device tree describes it. Addresses are physical, ranges are not empty.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Machine<'a> {
    /// All of RAM: one range.
    pub memory: Range<u64>,
    mpidrs: [u64; MAX_PCPUS],
    pcpu_count: usize,
    /// The interrupt controller.
    pub gic: Gic,
    /// The PL011 that is the outside channel.
    pub uart: Range<u64>,
    /// The PL011's INTID, 32 to 1019.
    pub uart_intid: u32,
    /// The command line in `/chosen`; empty if there is none.
    pub bootargs: &'a str,
}

/// Why Trapline does not run on the machine.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unsupported {
    /// The tree itself is broken.
    Malformed,
    /// A node or a property that must be there is not, or does not have the form that its binding asks for.
    Missing(&'static str),
    /// RAM comes in several pieces.
    SeveralMemories,
    /// There are more pCPUs than [`MAX_PCPUS`].
    TooManyPcpus,
    /// There are more pCPUs than a GICv2 has CPU interfaces.
    TooManyPcpusForGicV2,
    /// The redistributors lie in more regions than there is room for.
    TooManyRegions,
    /// Firmware is not reached by SMC: QEMU needs `virtualization=on`.
    PsciNotBySmc,
    /// A timer's interrupt is not where every system puts it.
    TimerInterrupt,
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => write!(f, "the device tree is malformed"),
            Self::Missing(what) => write!(f, "the device tree has no usable {what}"),
            Self::SeveralMemories => write!(f, "RAM is not one range"),
            Self::TooManyPcpus => write!(f, "there are more than {MAX_PCPUS} pCPUs"),
            Self::TooManyPcpusForGicV2 => {
                write!(
                    f,
                    "there are more than {} pCPUs with a GICv2",
                    gic::MOST_WITH_V2
                )
            }
            Self::TooManyRegions => write!(
                f,
                "the redistributors lie in more than {} regions",
                gic::MAX_REGIONS
            ),
            Self::PsciNotBySmc => write!(f, "PSCI is not called by SMC (virtualization=on?)"),
            Self::TimerInterrupt => {
                write!(f, "the timers' interrupts are not PPIs 26, 27 and 30")
            }
        }
    }
}

impl<'a> Machine<'a> {
    /// Reads the flattened device tree in `blob`, whose length is the tree's own `totalsize`.
    pub fn parse(blob: &'a [u8]) -> Result<Self, Unsupported> {
        let fdt = Fdt::new(blob).map_err(|_| Unsupported::Malformed)?;
        let root = fdt.root();
        check_psci(root)?;
        check_timer(root)?;
        let (mpidrs, pcpu_count) = pcpus(root)?;
        let gic = gic::find(root)?;
        if pcpu_count > gic.most_pcpus() {
            return Err(Unsupported::TooManyPcpusForGicV2);
        }
        let uart = uart(fdt)?;
        Ok(Self {
            memory: memory(root)?,
            mpidrs,
            pcpu_count,
            gic,
            uart: region(uart, 0).ok_or(Unsupported::Missing("PL011"))?,
            uart_intid: uart_intid(uart).ok_or(Unsupported::Missing("PL011 interrupt"))?,
            bootargs: bootargs(root),
        })
    }

    /// The affinities of the pCPUs, in the tree's order: the index is the pCPU's number.
    pub fn mpidrs(&self) -> &[u64] {
        &self.mpidrs[..self.pcpu_count]
    }
}

fn text<'a>(node: FdtNode<'a>, property: &str) -> Option<&'a str> {
    let property = node.properties().find(|p| p.name() == property)?;
    property.value_as::<&str>().ok()
}

/// Big-endian 32-bit cell `index` of a property.
fn cell(node: FdtNode<'_>, property: &str, index: usize) -> Option<u32> {
    let property = node.property(property)?;
    let bytes = property.value().get(index * 4..index * 4 + 4)?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

/// The node below the root that answers to `name` and is not disabled.
fn compatible<'a>(root: FdtNode<'a>, name: &str) -> Option<FdtNode<'a>> {
    root.children().find(|node| {
        let is_enabled = text(*node, "status").is_none_or(|status| status == "okay");
        is_enabled
            && node
                .compatible()
                .is_some_and(|mut names| names.any(|n| n == name))
    })
}

/// Entry `index` of a node's `reg`, unless it is empty or wraps.
fn region(node: FdtNode<'_>, index: usize) -> Option<Range<u64>> {
    let reg = node.reg().ok()??.nth(index)?;
    let (start, size) = (reg.address::<u64>().ok()?, reg.size::<u64>().ok()?);
    let end = start.checked_add(size)?;
    (size > 0).then_some(start..end)
}

fn memory(root: FdtNode<'_>) -> Result<Range<u64>, Unsupported> {
    let mut memories = root
        .children()
        .filter(|node| text(*node, "device_type") == Some("memory"));
    let memory = memories.next().ok_or(Unsupported::Missing("memory"))?;
    if memories.next().is_some() || region(memory, 1).is_some() {
        return Err(Unsupported::SeveralMemories);
    }
    region(memory, 0).ok_or(Unsupported::Missing("memory"))
}

fn pcpus(root: FdtNode<'_>) -> Result<([u64; MAX_PCPUS], usize), Unsupported> {
    let mut mpidrs = [0; MAX_PCPUS];
    let mut count = 0;
    let cpus = root
        .children()
        .find(|node| node.name() == "cpus")
        .ok_or(Unsupported::Missing("cpus"))?;
    for cpu in cpus
        .children()
        .filter(|node| text(*node, "device_type") == Some("cpu"))
    {
        let reg = cpu.reg().ok().flatten().and_then(|mut reg| reg.next());
        let mpidr = reg.and_then(|reg| reg.address::<u64>().ok());
        let slot = mpidrs.get_mut(count).ok_or(Unsupported::TooManyPcpus)?;
        *slot = mpidr.ok_or(Unsupported::Missing("CPU affinity"))? & AFFINITY_MASK;
        count += 1;
    }
    if count == 0 {
        return Err(Unsupported::Missing("cpus"));
    }
    Ok((mpidrs, count))
}

/// The UART that `/chosen/stdout-path` names, because `virt` may have a second one that is not ours.
fn uart(fdt: Fdt<'_>) -> Result<FdtNode<'_>, Unsupported> {
    let missing = Unsupported::Missing("PL011");
    let chosen = fdt.find_node("/chosen").ok_or(missing)?;
    let path = text(chosen, "stdout-path").ok_or(missing)?;
    let path = path.split(':').next().unwrap_or(path);
    let node = fdt.find_node(path).ok_or(missing)?;
    let is_pl011 = node
        .compatible()
        .is_some_and(|mut names| names.any(|name| name == "arm,pl011"));
    is_pl011.then_some(node).ok_or(missing)
}

/// Interrupt specifiers of a GIC are type (0 SPI, 1 PPI), number, flags.
fn uart_intid(uart: FdtNode<'_>) -> Option<u32> {
    let (kind, number) = (cell(uart, "interrupts", 0)?, cell(uart, "interrupts", 1)?);
    (kind == 0 && number < 988).then_some(32 + number)
}

fn bootargs(root: FdtNode<'_>) -> &str {
    let chosen = root.children().find(|node| node.name() == "chosen");
    chosen.and_then(|c| text(c, "bootargs")).unwrap_or("")
}

fn check_psci(root: FdtNode<'_>) -> Result<(), Unsupported> {
    let psci = compatible(root, "arm,psci-1.0").or_else(|| compatible(root, "arm,psci-0.2"));
    let psci = psci.ok_or(Unsupported::Missing("PSCI"))?;
    if text(psci, "method") == Some("smc") {
        Ok(())
    } else {
        Err(Unsupported::PsciNotBySmc)
    }
}

/// The order is: EL3 physical, EL1 physical, virtual, EL2 physical.
fn check_timer(root: FdtNode<'_>) -> Result<(), Unsupported> {
    let timer = compatible(root, "arm,armv8-timer").ok_or(Unsupported::Missing("timer"))?;
    let ppi = |index: usize| cell(timer, "interrupts", index * 3 + 1).map(|number| number + 16);
    if (ppi(1), ppi(2), ppi(3)) == (Some(30), Some(27), Some(HYPERVISOR_TIMER_INTID)) {
        Ok(())
    } else {
        Err(Unsupported::TimerInterrupt)
    }
}
