//! Which interrupt controller the machine has, and where. [Linux bindings: arm,gic, arm,gic-v3]

use core::ops::Range;

use dtoolkit::fdt::FdtNode;

use super::{MAX_PCPUS, Unsupported, cell, compatible, region};

/// The most regions of redistributors. `virt` has two at most.
pub(super) const MAX_REGIONS: usize = 4;
/// How many CPU interfaces a GICv2 has at most. [IHI0048: GICD_TYPER.CPUNumber]
pub(super) const MOST_WITH_V2: usize = 8;

/// The machine's interrupt controller.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Gic {
    /// GICv2 with virtualization: CPU interfaces in memory.
    V2(GicV2),
    /// GICv3: CPU interfaces in system registers.
    V3(GicV3),
}

/// Where a GICv2 is. What is not the distributor's shows each pCPU its own registers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct GicV2 {
    /// GICD: the distributor.
    pub distributor: Range<u64>,
    /// GICC: the physical CPU interface.
    pub cpu_interface: Range<u64>,
    /// GICH: the hypervisor's side of the virtual CPU interface.
    pub control_interface: Range<u64>,
    /// GICV: the guest's side of the virtual CPU interface.
    pub virtual_interface: Range<u64>,
}

/// Where a GICv3 is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct GicV3 {
    /// GICD: the distributor.
    pub distributor: Range<u64>,
    redistributors: [Range<u64>; MAX_REGIONS],
    region_count: usize,
}

impl Gic {
    /// How many pCPUs it can serve.
    pub const fn most_pcpus(&self) -> usize {
        match self {
            Self::V2(_) => MOST_WITH_V2,
            Self::V3(_) => MAX_PCPUS,
        }
    }

    /// The registers that EL2 uses. The guest's side of a GICv2 is not among them.
    pub fn regions(&self) -> impl Iterator<Item = &Range<u64>> {
        let (distributor, others) = match self {
            Self::V2(gic) => (
                &gic.distributor,
                [Some(&gic.cpu_interface), Some(&gic.control_interface)],
            ),
            Self::V3(gic) => (&gic.distributor, [None, None]),
        };
        let redistributors = match self {
            Self::V2(_) => &[][..],
            Self::V3(gic) => gic.redistributors(),
        };
        let others = others.into_iter().flatten();
        core::iter::once(distributor)
            .chain(others)
            .chain(redistributors)
    }
}

impl GicV3 {
    /// The regions that hold the redistributors, at least one. In each they follow one another, up to the one that says that it
    /// is the last.
    pub fn redistributors(&self) -> &[Range<u64>] {
        &self.redistributors[..self.region_count]
    }
}

/// The interrupt controller in the tree.
pub(super) fn find(root: FdtNode<'_>) -> Result<Gic, Unsupported> {
    if let Some(node) = compatible(root, "arm,gic-v3") {
        return v3(node).map(Gic::V3);
    }
    let v2 = ["arm,cortex-a15-gic", "arm,gic-400"];
    let node = v2.into_iter().find_map(|name| compatible(root, name));
    v2_at(node.ok_or(Unsupported::Missing("GICv2 or GICv3"))?).map(Gic::V2)
}

fn v2_at(node: FdtNode<'_>) -> Result<GicV2, Unsupported> {
    let part = |index, name| region(node, index).ok_or(Unsupported::Missing(name));
    Ok(GicV2 {
        distributor: part(0, "GIC distributor")?,
        cpu_interface: part(1, "GIC CPU interface")?,
        control_interface: part(2, "GIC virtual interface control")?,
        virtual_interface: part(3, "GIC virtual CPU interface")?,
    })
}

fn v3(node: FdtNode<'_>) -> Result<GicV3, Unsupported> {
    let (redistributors, region_count) = redistributors(node)?;
    Ok(GicV3 {
        distributor: region(node, 0).ok_or(Unsupported::Missing("GIC distributor"))?,
        redistributors,
        region_count,
    })
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
