use super::{Model, SLICE, VCPUS, cases, compare, events};
use crate::{Entitlement, GroupId, PcpuSet, Ready, policies::Gang};
use alloc::vec::Vec;
use proptest::prelude::*;

/// On one pCPU each vCPU is a gang of its own, and they have slots in turn.
struct Slots {
    /// Those that are ready or run.
    present: Vec<u16>,
    /// The slot that was decided last, and whose it is.
    decided: Option<(u64, u16)>,
}

impl Slots {
    fn whose(&mut self, now: u64) -> Option<u16> {
        let slot = now / SLICE;
        if let Some((decided, whose)) = self.decided
            && slot == decided
        {
            return Some(whose);
        }
        let last = self.decided.map_or(VCPUS - 1, |(_, whose)| whose);
        let mut in_turn = (1..=VCPUS).map(|step| (last + step) % VCPUS);
        let next = in_turn.find(|vcpu| self.present.contains(vcpu))?;
        self.decided = Some((slot, next));
        Some(next)
    }
}

impl Model for Slots {
    fn enqueue(&mut self, vcpu: u16, _why: Ready, _now: u64) {
        // Whoever ran goes behind the others.
        self.present.retain(|&present| present != vcpu);
        self.present.push(vcpu);
    }

    fn leave(&mut self, vcpu: u16, _now: u64) {
        self.present.retain(|&present| present != vcpu);
    }

    fn charge(&mut self, _vcpu: u16, _ticks: u64, _now: u64) {}

    /// Its slot, or, if that has nobody left, whoever came first.
    fn pick(&mut self, now: u64) -> Option<u16> {
        if self.present.is_empty() {
            return None;
        }
        let whose = self.whose(now)?;
        match self.present.contains(&whose) {
            true => Some(whose),
            false => self.present.first().copied(),
        }
    }

    fn slice(&self, now: u64) -> Option<u64> {
        Some(SLICE - now % SLICE)
    }

    fn is_preempted(&mut self, running: u16, now: u64) -> Option<bool> {
        let whose = self.whose(now);
        Some(whose.is_some_and(|whose| whose != running && self.present.contains(&whose)))
    }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn gang_is_what_its_model_says(events in events()) {
        let entitlement = |vcpu| Entitlement { group: GroupId::new(vcpu), ..Entitlement::default() };
        let entitlements: Vec<_> = (0..VCPUS).map(entitlement).collect();
        let mut model = Slots { present: Vec::new(), decided: None };
        compare(&Gang::new(SLICE, PcpuSet::all(1), VCPUS), &mut model, &entitlements, &events);
    }
}
