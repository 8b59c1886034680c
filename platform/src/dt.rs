//! What the host's device tree says about this machine, and whether Trapline can run on it.
//!
//! Pure: it reads a slice and answers with numbers. What it refuses, it names, so that the report on the
//! outside channel says what to change. [devicetree specification 0.4; Linux bindings of arm,gic-v3,
//! arm,pl011, arm,psci, arm,armv8-timer]

use core::{fmt, ops::Range};
use dtoolkit::{
    Node, Property,
    fdt::{Fdt, FdtNode},
};

/// The most pCPUs that this platform drives.
pub const MAX_PCPUS: usize = 64;

/// The most regions of redistributors. `virt` has two at most.
const MAX_REGIONS: usize = 4;

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
    /// The GIC's distributor.
    pub distributor: Range<u64>,
    redistributors: [Range<u64>; MAX_REGIONS],
    region_count: usize,
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
    /// The redistributors lie in more regions than this file has room for.
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
            Self::TooManyRegions => write!(
                f,
                "the redistributors lie in more than {MAX_REGIONS} regions"
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
        let gic = compatible(root, "arm,gic-v3").ok_or(Unsupported::Missing("GICv3"))?;
        let (redistributors, region_count) = redistributors(gic)?;
        let uart = uart(fdt)?;
        Ok(Self {
            memory: memory(root)?,
            mpidrs,
            pcpu_count,
            distributor: region(gic, 0).ok_or(Unsupported::Missing("GIC distributor"))?,
            redistributors,
            region_count,
            uart: region(uart, 0).ok_or(Unsupported::Missing("PL011"))?,
            uart_intid: uart_intid(uart).ok_or(Unsupported::Missing("PL011 interrupt"))?,
            bootargs: bootargs(root),
        })
    }

    /// The affinities of the pCPUs, in the tree's order: the index is the pCPU's number.
    pub fn mpidrs(&self) -> &[u64] {
        &self.mpidrs[..self.pcpu_count]
    }

    /// The regions that hold the GIC's redistributors, at least one. In each they follow one another, up to the one that says
    /// that it is the last.
    pub fn redistributors(&self) -> &[Range<u64>] {
        &self.redistributors[..self.region_count]
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

/// They come after the distributor in the GIC's `reg`. [Linux bindings: arm,gic-v3, #redistributor-regions]
fn redistributors(gic: FdtNode<'_>) -> Result<([Range<u64>; MAX_REGIONS], usize), Unsupported> {
    let missing = Unsupported::Missing("GIC redistributors");
    let mut regions = [const { 0..0 }; MAX_REGIONS];
    let count = cell(gic, "#redistributor-regions", 0).unwrap_or(1) as usize;
    let wanted = regions
        .get_mut(..count)
        .ok_or(Unsupported::TooManyRegions)?;
    if wanted.is_empty() {
        return Err(missing);
    }
    for (index, slot) in wanted.iter_mut().enumerate() {
        *slot = region(gic, 1 + index).ok_or(missing)?;
    }
    Ok((regions, count))
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

/// Interrupt specifiers of a GICv3 are type (0 SPI, 1 PPI), number, flags.
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

#[cfg(test)]
mod tests {
    use super::*;
    use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};

    fn text(value: &str) -> Vec<u8> {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        bytes
    }

    fn cells(values: &[u32]) -> Vec<u8> {
        values
            .iter()
            .flat_map(|value| value.to_be_bytes())
            .collect()
    }

    fn set(node: &mut DeviceTreeNode, name: &str, value: Vec<u8>) {
        let _ = node.remove_property(name);
        node.add_property(DeviceTreeProperty::new(name, value).unwrap());
    }

    fn node(name: &str, properties: &[(&str, Vec<u8>)]) -> DeviceTreeNode {
        let mut node = DeviceTreeNode::new(name).unwrap();
        for (name, value) in properties {
            set(&mut node, name, value.clone());
        }
        node
    }

    /// What `virt` says of `count` CPUs, as far as this file asks.
    fn virt(count: u32) -> DeviceTree {
        let mut tree = DeviceTree::new();
        set(&mut tree.root, "#address-cells", cells(&[2]));
        set(&mut tree.root, "#size-cells", cells(&[2]));
        let one_cell = [
            ("#address-cells", cells(&[1])),
            ("#size-cells", cells(&[0])),
        ];
        let mut cpus = node("cpus", &one_cell);
        for cpu in 0..count {
            let properties = [("device_type", text("cpu")), ("reg", cells(&[cpu]))];
            cpus.add_child(node(&format!("cpu@{cpu:x}"), &properties));
        }
        let timer = [1, 13, 4, 1, 14, 4, 1, 11, 4, 1, 10, 4];
        let gic = [0, 0x0800_0000, 0, 0x1_0000, 0, 0x080a_0000, 0, 0xf6_0000];
        let nodes = [
            node(
                "psci",
                &[
                    ("compatible", text("arm,psci-1.0")),
                    ("method", text("smc")),
                ],
            ),
            node(
                "memory@40000000",
                &[
                    ("device_type", text("memory")),
                    ("reg", cells(&[0, 0x4000_0000, 0, 0x2000_0000])),
                ],
            ),
            node(
                "timer",
                &[
                    ("compatible", text("arm,armv8-timer")),
                    ("interrupts", cells(&timer)),
                ],
            ),
            node(
                "intc@8000000",
                &[("compatible", text("arm,gic-v3")), ("reg", cells(&gic))],
            ),
            node(
                "pl011@9000000",
                &[
                    (
                        "compatible",
                        [text("arm,pl011"), text("arm,primecell")].concat(),
                    ),
                    ("reg", cells(&[0, 0x0900_0000, 0, 0x1000])),
                    ("interrupts", cells(&[0, 1, 4])),
                ],
            ),
            node(
                "chosen",
                &[
                    ("stdout-path", text("/pl011@9000000")),
                    ("bootargs", text("trapline.config=0x50000000,0x1000")),
                ],
            ),
            cpus,
        ];
        for node in nodes {
            tree.root.add_child(node);
        }
        tree
    }

    /// What `virt` would be if `change` were made to the node at `path`.
    fn changed(path: &str, change: impl FnOnce(&mut DeviceTreeNode)) -> Result<(), Unsupported> {
        let mut tree = virt(2);
        change(tree.find_node_mut(path).unwrap());
        Machine::parse(&tree.to_dtb()).map(|_| ())
    }

    #[test]
    fn virt_is_supported() {
        let blob = virt(4).to_dtb();
        let machine = Machine::parse(&blob).unwrap();
        assert_eq!(machine.memory, 0x4000_0000..0x6000_0000);
        assert_eq!(machine.mpidrs(), [0, 1, 2, 3]);
        assert_eq!(machine.distributor, 0x0800_0000..0x0801_0000);
        let [redistributors] = machine.redistributors() else {
            panic!("one range of redistributors")
        };
        assert_eq!(*redistributors, 0x080a_0000..0x0900_0000);
        assert_eq!(machine.uart, 0x0900_0000..0x0900_1000);
        assert_eq!(machine.uart_intid, 33);
        assert_eq!(machine.bootargs, "trapline.config=0x50000000,0x1000");
    }

    #[test]
    fn redistributors_may_lie_in_several_regions() {
        let gic_of = |regions: u32, frames: &[u32]| {
            let mut tree = virt(2);
            let gic = tree.find_node_mut("/intc@8000000").unwrap();
            let reg = [&[0, 0x0800_0000, 0, 0x1_0000][..], frames].concat();
            set(gic, "reg", cells(&reg));
            set(gic, "#redistributor-regions", cells(&[regions]));
            let blob = tree.to_dtb();
            Machine::parse(&blob).map(|machine| machine.redistributors().to_vec())
        };
        let frames = [0, 0x080a_0000, 0, 0xf6_0000, 0x40, 0, 0, 0x400_0000];
        let (first, second) = (0x080a_0000..0x0900_0000, 0x40_0000_0000..0x40_0400_0000);
        assert_eq!(gic_of(1, &frames), Ok(vec![first.clone()]));
        assert_eq!(gic_of(2, &frames), Ok(vec![first, second]));
        let missing = Unsupported::Missing("GIC redistributors");
        assert_eq!(gic_of(3, &frames), Err(missing));
        assert_eq!(gic_of(0, &frames), Err(missing));
        assert_eq!(gic_of(5, &frames), Err(Unsupported::TooManyRegions));
        assert_eq!(gic_of(u32::MAX, &frames), Err(Unsupported::TooManyRegions));
    }

    #[test]
    fn one_to_sixty_four_pcpus_are_supported() {
        for (count, expected) in [
            (1, Ok(1)),
            (17, Ok(17)),
            (64, Ok(64)),
            (65, Err(Unsupported::TooManyPcpus)),
        ] {
            let blob = virt(count).to_dtb();
            assert_eq!(Machine::parse(&blob).map(|m| m.mpidrs().len()), expected);
        }
        assert_eq!(
            Machine::parse(&virt(0).to_dtb()).unwrap_err(),
            Unsupported::Missing("cpus")
        );
    }

    #[test]
    fn firmware_that_is_not_called_by_smc_is_refused() {
        let result = changed("/psci", |psci| set(psci, "method", text("hvc")));
        assert_eq!(result, Err(Unsupported::PsciNotBySmc));
    }

    #[test]
    fn memory_in_two_ranges_is_refused() {
        let two = [0, 0x4000_0000, 0, 0x1000, 0, 0x8000_0000, 0, 0x1000];
        let result = changed("/memory@40000000", |memory| set(memory, "reg", cells(&two)));
        assert_eq!(result, Err(Unsupported::SeveralMemories));
    }

    #[test]
    fn empty_or_wrapping_regions_are_refused() {
        for reg in [[0, 0, 0, 0], [u32::MAX, u32::MAX, 1, 0]] {
            let result = changed("/memory@40000000", |memory| set(memory, "reg", cells(&reg)));
            assert_eq!(result, Err(Unsupported::Missing("memory")));
        }
    }

    #[test]
    fn other_interrupt_controllers_are_refused() {
        let result = changed("/intc@8000000", |gic| {
            set(gic, "compatible", text("arm,cortex-a15-gic"));
        });
        assert_eq!(result, Err(Unsupported::Missing("GICv3")));
    }

    #[test]
    fn timer_interrupts_elsewhere_are_refused() {
        let result = changed("/timer", |timer| {
            set(timer, "interrupts", cells(&[1, 13, 4]))
        });
        assert_eq!(result, Err(Unsupported::TimerInterrupt));
    }

    #[test]
    fn the_outside_channel_is_the_uart_that_stdout_names() {
        let result = changed("/chosen", |chosen| {
            set(chosen, "stdout-path", text("/none"))
        });
        assert_eq!(result, Err(Unsupported::Missing("PL011")));
        let options = changed("/chosen", |chosen| {
            set(chosen, "stdout-path", text("/pl011@9000000:115200"));
        });
        assert_eq!(options, Ok(()));
    }

    #[test]
    fn no_command_line_is_an_empty_one() {
        let mut tree = virt(1);
        let chosen = tree.find_node_mut("/chosen").unwrap();
        let _ = chosen.remove_property("bootargs");
        assert_eq!(Machine::parse(&tree.to_dtb()).unwrap().bootargs, "");
    }

    #[test]
    fn rubbish_is_malformed() {
        let mut blob = virt(1).to_dtb();
        blob[0] = 0;
        assert_eq!(Machine::parse(&blob), Err(Unsupported::Malformed));
        assert_eq!(Machine::parse(&[]), Err(Unsupported::Malformed));
    }

    #[test]
    fn a_cut_tree_is_refused_and_never_panics() {
        let blob = virt(1).to_dtb();
        for length in 0..blob.len() {
            assert!(Machine::parse(&blob[..length]).is_err());
        }
    }
}
