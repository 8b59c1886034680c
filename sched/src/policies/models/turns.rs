//! Who is ready, in the order of turns. One that was called out of turn keeps its place while it runs.

use crate::Ready;
use alloc::vec::Vec;

#[derive(Clone, Copy, Eq, PartialEq)]
enum Place {
    Ready(u16),
    Called(u16),
}

#[derive(Default)]
pub(super) struct Turns(Vec<Place>);

impl Turns {
    /// Those that are ready, the next one first.
    pub(super) fn ready(&self) -> Vec<u16> {
        let ready = self.0.iter().filter_map(|place| match place {
            Place::Ready(vcpu) => Some(*vcpu),
            Place::Called(_) => None,
        });
        ready.collect()
    }

    /// `vcpu` runs for what is left of another's turn.
    pub(super) fn is_called(&self, vcpu: u16) -> bool {
        self.0.contains(&Place::Called(vcpu))
    }

    /// The last one, or where it stood when it was called.
    pub(super) fn join(&mut self, vcpu: u16, why: Ready) {
        let is_back = |place: &&mut Place| **place == Place::Called(vcpu) && why != Ready::Woken;
        match self.0.iter_mut().find(is_back) {
            Some(place) => *place = Place::Ready(vcpu),
            None => {
                self.leave(vcpu);
                self.0.push(Place::Ready(vcpu));
            }
        }
    }

    /// Before all others.
    pub(super) fn join_first(&mut self, vcpu: u16) {
        self.0.insert(0, Place::Ready(vcpu));
    }

    /// It runs in its turn, or goes away.
    pub(super) fn leave(&mut self, vcpu: u16) {
        let is_its_own = |place: &Place| [Place::Ready(vcpu), Place::Called(vcpu)].contains(place);
        self.0.retain(|place| !is_its_own(place));
    }

    /// It runs now, for what is left of another's turn.
    pub(super) fn call(&mut self, vcpu: u16) {
        let is_its_own = |place: &&mut Place| **place == Place::Ready(vcpu);
        let place = self.0.iter_mut().find(is_its_own);
        *place.expect("it is ready") = Place::Called(vcpu);
    }
}
