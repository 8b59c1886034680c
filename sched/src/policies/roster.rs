//! Who is ready on one pCPU, and what its policy knows of each: found by the vCPU's number, and kept in slots that stay the same
//! as long as it is there, so that rankings can refer to them.

use super::fifo::Member;
use crate::VcpuId;
use alloc::{boxed::Box, vec, vec::Vec};

/// Nothing that it does depends on how many are there, or could be.
pub(super) struct Roster<M> {
    /// By vCPU number: its slot + 1, or 0. Memory that is all 0 is not touched before it is needed: there is one of these for
    /// each pCPU.
    places: Box<[u16]>,
    /// By slot; those that are `free` say nothing.
    members: Vec<M>,
    free: Vec<u16>,
}

impl<M: Member> Roster<M> {
    /// Nobody yet; there is room for vCPUs with numbers below `room`.
    pub(super) fn with_room(room: usize) -> Self {
        Self {
            places: vec![0; room].into_boxed_slice(),
            members: Vec::with_capacity(room),
            free: Vec::with_capacity(room),
        }
    }

    /// `member`, which is not there, comes in; the result is its slot.
    pub(super) fn insert(&mut self, member: M) -> usize {
        let slot = match self.free.pop() {
            Some(slot) => {
                self.members[usize::from(slot)] = member;
                usize::from(slot)
            }
            None => {
                self.members.push(member);
                self.members.len() - 1
            }
        };
        self.places[member.vcpu().index()] = slot as u16 + 1;
        slot
    }

    /// The one in `slot`, which is taken, goes.
    pub(super) fn remove(&mut self, slot: usize) -> M {
        let member = self.members[slot];
        self.places[member.vcpu().index()] = 0;
        self.free.push(slot as u16);
        member
    }

    /// The slot of `vcpu`, if it is there.
    pub(super) fn slot(&self, vcpu: VcpuId) -> Option<usize> {
        let place = *self.places.get(vcpu.index())?;
        place.checked_sub(1).map(usize::from)
    }

    /// The one in `slot`, which is taken.
    pub(super) fn get(&self, slot: usize) -> &M {
        &self.members[slot]
    }

    /// The one in `slot`, if it is taken.
    pub(super) fn taken(&self, slot: usize) -> Option<&M> {
        let member = self.members.get(slot)?;
        (self.slot(member.vcpu()) == Some(slot)).then_some(member)
    }

    /// All slots that are taken are below this.
    pub(super) fn slots(&self) -> usize {
        self.members.len()
    }

    pub(super) fn len(&self) -> usize {
        self.members.len() - self.free.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn slots_are_found_by_number_and_used_again() {
        let mut roster = Roster::with_room(4);
        let slots = [3, 1].map(|vcpu| roster.insert(VcpuId::new(vcpu)));
        assert_eq!(roster.slot(VcpuId::new(1)), Some(slots[1]));
        assert_eq!(roster.remove(slots[0]), VcpuId::new(3));
        assert_eq!(roster.slot(VcpuId::new(3)), None);
        assert_eq!(roster.insert(VcpuId::new(2)), slots[0]);
        assert_eq!(*roster.get(slots[0]), VcpuId::new(2));
        assert_eq!((roster.len(), roster.slot(VcpuId::new(9))), (2, None));
        roster.remove(slots[1]);
        let taken = (0..roster.slots()).map(|slot| roster.taken(slot).is_some());
        assert_eq!(taken.collect::<Vec<_>>(), [true, false]);
    }
}
