//! Round-robin: ready vCPUs take turns in the order in which they became ready, each for one slice.
//!
//! ```text
//!   enqueue --> | last | ... | first | --> pick, for `slice_ticks` while others wait
//! ```
//! With n ready on a pCPU nobody waits longer than n slices. A vCPU that waits for an interrupt and wakes goes to the end
//! like everybody else: its own slice ends early, the others' do not. [Silberschatz et al., Operating System Concepts:
//! Round-Robin Scheduling]

use crate::{Bounds, LocalPolicy, PcpuId, Pick, Policy, Ready, Slice, VcpuId};
use alloc::{boxed::Box, collections::VecDeque};

/// Ready vCPUs take turns.
pub struct RoundRobin {
    slice_ticks: u64,
}

impl RoundRobin {
    /// The name by which it is chosen.
    pub const NAME: &str = "round-robin";

    /// Each runs for `slice_ticks` of the host's counter while others wait.
    pub const fn with_slice(slice_ticks: u64) -> Self {
        Self { slice_ticks }
    }
}

impl Policy for RoundRobin {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn bounds(&self, ready: usize) -> Bounds {
        Bounds {
            work_conserving: true,
            longest_wait: Some(self.slice_ticks.saturating_mul(ready as u64)),
        }
    }

    fn local(&self, _pcpu: PcpuId, max_vcpus: u16) -> Box<dyn LocalPolicy> {
        Box::new(Queue {
            ready: VecDeque::with_capacity(usize::from(max_vcpus)),
            slice: Slice::of(self.slice_ticks),
        })
    }
}

/// First in, first out. Also what [`super::Pinned`] ranks with: it differs only in the slice.
pub(super) struct Queue {
    pub(super) ready: VecDeque<VcpuId>,
    pub(super) slice: Slice,
}

impl LocalPolicy for Queue {
    fn enqueue(&mut self, vcpu: VcpuId, _why: Ready) {
        self.ready.push_back(vcpu);
    }

    fn pick(&mut self) -> Option<Pick> {
        self.ready.pop_front().map(|vcpu| Pick {
            vcpu,
            slice: self.slice,
        })
    }

    fn take(&mut self, vcpu: VcpuId) -> Option<Slice> {
        let position = self.ready.iter().position(|&ready| ready == vcpu)?;
        self.ready.remove(position).map(|_| self.slice)
    }

    fn surrender(&mut self, allowed: &mut dyn FnMut(VcpuId) -> bool) -> Option<VcpuId> {
        let position = self.ready.iter().position(|&ready| allowed(ready))?;
        self.ready.remove(position)
    }

    fn charge(&mut self, _vcpu: VcpuId, _ticks: u64) {}

    fn waiting(&self) -> usize {
        self.ready.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: VcpuId = VcpuId::new(0);
    const B: VcpuId = VcpuId::new(1);
    const C: VcpuId = VcpuId::new(2);

    fn queue_of_three() -> Box<dyn LocalPolicy> {
        let mut local = RoundRobin::with_slice(10).local(PcpuId::new(0).unwrap(), 4);
        [A, B, C]
            .iter()
            .for_each(|&vcpu| local.enqueue(vcpu, Ready::Woken));
        local
    }

    #[test]
    fn who_came_first_runs_first() {
        let mut local = queue_of_three();
        assert_eq!(
            local.pick(),
            Some(Pick {
                vcpu: A,
                slice: Slice::of(10)
            })
        );
        local.enqueue(A, Ready::Preempted);
        let order = core::iter::from_fn(|| local.pick().map(|pick| pick.vcpu)).collect::<Vec<_>>();
        assert_eq!(order, [B, C, A]);
    }

    #[test]
    fn a_named_vcpu_is_taken_out_of_turn_and_once() {
        let mut local = queue_of_three();
        assert_eq!(local.take(B), Some(Slice::of(10)));
        assert_eq!(local.take(B), None);
        assert_eq!(local.waiting(), 2);
    }

    #[test]
    fn only_an_allowed_vcpu_is_surrendered() {
        let mut local = queue_of_three();
        assert_eq!(local.surrender(&mut |vcpu| vcpu == C), Some(C));
        assert_eq!(local.surrender(&mut |_| false), None);
        assert_eq!(local.waiting(), 2);
    }
}
