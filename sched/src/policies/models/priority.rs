use super::{Model, PRIORITIES, Place, ROOM, SLICE, VCPUS, cases, compare, events, turns::Turns};
use crate::{Entitlement, Ready, policies::Priority};
use alloc::vec::Vec;
use proptest::prelude::*;

/// Everybody who is ready or runs.
struct Ranks {
    priorities: Vec<u8>,
    /// By vCPU number: what is left of its turn.
    left: [u64; VCPUS as usize],
    /// Equal ones take turns in this order.
    turns: Turns,
    running: Option<u16>,
}

impl Ranks {
    fn priority(&self, vcpu: u16) -> u8 {
        self.priorities[usize::from(vcpu)]
    }

    /// The highest that is ready.
    fn highest(&self) -> Option<u8> {
        let ready = self.turns.ready();
        ready.into_iter().map(|vcpu| self.priority(vcpu)).max()
    }

    /// Those that are ready and have `priority`, the next one first.
    fn equals(&self, priority: u8) -> Vec<u16> {
        let mut ready = self.turns.ready();
        ready.retain(|&vcpu| self.priority(vcpu) == priority);
        ready
    }
}

impl Model for Ranks {
    fn enqueue(&mut self, vcpu: u16, why: Ready, _now: u64) {
        let has_run = self.running.take_if(|running| *running == vcpu).is_some();
        let left = &mut self.left[usize::from(vcpu)];
        if self.turns.is_called(vcpu) {
            self.turns.join(vcpu, why);
        } else if has_run && why == Ready::Preempted && *left > 0 {
            self.turns.join_first(vcpu);
        } else {
            *left = SLICE;
            self.turns.join(vcpu, why);
        }
    }

    fn leave(&mut self, vcpu: u16, _now: u64) {
        self.running.take_if(|running| *running == vcpu);
        self.turns.leave(vcpu);
    }

    fn charge(&mut self, vcpu: u16, ticks: u64, _now: u64) {
        if !self.turns.is_called(vcpu) {
            let left = &mut self.left[usize::from(vcpu)];
            *left = left.saturating_sub(ticks);
        }
    }

    fn pick(&mut self, _now: u64) -> Option<u16> {
        let first = self.equals(self.highest()?).first().copied();
        self.turns.leave(first?);
        self.running = first;
        first
    }

    /// If nobody who is ready has more, the one that yields included. Its own turn is still to come.
    fn call(&mut self, vcpu: u16, _end: Option<u64>, _now: u64) -> bool {
        let is_highest = self.highest() == Some(self.priority(vcpu));
        if is_highest {
            self.turns.call(vcpu);
            self.running = Some(vcpu);
        }
        is_highest
    }

    fn slice(&self, _now: u64) -> Option<u64> {
        self.running.map(|vcpu| self.left[usize::from(vcpu)])
    }

    fn relieve(&mut self, place: Place) -> Option<u16> {
        let equals = self.equals(place.priority);
        if equals.len() < usize::from(place.waiting) + 2 {
            return None;
        }
        let later = equals[usize::from(place.waiting)..].iter().copied();
        let last = later.rev().find(|&vcpu| place.allows(vcpu))?;
        self.turns.leave(last);
        Some(last)
    }

    fn is_preempted(&mut self, running: u16, _now: u64) -> Option<bool> {
        Some(self.highest() > Some(self.priority(running)))
    }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn priority_is_what_its_model_says(
        priorities in prop::collection::vec(0..PRIORITIES, usize::from(VCPUS)),
        events in events(),
    ) {
        let entitlement = |&priority: &u8| Entitlement { priority, ..Entitlement::default() };
        let entitlements: Vec<_> = priorities.iter().map(entitlement).collect();
        let mut model = Ranks { priorities, left: [0; VCPUS as usize], turns: Turns::default(), running: None };
        compare(&Priority::with_slice(SLICE, ROOM), &mut model, &entitlements, &events);
    }
}
