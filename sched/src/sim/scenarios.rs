//! What scenarios show: shares, caps, deadlines, locks, sleepers, and what a broken rule leaves.

use super::{
    Action, ActionSpec, Costs, Outcome, PolicySpec, RunOptions, Scenario, Spread, Topology, VmSpec,
    When, Workload, run,
};
use crate::{
    Entitlement, PcpuId, PcpuSet, PolicyOptions, Reservation, Weight,
    policies::{Credit, Deadline, Fair, Gang, NAMES, RoundRobin, Table, Window},
};
use alloc::{vec, vec::Vec};

const US: u64 = 1000;
pub(super) const MS: u64 = 1000 * US;
pub(super) const SLICE: u64 = MS;

const COSTS: Costs = Costs {
    switch: 500,
    exit: 200,
    kick_delay: 300,
    notice: 50,
    migration_near: US,
    migration_far: 5 * US,
};

pub(super) fn vm(name: &str, vcpus: u16, workload: Workload) -> VmSpec {
    VmSpec {
        name: name.into(),
        vcpus,
        pool: 0,
        affinity: None,
        preferred: PcpuSet::EMPTY,
        entitlement: Entitlement::default(),
        workload,
        start: 0,
    }
}

pub(super) fn scenario(policy: &str, pcpus: u16, vms: Vec<VmSpec>) -> Scenario {
    let vcpus: u16 = vms.iter().map(|vm| vm.vcpus).sum();
    let window = Window {
        group: Some(crate::GroupId::new(0)),
        ticks: MS,
    };
    let frames = PcpuSet::all(pcpus).iter().map(|pcpu| {
        let windows = (0..vms.len() as u16).map(|vm| Window {
            group: Some(crate::GroupId::new(vm)),
            ..window
        });
        (pcpu, windows.collect())
    });
    Scenario {
        duration: 2000 * MS,
        warm_up: 100 * MS,
        topology: Topology {
            pcpus,
            pcpus_per_cluster: 4,
        },
        costs: COSTS,
        policy: PolicySpec {
            name: policy.into(),
            options: PolicyOptions {
                slice_ticks: SLICE,
                max_vcpus: vcpus,
                pcpus: PcpuSet::all(pcpus),
                period_ticks: 10 * MS,
                table: Some(Table::new(frames).unwrap()),
            },
        },
        vms,
        pools: Vec::new(),
        actions: Vec::new(),
    }
}

fn outcome(scenario: &Scenario) -> Outcome {
    match run(scenario, 1, &RunOptions::default()) {
        Ok(outcome) => outcome,
        Err(failure) => panic!("{failure:#?}"),
    }
}

fn share(outcome: &Outcome, vm: usize) -> f64 {
    outcome.vms[vm].share
}

fn weighted(name: &str, vcpus: u16, weight: u16) -> VmSpec {
    let mut vm = vm(name, vcpus, Workload::CpuBound);
    vm.entitlement.weight = Weight::new(weight).unwrap();
    vm
}

#[track_caller]
fn expect_shares(outcome: &Outcome, expected: &[f64], within: f64) {
    for (vm, expected) in outcome.vms.iter().zip(expected) {
        let (name, share, entitled) = (&vm.name, vm.share, vm.entitled.unwrap());
        assert!((share - expected).abs() <= within, "{name}: {share}");
        assert!((entitled - expected).abs() <= 0.001, "{name}: {entitled}");
    }
}

#[test]
fn time_goes_by_weight() {
    for (policy, within) in [(Fair::NAME, 0.003), (Credit::NAME, 0.02)] {
        let vms = [("a", 256), ("b", 512), ("c", 1024)];
        let vms = vms.map(|(name, weight)| weighted(name, 4, weight));
        let outcome = outcome(&scenario(policy, 4, vms.into()));
        expect_shares(&outcome, &[1.0 / 7.0, 2.0 / 7.0, 4.0 / 7.0], within);
        let all: u64 = outcome.vms.iter().map(|vm| vm.run).sum();
        assert_eq!(all, 4 * outcome.virtual_time, "no pCPU idles");
    }
}

/// The run itself fails if a VM gets something else than it is entitled to.
#[test]
fn time_goes_by_weight_on_machines_of_any_size() {
    for policy in [Fair::NAME, Credit::NAME] {
        for (pcpus, vcpus) in [(1, 3), (2, 3), (3, 7), (5, 4), (24, 24), (64, 64)] {
            let vms = [("a", 300), ("b", 900), ("c", 2700)];
            let vms = vms.map(|(name, weight)| weighted(name, vcpus, weight));
            let mut scenario = scenario(policy, pcpus, vms.into());
            (scenario.duration, scenario.warm_up) = (600 * MS, 200 * MS);
            outcome(&scenario);
        }
    }
}

#[test]
fn a_cap_of_50_is_half_a_pcpu_on_an_idle_machine_too() {
    let mut capped = vm("capped", 2, Workload::CpuBound);
    capped.entitlement.cap = Some(50);
    let vms = vec![capped, vm("other", 1, Workload::CpuBound)];
    let outcome = outcome(&scenario(Credit::NAME, 4, vms));
    expect_shares(&outcome, &[0.125, 0.25], 0.0035);
    assert!(share(&outcome, 0) <= 0.1251, "{}", share(&outcome, 0));
}

fn reserved(name: &str, budget: u64, period: u64, work: u64) -> VmSpec {
    let mut vm = vm(name, 1, Workload::Periodic { period, work });
    vm.entitlement.reservation = Some(Reservation::new(budget, period).unwrap());
    vm
}

#[test]
fn two_reservations_that_almost_fill_a_pcpu_miss_nothing() {
    // 2/5 + 4/7 of one pCPU, less what exits and switches take; others would take everything.
    let vms = vec![
        reserved("a", 2 * MS, 5 * MS, 2 * MS - 20 * US),
        reserved("b", 4 * MS, 7 * MS, 4 * MS - 20 * US),
        vm("rest", 3, Workload::CpuBound),
    ];
    let scenario = scenario(Deadline::NAME, 1, vms);
    let outcome = outcome(&scenario);
    for (vm, period) in outcome.vms.iter().zip([5, 7]) {
        assert!(vm.deadlines >= 1900 / period - 1, "{}", vm.deadlines);
        assert_eq!(vm.misses, 0, "{} of {}", vm.misses, vm.deadlines);
    }
    assert!(share(&outcome, 2) > 0.02, "they get what is left");
    let mut without = scenario;
    without.policy.name = RoundRobin::NAME.into();
    let late = &self::outcome(&without).vms[1];
    assert!(
        late.misses > 50 && late.misses == late.deadlines,
        "{late:?}"
    );
}

#[test]
fn a_yield_to_the_holder_of_a_lock_makes_a_convoy_faster() {
    let rounds = |directed_yield| {
        let workload = Workload::SpinLock {
            outside: Spread {
                least: 20 * US,
                most: 60 * US,
            },
            inside: Spread {
                least: 5 * US,
                most: 15 * US,
            },
            directed_yield,
        };
        let vms = vec![vm("lock", 8, workload), vm("other", 4, Workload::CpuBound)];
        let outcome = outcome(&scenario(Fair::NAME, 4, vms));
        assert_eq!(outcome.vms[0].yields > 0, directed_yield.is_some());
        outcome.vms[0].rounds
    };
    let (spinning, yielding) = (rounds(None), rounds(Some(20 * US)));
    assert!(
        yielding > 2 * spinning,
        "{yielding} rounds against {spinning}"
    );
}

/// What one that computes for `work` and waits for `wait` gets of a pCPU beside two that only compute, and its wake-ups.
fn beside_two(policy: &str, workload: Workload) -> Outcome {
    let vms = vec![vm("one", 1, workload), vm("others", 2, Workload::CpuBound)];
    outcome(&scenario(policy, 1, vms))
}

#[test]
fn who_sleeps_gains_nothing_and_wakes_soon() {
    for policy in [Fair::NAME, Credit::NAME] {
        let sleeper = Workload::Sleeper {
            work: Spread {
                least: 50 * US,
                most: 150 * US,
            },
            wait: Spread {
                least: 300 * US,
                most: 500 * US,
            },
        };
        let outcome = beside_two(policy, sleeper);
        // It wants a fifth, and no more than a third is its part.
        assert!(
            share(&outcome, 0) <= 0.22,
            "{policy}: {}",
            share(&outcome, 0)
        );
        assert!(
            share(&outcome, 0) >= 0.08,
            "{policy}: {}",
            share(&outcome, 0)
        );
        let wakeup = &outcome.vms[0].wakeup;
        assert!(wakeup.count() > 1000, "{policy}: {}", wakeup.count());
        assert!(wakeup.percentile(50.0) < SLICE, "{policy}: {wakeup:?}");
    }
}

#[test]
fn who_dodges_the_end_of_its_slice_gains_nothing() {
    for policy in [Fair::NAME, Credit::NAME, RoundRobin::NAME] {
        let dodger = Workload::Dodger {
            work: SLICE - 50 * US,
            wait: 10 * US,
        };
        let outcome = beside_two(policy, dodger);
        assert!(
            share(&outcome, 0) <= 0.34,
            "{policy}: {}",
            share(&outcome, 0)
        );
    }
}

#[test]
fn shootdowns_storms_and_boots_come_to_an_end() {
    let work = Spread {
        least: 10 * US,
        most: 50 * US,
    };
    for policy in NAMES {
        let vms = vec![
            vm("all", 4, Workload::IpiStorm { work, to_all: true }),
            vm(
                "one",
                3,
                Workload::IpiStorm {
                    work,
                    to_all: false,
                },
            ),
            vm(
                "storm",
                8,
                Workload::WakeStorm {
                    period: 2 * MS,
                    work,
                },
            ),
            vm("boot", 6, Workload::Boot { work, after: MS }),
        ];
        let outcome = outcome(&scenario(policy, 4, vms));
        let [all, one, storm, boot] = &outcome.vms[..] else {
            panic!("four VMs")
        };
        assert!(all.rounds > 100, "{policy}: {}", all.rounds);
        assert!(one.rounds > 100, "{policy}: {}", one.rounds);
        assert!(storm.wakeup.count() > 1000, "{policy}: {}", storm.rounds);
        assert!(boot.finished_at.is_some_and(|at| at < 500 * MS), "{policy}");
        assert_eq!(boot.run, 0, "it sleeps when it is measured");
    }
}

#[test]
fn vcpus_that_the_policy_keeps_together_answer_each_other_sooner() {
    let work = Spread {
        least: 50 * US,
        most: 150 * US,
    };
    let rounds = |policy| {
        let storm = vm("storm", 4, Workload::IpiStorm { work, to_all: true });
        let vms = vec![storm, vm("other", 6, Workload::CpuBound)];
        outcome(&scenario(policy, 4, vms)).vms[0].rounds
    };
    let (together, apart) = (rounds(Gang::NAME), rounds(RoundRobin::NAME));
    assert!(
        2 * together > 3 * apart,
        "{together} rounds against {apart}"
    );
}

/// A bit of everything, on a machine where not all may run everywhere.
fn mixture(policy: &str) -> Scenario {
    let work = Spread {
        least: 10 * US,
        most: 300 * US,
    };
    let lock = Workload::SpinLock {
        outside: work,
        inside: Spread::exactly(10 * US),
        directed_yield: Some(30 * US),
    };
    let sleeper = Workload::Sleeper { work, wait: work };
    let mut vms = vec![
        vm("cpu", 3, Workload::CpuBound),
        vm("lock", 4, lock),
        vm("ipi", 3, Workload::IpiStorm { work, to_all: true }),
        vm("sleeper", 6, sleeper),
    ];
    vms[3].affinity = Some("0,2-3".parse().unwrap());
    let mut scenario = scenario(policy, 4, vms);
    scenario.duration = 60 * MS;
    scenario.warm_up = 10 * MS;
    scenario
}

#[test]
fn the_same_seed_gives_the_same_and_another_gives_something_else() {
    let options = RunOptions {
        interleave: true,
        record_stretches: true,
    };
    for interleave in [false, true] {
        let options = RunOptions {
            interleave,
            ..options
        };
        let runs = [1, 1, 2].map(|seed| run(&mixture(Fair::NAME), seed, &options).unwrap());
        assert_eq!(runs[0], runs[1]);
        assert_ne!(runs[0].stretches, runs[2].stretches);
    }
}

#[test]
fn no_policy_breaks_a_rule_whatever_comes_in_between() {
    let options = RunOptions {
        interleave: true,
        record_stretches: false,
    };
    for policy in NAMES {
        let mut scenario = mixture(policy);
        let spec = |first, action| ActionSpec {
            when: When::At {
                first: first * MS,
                every: Some(10 * MS),
            },
            choices: vec![action],
        };
        let pcpu = PcpuId::new(2).unwrap();
        scenario.actions = vec![
            spec(11, Action::Pause { vm: 1 }),
            spec(12, Action::Drain(pcpu)),
            spec(13, Action::Resume { vm: 1 }),
            spec(15, Action::Undrain(pcpu)),
        ];
        if policy == Fair::NAME {
            let mut other = scenario.policy.clone();
            other.name = Credit::NAME.into();
            let (pool, policy) = (None, other);
            scenario
                .actions
                .push(spec(17, Action::SetPolicy { pool, policy }));
            let weight = Weight::new(77).unwrap();
            scenario
                .actions
                .push(spec(18, Action::SetWeight { vm: 0, weight }));
            let to = PcpuId::new(0).unwrap();
            let migrate = Action::Migrate { vm: 3, vcpu: 5, to };
            scenario.actions.push(spec(19, migrate));
        }
        for seed in 0..20 {
            let result = run(&scenario, seed, &options);
            assert!(result.is_ok(), "{policy}: {:#?}", result.err());
        }
    }
}

#[test]
fn what_an_action_may_not_do_is_said() {
    let mut scenario = mixture(Fair::NAME);
    let to = PcpuId::new(1).unwrap();
    scenario.actions = vec![ActionSpec {
        when: When::At {
            first: 20 * MS,
            every: None,
        },
        choices: vec![Action::Migrate { vm: 3, vcpu: 0, to }],
    }];
    let failure = run(&scenario, 1, &RunOptions::default()).unwrap_err();
    let said = failure
        .rule
        .ends_with("is refused: vcpu10 may not run on pcpu1");
    assert!(said, "{}", failure.rule);
    assert_eq!(failure.time, 20 * MS);
    scenario.policy.name = "lottery".into();
    let failure = run(&scenario, 1, &RunOptions::default()).unwrap_err();
    assert!(
        failure
            .rule
            .starts_with("policy `lottery`: there is no such policy")
    );
}
