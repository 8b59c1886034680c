use super::{Model, SLICE, cases, compare, events};
use crate::{
    Ready,
    policies::{Pinned, RoundRobin},
};
use alloc::vec::Vec;
use proptest::prelude::*;

/// Who is next, and where one that was called out of turn stood: it comes back there.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Place {
    Ready(u16),
    Called(u16),
}

#[derive(Default)]
struct Turns(Vec<Place>);

impl Turns {
    fn position(&self, place: Place) -> Option<usize> {
        self.0.iter().position(|&other| other == place)
    }

    /// The first of those that are ready, or the last.
    fn remove(&mut self, is_last: bool) -> Option<u16> {
        let is_ready = |place: &Place| matches!(place, Place::Ready(_));
        let index = match is_last {
            true => self.0.iter().rposition(is_ready)?,
            false => self.0.iter().position(is_ready)?,
        };
        match self.0.remove(index) {
            Place::Ready(vcpu) => Some(vcpu),
            Place::Called(_) => None,
        }
    }
}

impl Model for Turns {
    fn enqueue(&mut self, vcpu: u16, why: Ready, _now: u64) {
        let called = self.position(Place::Called(vcpu));
        match called.filter(|_| why != Ready::Woken) {
            Some(index) => self.0[index] = Place::Ready(vcpu),
            None => {
                self.0.retain(|&place| place != Place::Called(vcpu));
                self.0.push(Place::Ready(vcpu));
            }
        }
    }

    fn leave(&mut self, vcpu: u16, _now: u64) {
        self.0.retain(|&place| place != Place::Ready(vcpu));
    }

    fn charge(&mut self, _vcpu: u16, _ticks: u64, _now: u64) {}

    fn pick(&mut self, _now: u64) -> Option<u16> {
        self.remove(false)
    }

    fn call(&mut self, vcpu: u16, _now: u64) -> Option<bool> {
        self.0.retain(|place| matches!(place, Place::Ready(_)));
        let index = self.position(Place::Ready(vcpu));
        if let Some(index) = index {
            self.0[index] = Place::Called(vcpu);
        }
        Some(index.is_some())
    }

    fn relieve(&mut self) -> Option<u16> {
        self.remove(true)
    }

    fn slice(&self, _now: u64) -> Option<u64> {
        Some(SLICE)
    }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn round_robin_is_what_its_model_says(events in events()) {
        compare(&RoundRobin::with_slice(SLICE), &mut Turns::default(), &[], &events);
    }

    /// Those that share a pCPU take turns.
    #[test]
    fn pinned_is_what_its_model_says(events in events()) {
        compare(&Pinned::with_slice(SLICE), &mut Turns::default(), &[], &events);
    }
}
