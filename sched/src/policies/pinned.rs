//! Pinned: a vCPU that is alone on its pCPU pays nothing for being scheduled.
//!
//! It gets the pCPU exclusively: no tick, and even its WFI is not trapped. Which vCPU belongs to which pCPU is said by the
//! affinities. Those that share a pCPU take turns as under [`super::RoundRobin`]: one that spins for another one would wait for
//! ever if it kept the pCPU.
//! [Xen: the null scheduler; Bao issue 333: a core with one vCPU pays nothing]

use super::round_robin::Queue;
use crate::{Bounds, Entitlements, LocalPolicy, PcpuId, PcpuSet, Policy, Slice};
use alloc::{boxed::Box, sync::Arc};

/// One vCPU per pCPU, by affinity.
pub struct Pinned {
    slice_ticks: u64,
}

impl Pinned {
    /// The name by which it is chosen.
    pub const NAME: &str = "pinned";

    /// Those that share a pCPU run for `slice_ticks` of the host's counter at a time.
    pub const fn with_slice(slice_ticks: u64) -> Self {
        Self { slice_ticks }
    }
}

impl Policy for Pinned {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn bounds(&self, ready: usize) -> Bounds {
        Bounds {
            work_conserving: true,
            longest_wait: Some(self.slice_ticks.saturating_mul(ready as u64)),
        }
    }

    fn renew(&self, _pcpus: PcpuSet) -> Box<dyn Policy> {
        Box::new(Self::with_slice(self.slice_ticks))
    }

    fn local(&self, _pcpu: PcpuId, entitlements: &Arc<Entitlements>) -> Box<dyn LocalPolicy> {
        let slice = Slice {
            exclusive: true,
            ..Slice::of(self.slice_ticks)
        };
        Box::new(Queue::new(slice, entitlements))
    }
}
