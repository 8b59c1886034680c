//! Pinned: a vCPU keeps its pCPU until it blocks, and alone there it pays nothing for being scheduled.
//!
//! There is no slice, so no tick. A vCPU that is alone on its pCPU gets it exclusively: even its WFI is not trapped. Which
//! vCPU belongs to which pCPU is said by the affinities. Two on one pCPU work, but the second waits until the first waits.
//! [Xen: the null scheduler; Bao issue 333: a core with one vCPU pays nothing]

use super::round_robin::Queue;
use crate::{Bounds, Entitlements, LocalPolicy, PcpuId, PcpuSet, Policy, Slice};
use alloc::{boxed::Box, sync::Arc};

/// One vCPU per pCPU, by affinity.
pub struct Pinned;

impl Pinned {
    /// The name by which it is chosen.
    pub const NAME: &str = "pinned";
}

impl Policy for Pinned {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn bounds(&self, ready: usize) -> Bounds {
        Bounds {
            work_conserving: true,
            longest_wait: if ready > 1 { None } else { Some(0) },
        }
    }

    fn renew(&self, _pcpus: PcpuSet) -> Box<dyn Policy> {
        Box::new(Self)
    }

    fn local(&self, _pcpu: PcpuId, entitlements: &Arc<Entitlements>) -> Box<dyn LocalPolicy> {
        let slice = Slice {
            exclusive: true,
            ..Slice::UNLIMITED
        };
        Box::new(Queue::new(slice, entitlements))
    }
}
