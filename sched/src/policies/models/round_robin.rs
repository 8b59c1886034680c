use super::{Model, Place, SLICE, cases, compare, events, turns::Turns};
use crate::{
    Ready,
    policies::{Pinned, RoundRobin},
};
use proptest::prelude::*;

#[derive(Default)]
struct Queue(Turns);

impl Model for Queue {
    fn enqueue(&mut self, vcpu: u16, why: Ready, _now: u64) {
        self.0.join(vcpu, why);
    }

    fn leave(&mut self, vcpu: u16, _now: u64) {
        self.0.leave(vcpu);
    }

    fn charge(&mut self, _vcpu: u16, _ticks: u64, _now: u64) {}

    fn pick(&mut self, _now: u64) -> Option<u16> {
        let next = self.0.ready().first().copied()?;
        self.0.leave(next);
        Some(next)
    }

    fn call(&mut self, vcpu: u16, _end: Option<u64>, _now: u64) -> bool {
        self.0.call(vcpu);
        true
    }

    fn relieve(&mut self, place: Place) -> Option<u16> {
        let ready = self.0.ready();
        let later = ready.iter().skip(place.waiting.into()).copied();
        let last = later.rev().find(|&vcpu| place.allows(vcpu))?;
        self.0.leave(last);
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
        compare(&RoundRobin::with_slice(SLICE), &mut Queue::default(), &[], &events);
    }

    /// Those that share a pCPU take turns.
    #[test]
    fn pinned_is_what_its_model_says(events in events()) {
        compare(&Pinned::with_slice(SLICE), &mut Queue::default(), &[], &events);
    }
}
