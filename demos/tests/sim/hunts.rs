//! No seed of a scenario that comes with Trapline breaks a rule, under any policy that takes it.
//!
//! Many seeds of the start of a scenario find more than few of the whole. But what comes late, or needs its time to settle, is only in
//! the whole: so both are hunted.

use std::{num::NonZero, sync::atomic::AtomicUsize, thread};

use trapline_demos::host::sim::{
    RunOptions, Scenario, ScenarioFile,
    hunt::{Catch, Hunt},
    shipped,
};
use trapline_sched::{
    Policy,
    policies::{self, RoundRobin},
    sim::{When, run_with},
};

use crate::runs_long_tests;

const MS: u64 = 1_000_000;
/// So much of each scenario with many seeds, in nanoseconds.
const START: u64 = 100 * MS;
/// The whole with as many seeds as have so many nanoseconds of all pCPUs together, in the quick tier and in the others.
const QUICK_WHOLE: u64 = 2_000 * MS;
const WHOLE: u64 = 100_000 * MS;
/// The same for each other policy.
const WHOLE_OF_OTHERS: u64 = 10_000 * MS;

fn scenarios() -> impl Iterator<Item = (String, ScenarioFile)> {
    let all = shipped::all().expect("they can be read");
    all.into_iter().map(|shipped| {
        let file = ScenarioFile::read(&shipped.path).expect("a good file");
        (shipped.name, file)
    })
}

fn whole(file: &ScenarioFile) -> Scenario {
    let scenario = file.scenario(file.policy(), None);
    scenario.expect("its own policy takes it")
}

/// It takes seconds for each seed.
fn is_large(scenario: &Scenario) -> bool {
    scenario.topology.pcpus > 64
}

/// With how many seeds the whole of `scenario` is hunted, if they may take `budget` nanoseconds of all pCPUs: one at least. None if
/// there is no budget, or the whole is no longer than the start.
fn seeds_of_whole(scenario: &Scenario, budget: u64) -> u64 {
    if budget == 0 || scenario.duration <= START {
        return 0;
    }
    let each = scenario.duration * u64::from(scenario.topology.pcpus);
    (budget / each).max(1)
}

fn hunt(scenario: &Scenario, seeds: u64) -> Catch {
    let hunt = Hunt {
        scenario,
        seeds: 0..seeds,
        jobs: thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN),
        keeps_going: false,
        signal: &AtomicUsize::new(0),
    };
    hunt.run(&|| {})
}

/// No seed breaks a rule in the first `limit` nanoseconds, if there are such. What the policy refuses it cannot break.
#[track_caller]
fn expect_good(name: &str, file: &ScenarioFile, policy: &str, limit: Option<u64>, seeds: u64) {
    let Ok(scenario) = file.scenario(policy, limit) else {
        assert_ne!(policy, file.policy(), "{name}");
        return;
    };
    let caught = hunt(&scenario, seeds);
    assert!(
        caught.failures.is_empty(),
        "{name} under {policy}: {:#?}",
        caught.failures
    );
    assert_eq!(caught.done, seeds, "{name} under {policy}");
}

#[test]
fn scenarios_break_no_rule() {
    for (name, file) in scenarios() {
        let scenario = whole(&file);
        let (seeds, budget) = match (runs_long_tests(), is_large(&scenario)) {
            (true, false) => (1000, WHOLE),
            (true, true) => (20, WHOLE),
            (false, false) => (10, QUICK_WHOLE),
            (false, true) => (1, 0),
        };
        expect_good(&name, &file, file.policy(), Some(START), seeds);
        let seeds = seeds_of_whole(&scenario, budget);
        expect_good(&name, &file, file.policy(), None, seeds);
    }
}

#[test]
fn no_policy_breaks_a_rule() {
    let seeds = if runs_long_tests() { 100 } else { 2 };
    for (name, file) in scenarios() {
        let scenario = whole(&file);
        for policy in policies::NAMES.iter().filter(|_| !is_large(&scenario)) {
            expect_good(&name, &file, policy, Some(START), seeds);
            if runs_long_tests() && *policy != file.policy() {
                let seeds = seeds_of_whole(&scenario, WHOLE_OF_OTHERS);
                expect_good(&name, &file, policy, None, seeds);
            }
        }
    }
}

/// Nobody starts and nothing is done for the first time when the hunt of the whole is over or about to be.
#[test]
fn all_that_happens_is_hunted() {
    for (name, file) in scenarios() {
        let scenario = whole(&file);
        let starts = scenario.vms.iter().map(|vm| vm.start);
        let actions = scenario.actions.iter().map(|action| match action.when {
            When::At { first, .. } => first,
            // Nearly every seed has several of them.
            When::ByChance { mean } => 3 * mean,
        });
        for time in starts.chain(actions) {
            let rest = scenario.duration.saturating_sub(time);
            assert!(rest >= scenario.duration / 10, "{name}: {time} ns");
        }
    }
}

/// Takes turns for ever, each on its own pCPU.
fn never_moves() -> Box<dyn Policy> {
    Box::new(RoundRobin::new(MS, u64::MAX - 1))
}

/// Where a scenario is about what must be so after all, a policy that does not do it is found, in a hunt of the whole.
#[test]
fn what_a_scenario_is_about_is_a_rule_in_its_hunt() {
    for (name, rule) in [
        ("even-out", "where 2 share a pCPU at most"),
        ("weights", "is entitled to"),
        ("uneven", "is entitled to"),
        ("caps", "its cap of 50 lets it run"),
        ("edf-overload", "with a reservation that is enough"),
    ] {
        let path = shipped::find(name).expect("it comes with Trapline");
        let scenario = whole(&ScenarioFile::read(&path).expect("a good file"));
        let options = RunOptions {
            interleave: true,
            record_stretches: false,
        };
        let failure = run_with(&scenario, 1, &options, never_moves).expect_err(name);
        assert!(failure.rule.contains(rule), "{name}: {}", failure.rule);
    }
}
