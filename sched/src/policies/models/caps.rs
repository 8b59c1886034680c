use super::{
    Event, Model, SLICE, VCPUS, cases, compare,
    credit::{Account, weights},
    event,
};
use crate::{Entitlement, GroupId, PcpuSet, Ready, Weight, policies::Credit};
use alloc::vec::Vec;
use proptest::prelude::*;

const PERIOD: u64 = 100;
const GROUPS: u16 = 3;

/// What a VM with a cap has left in a period: what it used beyond its budget before is owed.
struct Budget {
    whole: i64,
    period: u64,
    left: i64,
}

impl Budget {
    /// With a cap in hundredths of a pCPU.
    fn new(cap: u32) -> Self {
        let whole = (u64::from(cap) * PERIOD / 100) as i64;
        Self {
            whole,
            period: 0,
            left: whole,
        }
    }

    fn left(&mut self, now: u64) -> &mut i64 {
        while self.period < now / PERIOD {
            self.period += 1;
            self.left = self.left.min(0) + self.whole;
        }
        &mut self.left
    }

    /// The most that one vCPU gets at a time.
    fn part(&self) -> i64 {
        (self.whole / 8).max(PERIOD as i64 / 64).max(1)
    }
}

/// What the one that runs has taken from its VM's budget, and how much of that it has not used.
struct Held {
    vcpu: u16,
    period: u64,
    unused: i64,
}

/// Credit among those whose VM has budget.
struct Capped {
    credit: Account,
    groups: Vec<u16>,
    /// By VM; `None`: it has no cap.
    budgets: Vec<Option<Budget>>,
    /// Those that are ready and out of budget.
    waiting: Vec<u16>,
    held: Option<Held>,
    /// For how long the one that was picked runs.
    slice: u64,
}

impl Capped {
    fn budget(&mut self, vcpu: u16) -> Option<&mut Budget> {
        let group = self.groups[usize::from(vcpu)];
        self.budgets[usize::from(group)].as_mut()
    }

    fn has_budget(&mut self, vcpu: u16, now: u64) -> bool {
        self.budget(vcpu).is_none_or(|budget| *budget.left(now) > 0)
    }

    /// `vcpu` stops: its VM gets back what it has not used, in the same period only, or owes what it has used too much.
    fn settle(&mut self, vcpu: u16, now: u64) {
        let Some(held) = self.held.take_if(|held| held.vcpu == vcpu) else {
            return;
        };
        let is_over = held.period != now / PERIOD;
        let budget = self.budget(vcpu).expect("it has a cap");
        *budget.left(now) += match is_over {
            true => held.unused.min(0),
            false => held.unused,
        };
    }

    fn wait(&mut self, vcpu: u16, now: u64) {
        self.credit.leave(vcpu, now);
        self.waiting.push(vcpu);
    }

    /// Those whose VM has budget again are ranked, as if they had been all the time.
    fn release(&mut self, now: u64) {
        for vcpu in core::mem::take(&mut self.waiting) {
            if self.has_budget(vcpu, now) {
                self.credit.enqueue(vcpu, Ready::MigratedIn, now);
            } else {
                self.waiting.push(vcpu);
            }
        }
    }

    /// `vcpu` may run; true if its VM has budget for it.
    fn grant(&mut self, vcpu: u16, now: u64) -> bool {
        let rest = PERIOD - now % PERIOD;
        let is_waited_for = !self.waiting.is_empty();
        let Some(budget) = self.budget(vcpu) else {
            self.slice = if is_waited_for {
                SLICE.min(rest)
            } else {
                SLICE
            };
            return true;
        };
        let most = budget.part().min(SLICE as i64).min(rest as i64);
        let taken = most.min(*budget.left(now));
        if taken <= 0 {
            self.wait(vcpu, now);
            return false;
        }
        *budget.left(now) -= taken;
        self.slice = taken as u64;
        self.held = Some(Held {
            vcpu,
            period: now / PERIOD,
            unused: taken,
        });
        true
    }
}

impl Model for Capped {
    fn enqueue(&mut self, vcpu: u16, why: Ready, now: u64) {
        self.settle(vcpu, now);
        if self.has_budget(vcpu, now) {
            self.credit.enqueue(vcpu, why, now);
        } else {
            self.wait(vcpu, now);
        }
    }

    fn leave(&mut self, vcpu: u16, now: u64) {
        self.settle(vcpu, now);
        self.waiting.retain(|&waiting| waiting != vcpu);
        self.credit.leave(vcpu, now);
    }

    fn charge(&mut self, vcpu: u16, ticks: u64, now: u64) {
        if let Some(held) = self.held.as_mut().filter(|held| held.vcpu == vcpu) {
            held.unused -= ticks as i64;
        }
        self.credit.charge(vcpu, ticks, now);
    }

    fn pick(&mut self, now: u64) -> Option<u16> {
        self.release(now);
        loop {
            let vcpu = self.credit.pick(now)?;
            if self.grant(vcpu, now) {
                return Some(vcpu);
            }
        }
    }

    fn call(&mut self, vcpu: u16, end: Option<u64>, now: u64) -> bool {
        self.release(now);
        !self.waiting.contains(&vcpu) && self.credit.call(vcpu, end, now) && self.grant(vcpu, now)
    }

    fn hurry(&mut self, vcpu: u16, now: u64) -> bool {
        self.release(now);
        if self.waiting.contains(&vcpu) {
            self.credit.step_back();
            return false;
        }
        self.credit.hurry(vcpu, now) && self.grant(vcpu, now)
    }

    fn slice(&self, _now: u64) -> Option<u64> {
        Some(self.slice)
    }

    fn is_preempted(&mut self, running: u16, now: u64) -> Option<bool> {
        self.credit.is_preempted(running, now)
    }
}

/// Some turns end late, so that VMs use more than they have.
fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        9 => event(),
        1 => (1..PERIOD / 2).prop_map(Event::Stall),
        1 => (0..3 * PERIOD).prop_map(Event::Pass),
    ];
    prop::collection::vec(event, 1..200)
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn capped_credit_is_what_its_model_says(
        weights in weights(),
        groups in prop::collection::vec(0..GROUPS, usize::from(VCPUS)),
        caps in prop::collection::vec(prop::option::of(1..=100_u32), usize::from(GROUPS)),
        events in events(),
    ) {
        let entitlement = |(&weight, &group): (&u16, &u16)| Entitlement {
            weight: Weight::new(weight).unwrap(),
            group: GroupId::new(group),
            cap: caps[usize::from(group)],
            ..Entitlement::default()
        };
        let entitlements: Vec<_> = weights.iter().zip(&groups).map(entitlement).collect();
        let mut model = Capped {
            credit: Account::new(weights),
            groups,
            budgets: caps.iter().map(|cap| cap.map(Budget::new)).collect(),
            waiting: Vec::new(),
            held: None,
            slice: SLICE,
        };
        let policy = Credit::new(SLICE, PERIOD, PcpuSet::all(1), VCPUS);
        compare(&policy, &mut model, &entitlements, &events);
    }
}
