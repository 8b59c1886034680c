use super::{Model, SLICE, VCPUS, cases, compare, events};
use crate::{Entitlement, PcpuSet, Ready, Weight, policies::Credit};
use alloc::vec::Vec;
use proptest::prelude::*;

/// Credit of one tick at weight 1.
const UNIT: i128 = 1 << 16;
const GIFT: i128 = 4 * SLICE as i128 * UNIT / Weight::DEFAULT.get() as i128;

/// Each vCPU has its credit in a variable.
pub(super) struct Account {
    weights: Vec<u16>,
    /// `None`: it was never here.
    credits: Vec<Option<i128>>,
    /// In the order in which they came.
    ready: Vec<u16>,
    running: Option<u16>,
    yielder: Option<u16>,
    /// Who has yielded to the one that runs, and pays for it as long as it is ready.
    payer: Option<u16>,
}

impl Account {
    /// Nobody has been here yet.
    pub(super) fn new(weights: Vec<u16>) -> Self {
        Self {
            weights,
            credits: (0..VCPUS).map(|_| None).collect(),
            ready: Vec::new(),
            running: None,
            yielder: None,
            payer: None,
        }
    }

    fn credit(&mut self, vcpu: u16) -> &mut i128 {
        let credit = self.credits[usize::from(vcpu)].as_mut();
        credit.expect("it was here")
    }

    fn present(&self) -> Vec<u16> {
        self.ready.iter().copied().chain(self.running).collect()
    }

    fn give_all(&mut self, credit: i128) {
        let all = self.credits.iter_mut().flatten();
        all.for_each(|each| *each += credit);
    }

    fn most(&mut self) -> i128 {
        let present = self.present();
        let credits = present.into_iter().map(|vcpu| *self.credit(vcpu));
        credits.max().expect("somebody is here")
    }

    fn reset_if_due(&mut self) {
        while self.most() <= 0 {
            self.give_all(GIFT);
        }
    }

    fn virtual_slice(&self, vcpu: u16) -> i128 {
        SLICE as i128 * UNIT / i128::from(self.weights[usize::from(vcpu)])
    }

    /// With no more than a reset gives, unless it has waited all the time.
    fn arrive(&mut self, vcpu: u16, why: Ready) {
        let index = usize::from(vcpu);
        if self.present().is_empty() {
            let before = self.credits[index].unwrap_or(0);
            self.give_all(GIFT - before);
            self.credits[index] = Some(GIFT);
        } else {
            self.reset_if_due();
            let most = self.most();
            let farthest = GIFT + 2 * self.virtual_slice(vcpu);
            let limit = match why {
                Ready::MigratedIn => farthest,
                _ => GIFT,
            };
            let credit = self.credits[index].unwrap_or(most);
            self.credits[index] = Some(credit.clamp(-farthest, limit));
        }
    }

    /// Who has yielded has no more than the others.
    pub(super) fn step_back(&mut self) {
        let Some(yielder) = self.yielder.take() else {
            return;
        };
        let others: Vec<u16> = self
            .ready
            .iter()
            .copied()
            .filter(|&vcpu| vcpu != yielder)
            .collect();
        let most = others.into_iter().map(|vcpu| *self.credit(vcpu)).max();
        let credit = self.credit(yielder);
        *credit = (*credit).min(most.unwrap_or(*credit));
    }

    fn run(&mut self, vcpu: u16) {
        self.ready.retain(|&ready| ready != vcpu);
        self.running = Some(vcpu);
        (self.yielder, self.payer) = (None, None);
    }

    fn payer(&self) -> Option<u16> {
        self.payer.filter(|payer| self.ready.contains(payer))
    }

    fn first_with_most(&mut self) -> Option<u16> {
        let ready = self.ready.clone();
        ready
            .into_iter()
            .reduce(|best, next| match *self.credit(next) > *self.credit(best) {
                true => next,
                false => best,
            })
    }
}

impl Model for Account {
    fn enqueue(&mut self, vcpu: u16, why: Ready, _now: u64) {
        let has_run = self.running.take_if(|running| *running == vcpu).is_some();
        if !has_run {
            self.arrive(vcpu, why);
        } else {
            self.yielder = (why == Ready::Yielded).then_some(vcpu);
        }
        self.ready.push(vcpu);
    }

    fn leave(&mut self, vcpu: u16, _now: u64) {
        self.running.take_if(|running| *running == vcpu);
        self.ready.retain(|&ready| ready != vcpu);
    }

    /// It keeps its own credit: who has yielded pays.
    fn call(&mut self, vcpu: u16, _end: Option<u64>, _now: u64) -> bool {
        let yielder = self.yielder;
        self.run(vcpu);
        self.payer = yielder;
        true
    }

    /// If it has no more than half a slice less than the one with most.
    fn hurry(&mut self, vcpu: u16, _now: u64) -> bool {
        self.step_back();
        let best = self.first_with_most().expect("somebody is ready");
        let behind = *self.credit(best) - *self.credit(vcpu);
        let is_near = behind <= self.virtual_slice(vcpu) / 2;
        if is_near {
            self.run(vcpu);
        }
        is_near
    }

    fn charge(&mut self, vcpu: u16, ticks: u64, _now: u64) {
        let charged = self.payer().unwrap_or(vcpu);
        let weight = i128::from(self.weights[usize::from(charged)]);
        *self.credit(charged) -= i128::from(ticks) * UNIT / weight;
    }

    fn pick(&mut self, _now: u64) -> Option<u16> {
        self.step_back();
        let next = self.first_with_most()?;
        self.reset_if_due();
        self.run(next);
        self.running
    }

    fn slice(&self, _now: u64) -> Option<u64> {
        Some(SLICE)
    }

    /// Not for a lead of less than half a slice, nor by who pays: that one has given its turn away.
    fn is_preempted(&mut self, running: u16, _now: u64) -> Option<bool> {
        let payer = self.payer();
        let best = self.first_with_most().filter(|&best| payer != Some(best));
        let lead = best.map(|best| *self.credit(best) - *self.credit(running));
        Some(lead.is_some_and(|lead| lead > self.virtual_slice(running) / 2))
    }
}

/// The weights of all vCPUs.
pub(super) fn weights() -> impl Strategy<Value = Vec<u16>> {
    let weight = prop_oneof![Just(1_u16), Just(1024), Just(10_000), 1..10_000_u16];
    prop::collection::vec(weight, usize::from(VCPUS))
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn credit_is_what_its_model_says(weights in weights(), events in events()) {
        let entitlement = |&weight: &u16| Entitlement {
            weight: Weight::new(weight).unwrap(),
            ..Entitlement::default()
        };
        let entitlements: Vec<_> = weights.iter().map(entitlement).collect();
        let policy = Credit::new(SLICE, 100, PcpuSet::all(1), VCPUS);
        compare(&policy, &mut Account::new(weights), &entitlements, &events);
    }
}
