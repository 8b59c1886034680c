//! When the next vCPU that waits unbound has a timer that expires: a binary heap with one entry per vCPU.
//!
//! Only its pCPU uses it. The memory is reserved when the pCPU joins its pool. An entry whose vCPU has long been woken
//! by somebody else costs one spurious wake, which a guest must expect anyway.

use crate::{Vcpu, VcpuHandle, VcpuId};
use alloc::{sync::Arc, vec, vec::Vec};

const ABSENT: u16 = u16::MAX;

struct Entry<V: Vcpu> {
    deadline: u64,
    handle: Arc<VcpuHandle<V>>,
}

pub(crate) struct Deadlines<V: Vcpu> {
    heap: Vec<Entry<V>>,
    /// Where in the heap each vCPU's entry is.
    positions: Vec<u16>,
}

impl<V: Vcpu> Deadlines<V> {
    /// Room for one entry of each of `max_vcpus`.
    pub(crate) fn new(max_vcpus: u16) -> Self {
        let count = usize::from(max_vcpus);
        Self {
            heap: Vec::with_capacity(count),
            positions: vec![ABSENT; count],
        }
    }

    /// The earliest deadline, in ticks.
    pub(crate) fn first(&self) -> Option<u64> {
        self.heap.first().map(|entry| entry.deadline)
    }

    /// Wake the vCPU at `deadline`, and at no other time.
    pub(crate) fn set(&mut self, handle: &Arc<VcpuHandle<V>>, deadline: u64) {
        self.remove(handle.id());
        let position = self.heap.len();
        assert!(
            position < self.positions.len(),
            "rule: one deadline per vCPU of the machine"
        );
        self.heap.push(Entry {
            deadline,
            handle: Arc::clone(handle),
        });
        self.note(position);
        self.sift_up(position);
    }

    /// Forgets the vCPU's deadline, if there is one.
    pub(crate) fn remove(&mut self, vcpu: VcpuId) {
        let Some(position) = self.positions.get_mut(vcpu.index()) else {
            return;
        };
        let position = core::mem::replace(position, ABSENT);
        if position != ABSENT {
            self.take(usize::from(position));
        }
    }

    /// Forgets the deadlines of vCPUs that have been taken out of the scheduler. It drops what they were woken by: not for exit
    /// paths.
    pub(crate) fn remove_gone(&mut self) {
        while let Some(gone) = self.heap.iter().find(|entry| entry.handle.is_gone()) {
            self.remove(gone.handle.id());
        }
    }

    /// The next vCPU whose deadline is not after `now`.
    pub(crate) fn pop_due(&mut self, now: u64) -> Option<Arc<VcpuHandle<V>>> {
        let first = self.heap.first().filter(|first| first.deadline <= now)?;
        self.positions[first.handle.id().index()] = ABSENT;
        Some(self.take(0))
    }

    fn take(&mut self, position: usize) -> Arc<VcpuHandle<V>> {
        let entry = self.heap.swap_remove(position);
        if position < self.heap.len() {
            self.note(position);
            let position = self.sift_up(position);
            self.sift_down(position);
        }
        entry.handle
    }

    fn sift_up(&mut self, mut position: usize) -> usize {
        while position > 0 {
            let parent = (position - 1) / 2;
            if self.heap[parent].deadline <= self.heap[position].deadline {
                break;
            }
            self.swap(parent, position);
            position = parent;
        }
        position
    }

    fn sift_down(&mut self, mut position: usize) {
        loop {
            let children = 2 * position + 1..(2 * position + 3).min(self.heap.len());
            let Some(child) = children.min_by_key(|&child| self.heap[child].deadline) else {
                return;
            };
            if self.heap[position].deadline <= self.heap[child].deadline {
                return;
            }
            self.swap(position, child);
            position = child;
        }
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.heap.swap(a, b);
        self.note(a);
        self.note(b);
    }

    fn note(&mut self, position: usize) {
        self.positions[self.heap[position].handle.id().index()] = position as u16;
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::{
        policies::RoundRobin,
        sim::{Instruction::Compute, Script, Simulation},
    };
    use alloc::collections::BTreeMap;

    #[test]
    fn those_of_retired_vcpus_are_forgotten() {
        let scripts = (0..4).map(|_| Script::once([Compute(1)]));
        let mut sim = Simulation::new(RoundRobin::with_slice(10), scripts);
        sim.run_until(100);
        let handles: Vec<_> = (0..4).map(|id| sim.handle(VcpuId::new(id))).collect();
        let mut deadlines = Deadlines::new(4);
        for (deadline, handle) in (10..).zip(&handles) {
            deadlines.set(handle, deadline);
        }
        for gone in [0, 2] {
            drop(handles[gone].retire().expect("it has turned itself off"));
        }
        let holders = Arc::strong_count(handles[0]);
        deadlines.remove_gone();
        assert_eq!(Arc::strong_count(handles[0]), holders - 1);
        let mut left =
            core::iter::from_fn(|| deadlines.pop_due(u64::MAX)).map(|handle| handle.id());
        assert_eq!(left.next(), Some(VcpuId::new(1)));
        assert_eq!(left.next(), Some(VcpuId::new(3)));
        assert_eq!(left.next(), None);
    }

    #[test]
    fn deadlines_come_in_order_whatever_was_set_and_removed_before() {
        let scripts = (0..20).map(|_| Script::once([Compute(1)]));
        let sim = Simulation::new(RoundRobin::with_slice(10), scripts);
        let mut deadlines = Deadlines::new(20);
        let mut expected = BTreeMap::new();
        let mut chance = 1_u64;
        for _ in 0..5000 {
            chance = chance
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let (id, time) = (VcpuId::new((chance >> 33) as u16 % 20), chance >> 50);
            match chance >> 40 & 3 {
                0 => {
                    deadlines.remove(id);
                    expected.remove(&id);
                }
                1 => {
                    let due = deadlines.pop_due(time).map(|handle| handle.id());
                    let first = expected
                        .values()
                        .min()
                        .copied()
                        .filter(|&first| first <= time);
                    assert_eq!(due.and_then(|id| expected.remove(&id)), first);
                }
                _ => {
                    deadlines.set(sim.handle(id), time);
                    expected.insert(id, time);
                }
            }
            assert_eq!(deadlines.first(), expected.values().min().copied());
        }
    }
}
