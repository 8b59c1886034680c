use super::{Model, PRIORITIES, Place, ROOM, SLICE, VCPUS, cases, compare, events};
use crate::{Entitlement, Ready, policies::Priority};
use alloc::vec::Vec;
use proptest::prelude::*;

/// Everybody who is ready or runs.
struct Ranks {
    priorities: Vec<u8>,
    /// By vCPU number: what is left of its turn.
    left: [u64; VCPUS as usize],
    /// In the order in which equal ones take turns.
    ready: Vec<u16>,
    running: Option<u16>,
}

impl Ranks {
    fn priority(&self, vcpu: u16) -> u8 {
        self.priorities[usize::from(vcpu)]
    }
}

impl Model for Ranks {
    fn enqueue(&mut self, vcpu: u16, why: Ready, _now: u64) {
        let has_run = self.running.take_if(|running| *running == vcpu).is_some();
        let left = &mut self.left[usize::from(vcpu)];
        if has_run && why == Ready::Preempted && *left > 0 {
            self.ready.insert(0, vcpu);
        } else {
            *left = SLICE;
            self.ready.push(vcpu);
        }
    }

    fn leave(&mut self, vcpu: u16, _now: u64) {
        self.running.take_if(|running| *running == vcpu);
        self.ready.retain(|&ready| ready != vcpu);
    }

    fn charge(&mut self, vcpu: u16, ticks: u64, _now: u64) {
        let left = &mut self.left[usize::from(vcpu)];
        *left = left.saturating_sub(ticks);
    }

    fn pick(&mut self, _now: u64) -> Option<u16> {
        let highest = self.ready.iter().map(|&vcpu| self.priority(vcpu)).max()?;
        let is_highest = |&vcpu: &u16| self.priority(vcpu) == highest;
        let first = self.ready.iter().copied().find(is_highest)?;
        self.ready.retain(|&ready| ready != first);
        self.running = Some(first);
        self.running
    }

    fn slice(&self, _now: u64) -> Option<u64> {
        self.running.map(|vcpu| self.left[usize::from(vcpu)])
    }

    fn relieve(&mut self, place: Place) -> Option<u16> {
        let ready = self.ready.iter().copied();
        let equals: Vec<u16> = ready
            .filter(|&vcpu| self.priority(vcpu) == place.priority)
            .collect();
        if equals.len() < usize::from(place.waiting) + 2 {
            return None;
        }
        let later = equals[usize::from(place.waiting)..].iter().copied();
        let last = later.rev().find(|&vcpu| place.allows(vcpu))?;
        self.ready.retain(|&ready| ready != last);
        Some(last)
    }

    fn is_preempted(&mut self, running: u16, _now: u64) -> Option<bool> {
        let less = self.priority(running);
        Some(self.ready.iter().any(|&vcpu| self.priority(vcpu) > less))
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
        let mut model = Ranks { priorities, left: [0; VCPUS as usize], ready: Vec::new(), running: None };
        compare(&Priority::with_slice(SLICE, ROOM), &mut model, &entitlements, &events);
    }
}
