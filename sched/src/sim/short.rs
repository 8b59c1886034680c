//! What tests of the simulator say in short.

use super::{Instruction::Compute, Script};
use crate::{PcpuId, PcpuSet, VcpuId};

pub(super) fn vcpu(index: impl TryInto<u16>) -> VcpuId {
    let index = index.try_into().ok();
    VcpuId::new(index.expect("there can be as many"))
}

pub(super) fn pcpu(index: u16) -> PcpuId {
    PcpuId::new(index).expect("there can be as many")
}

/// As in a configuration: `0-2,5`.
pub(super) fn set(text: &str) -> PcpuSet {
    text.parse().expect("a set of pCPUs")
}

/// It computes for ever.
pub(super) fn busy() -> Script {
    Script::forever([Compute(1_000_000)])
}
