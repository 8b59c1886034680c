//! What the user's keys do to guests, from a terminal.

use std::fs;

use crate::harness::Run;

const PROMPT: &str = "trapline guest /root # ";

/// Two Linux guests, `left` and `right`, on a terminal; `right` has `rest` in its description.
fn two_guests(rest: &str) -> (tempfile::TempDir, Run) {
    let directory = tempfile::tempdir().expect("a directory for temporary files");
    let path = directory.path().join("vms.toml");
    let vm = |name: &str| format!("[[vm]]\nname = \"{name}\"\nguest = \"linux\"\nvcpus = 2\n");
    let text = format!("pcpus = 2\n{}{}{rest}\n", vm("left"), vm("right"));
    fs::write(&path, text).expect("room for a file");
    let run = Run::on_qemu("run").option("--config", path.display());
    (directory, run.on_terminal().deadline(120))
}

#[test]
fn a_guest_that_is_off_starts_when_the_user_says_so() {
    let (_directory, run) = two_guests("start = false");
    let output = run
        .type_after(PROMPT, "echo before$((6 * 7))\n")
        .type_after("\nbefore42", "\x012\x01s")
        // Not after the next prompt of the other one: what is typed for a guest that is still off is dropped.
        .type_after("Run /init", "")
        .type_after(PROMPT, "echo started$((6 * 7)); poweroff\n")
        .type_after("\nstarted42", "\x011poweroff\n")
        .start();
    output.expect_exit(0);
    output.expect_in_order(["before42", "Booting Linux", "started42"]);
    let ends = "left: powered off; right: powered off";
    output.require(output.log.contains(ends), || "not both ended".into());
}

#[test]
fn a_guest_pauses_goes_on_and_starts_again_at_a_key() {
    let (_directory, run) = two_guests("");
    let output = run
        .type_after(&format!("[right] {PROMPT}"), "\n")
        .type_after(PROMPT, "while sleep 0.1; do echo tick$((6 * 7)); done &\n")
        .type_after("\ntick42", "\x01p\x01necho gone$((6 * 7))\n")
        .type_after("\ngone42", "sleep 2; echo still$((6 * 7))\n")
        .type_after("\nstill42", "\x011\x01p")
        .type_after("\ntick42", "\x01r")
        .type_after(PROMPT, "echo fresh$((6 * 7)); poweroff\n")
        .type_after("\nfresh42", "\x012poweroff\n")
        .start();
    output.expect_exit(0);
    let order = [
        "tick42",
        "gone42",
        "still42",
        "tick42",
        "Booting Linux",
        "fresh42",
    ];
    output.expect_in_order(order);
    let quiet = output.console.split("\ngone42").nth(1);
    let quiet = quiet.and_then(|rest| rest.split("\nstill42").next());
    // One may have been on its way.
    let ticks = quiet.map(|quiet| quiet.matches("tick42").count());
    output.require(ticks.is_some_and(|ticks| ticks <= 1), || {
        format!("{ticks:?} ticks of a paused guest")
    });
    let fresh = output.console.split("\nfresh42").nth(1);
    output.require(fresh.is_some_and(|fresh| !fresh.contains("tick42")), || {
        "it is not a fresh start".into()
    });
}
