//! Which vCPU belongs to which VM, and as which of them, for policies that treat the vCPUs of a VM together.
//!
//! Written only while a vCPU is admitted or released, by one caller at a time; read at any time.

use crate::{
    GroupId, VcpuId,
    sync::{AtomicU32, Ordering::Relaxed},
};
use alloc::boxed::Box;

/// No group: `u16::MAX` would be the last vCPU of the last group of more than there can be.
const NOBODY: u32 = u32::MAX;

/// A vCPU among those of its VM.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Member {
    pub(super) group: GroupId,
    /// Which of them it is, from 0.
    pub(super) order: u16,
}

/// By vCPU number: group in bits 31:16, order in bits 15:0.
pub(super) struct Members(Box<[AtomicU32]>);

impl Members {
    pub(super) fn new(max_vcpus: u16) -> Self {
        Self((0..max_vcpus).map(|_| AtomicU32::new(NOBODY)).collect())
    }

    /// For how many vCPUs there is room.
    pub(super) fn room(&self) -> usize {
        self.0.len()
    }

    pub(super) fn get(&self, vcpu: VcpuId) -> Option<Member> {
        decode(self.0.get(vcpu.index())?.load(Relaxed))
    }

    fn of(&self, group: GroupId) -> impl Iterator<Item = Member> {
        let all = self.0.iter().filter_map(|word| decode(word.load(Relaxed)));
        all.filter(move |member| member.group == group)
    }

    /// `group` has a vCPU.
    pub(super) fn has(&self, group: GroupId) -> bool {
        self.of(group).next().is_some()
    }

    /// `vcpu` would be this one of `group`: the one that it is, or the lowest that none is.
    pub(super) fn order_in(&self, group: GroupId, vcpu: VcpuId) -> u16 {
        match self.get(vcpu) {
            Some(member) if member.group == group => member.order,
            _ => (0..)
                .find(|&order| self.of(group).all(|member| member.order != order))
                .unwrap_or(0),
        }
    }

    /// `vcpu` belongs to `group` from now on.
    pub(super) fn join(&self, vcpu: VcpuId, group: GroupId) {
        let order = self.order_in(group, vcpu);
        if let Some(word) = self.0.get(vcpu.index()) {
            word.store((group.index() as u32) << 16 | u32::from(order), Relaxed);
        }
    }

    /// `vcpu` belongs to none; the result is the group to which it belonged.
    pub(super) fn leave(&self, vcpu: VcpuId) -> Option<GroupId> {
        let member = self.get(vcpu)?;
        self.0[vcpu.index()].store(NOBODY, Relaxed);
        Some(member.group)
    }
}

fn decode(word: u32) -> Option<Member> {
    (word != NOBODY).then(|| Member {
        group: GroupId::new((word >> 16) as u16),
        order: word as u16,
    })
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_order_that_is_free_is_given_and_kept() {
        let (members, group) = (Members::new(4), GroupId::new(7));
        let order = |vcpu| members.get(VcpuId::new(vcpu)).map(|member| member.order);
        for vcpu in [2, 0, 3] {
            members.join(VcpuId::new(vcpu), group);
        }
        assert_eq!([0, 1, 2, 3].map(order), [Some(1), None, Some(0), Some(2)]);
        assert_eq!(members.leave(VcpuId::new(0)), Some(group));
        members.join(VcpuId::new(3), group);
        members.join(VcpuId::new(1), group);
        assert_eq!([0, 1, 2, 3].map(order), [None, Some(1), Some(0), Some(2)]);
        assert!(members.has(group) && !members.has(GroupId::new(0)));
    }
}
