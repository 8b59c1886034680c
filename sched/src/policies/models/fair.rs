use super::{Model, SLICE, VCPUS, cases, compare, events_and_weights};
use crate::{Entitlement, Ready, Weight, policies::Fair};
use alloc::vec::Vec;
use proptest::prelude::*;

/// Virtual time of one tick at weight 1.
const UNIT: i128 = 1 << 16;

#[derive(Clone, Copy)]
struct Runner {
    weight: i128,
    slice: i128,
    vruntime: i128,
    deadline: i128,
    /// How far behind it was when it left.
    lag: i128,
    has_been_here: bool,
    /// The weight and slice that it shall have.
    wanted: (i128, i128),
}

impl Runner {
    fn virtual_slice(&self) -> i128 {
        self.slice * UNIT / self.weight
    }

    fn left(&self) -> i128 {
        (self.deadline - self.vruntime).max(0) * self.weight / UNIT
    }
}

struct Lags {
    all: Vec<Runner>,
    /// In the order in which they came.
    ready: Vec<usize>,
    running: Option<usize>,
    yielder: Option<usize>,
    /// Who has yielded to the one that runs, and pays for it as long as it is ready.
    payer: Option<usize>,
}

impl Lags {
    fn present(&self) -> Vec<Runner> {
        let numbers = self.ready.iter().chain(&self.running);
        numbers.map(|&vcpu| self.all[vcpu]).collect()
    }

    /// The mean of the virtual runtimes by weight.
    fn virtual_time(&self) -> Option<i128> {
        let present = self.present();
        let weight: i128 = present.iter().map(|runner| runner.weight).sum();
        let sum: i128 = present
            .iter()
            .map(|runner| runner.vruntime * runner.weight)
            .sum();
        (weight > 0).then(|| sum.div_euclid(weight))
    }

    /// Each has the weight and the slice that it shall have; those that are here keep their lag, and what is left of their slice.
    fn refresh(&mut self) {
        let time = self.virtual_time();
        for (vcpu, runner) in self.all.iter_mut().enumerate() {
            let ((before, slice), (weight, wanted)) =
                ((runner.weight, runner.slice), runner.wanted);
            (runner.weight, runner.slice) = runner.wanted;
            let is_here = self.ready.contains(&vcpu) || self.running == Some(vcpu);
            let Some(time) = time.filter(|_| is_here && (before, slice) != (weight, wanted)) else {
                continue;
            };
            let left = (runner.deadline - runner.vruntime) * before / weight;
            runner.vruntime = time + (runner.vruntime - time) * before / weight;
            runner.deadline = runner.vruntime + left.min(2 * runner.virtual_slice());
        }
    }

    fn run(&mut self, vcpu: usize) {
        self.ready.retain(|&ready| ready != vcpu);
        self.running = Some(vcpu);
        (self.yielder, self.payer) = (None, None);
    }

    /// Who has yielded waits for the others: it is not behind all of them, and its deadline is a slice later, but no more than two ahead.
    fn step_back(&mut self) {
        let Some(yielder) = self.yielder.take() else {
            return;
        };
        let others = self.ready.iter().filter(|&&ready| ready != yielder);
        let least = others.map(|&other| self.all[other].vruntime).min();
        let runner = &mut self.all[yielder];
        let two_slices = runner.vruntime + 2 * runner.virtual_slice();
        runner.deadline = (runner.deadline + runner.virtual_slice()).min(two_slices);
        runner.vruntime = runner.vruntime.max(least.unwrap_or(runner.vruntime));
        if runner.left() < runner.slice {
            runner.deadline = runner.vruntime + runner.virtual_slice();
        }
    }

    fn first_by(&self, numbers: &[usize], key: impl Fn(&Runner) -> i128) -> Option<usize> {
        let numbers = numbers.iter().copied();
        numbers.min_by_key(|&vcpu| key(&self.all[vcpu]))
    }

    /// Of the eligible ones the one with the earliest deadline; without any, the one that has had least.
    fn best(&self) -> Option<usize> {
        let time = self.virtual_time()?;
        let is_eligible = |&vcpu: &usize| self.all[vcpu].vruntime <= time;
        let eligible: Vec<_> = self.ready.iter().copied().filter(is_eligible).collect();
        self.first_by(&eligible, |runner| runner.deadline)
            .or_else(|| self.first_by(&self.ready, |runner| runner.vruntime))
    }
}

impl Model for Lags {
    fn enqueue(&mut self, vcpu: u16, why: Ready, _now: u64) {
        self.refresh();
        let index = usize::from(vcpu);
        let time = self.virtual_time();
        let has_run = self.running.take_if(|running| *running == index).is_some();
        let runner = &mut self.all[index];
        let must_renew = if has_run {
            self.yielder = (why == Ready::Yielded).then_some(index);
            runner.left() == 0
        } else {
            if let Some(time) = time {
                let behind = match runner.has_been_here {
                    false => 0,
                    // The others have caught up with it.
                    true if runner.vruntime < time => runner.lag,
                    true => time - runner.vruntime,
                };
                let limit = 2 * runner.virtual_slice();
                runner.vruntime = time - behind.clamp(-limit, limit);
            }
            true
        };
        if must_renew {
            runner.deadline = runner.vruntime + runner.virtual_slice();
        }
        self.ready.push(index);
    }

    fn leave(&mut self, vcpu: u16, _now: u64) {
        let index = usize::from(vcpu);
        let time = self.virtual_time().expect("it is here");
        let runner = &mut self.all[index];
        runner.lag = (time - runner.vruntime).clamp(0, 2 * runner.virtual_slice());
        runner.has_been_here = true;
        self.running.take_if(|running| *running == index);
        self.ready.retain(|&ready| ready != index);
    }

    fn charge(&mut self, vcpu: u16, ticks: u64, _now: u64) {
        let payer = self.payer.filter(|payer| self.ready.contains(payer));
        let runner = &mut self.all[payer.unwrap_or(vcpu.into())];
        runner.vruntime += i128::from(ticks) * UNIT / runner.weight;
        // One that has given a whole turn away begins its next one.
        if payer.is_some() && runner.left() == 0 {
            runner.deadline = runner.vruntime + runner.virtual_slice();
        }
    }

    fn pick(&mut self, _now: u64) -> Option<u16> {
        self.step_back();
        let best = self.best()?;
        self.run(best);
        Some(best as u16)
    }

    fn call(&mut self, vcpu: u16, _end: Option<u64>, _now: u64) -> bool {
        let yielder = self.yielder;
        self.run(vcpu.into());
        self.payer = yielder;
        true
    }

    fn hurry(&mut self, vcpu: u16, _now: u64) -> bool {
        self.step_back();
        let is_eligible = Some(self.all[usize::from(vcpu)].vruntime) <= self.virtual_time();
        if is_eligible {
            self.run(vcpu.into());
        }
        is_eligible
    }

    fn reweigh(&mut self, vcpu: u16, weight: u16, slice: u64) {
        self.all[usize::from(vcpu)].wanted = (weight.into(), slice.into());
    }

    fn slice(&self, _now: u64) -> Option<u64> {
        self.running
            .map(|vcpu| self.all[vcpu].left().clamp(1, self.all[vcpu].slice) as u64)
    }

    fn is_preempted(&mut self, running: u16, _now: u64) -> Option<bool> {
        let running = self.all[usize::from(running)];
        // Whoever pays has given its turn away.
        let best = self.best().filter(|&best| self.payer != Some(best));
        let best = best.map(|best| self.all[best]);
        Some(best.is_some_and(|best| {
            let is_eligible = Some(best.vruntime) <= self.virtual_time();
            is_eligible && best.deadline < running.deadline
        }))
    }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn fair_is_what_its_model_says(
        demands in prop::collection::vec(
            (prop_oneof![Just(1_u16), Just(1024), Just(10_000), 1..10_000_u16], prop::option::of(1..40_u64)),
            usize::from(VCPUS),
        ),
        events in events_and_weights(),
    ) {
        let entitlement = |&(weight, slice): &(u16, Option<u64>)| Entitlement {
            weight: Weight::new(weight).unwrap(),
            slice,
            ..Entitlement::default()
        };
        let entitlements: Vec<_> = demands.iter().map(entitlement).collect();
        let runner = |&(weight, slice): &(u16, Option<u64>)| Runner {
            weight: weight.into(),
            slice: slice.unwrap_or(SLICE).into(),
            vruntime: 0,
            deadline: 0,
            lag: 0,
            has_been_here: false,
            wanted: (weight.into(), slice.unwrap_or(SLICE).into()),
        };
        let mut model = Lags { all: demands.iter().map(runner).collect(), ready: Vec::new(), running: None, yielder: None, payer: None };
        compare(&Fair::with_slice(SLICE, VCPUS), &mut model, &entitlements, &events);
    }
}
