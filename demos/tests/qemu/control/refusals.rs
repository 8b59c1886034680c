//! What a user asks of a machine in vain: it says why, and stays as it was.

use super::{MACHINE, busy};
use crate::harness::{Control, Run};

/// What is wrong, and what is said about it.
const REFUSED: [(&str, &str); 29] = [
    (
        "explode",
        "there is no command \"explode\"; there are: help list set",
    ),
    (
        "set weight mail 1",
        "there is no VM \"mail\"; there are: web db",
    ),
    (
        "list vcpus mail",
        "there is no VM \"mail\"; there are: web db",
    ),
    ("pause mail", "there is no VM \"mail\"; there are: web db"),
    (
        "set weight web 0",
        "a weight of \"0\": it must be 1 to 10000",
    ),
    ("set weight web 10001", "it must be 1 to 10000"),
    ("set weight web/2 9", "web has no vCPU 2: it has 2, from 0"),
    ("set slice web 1", "a slice of \"1\": it must be 50 to"),
    (
        "set cap web 201",
        "a cap of 201 hundredths of a pCPU: it must be 1 to 200",
    ),
    ("set priority web 256", "it must be 0 to 255"),
    (
        "set budget web 6000 5000",
        "a budget of 6000 us in a period of 5000 us",
    ),
    (
        "set budget web 4000 5000",
        "policy deadline refuses it for vCPU 0 of web: a budget of 4000 us in a period of 5000 needs 80.0 % of a pCPU, and the \
         emptiest of those it may use has 60.0 % left",
    ),
    ("set affinity web 1-2", "the machine has no pcpu2"),
    ("set soft-affinity web 1-2", "the machine has no pcpu2"),
    (
        "set affinity web 2-1",
        "a pCPU range must not end before it starts",
    ),
    (
        "policy lottery",
        "there is no policy \"lottery\"; there are: round-robin",
    ),
    ("policy table", "the policy table needs a table"),
    (
        "policy credit weight=3",
        "policy credit has no option \"weight\"; it has: slice_us period_us",
    ),
    (
        "policy pinned period_us=100",
        "policy pinned has no option \"period_us\"; it has: slice_us",
    ),
    (
        "set pool web slow",
        "there is no pool \"slow\"; there are: all",
    ),
    (
        "policy fair pool=slow",
        "there is no pool \"slow\"; there are: all",
    ),
    ("create pool all 1 fair", "pool0 is called `all` already"),
    ("create pool more 0-1 fair", "needs at least one"),
    ("create pool pool0 1 fair", "`pool0` is no name for a pool"),
    ("create pool more 0 fair", "vCPU 0 of web: "),
    ("create pool more 7 fair", "the machine has no pcpu7"),
    ("remove pool all", "belongs to pool0: move it first"),
    (
        "move pcpu 1 slow",
        "there is no pool \"slow\"; there are: all",
    ),
    ("unplug 0", "vCPU 0 of web: "),
];

#[test]
fn what_is_refused_changes_nothing() {
    let guests = busy("web", 2, "") + &busy("db", 1, "budget_us = 2000\nperiod_us = 5000");
    let machine = MACHINE.replace("fair", "deadline");
    let output = Run::described(&(machine + &guests))
        .deadline(120)
        .start_and(|control| {
            let mut client = control.connect();
            // Beside it, 4 ms of 5 do not fit; nor do two of them on the other one.
            client.done("set affinity web 0");
            client.done("set affinity db 0");
            let state = |control: &Control| {
                let mut client = control.connect();
                let pool = client.column("list pools", "policy");
                (client.done("list"), pool)
            };
            let before = state(control);
            for (command, expected) in REFUSED {
                let answer = client.give(command);
                let is_refused = answer.end.starts_with("error: ") && answer.end.contains(expected);
                assert!(
                    is_refused && answer.lines.is_empty(),
                    "{command}: {answer:?}"
                );
                assert_eq!(state(control), before, "{command}");
            }
            // What did fit still fits.
            client.done("set budget web 1500 5000");
            client.done("stop web");
            client.done("stop db");
        });
    output.expect_exit(0);
    output.expect_no_exit_allocation();
}

#[test]
fn a_reset_of_a_guest_that_is_off_is_not_refused_for_an_earlier_start() {
    let guests = busy("web", 1, "") + &busy("db", 1, "start = false");
    let machine = MACHINE
        .replace("pcpus = 2", "pcpus = 1")
        .replace("fair", "deadline");
    let output = Run::described(&(machine + &guests))
        .deadline(120)
        .start_and(|control| {
            let mut client = control.connect();
            client.done("set budget web 4000 5000");
            client.done("set budget db 2000 5000");
            let refused = client.give("start db").end;
            let why = "error: db does not start: vCPU: a budget of 2000 us in a period of 5000 needs 40.0 % of a pCPU";
            assert!(refused.starts_with(why), "{refused}");
            client.until("list", "state", |cells| cells[1] == "off");
            assert_eq!(client.give("reset db").end, "error: db is off");
            client.done("set budget web none");
            client.done("start db");
            client.done("reset db");
            client.done("stop web");
            client.done("stop db");
        });
    output.expect_exit(0);
}
