//! Tests of the simulator as a user has it: the scenarios that come with Trapline, what is drawn of them, and the command.
//!
//! `TRAPLINE_TIER=quick` hunts with a few seeds, and without it with a thousand for each scenario.

mod claims;
mod command;
mod hunts;
mod plots;
#[path = "../qemu/harness/terminal.rs"]
#[expect(dead_code, reason = "nobody types here")]
mod terminal;

use std::env;

use trapline_demos::host::sim::{
    self, Outcome, RunOptions, Scenario, ScenarioFile, shipped,
    summary::{Part, Summary},
};

/// A scenario that comes with Trapline, after a run.
struct Shown {
    file: ScenarioFile,
    scenario: Scenario,
    outcome: Outcome,
    summary: Summary,
}

/// Runs the scenario `name` under `policy`, or its own.
#[track_caller]
fn run_under(name: &str, policy: Option<&str>) -> Shown {
    let path = shipped::find(name).expect("it comes with Trapline");
    let file = ScenarioFile::read(&path).expect("a good file");
    let scenario = file.scenario(policy.unwrap_or(file.policy()), None);
    let scenario = scenario.expect("it can be kept");
    let options = RunOptions {
        interleave: false,
        record_stretches: true,
    };
    let outcome = match sim::run(&scenario, 1, &options) {
        Ok(outcome) => outcome,
        Err(failure) => panic!("{name}: {failure:#?}"),
    };
    Shown {
        summary: Summary::new(&file, &outcome),
        file,
        scenario,
        outcome,
    }
}

#[track_caller]
fn run(name: &str) -> Shown {
    run_under(name, None)
}

impl Shown {
    #[track_caller]
    fn part(&self, name: &str) -> &Part {
        let part = self.summary.parts.iter().find(|part| part.name == name);
        part.expect("the scenario has it")
    }
}

fn runs_long_tests() -> bool {
    env::var("TRAPLINE_TIER").as_deref() != Ok("quick")
}
