//! The stress guest: nothing lost, doubled or damaged.

use std::{fs, path::Path};

use crate::harness::{Output, Run, is_full_tier, runs_long_tests};

#[test]
fn sixteen_vcpus_on_four_pcpus_lose_nothing() {
    let seeds: &[u64] = if runs_long_tests() { &[1, 2] } else { &[1] };
    for seed in seeds {
        let run = Run::stress()
            .vcpus(16)
            .pcpus(4)
            .option("--seconds", 5)
            .option("--seed", seed);
        let output = run.deadline(300).start();
        output.expect_exit(0);
        output.expect_in_order(["STRESS PASS vcpus=16"]);
    }
}

/// More pCPUs than the host has: each of them is often away for longer than the guest expects. From the 17th on they have
/// another affinity at level 1.
#[test]
fn many_vcpus_on_many_pcpus_lose_nothing() {
    if runs_long_tests() {
        let all = [(40, 17), (64, 64), (32, 16), (64, 32), (64, 48)];
        let sizes = if is_full_tier() { &all[..] } else { &all[..2] };
        for &(vcpus, pcpus) in sizes {
            let run = Run::stress().vcpus(vcpus).pcpus(pcpus);
            let output = run.option("--seconds", 1).deadline(300).start();
            output.expect_exit(0);
            output.expect_in_order([&format!("STRESS PASS vcpus={vcpus}")]);
        }
    }
}

#[test]
fn twelve_vcpus_on_one_to_eight_pcpus_lose_nothing() {
    if is_full_tier() {
        for pcpus in 1..=8 {
            let run = Run::stress().vcpus(12).pcpus(pcpus);
            let output = run.option("--seconds", 2).deadline(120).start();
            output.expect_exit(0);
            output.expect_in_order(["STRESS PASS vcpus=12"]);
        }
    }
}

#[test]
fn counting_instructions_many_pcpus_lose_nothing() {
    if runs_long_tests() {
        let run = Run::stress().vcpus(48).pcpus(33).icount();
        let output = run.option("--seconds", 1).deadline(300).start();
        output.expect_exit(0);
        output.expect_in_order(["STRESS PASS vcpus=48"]);
    }
}

#[test]
fn the_stress_guest_passes_on_bare_qemu() {
    let output = Run::stress()
        .vcpus(4)
        .bare()
        .option("--seconds", 2)
        .deadline(120)
        .start();
    output.expect_exit(0);
    output.expect_in_order(["STRESS PASS"]);
}

/// A command that runs many machines, and takes no options of one.
fn many(what: &str) -> Run {
    Run::command().argument("stress").argument(what)
}

/// What the one failure of `output` left behind: for each name in `files`, its contents. It is gone afterwards.
fn take_failure<const N: usize>(output: &Output, files: [&str; N]) -> [Option<String>; N] {
    let mut lines = output.console.lines();
    let directory = lines.find_map(|line| line.trim().strip_prefix("console and log: "));
    output.require(directory.is_some(), || "no place is named".into());
    let directory = Path::new(directory.unwrap_or_default());
    let contents = files.map(|name| fs::read_to_string(directory.join(name)).ok());
    fs::remove_dir_all(directory).expect("it is there, and ours");
    contents
}

#[test]
fn a_matrix_of_machines_ends_in_a_table() {
    let run = many("--matrix").option("--models", "cortex-a53,nothing,max");
    let run = run.option("--sizes", "2x1,4x2,4x1").option("--minutes", 0);
    let output = run.deadline(300).start();
    output.expect_exit(0);
    let rows: Vec<Vec<&str>> = output
        .console
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    let good = |model: &str, vcpus: &str, verdicts: &[&str]| {
        rows.iter().any(|row| {
            let has_start = row.starts_with(&[model, vcpus]);
            let words = row
                .iter()
                .copied()
                .filter(|word| ["ok", "-"].contains(word));
            has_start && words.eq(verdicts.iter().copied())
        })
    };
    for model in ["cortex-a53", "max"] {
        let is_good = good(model, "2", &["ok", "-"]) && good(model, "4", &["ok", "ok"]);
        output.require(is_good, || format!("{model} is not as it should be"));
    }
    output.require(output.log.contains("no nothing: skipped"), || {
        "it does not say what it left out".into()
    });
    output.require(output.log.contains("6 of 6"), || "no progress".into());
}

#[test]
fn a_machine_of_the_matrix_that_fails_is_kept_and_can_be_run_again() {
    let run = many("--matrix").option("--models", "max");
    let run = run.option("--sizes", "2x1").option("--timeout", 1);
    let output = run.start();
    output.expect_exit(1);
    output.expect_in_order([
        "FAIL max, 2 vCPUs on 1 pCPUs: no end after 1 s",
        "again: cargo run -- stress --seconds",
    ]);
    output.require(
        output
            .console
            .contains("--seed 1 --vcpus 2 --pcpus 1 --cpu max"),
        || "it cannot be run again".into(),
    );
    let [report] = take_failure(&output, ["report"]).map(Option::unwrap_or_default);
    output.require(report.contains("stress-guest: status 124"), || {
        report.clone()
    });
}

#[test]
fn three_linux_guests_boot_twice() {
    let output = many("--boots").argument("2").deadline(300).start();
    output.expect_exit(0);
    output.expect_in_order([
        "2 of 2 boots of 3 Linux guests with 4 vCPUs on 4 pCPUs went well: min ",
    ]);
}

#[test]
fn the_consoles_of_a_boot_that_fails_are_kept() {
    let run = many("--boots").argument("1");
    let output = run.option("--timeout", 2).start();
    output.expect_exit(1);
    output.expect_in_order(["FAIL boot 1: no end after 2 s"]);
    output.expect_in_order(["0 of 1 boots of 3 Linux guests"]);
    let names = ["first", "second", "third"];
    let consoles = names.map(|name| format!("{name}.console"));
    let kept = take_failure(&output, consoles.each_ref().map(String::as_str));
    output.require(kept.iter().all(Option::is_some), || format!("{kept:?}"));
}

#[test]
fn a_matrix_without_machines_is_refused() {
    let output = many("--matrix").option("--models", "nothing").start();
    output.expect_exit(2);
    output.require(output.log.contains("none of the CPU models"), || {
        "not why".into()
    });
}
