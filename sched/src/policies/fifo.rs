//! Who came first: a line in which one that is called out of turn keeps its place.
//!
//! ```text
//!   join --> | last | ... | first | --> whoever leaves at the front has its turn
//!                      |  ^
//!                 call v  | join: back in its place, with its own turn still to come
//!              it runs for what is left of another's turn
//! ```
//! So a turn that is given away costs those in the line nothing, and the one that it is given to neither.

use crate::{Ready, VcpuId};
use alloc::collections::VecDeque;

/// What stands in a line for a vCPU.
pub(super) trait Member: Copy {
    fn vcpu(&self) -> VcpuId;
}

impl Member for VcpuId {
    fn vcpu(&self) -> VcpuId {
        *self
    }
}

/// First in, first out.
pub(super) struct Fifo<M> {
    members: VecDeque<M>,
    /// Who has been called, and how many stand before its place.
    called: Option<(VcpuId, usize)>,
}

impl<M: Member> Fifo<M> {
    pub(super) fn with_capacity(capacity: usize) -> Self {
        Self {
            members: VecDeque::with_capacity(capacity),
            called: None,
        }
    }

    /// `member` goes to the end; if it was called and has run until now, back to its place.
    pub(super) fn join(&mut self, member: M, why: Ready) {
        let called = self.called.take_if(|(vcpu, _)| *vcpu == member.vcpu());
        let has_run = matches!(why, Ready::Preempted | Ready::Yielded)
            && !cfg!(mutant = "lose_place_when_called");
        match called.filter(|_| has_run) {
            Some((_, place)) => self.members.insert(place, member),
            None => self.members.push_back(member),
        }
    }

    /// The first one leaves.
    pub(super) fn pop(&mut self) -> Option<M> {
        let member = self.members.pop_front()?;
        if let Some((_, place)) = &mut self.called {
            *place = place.saturating_sub(1);
        }
        Some(member)
    }

    /// The one at `index` leaves.
    pub(super) fn remove(&mut self, index: usize) -> Option<M> {
        let member = self.members.remove(index)?;
        if let Some((_, place)) = self.called.as_mut().filter(|(_, place)| index < *place) {
            *place -= 1;
        }
        Some(member)
    }

    /// The one at `index` leaves, to run for what is left of another's turn.
    pub(super) fn call(&mut self, index: usize) -> Option<M> {
        let member = self.remove(index)?;
        self.called = Some((member.vcpu(), index));
        Some(member)
    }

    pub(super) fn position(&self, vcpu: VcpuId) -> Option<usize> {
        self.members.iter().position(|member| member.vcpu() == vcpu)
    }

    pub(super) fn get(&self, index: usize) -> Option<&M> {
        self.members.get(index)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &M> {
        self.members.iter()
    }

    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn fifo() -> Fifo<VcpuId> {
        let mut fifo = Fifo::with_capacity(8);
        (0..5).for_each(|index| fifo.join(VcpuId::new(index), Ready::Woken));
        fifo
    }

    fn numbers(fifo: &Fifo<VcpuId>) -> Vec<usize> {
        fifo.iter().map(|vcpu| vcpu.index()).collect()
    }

    #[test]
    fn one_that_is_called_keeps_its_place_while_others_come_and_go() {
        let mut fifo = fifo();
        assert_eq!(fifo.call(2), Some(VcpuId::new(2)));
        fifo.join(VcpuId::new(7), Ready::Yielded);
        fifo.remove(0);
        fifo.remove(2);
        assert_eq!(numbers(&fifo), [1, 3, 7]);
        fifo.join(VcpuId::new(2), Ready::Preempted);
        assert_eq!(numbers(&fifo), [1, 2, 3, 7]);
        fifo.remove(1);
        fifo.join(VcpuId::new(2), Ready::Preempted);
        assert_eq!(numbers(&fifo), [1, 3, 7, 2], "once");
    }

    #[test]
    fn one_that_has_slept_since_it_was_called_goes_to_the_end() {
        let mut fifo = fifo();
        fifo.call(0);
        fifo.join(VcpuId::new(0), Ready::Woken);
        assert_eq!(numbers(&fifo), [1, 2, 3, 4, 0]);
        fifo.call(1);
        fifo.join(VcpuId::new(9), Ready::Yielded);
        fifo.join(VcpuId::new(2), Ready::Woken);
        assert_eq!(numbers(&fifo), [1, 3, 4, 0, 9, 2]);
    }
}
