//! Which boxes are ready on a pCPU: one place for each vCPU of the pool, reserved beforehand.

use crate::{Vcpu, VcpuId};
use alloc::{boxed::Box, vec::Vec};

pub(super) struct ReadySet<V> {
    boxes: Vec<Option<Box<V>>>,
    count: usize,
}

impl<V: Vcpu> ReadySet<V> {
    pub(super) fn new(max_vcpus: u16) -> Self {
        Self {
            boxes: (0..max_vcpus).map(|_| None).collect(),
            count: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// The next by number after `last`, in turns.
    pub(super) fn after(&self, last: Option<VcpuId>) -> Option<VcpuId> {
        let first = last.map_or(0, |last| last.index() + 1);
        let indices = (first..self.boxes.len()).chain(0..first.min(self.boxes.len()));
        let mut present = indices.filter_map(|index| self.boxes[index].as_deref());
        present.next().map(|vcpu| vcpu.handle().id())
    }

    pub(super) fn insert(&mut self, vcpu: Box<V>) {
        let place = &mut self.boxes[vcpu.handle().id().index()];
        assert!(place.replace(vcpu).is_none(), "rule: a vCPU has one box");
        self.count += 1;
    }

    pub(super) fn get(&self, id: VcpuId) -> Option<&V> {
        self.boxes.get(id.index())?.as_deref()
    }

    pub(super) fn remove(&mut self, id: VcpuId) -> Option<Box<V>> {
        let vcpu = self.boxes.get_mut(id.index())?.take()?;
        self.count -= 1;
        Some(vcpu)
    }

    pub(super) fn for_each(&self, visit: impl FnMut(&V)) {
        self.boxes
            .iter()
            .flatten()
            .map(|vcpu| &**vcpu)
            .for_each(visit);
    }

    /// The first for which `is_wanted` is true, by number.
    pub(super) fn find(&self, mut is_wanted: impl FnMut(&V) -> bool) -> Option<VcpuId> {
        self.boxes
            .iter()
            .flatten()
            .find(|vcpu| is_wanted(vcpu))
            .map(|vcpu| vcpu.handle().id())
    }
}
