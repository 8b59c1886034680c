//! Who ran where, noted as it happens: one stretch for each time in which a pCPU ran one vCPU without a break.

use super::engine::Engine;
use crate::{Decision, PcpuId, VcpuId};
use alloc::vec::Vec;

/// A time in which a pCPU ran one vCPU without a break.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Stretch {
    /// When it began, in ticks.
    pub start: u64,
    /// Where.
    pub pcpu: PcpuId,
    /// Who.
    pub vcpu: VcpuId,
    /// How long, in ticks.
    pub duration: u64,
}

impl Stretch {
    fn goes_on_as(&self, next: &Self) -> bool {
        self.vcpu == next.vcpu && self.start + self.duration == next.start
    }
}

impl Engine {
    /// The last stretch of its pCPU was `last`; `stretch` goes on with that, or is the next.
    pub(super) fn note_stretch(&self, last: &mut Option<usize>, stretch: Stretch) {
        let mut stretches = self.stretches.borrow_mut();
        let before = last.and_then(|last| stretches.get_mut(last));
        match before {
            Some(before) if before.goes_on_as(&stretch) => before.duration += stretch.duration,
            _ => {
                *last = Some(stretches.len());
                stretches.push(stretch);
            }
        }
    }

    /// Who ran where, in the order in which they began; what goes on now is included.
    pub(super) fn stretches(&self) -> Vec<Stretch> {
        let now = self.now();
        let mut stretches = self.stretches.borrow().clone();
        for station in &self.stations {
            let pcpu = station.pcpu.borrow();
            let vcpu = station.bound.get();
            let Some(vcpu) = vcpu.filter(|_| pcpu.decision == Decision::Run) else {
                continue;
            };
            let stretch = Stretch {
                start: pcpu.running_since,
                pcpu: pcpu.id,
                vcpu,
                duration: now - pcpu.running_since,
            };
            let before = pcpu.stretch.and_then(|last| stretches.get_mut(last));
            match before {
                Some(before) if before.goes_on_as(&stretch) => before.duration += stretch.duration,
                _ if stretch.duration > 0 => stretches.push(stretch),
                _ => {}
            }
        }
        stretches.sort_by_key(|stretch| (stretch.start, stretch.pcpu));
        stretches
    }
}
