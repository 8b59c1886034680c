//! Round-robin: ready vCPUs take turns in the order in which they became ready, each for one slice.
//!
//! ```text
//!   enqueue --> | last | ... | first | --> pick, for `slice_ticks` while others wait
//! ```
//! With n ready on a pCPU nobody waits longer than n slices. A vCPU that waits for an interrupt and wakes goes to the end
//! like everybody else: its own slice ends early, the others' do not. Turns are as frequent on all pCPUs as numbers allow: where
//! two more wait than elsewhere, the last one that may goes there, once in each balance period, unless it would have its turn later.
//! [Silberschatz et al., Operating System Concepts: Round-Robin Scheduling]

use super::fifo::Fifo;
use crate::{
    Bounds, Choice, Entitlements, LocalPolicy, PcpuId, PcpuSet, Pick, Policy, Ready, Slice, VcpuId,
};
use alloc::{boxed::Box, sync::Arc};
use core::num::NonZero;

/// Ready vCPUs take turns.
pub struct RoundRobin {
    slice_ticks: u64,
    period_ticks: u64,
}

impl RoundRobin {
    /// The name by which it is chosen.
    pub const NAME: &str = "round-robin";

    /// Each runs for `slice_ticks` of the host's counter while others wait. pCPUs are balanced every two slices.
    pub const fn with_slice(slice_ticks: u64) -> Self {
        Self::new(slice_ticks, slice_ticks.saturating_mul(2))
    }

    /// The same, and pCPUs are balanced every `period_ticks`.
    pub const fn new(slice_ticks: u64, period_ticks: u64) -> Self {
        Self {
            slice_ticks,
            period_ticks,
        }
    }

    pub(crate) fn slice_ticks(&self) -> u64 {
        self.slice_ticks
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

    fn balance_period(&self) -> Option<NonZero<u64>> {
        NonZero::new(self.period_ticks)
    }

    fn renew(&self, _pcpus: PcpuSet) -> Box<dyn Policy> {
        Box::new(Self::new(self.slice_ticks, self.period_ticks))
    }

    fn local(&self, _pcpu: PcpuId, entitlements: &Arc<Entitlements>) -> Box<dyn LocalPolicy> {
        Box::new(Queue::new(Slice::of(self.slice_ticks), entitlements))
    }
}

/// First in, first out. Also what [`super::Pinned`] ranks with: it differs only in the slice.
pub(super) struct Queue {
    ready: Fifo<VcpuId>,
    slice: Slice,
}

impl Queue {
    pub(super) fn new(slice: Slice, entitlements: &Entitlements) -> Self {
        Self {
            ready: Fifo::with_capacity(entitlements.len()),
            slice,
        }
    }

    fn remove(&mut self, is_wanted: impl FnMut(&VcpuId) -> bool) -> Option<VcpuId> {
        let position = self.ready.iter().position(is_wanted)?;
        self.ready.remove(position)
    }
}

impl LocalPolicy for Queue {
    fn enqueue(&mut self, vcpu: VcpuId, why: Ready, _now: u64) {
        self.ready.join(vcpu, why);
    }

    fn pick(&mut self, _now: u64) -> Choice {
        let slice = self.slice;
        match self.ready.pop() {
            Some(vcpu) => Choice::Run(Pick { vcpu, slice }),
            None => Choice::Idle(None),
        }
    }

    fn take(&mut self, vcpu: VcpuId, _now: u64) -> Option<Slice> {
        let index = self.ready.position(vcpu)?;
        self.ready.call(index).map(|_| self.slice)
    }

    fn resume(&mut self, _vcpu: VcpuId, _now: u64) -> Option<Slice> {
        Some(self.slice)
    }

    fn withdraw(&mut self, vcpu: VcpuId, _now: u64) {
        self.remove(|&ready| ready == vcpu);
    }

    fn surrender(&mut self, allowed: &mut dyn FnMut(VcpuId) -> bool) -> Option<VcpuId> {
        self.remove(|&ready| allowed(ready))
    }

    /// The last one that may go, if no more are before it there than here: who is moved again and again does not get further from
    /// its turn.
    fn relieve(
        &mut self,
        _to: PcpuId,
        waiting: usize,
        allowed: &mut dyn FnMut(VcpuId) -> bool,
    ) -> Option<VcpuId> {
        let first = if cfg!(mutant = "relieve_whoever_is_next") {
            0
        } else {
            waiting
        };
        let may_go = |&index: &usize| self.ready.get(index).is_some_and(|&vcpu| allowed(vcpu));
        let index = (first..self.ready.len()).rev().find(may_go)?;
        self.ready.remove(index)
    }

    fn charge(&mut self, _vcpu: VcpuId, _ticks: u64, _now: u64) {}

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
        let entitlements = Arc::new(Entitlements::new(4));
        let mut local = RoundRobin::with_slice(10).local(PcpuId::new(0).unwrap(), &entitlements);
        [A, B, C]
            .iter()
            .for_each(|&vcpu| local.enqueue(vcpu, Ready::Woken, 0));
        local
    }

    fn next(local: &mut Box<dyn LocalPolicy>) -> Option<VcpuId> {
        match local.pick(0) {
            Choice::Run(pick) => Some(pick.vcpu),
            Choice::Idle(_) => None,
        }
    }

    #[test]
    fn who_came_first_runs_first() {
        let mut local = queue_of_three();
        let pick = Pick {
            vcpu: A,
            slice: Slice::of(10),
        };
        assert_eq!(local.pick(0), Choice::Run(pick));
        local.enqueue(A, Ready::Preempted, 10);
        let order = core::iter::from_fn(|| next(&mut local)).collect::<Vec<_>>();
        assert_eq!(order, [B, C, A]);
    }

    #[test]
    fn a_named_vcpu_is_taken_out_of_turn_and_once() {
        let mut local = queue_of_three();
        assert_eq!(local.take(B, 0), Some(Slice::of(10)));
        assert_eq!(local.take(B, 0), None);
        assert_eq!(local.waiting(), 2);
    }

    #[test]
    fn who_has_waited_least_goes_where_fewer_wait() {
        let (mut local, to) = (queue_of_three(), PcpuId::new(1).unwrap());
        assert_eq!(local.relieve(to, 1, &mut |_| true), Some(C));
        assert_eq!(local.relieve(to, 0, &mut |vcpu| vcpu == A), Some(A));
        assert_eq!(local.relieve(to, 0, &mut |_| false), None);
        assert_eq!(next(&mut local), Some(B));
    }

    #[test]
    fn nobody_goes_where_more_come_before_it_than_here() {
        let (mut local, to) = (queue_of_three(), PcpuId::new(1).unwrap());
        assert_eq!(local.relieve(to, 1, &mut |vcpu| vcpu == A), None);
        assert_eq!(local.relieve(to, 2, &mut |vcpu| vcpu == B), None);
        assert_eq!(local.relieve(to, 1, &mut |vcpu| vcpu == B), Some(B));
    }

    #[test]
    fn only_an_allowed_vcpu_is_surrendered() {
        let mut local = queue_of_three();
        assert_eq!(local.surrender(&mut |vcpu| vcpu == C), Some(C));
        assert_eq!(local.surrender(&mut |_| false), None);
        assert_eq!(local.waiting(), 2);
    }
}
