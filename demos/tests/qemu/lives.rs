//! Guests that start, pause, end and start again while others run.

use std::fs;

use crate::harness::{Output, Run, is_full_tier};

/// A guest of these tests: its name, which guest it is, and what the configuration says of it beside.
struct Vm<'a>(&'a str, &'a str, &'a str);

const STRESS: Vm<'_> = Vm("beside", "stress", "vcpus = 2\nappend = \"seconds=3\"");

/// Runs `vms` on two pCPUs to their end, with the calls by which one sees to another.
fn run(vms: &[Vm<'_>], seconds: u64) -> Output {
    start(vms, seconds, |run| run)
}

/// The same, as `adapt` says.
fn start(vms: &[Vm<'_>], seconds: u64, adapt: fn(Run) -> Run) -> Output {
    let directory = tempfile::tempdir().expect("a directory for temporary files");
    let path = directory.path().join("vms.toml");
    let mut text = String::from("pcpus = 2\n");
    for Vm(name, guest, rest) in vms {
        text +=
            &format!("[[vm]]\nname = \"{name}\"\nguest = \"{guest}\"\nmemory = \"16M\"\n{rest}\n");
    }
    fs::write(&path, text).expect("room for a file");
    let run = Run::linux()
        .hypervisor("test-hypervisor")
        .option("--config", path.display());
    adapt(run).deadline(seconds).start()
}

/// The stress guest beside them found nothing lost, and no exit of anybody used the heap.
#[track_caller]
fn expect_undisturbed(output: &Output) {
    output.expect_in_order(["STRESS PASS vcpus=2"]);
    output.expect_absent("FAIL");
    output.expect_no_exit_allocation();
}

#[test]
fn a_guest_that_wipes_its_image_resets_itself_three_times() {
    let wiper = "append = \"test=reset-wiped guest=0 resets=3\"\non_reset = \"restart\"";
    let output = run(&[Vm("wiper", "test-guest", wiper), STRESS], 120);
    output.expect_exit(0);
    output.expect_in_order([
        "[wiper] test: life 1",
        "[wiper] test: life 2",
        "[wiper] test: life 3",
        "[wiper] test: life 4",
        "TEST reset-wiped PASS lives=4",
    ]);
    expect_undisturbed(&output);
}

#[test]
fn a_life_finds_nothing_of_the_one_before_it() {
    let fresh = "append = \"test=fresh guest=0 resets=2\"\non_reset = \"restart\"";
    let output = run(&[Vm("fresh", "test-guest", fresh), STRESS], 120);
    output.expect_exit(0);
    output.expect_in_order([
        "[fresh] test: life 1",
        "[fresh] test: life 2",
        "[fresh] test: life 3",
        "TEST fresh PASS lives=3",
    ]);
    expect_undisturbed(&output);
}

#[test]
fn a_reset_ends_a_guest_that_is_not_to_restart() {
    let wiper = "append = \"test=reset-wiped guest=0\"";
    let output = run(&[Vm("wiper", "test-guest", wiper), STRESS], 120);
    output.expect_exit(0);
    output.expect_in_order(["[wiper] test: life 1"]);
    output.expect_absent("life 2");
    expect_undisturbed(&output);
}

/// Four vCPUs of two guests on two pCPUs, with patterns unlike each other's.
#[test]
fn registers_are_ones_own_beside_another_guest() {
    let vms = [
        Vm(
            "left",
            "test-guest",
            "vcpus = 2\nappend = \"test=own-registers seed=1\"",
        ),
        Vm(
            "right",
            "test-guest",
            "vcpus = 2\nappend = \"test=own-registers seed=2\"",
        ),
        STRESS,
    ];
    let output = run(&vms, 120);
    output.expect_exit(0);
    for name in ["left", "right"] {
        output.expect_in_order([format!("[{name}] TEST own-registers PASS").as_str()]);
    }
    expect_undisturbed(&output);
}

#[test]
fn virtual_time_stands_still_while_a_guest_is_paused() {
    let vms = [
        Vm(
            "control",
            "test-guest",
            "append = \"test=pause-others ms=100\"",
        ),
        Vm(
            "paused",
            "test-guest",
            "append = \"test=paused ms=100 pauses=5\"",
        ),
        STRESS,
    ];
    // Counted, since the guest says how far its counter may go between two looks.
    let output = start(&vms, 300, Run::icount);
    output.expect_exit(0);
    for verdict in ["TEST paused PASS", "TEST pause-others PASS"] {
        output.expect_in_order([verdict]);
    }
    let lost = output.said("paused", "lost_us");
    output.require(lost >= 500_000, || format!("only {lost} us were left out"));
    expect_undisturbed(&output);
}

/// Guest 1 lives `rounds` times and once more, or at least `least` times on a slow host, beside the stress guest, which runs for
/// `seconds`.
#[track_caller]
fn stop_and_start(rounds: u32, least: u64, seconds: u32) {
    let control = format!(
        "append = \"test=stop-start beside=2 rounds={rounds} seconds={}\"",
        seconds * 3 / 4
    );
    let beside = format!("vcpus = 2\nappend = \"seconds={seconds}\"");
    let vms = [
        Vm("control", "test-guest", &control),
        Vm("victim", "test-guest", "append = \"test=spin\""),
        Vm("beside", "stress", &beside),
    ];
    let output = run(&vms, 300 + u64::from(seconds));
    output.expect_exit(0);
    let lives = output.said("stop-start", "lives");
    output.require(lives > least, || format!("only {lives} lives"));
    expect_undisturbed(&output);
}

#[test]
fn everything_comes_back_after_fifty_lives() {
    if !is_full_tier() {
        stop_and_start(50, 5, 20);
    }
}

#[test]
fn everything_comes_back_after_a_thousand_lives() {
    if is_full_tier() {
        stop_and_start(1_000, 100, 120);
    }
}

#[test]
fn a_guest_that_cannot_be_built_leaves_nothing_behind() {
    let vms = [
        Vm("control", "test-guest", "append = \"test=start-in-vain\""),
        Vm(
            "refused",
            "test-guest",
            "vcpus = 2\nstart = false\nappend = \"test=spin\"",
        ),
    ];
    let output = run(&vms, 120);
    output.expect_in_order(["TEST start-in-vain PASS"]);
    output.require(
        output.log.matches("guest refused does not start").count() == 3,
        || "it is not refused three times".into(),
    );
}

/// QEMU's own firmware cannot do it, so nothing is compared.
#[test]
fn a_system_sleeps_until_its_timer() {
    for pcpus in [1, 2] {
        let run = Run::guest("test-guest").append("test=system-suspend");
        let output = run.vcpus(2).pcpus(pcpus).deadline(60).start();
        output.expect_exit(0);
        output.expect_in_order(["TEST system-suspend PASS rounds=20"]);
        output.expect_no_exit_allocation();
    }
}

/// Its timer fires at any moment while it goes to sleep on a pCPU that another guest wants.
#[test]
fn a_system_that_falls_asleep_is_woken_by_its_timer() {
    let sleeper =
        "vcpus = 2\naffinity = \"0\"\nappend = \"test=system-suspend soon=1 rounds=1500\"";
    let beside = "vcpus = 2\naffinity = \"0\"\nappend = \"seconds=8\"";
    let vms = [
        Vm("sleeper", "test-guest", sleeper),
        Vm("beside", "stress", beside),
    ];
    let output = run(&vms, 120);
    output.expect_exit(0);
    output.expect_in_order(["TEST system-suspend PASS rounds=1500"]);
}

/// QEMU's own firmware treats it as a stand-by.
#[test]
fn a_cpu_that_powers_down_starts_at_its_entry_point() {
    for pcpus in [1, 2] {
        let run = Run::guest("test-guest").append("test=cpu-suspend");
        let output = run.vcpus(2).pcpus(pcpus).deadline(60).start();
        output.expect_exit(0);
        output.expect_in_order(["TEST cpu-suspend PASS rounds=20"]);
        output.expect_no_exit_allocation();
    }
}

#[test]
fn a_guest_that_is_stopped_for_cause_leaves_the_others_alone() {
    let crasher = Vm("crasher", "test-guest", "append = \"test=all-off\"");
    let output = run(&[crasher, STRESS], 120);
    output.expect_exit(1);
    let ends = output.stats.as_ref().map(|stats| &stats["guests"]);
    let expected = serde_json::json!([
        {"guest": 0, "name": "crasher", "status": 1, "reason": "was stopped: all vCPUs are off"},
        {"guest": 1, "name": "beside", "status": 0, "reason": "powered off"},
    ]);
    output.require(ends == Some(&expected), || format!("the ends are {ends:?}"));
    expect_undisturbed(&output);
}
