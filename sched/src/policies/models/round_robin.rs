use super::{Model, SLICE, cases, compare, events};
use crate::{Ready, policies::RoundRobin};
use alloc::vec::Vec;
use proptest::prelude::*;

#[derive(Default)]
struct Turns(Vec<u16>);

impl Model for Turns {
    fn enqueue(&mut self, vcpu: u16, _why: Ready, _now: u64) {
        self.0.push(vcpu);
    }

    fn leave(&mut self, vcpu: u16, _now: u64) {
        self.0.retain(|&ready| ready != vcpu);
    }

    fn charge(&mut self, _vcpu: u16, _ticks: u64, _now: u64) {}

    fn pick(&mut self, _now: u64) -> Option<u16> {
        (!self.0.is_empty()).then(|| self.0.remove(0))
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
}
