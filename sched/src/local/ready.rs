//! Which boxes are ready on a pCPU: one place for each vCPU of the machine, reserved beforehand.

use crate::{Vcpu, VcpuId};
use alloc::{boxed::Box, vec::Vec};
use core::iter;

/// Those that are there are found by a bitmap: of thousands that there can be, few are ready on one pCPU.
pub(super) struct ReadySet<V> {
    boxes: Vec<Option<Box<V>>>,
    /// Bit n of word m: vCPU 64 * m + n is there.
    present: Box<[u64]>,
    count: usize,
}

impl<V: Vcpu> ReadySet<V> {
    pub(super) fn new(max_vcpus: u16) -> Self {
        Self {
            boxes: (0..max_vcpus).map(|_| None).collect(),
            present: (0..max_vcpus.div_ceil(64)).map(|_| 0).collect(),
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
        let following = self.iter().find(|vcpu| vcpu.handle().id().index() >= first);
        let next = following.or_else(|| self.iter().next())?;
        Some(next.handle().id())
    }

    /// Those that are there, by number.
    fn iter(&self) -> impl Iterator<Item = &V> {
        let numbers = self.present.iter().enumerate().flat_map(|(index, &word)| {
            let bits = iter::successors(Some(word), |rest| Some(rest & rest.wrapping_sub(1)));
            let bits = bits.take_while(|&rest| rest != 0);
            bits.map(move |rest| 64 * index + rest.trailing_zeros() as usize)
        });
        numbers.filter_map(|number| self.boxes[number].as_deref())
    }

    pub(super) fn insert(&mut self, vcpu: Box<V>) {
        let number = vcpu.handle().id().index();
        self.present[number / 64] |= 1 << (number % 64);
        let place = &mut self.boxes[number];
        assert!(place.replace(vcpu).is_none(), "rule: a vCPU has one box");
        self.count += 1;
    }

    pub(super) fn get(&self, id: VcpuId) -> Option<&V> {
        self.boxes.get(id.index())?.as_deref()
    }

    pub(super) fn remove(&mut self, id: VcpuId) -> Option<Box<V>> {
        let vcpu = self.boxes.get_mut(id.index())?.take()?;
        self.present[id.index() / 64] &= !(1 << (id.index() % 64));
        self.count -= 1;
        Some(vcpu)
    }

    pub(super) fn for_each(&self, visit: impl FnMut(&V)) {
        self.iter().for_each(visit);
    }

    /// The first for which `is_wanted` is true, by number.
    pub(super) fn find(&self, mut is_wanted: impl FnMut(&V) -> bool) -> Option<VcpuId> {
        let first = self.iter().find(|vcpu| is_wanted(vcpu));
        first.map(|vcpu| vcpu.handle().id())
    }
}
