//! The credit policy against a slow and obvious model of one pCPU: each vCPU has its credit in a variable.

use super::Credit;
use crate::{
    Choice, Entitlement, Entitlements, LocalPolicy, PcpuId, PcpuSet, Policy, Ready, VcpuId, Weight,
};
use alloc::{boxed::Box, sync::Arc, vec::Vec};

const SLICE: u64 = 10;
const VCPUS: u16 = 5;
/// Credit of one tick at weight 1.
const UNIT: i128 = 1 << 16;
const GIFT: i128 = 4 * SLICE as i128 * UNIT / Weight::DEFAULT.get() as i128;

struct Model {
    weights: Vec<u16>,
    /// `None`: it was never here.
    credits: Vec<Option<i128>>,
    /// In the order in which they came.
    ready: Vec<u16>,
    running: Option<u16>,
}

impl Model {
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

    fn arrive(&mut self, vcpu: u16) {
        let index = usize::from(vcpu);
        if self.present().is_empty() {
            let before = self.credits[index].unwrap_or(0);
            self.give_all(GIFT - before);
            self.credits[index] = Some(GIFT);
        } else {
            self.reset_if_due();
            let most = self.most();
            let virtual_slice = SLICE as i128 * UNIT / i128::from(self.weights[index]);
            let least = -GIFT - 2 * virtual_slice;
            let credit = self.credits[index].unwrap_or(most);
            self.credits[index] = Some(credit.clamp(least, GIFT));
        }
        self.ready.push(vcpu);
    }

    fn pick(&mut self) -> Option<u16> {
        let ready = self.ready.clone();
        let first_with_most = ready.into_iter().reduce(|best, next| {
            match *self.credit(next) > *self.credit(best) {
                true => next,
                false => best,
            }
        })?;
        self.reset_if_due();
        self.ready.retain(|&vcpu| vcpu != first_with_most);
        self.running = Some(first_with_most);
        self.running
    }

    fn charge(&mut self, ticks: u64) {
        if let Some(vcpu) = self.running {
            let weight = i128::from(self.weights[usize::from(vcpu)]);
            *self.credit(vcpu) -= i128::from(ticks) * UNIT / weight;
        }
    }
}

fn pick(local: &mut dyn LocalPolicy, now: u64) -> Option<u16> {
    match local.pick(now) {
        Choice::Run(pick) => Some(pick.vcpu.index() as u16),
        Choice::Idle(_) => None,
    }
}

/// The same by chance in both.
fn compare(seed: u64) {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut below = |limit: u64| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        (x >> 11) % limit
    };
    let entitlements = Arc::new(Entitlements::new(VCPUS));
    let mut weight = |vcpu| {
        let weight = [1, 100, 1024, 1024, 3000, 10_000][below(6) as usize];
        let entitlement = Entitlement {
            weight: Weight::new(weight).unwrap(),
            ..Entitlement::default()
        };
        entitlements.set(VcpuId::new(vcpu), &entitlement);
        weight
    };
    let mut model = Model {
        weights: (0..VCPUS).map(&mut weight).collect(),
        credits: (0..VCPUS).map(|_| None).collect(),
        ready: Vec::new(),
        running: None,
    };
    let pcpu = PcpuId::new(0).unwrap();
    let policy = Credit::new(SLICE, 100, PcpuSet::all(1), VCPUS);
    let mut local: Box<dyn LocalPolicy> = policy.local(pcpu, &entitlements);
    let mut now = 0;
    for step in 0..400 {
        let ticks = below(2 * SLICE);
        now += ticks;
        if let Some(vcpu) = model.running {
            model.charge(ticks);
            local.charge(VcpuId::new(vcpu), ticks, now);
        }
        let vcpu = below(VCPUS.into()) as u16;
        let id = VcpuId::new(vcpu);
        if model.running == Some(vcpu) {
            model.running = None;
            local.leave(id, now);
        } else if model.ready.contains(&vcpu) {
            if below(4) == 0 {
                model.ready.retain(|&ready| ready != vcpu);
                local.withdraw(id, now);
            }
        } else {
            model.arrive(vcpu);
            local.enqueue(id, Ready::Woken, now);
        }
        if let Some(running) = model.running.filter(|_| below(2) == 0) {
            model.running = None;
            model.ready.push(running);
            local.enqueue(VcpuId::new(running), Ready::Preempted, now);
        }
        if model.running.is_none() {
            let (expected, picked) = (model.pick(), pick(&mut *local, now));
            assert_eq!(picked, expected, "seed {seed}, step {step}, time {now}");
        }
        assert_eq!(local.waiting(), model.ready.len());
    }
}

#[test]
fn credit_is_what_a_slow_and_obvious_model_says() {
    (0..2000).for_each(compare);
}
