use super::{Model, SLICE, VCPUS, cases, compare, events, turns::Turns};
use crate::{
    Entitlement, GroupId, PcpuSet, Ready,
    policies::{Table, TableDriven, Window},
};
use alloc::vec::Vec;
use proptest::prelude::*;

/// Tick by tick whose it is.
struct Calendar {
    ticks: Vec<Option<u16>>,
    turns: Turns,
}

/// vCPUs 0, 2, 4 are VM 0's, the others VM 1's.
fn vm(vcpu: u16) -> u16 {
    vcpu % 2
}

impl Calendar {
    fn whose(&self, time: u64) -> Option<u16> {
        self.ticks[(time % self.ticks.len() as u64) as usize]
    }
}

impl Model for Calendar {
    fn enqueue(&mut self, vcpu: u16, why: Ready, _now: u64) {
        self.turns.join(vcpu, why);
    }

    fn leave(&mut self, vcpu: u16, _now: u64) {
        self.turns.leave(vcpu);
    }

    fn charge(&mut self, vcpu: u16, ticks: u64, now: u64) {
        let was_its_own = |time| self.whose(time) == Some(vm(vcpu));
        assert!((now - ticks..now).all(was_its_own), "{vcpu} ran at {now}");
    }

    fn pick(&mut self, now: u64) -> Option<u16> {
        let whose = self.whose(now)?;
        let ready = self.turns.ready();
        let next = ready.into_iter().find(|&vcpu| vm(vcpu) == whose)?;
        self.turns.leave(next);
        Some(next)
    }

    /// Within its VM's window, where the one that yields is.
    fn call(&mut self, vcpu: u16, _end: Option<u64>, now: u64) -> bool {
        let is_its_own = self.whose(now) == Some(vm(vcpu));
        if is_its_own {
            self.turns.call(vcpu);
        }
        is_its_own
    }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn table_is_what_its_model_says(
        windows in prop::collection::vec((prop::option::of(0..2_u16), 1..25_u64), 1..6),
        events in events(),
    ) {
        let ticks = windows.iter().flat_map(|&(vm, ticks)| (0..ticks).map(move |_| vm));
        let mut model = Calendar { ticks: ticks.collect(), turns: Turns::default() };
        // Both have a window somewhere, or their vCPUs could not be.
        let everybody = [(Some(0), 1), (Some(1), 1)];
        model.ticks.extend([Some(0), Some(1)]);
        let windows = windows.into_iter().chain(everybody).map(|(vm, ticks)| Window {
            group: vm.map(GroupId::new),
            ticks,
        });
        let pcpu = PcpuSet::all(1).first().unwrap();
        let table = Table::new([(pcpu, windows.collect())]).unwrap();
        let entitlement = |vcpu| Entitlement { group: GroupId::new(vm(vcpu)), ..Entitlement::default() };
        let entitlements: Vec<_> = (0..VCPUS).map(entitlement).collect();
        compare(&TableDriven::new(SLICE, table, VCPUS), &mut model, &entitlements, &events);
    }
}
