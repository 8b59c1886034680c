//! What a user types while a machine runs: commands at its prompt, keys, and more than a guest reads.

use trapline_demos::wire::TYPED_ROOM;

use super::MACHINE;
use crate::harness::{Output, Run};

const SHELL: &str = "trapline guest /root # ";

#[test]
fn a_command_is_typed_at_a_prompt() {
    let run = Run::described("pcpus = 2\n[[vm]]\nname = \"one\"\nguest = \"linux\"\nvcpus = 2\n");
    let output = run
        .on_terminal()
        .deadline(120)
        .type_after(SHELL, "\x01cset weigth\x7f\x7fht one 77\r")
        .type_after(
            SHELL,
            "\x01cset weight one 0\r\x01cpause\x1becho left$((6 * 7))\n",
        )
        .type_after("\nleft42", "\x01clist\r")
        .type_after(SHELL, "poweroff\n")
        .start();
    output.expect_exit(0);
    let said = output.log.replace('\r', "");
    let order = [
        "policy round-robin does not look at it\nok\n",
        "error: a weight of \"0\": it must be 1 to 10000\n",
        "one  on     pool0  2      77 ",
    ];
    let mut rest = said.as_str();
    for expected in order {
        let found = rest.split_once(expected);
        output.require(found.is_some(), || {
            format!("`{expected}` is not said in its place")
        });
        rest = found.map_or("", |(_, rest)| rest);
    }
}

/// Types more than there is room for for `deaf` after it has printed `prompt`, and gives commands once the `column` of its vCPU is as
/// expected.
fn type_and_command(
    deaf: &str,
    prompt: &str,
    column: &str,
    is_reached: fn(&str) -> bool,
) -> Output {
    let output = Run::described(&(MACHINE.to_owned() + deaf))
        .option("--input", "deaf")
        .type_after(prompt, &"x".repeat(60_000))
        .deadline(120)
        .start_and(|control| {
            let mut client = control.connect();
            client.until("list vcpus", column, |cells| is_reached(&cells[0]));
            client.done("pause deaf");
            for _ in 0..10 {
                assert_eq!(client.column("list", "state"), ["paused"]);
            }
            client.done("resume deaf");
            client.done("stop deaf");
        });
    output.expect_absent("FAIL");
    output.expect_no_exit_allocation();
    output
}

#[test]
fn commands_do_not_wait_for_a_guest_that_does_not_read() {
    let deaf =
        "[[vm]]\nname = \"deaf\"\nguest = \"stress\"\nmemory = 64\nappend = \"seconds=100000\"\n";
    let has_run = |ms: &str| ms.parse::<f64>().expect("a time") > 500.0;
    let output = type_and_command(deaf, "stress: ", "run_ms", has_run);
    // It is stopped before it comes to its verdict.
    output.expect_exit(1);
}

/// With the byte in its UART that makes a part of which the runner is told: what it sends then fills all that the hypervisor keeps.
#[test]
fn commands_do_not_wait_for_a_guest_that_stops_reading() {
    let bytes = TYPED_ROOM / 4 - 1;
    let deaf = format!(
        "[[vm]]
name = \"deaf\"
guest = \"test-guest\"
memory = 64
append = \"test=stops-reading bytes={bytes}\"
"
    );
    let output = type_and_command(&deaf, "test: reading", "state", |state| state == "blocked");
    output.expect_exit(0);
}

#[test]
fn all_that_is_typed_arrives_however_much_it_is() {
    let lines = format!("{}\n", "x".repeat(99)).repeat(300);
    let output =
        Run::described("pcpus = 2\n[[vm]]\nname = \"one\"\nguest = \"linux\"\nvcpus = 2\n")
            .option("--input", "one")
            .type_after(
                SHELL,
                "stty -echo; echo ready$((6 * 7)); head -n 300 | wc -c\n",
            )
            .type_after("\nready42", &lines)
            .type_after(SHELL, "poweroff\n")
            .deadline(120)
            .start();
    output.expect_exit(0);
    output.expect_in_order(["ready42", "30000"]);
}

/// Who pauses it at the socket has it go on by the key: there is one state, the machine's.
#[test]
fn a_key_lets_a_guest_go_on_that_a_command_has_paused() {
    let vm = |name: &str| format!("[[vm]]\nname = \"{name}\"\nguest = \"linux\"\nvcpus = 2\n");
    let output = Run::described(&("pcpus = 2\n".to_owned() + &vm("left") + &vm("right")))
        .on_terminal()
        .type_after(&format!("[right] {SHELL}"), "\x012echo go$((6 * 7))\n")
        .type_after("\ngo42", "\x011\x01p")
        .deadline(240)
        .start_and(|control| {
            let mut client = control.connect();
            client.done("pause left");
            client.until("list", "state", |cells| cells == ["on", "on"]);
            client.done("stop left");
            client.done("stop right");
        });
    output.expect_exit(0);
}
