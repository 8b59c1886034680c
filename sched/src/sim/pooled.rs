//! What scenarios with pools show, and with actions on pools and pCPUs.

use super::{
    Action, ActionSpec, Outcome, PoolOutcome, PoolSpec, RunOptions, Scenario, Stretch, When,
    Workload, rehearse, run,
    scenarios::{MS, scenario, vm},
    short::{pcpu, set},
};
use crate::{
    PcpuSet,
    policies::{Credit, Fair, RoundRobin},
};
use alloc::{string::ToString, vec, vec::Vec};

/// Two pools of two pCPUs, each with a VM of three busy vCPUs.
fn two_pools() -> Scenario {
    let mut vms = vec![
        vm("one", 3, Workload::CpuBound),
        vm("two", 3, Workload::CpuBound),
    ];
    vms[1].pool = 1;
    let mut scenario = scenario(Fair::NAME, 4, vms);
    (scenario.duration, scenario.warm_up) = (600 * MS, 100 * MS);
    let pool = |name: &str, pcpus: &str, policy: &str| {
        let mut spec = scenario.policy.clone();
        (spec.name, spec.options.pcpus) = (policy.into(), set(pcpus));
        PoolSpec {
            name: name.into(),
            pcpus: set(pcpus),
            policy: spec,
        }
    };
    scenario.pools = vec![
        pool("first", "0-1", Fair::NAME),
        pool("second", "2-3", Credit::NAME),
    ];
    scenario
}

fn at(ms: u64, action: Action) -> ActionSpec {
    ActionSpec {
        when: When::At {
            first: ms * MS,
            every: None,
        },
        choices: vec![action],
    }
}

/// How long its pCPUs belonged to it, all together.
fn time_of(pool: &PoolOutcome) -> u64 {
    pool.work.busy + pool.work.idle
}

fn shown(scenario: &Scenario) -> Outcome {
    let options = RunOptions {
        interleave: false,
        record_stretches: true,
    };
    match run(scenario, 1, &options) {
        Ok(outcome) => outcome,
        Err(failure) => panic!("{failure:#?}"),
    }
}

/// The pCPUs on which vCPUs with these numbers ran between two times.
fn places(outcome: &Outcome, vcpus: core::ops::Range<usize>, from: u64, to: u64) -> PcpuSet {
    let mut places = PcpuSet::EMPTY;
    let is_meant = |stretch: &&Stretch| {
        let (start, end) = (stretch.start, stretch.start + stretch.duration);
        vcpus.contains(&stretch.vcpu.index()) && end > from * MS && start < to * MS
    };
    let meant = outcome.stretches.iter().filter(is_meant);
    meant.for_each(|stretch| places.insert(stretch.pcpu));
    places
}

#[test]
fn a_vm_runs_in_its_pool_and_gets_its_part_of_that() {
    let outcome = shown(&two_pools());
    assert_eq!(places(&outcome, 0..3, 0, 600), set("0-1"));
    assert_eq!(places(&outcome, 3..6, 0, 600), set("2-3"));
    for vm in &outcome.vms {
        assert_eq!(vm.entitled, Some(0.5));
        assert!((vm.share - 0.5).abs() < 0.01, "{}: {}", vm.name, vm.share);
    }
    let pools: Vec<_> = outcome
        .pools
        .iter()
        .map(|pool| (&*pool.name, &*pool.policy, pool.vcpus, time_of(pool)))
        .collect();
    let all = 2 * 500 * MS;
    assert_eq!(
        pools,
        [("first", "fair", 3, all), ("second", "credit", 3, all)]
    );
    assert_eq!(outcome.vms[1].pool, "second");
}

#[test]
fn a_pcpu_that_is_unplugged_runs_nobody_until_it_is_plugged_in() {
    let mut scenario = two_pools();
    let pool = Some("second".to_string());
    scenario.actions = vec![
        at(200, Action::Unplug(pcpu(1))),
        at(
            400,
            Action::Plug {
                pcpu: pcpu(1),
                pool,
            },
        ),
    ];
    let outcome = shown(&scenario);
    // It ends the turn of whom it runs, and gives everybody away.
    assert_eq!(places(&outcome, 0..6, 201, 400), set("0,2-3"));
    assert_eq!(places(&outcome, 0..3, 201, 600), set("0"));
    assert_eq!(places(&outcome, 3..6, 402, 600), set("1-3"));
    let second = &outcome.pools[1];
    assert_eq!((second.pcpus, outcome.actions), (set("1-3"), 2));
    // Of the 500 ms that are measured it belonged to the one for 100 and to the other for 200.
    let times = [0, 1].map(|index: usize| time_of(&outcome.pools[index]));
    assert_eq!(times, [600 * MS, 1200 * MS]);
}

#[test]
fn vms_and_pcpus_move_between_pools_that_come_and_go() {
    let mut scenario = two_pools();
    let third = || "third".to_string();
    let policy = scenario.policy.clone();
    let create = Action::CreatePool {
        name: third(),
        pcpus: set("1,3"),
        policy,
    };
    let (one, two) = (0, 1);
    let move_to = |vm, pool: &str| Action::MoveVm {
        vm,
        pool: pool.into(),
    };
    scenario.actions = vec![
        at(200, create),
        at(201, move_to(two, "third")),
        at(
            300,
            Action::MovePcpu {
                pcpu: pcpu(2),
                pool: third(),
            },
        ),
        at(400, move_to(two, "first")),
        at(401, Action::RemovePool { pool: third() }),
    ];
    // The second pool's last pCPU does not leave it.
    let refused = rehearse(&scenario).unwrap_err();
    assert_eq!((refused.index, refused.time), (2, 300 * MS));
    assert_eq!(
        refused.reason,
        "pool1 has no pCPUs but 2, and needs at least one"
    );
    scenario.actions.remove(2);
    assert!(rehearse(&scenario).is_ok());
    let outcome = shown(&scenario);
    assert_eq!(places(&outcome, 3..6, 202, 400), set("1,3"));
    assert_eq!(places(&outcome, 0..3, 202, 400), set("0"));
    assert_eq!(places(&outcome, 0..6, 405, 600), set("0-1,3"));
    let names: Vec<&str> = outcome.pools.iter().map(|pool| &*pool.name).collect();
    assert_eq!(names, ["first", "second", "third"]);
    let gone = &outcome.pools[2];
    assert_eq!((gone.pcpus, gone.vcpus), (PcpuSet::EMPTY, 0));
    assert_eq!(time_of(gone), 2 * 201 * MS);
    assert_eq!(outcome.vms[one].pool, outcome.vms[two].pool);
}

/// What comes by chance, in the middle of anything, and is refused now and then.
fn chance(scenario: &mut Scenario) {
    let every = |mean: u64, choices: Vec<Action>| ActionSpec {
        when: When::ByChance { mean: mean * MS },
        choices,
    };
    let pcpus = || (0..4).map(pcpu);
    let to = ["first", "second"].map(ToString::to_string);
    let plug = |pcpu| Action::Plug { pcpu, pool: None };
    let moves = pcpus().flat_map(|pcpu| to.clone().map(|pool| Action::MovePcpu { pcpu, pool }));
    let vms = (0..2).flat_map(|vm| to.clone().map(|pool| Action::MoveVm { vm, pool }));
    let policies = [RoundRobin::NAME, Fair::NAME, Credit::NAME].map(|name| {
        let mut policy = scenario.policy.clone();
        policy.name = name.into();
        Action::SetPolicy { pool: None, policy }
    });
    scenario.actions = vec![
        every(3, pcpus().map(Action::Unplug).collect()),
        every(1, pcpus().map(plug).collect()),
        every(2, moves.collect()),
        every(2, vms.collect()),
        every(5, policies.into()),
    ];
}

#[test]
fn what_comes_by_chance_breaks_no_rule_and_is_the_same_for_the_same_seed() {
    let mut scenario = two_pools();
    chance(&mut scenario);
    (scenario.duration, scenario.warm_up) = (60 * MS, 0);
    let options = RunOptions {
        interleave: true,
        record_stretches: true,
    };
    for seed in 0..50 {
        let outcome = run(&scenario, seed, &options).unwrap_or_else(|error| panic!("{error:#?}"));
        assert!(outcome.actions > 30, "{} actions", outcome.actions);
        let refused = outcome.refused;
        assert!(
            0 < refused && refused < outcome.actions,
            "{refused} refused"
        );
        if seed < 5 {
            let again = run(&scenario, seed, &options);
            assert_eq!(again.as_ref(), Ok(&outcome));
        }
    }
}

/// A pCPU goes to another pool and back while it is in the middle of looking.
#[test]
fn a_vcpu_that_is_let_in_again_is_told_to_no_policy_that_does_not_know_it() {
    let mut scenario = two_pools();
    (scenario.duration, scenario.warm_up) = (5 * MS, 0);
    let to = ["first", "second"].map(ToString::to_string);
    let moves = (1..3).flat_map(|index| {
        to.clone().map(|pool| Action::MovePcpu {
            pcpu: pcpu(index),
            pool,
        })
    });
    scenario.actions = vec![ActionSpec {
        when: When::ByChance { mean: 1000 },
        choices: moves.collect(),
    }];
    let options = RunOptions {
        interleave: true,
        record_stretches: false,
    };
    for seed in 0..100 {
        let outcome = run(&scenario, seed, &options);
        assert!(outcome.is_ok(), "{:#?}", outcome.err());
    }
}

#[test]
fn what_somebody_did_stands_in_the_history() {
    let mut scenario = two_pools();
    chance(&mut scenario);
    // By then chance has unplugged it, or not: one of the two is refused.
    let plug = Action::Plug {
        pcpu: pcpu(1),
        pool: None,
    };
    scenario.actions.push(at(50, plug.clone()));
    scenario.actions.push(at(50, plug));
    assert!(rehearse(&scenario).is_ok(), "who knows what chance does");
    let failure = run(&scenario, 3, &RunOptions::default()).unwrap_err();
    assert_eq!(failure.time, 50 * MS);
    let said = "plugs pcpu1 into the first pool at 50000000 ns is refused: \
                pcpu1 is not unplugged: it belongs to ";
    assert!(failure.rule.starts_with(said), "{}", failure.rule);
    let last = failure.history.last().unwrap();
    assert!(
        last.starts_with("50000000 somebody plugs pcpu1 into the first pool: refused, "),
        "{last}"
    );
    let outside = failure.history.iter();
    let outside = outside.filter(|line| line.contains(" somebody ")).count();
    assert_eq!(outside, 12, "the last ones");
    assert!(failure.history.len() <= 52);
}
