//! No seed of a scenario that comes with Trapline breaks a rule, under any policy that takes it.

use std::{num::NonZero, sync::atomic::AtomicUsize, thread};

use trapline_demos::host::sim::{
    ScenarioFile,
    hunt::{Catch, Hunt},
    shipped,
};
use trapline_sched::policies;

use crate::runs_long_tests;

/// So much of each scenario, in nanoseconds: many seeds of the start find more than few of the whole.
const HUNTED: u64 = 100_000_000;

/// It takes seconds for each seed.
fn is_large(file: &ScenarioFile) -> bool {
    let scenario = file
        .scenario(file.policy(), None)
        .expect("its own policy takes it");
    scenario.topology.pcpus > 64
}

fn hunt(file: &ScenarioFile, policy: &str, seeds: u64) -> Option<Catch> {
    // What a policy refuses it cannot break.
    let scenario = file.scenario(policy, Some(HUNTED)).ok()?;
    let hunt = Hunt {
        scenario: &scenario,
        seeds: 0..seeds,
        jobs: thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN),
        keeps_going: false,
        signal: &AtomicUsize::new(0),
    };
    Some(hunt.run(&|| {}))
}

#[track_caller]
fn expect_good(name: &str, policy: &str, caught: &Catch, seeds: u64) {
    assert!(
        caught.failures.is_empty(),
        "{name} under {policy}: {:#?}",
        caught.failures
    );
    assert_eq!(caught.done, seeds, "{name} under {policy}");
}

#[test]
fn scenarios_break_no_rule() {
    for shipped in shipped::all().expect("they can be read") {
        let file = ScenarioFile::read(&shipped.path).expect("a good file");
        let seeds = match (runs_long_tests(), is_large(&file)) {
            (true, false) => 1000,
            (true, true) => 20,
            (false, false) => 10,
            (false, true) => 1,
        };
        let caught = hunt(&file, file.policy(), seeds).expect("its own policy takes it");
        expect_good(&shipped.name, file.policy(), &caught, seeds);
    }
}

#[test]
fn no_policy_breaks_a_rule() {
    let seeds = if runs_long_tests() { 100 } else { 2 };
    for shipped in shipped::all().expect("they can be read") {
        let file = ScenarioFile::read(&shipped.path).expect("a good file");
        for policy in policies::NAMES.iter().filter(|_| !is_large(&file)) {
            if let Some(caught) = hunt(&file, policy, seeds) {
                expect_good(&shipped.name, policy, &caught, seeds);
            }
        }
    }
}
