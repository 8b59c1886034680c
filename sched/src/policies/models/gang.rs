use super::{Model, SLICE, VCPUS, cases, compare, events, turns::Turns};
use crate::{Entitlement, GroupId, PcpuSet, Ready, policies::Gang};
use alloc::vec::Vec;
use proptest::prelude::*;

/// On one pCPU each vCPU is a gang of its own, and they have slots in turn.
struct Slots {
    turns: Turns,
    running: Option<u16>,
    /// The slot that was decided last, and whose it is.
    decided: Option<(u64, u16)>,
}

impl Slots {
    /// Somebody of the gang is ready or runs.
    fn is_present(&self, vcpu: u16) -> bool {
        self.running == Some(vcpu) || self.turns.ready().contains(&vcpu)
    }

    fn whose(&mut self, now: u64) -> Option<u16> {
        let slot = now / SLICE;
        if let Some((decided, whose)) = self.decided
            && slot == decided
        {
            return Some(whose);
        }
        let last = self.decided.map_or(VCPUS - 1, |(_, whose)| whose);
        let mut in_turn = (1..=VCPUS).map(|step| (last + step) % VCPUS);
        let next = in_turn.find(|&vcpu| self.is_present(vcpu))?;
        self.decided = Some((slot, next));
        Some(next)
    }
}

impl Model for Slots {
    fn enqueue(&mut self, vcpu: u16, why: Ready, _now: u64) {
        self.running.take_if(|running| *running == vcpu);
        self.turns.join(vcpu, why);
    }

    fn leave(&mut self, vcpu: u16, _now: u64) {
        self.running.take_if(|running| *running == vcpu);
        self.turns.leave(vcpu);
    }

    fn charge(&mut self, _vcpu: u16, _ticks: u64, _now: u64) {}

    /// Its slot, or, if that has nobody left, whoever came first.
    fn pick(&mut self, now: u64) -> Option<u16> {
        let ready = self.turns.ready();
        let first = ready.first().copied()?;
        let whose = self.whose(now)?;
        let next = match ready.contains(&whose) {
            true => whose,
            false => first,
        };
        self.turns.leave(next);
        self.running = Some(next);
        self.running
    }

    /// In its slot, or in one that has nobody left.
    fn call(&mut self, vcpu: u16, _end: Option<u64>, now: u64) -> bool {
        let whose = self.whose(now);
        let is_free = whose.is_some_and(|whose| whose == vcpu || !self.is_present(whose));
        if is_free {
            self.turns.call(vcpu);
            self.running = Some(vcpu);
        }
        is_free
    }

    fn slice(&self, now: u64) -> Option<u64> {
        Some(SLICE - now % SLICE)
    }

    fn is_preempted(&mut self, running: u16, now: u64) -> Option<bool> {
        let whose = self.whose(now);
        Some(whose.is_some_and(|whose| whose != running && self.is_present(whose)))
    }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn gang_is_what_its_model_says(events in events()) {
        let entitlement = |vcpu| Entitlement { group: GroupId::new(vcpu), ..Entitlement::default() };
        let entitlements: Vec<_> = (0..VCPUS).map(entitlement).collect();
        let mut model = Slots { turns: Turns::default(), running: None, decided: None };
        compare(&Gang::new(SLICE, PcpuSet::all(1), VCPUS), &mut model, &entitlements, &events);
    }
}
