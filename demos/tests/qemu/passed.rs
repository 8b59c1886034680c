//! Devices of the machine that a guest drives itself, beside another guest.

use std::fs;

use crate::harness::{Output, Run};

/// Runs the test guest with the machine's clock and pins, and the stress guest beside it, on three pCPUs.
fn run(test: &str, vcpus: usize, more: &str) -> Output {
    run_with("3", test, vcpus, more)
}

/// The same with this version of the interrupt controller.
fn run_with(gic: &str, test: &str, vcpus: usize, more: &str) -> Output {
    let directory = tempfile::tempdir().expect("a directory for temporary files");
    let path = directory.path().join("vms.toml");
    let text = format!(
        "pcpus = 3
gic = {gic}
[[vm]]
name = \"owner\"
guest = \"test-guest\"
memory = \"16M\"
vcpus = {vcpus}
append = \"test={test} guest=0 pcpus=3\"
{more}
[[vm.device]]
kind = \"pl031\"
[[vm.device]]
kind = \"gpio\"
[[vm]]
name = \"beside\"
guest = \"stress\"
memory = \"16M\"
vcpus = 4
append = \"seconds=3\"
"
    );
    fs::write(&path, text).expect("room for a file");
    let run = Run::linux()
        .hypervisor("test-hypervisor")
        .option("--config", path.display());
    let output = run.deadline(120).start();
    output.expect_exit(0);
    output.expect_in_order([format!("TEST {test} PASS").as_str()]);
    output.expect_in_order(["STRESS PASS vcpus=4"]);
    output.expect_absent("FAIL");
    output.expect_no_exit_allocation();
    output
}

#[test]
fn an_alarm_follows_its_vcpu() {
    let output = run("clock-moves", 1, "");
    let moves = output.said("clock-moves", "moves");
    output.require(moves >= 300, || format!("only {moves} moves"));
    // The registers are the real ones: reading them is no exit.
    let exits = output.column("vcpus", "exits_mmio")[0];
    let reads = output.said("clock-moves", "reads");
    output.require(reads >= 10_000 && exits < reads / 2, || {
        format!("{exits} exits for {reads} reads")
    });
}

#[test]
fn an_alarm_goes_to_the_vcpu_to_which_it_is_routed() {
    run("clock-retarget", 2, "");
}

#[test]
fn with_gicv2_an_alarm_follows_its_vcpu() {
    let output = run_with("2", "clock-moves", 1, "");
    let moves = output.said("clock-moves", "moves");
    output.require(moves >= 300, || format!("only {moves} moves"));
}

#[test]
fn an_alarm_is_disabled_while_it_is_active() {
    run("clock-disable", 1, "");
}

#[test]
fn a_reset_in_the_handler_of_an_alarm_leaves_a_quiet_clock() {
    let output = run("clock-reset", 1, "on_reset = \"restart\"");
    output.expect_in_order(["[owner] test: life 1", "[owner] test: life 4"]);
}
