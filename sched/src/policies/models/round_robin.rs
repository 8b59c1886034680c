use super::{Model, Place as There, SLICE, cases, compare, events};
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

    /// Those that are ready, the next one first.
    fn ready(&self) -> Vec<u16> {
        let ready = self.0.iter().filter_map(|place| match place {
            Place::Ready(vcpu) => Some(*vcpu),
            Place::Called(_) => None,
        });
        ready.collect()
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

    fn pick(&mut self, now: u64) -> Option<u16> {
        let next = self.ready().first().copied()?;
        self.leave(next, now);
        Some(next)
    }

    fn call(&mut self, vcpu: u16, _now: u64) -> Option<bool> {
        self.0.retain(|place| matches!(place, Place::Ready(_)));
        let index = self.position(Place::Ready(vcpu));
        if let Some(index) = index {
            self.0[index] = Place::Called(vcpu);
        }
        Some(index.is_some())
    }

    fn relieve(&mut self, there: There) -> Option<u16> {
        let ready = self.ready();
        let later = ready.iter().skip(there.waiting.into()).copied();
        let last = later.rev().find(|&vcpu| there.allows(vcpu))?;
        self.0.retain(|&place| place != Place::Ready(last));
        Some(last)
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
