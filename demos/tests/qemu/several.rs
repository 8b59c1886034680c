//! Several guests in one run, as the files in `demos/configs` describe them.

use std::fs;

use crate::harness::{Output, Run, runs_long_tests};

const PROMPT: &str = "\ntrapline guest /root # ";

/// The guests were called `names`, and all ended well.
#[track_caller]
fn expect_good_ends(output: &Output, names: &[&str]) {
    output.expect_exit(0);
    output.expect_no_exit_allocation();
    for (index, name) in names.iter().enumerate() {
        let end = output
            .stats
            .as_ref()
            .map(|stats| &stats["guests"][index])
            .filter(|end| end["name"] == *name && end["status"] == 0);
        output.require(end.is_some(), || format!("{name} did not end well"));
        output.require(output.log.contains(&format!("{name}: powered off")), || {
            format!("the last line does not say how {name} ended")
        });
    }
}

/// How many vCPUs each guest has in the statistics.
fn vcpus_of(output: &Output, guest: u64) -> usize {
    let guests = output.column("vcpus", "guest");
    guests.iter().filter(|other| **other == guest).count()
}

#[test]
fn two_linux_guests_share_two_pcpus() {
    let output = Run::config("two-linux").deadline(120).start();
    expect_good_ends(&output, &["left", "right"]);
    for name in ["left", "right"] {
        let [started, done] = ["nproc=4", "workload ok"];
        output.expect_in_order([
            format!("[{name}] trapline: {started}").as_str(),
            &format!("[{name}] trapline: {done}"),
            "reboot: Power down",
        ]);
    }
    let lines = output
        .console
        .lines()
        .all(|line| line.starts_with("[left] ") || line.starts_with("[right] "));
    output.require(lines, || "a line without a name".into());
    assert_eq!([0, 1].map(|guest| vcpus_of(&output, guest)), [4, 4]);
}

#[test]
fn linux_and_the_stress_guest_leave_each_other_alone() {
    if runs_long_tests() {
        let output = Run::config("linux-and-stress").deadline(120).start();
        expect_good_ends(&output, &["linux", "stress"]);
        output.expect_in_order(["[linux] trapline: workload ok"]);
        output.expect_in_order(["[stress] STRESS PASS vcpus=6"]);
    }
}

#[test]
fn a_pinned_guest_keeps_its_pcpus() {
    let output = Run::config("rt-pinned").deadline(120).start();
    expect_good_ends(&output, &["control", "office"]);
    output.expect_in_order(["[control] STRESS PASS vcpus=2"]);
    let moves = ["loaded", "queued", "parked"]
        .map(|place| output.column("vcpus", &format!("migrations_{place}"))[..2].to_vec());
    output.require(moves.iter().flatten().all(|count| *count == 0), || {
        format!("a pinned vCPU moved: {moves:?}")
    });
}

#[test]
fn a_terminal_has_one_guest_at_a_time() {
    let output = Run::config("two-linux")
        .on_terminal()
        .type_after("[right] trapline guest /root # ", "\n")
        .type_after(PROMPT, "echo left$((6 * 7))\n")
        .type_after("left42", "\x01necho right$((6 * 7))\n")
        .type_after("\nright42", "poweroff\n\x01")
        .type_after("reboot: Power down", "1poweroff\n")
        .deadline(120)
        .start();
    expect_good_ends(&output, &["left", "right"]);
    output.expect_absent("[left] left42");
    output.expect_absent("[right] right42");
    output.require(output.log.contains("console of right"), || {
        "the move is not said".into()
    });
}

#[test]
fn a_console_can_be_elsewhere_and_a_pipe_can_be_one_guests() {
    let directory = tempfile::tempdir().expect("a directory for temporary files");
    let file = directory.path().join("right");
    let output = Run::config("two-linux")
        .option("--input", "left")
        .option("--console", format!("right={}", file.display()))
        .type_after("# ", "echo typed$((6 * 7))\n")
        .type_after("typed42", "poweroff\n")
        .deadline(120)
        .start();
    expect_good_ends(&output, &["left", "right"]);
    output.expect_in_order(["[left] typed42"]);
    output.expect_absent("[right]");
    let right = fs::read_to_string(file).unwrap_or_default();
    output.require(right.contains("trapline: workload ok"), || right.clone());
}

/// Both have the same addresses, and share a pCPU.
#[test]
fn what_one_guest_breaks_at_does_not_stop_another() {
    let directory = tempfile::tempdir().expect("a directory for temporary files");
    let file = directory.path().join("debuggers.toml");
    let vm = |name: &str, append: &str| {
        format!(
            "[[vm]]\nname = \"{name}\"\nguest = \"test-guest\"\nvcpus = 2\nmemory = \"64M\"\n\
             append = \"test=debug-shared {append}\"\n"
        )
    };
    let text = vm("first", "") + &vm("second", "") + &vm("third", "quiet=1");
    fs::write(&file, text).expect("room for a file");
    let run = Run::on_qemu("run").option("--config", file.display());
    let output = run.pcpus(1).deadline(120).start();
    expect_good_ends(&output, &["first", "second", "third"]);
    output.expect_in_order(["[third] TEST debug-shared PASS breaks=0 watches=0"]);
    for name in ["first", "second"] {
        output.expect_in_order([format!("[{name}] TEST debug-shared PASS").as_str()]);
    }
    output.expect_absent("FAIL");
}

#[test]
fn one_guest_that_fails_decides_the_status() {
    let directory = tempfile::tempdir().expect("a directory for temporary files");
    let file = directory.path().join("failing.toml");
    let vm = |name: &str, append: &str| {
        format!("[[vm]]\nname = \"{name}\"\nguest = \"linux\"\nappend = \"{append}\"\n")
    };
    // A kernel that finds no first program panics, and resets the machine.
    let text = vm("good", "") + &vm("bad", "rdinit=/nothing root=/nothing");
    fs::write(&file, text).expect("room for a file");
    let run = Run::on_qemu("run").option("--config", file.display());
    let output = run.option("--pcpus", 2).deadline(120).start();
    output.expect_exit(1);
    output.expect_in_order(["[good] trapline: workload ok"]);
    let last = output.log.lines().last().unwrap_or_default();
    output.require(
        last.contains("a guest failed: good: powered off; bad: Kernel panic"),
        || "the last line does not say who failed".into(),
    );
}
