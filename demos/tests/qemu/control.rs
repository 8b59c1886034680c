//! What a user does to a machine while it runs, through its socket ([`refusals`]: in vain) and at its terminal ([`typing`]).

mod refusals;
mod typing;

use std::{
    io::Write,
    process::{Command, Stdio},
    thread,
};

use crate::harness::Run;

/// A guest that is busy on all its CPUs until somebody stops it.
fn busy(name: &str, vcpus: usize, more: &str) -> String {
    format!(
        "[[vm]]
name = \"{name}\"
guest = \"bench-guest\"
memory = 64
vcpus = {vcpus}
append = \"figures=work milliseconds=1000000\"
{more}
"
    )
}

const MACHINE: &str = "pcpus = 2\npolicy = \"fair\"\nslice_us = 1000\n";

/// The times in the column, in milliseconds.
fn times(cells: &[String]) -> Vec<f64> {
    let time = |cell: &String| cell.parse().expect("a time");
    cells.iter().map(time).collect()
}

#[test]
fn two_users_are_told_what_each_asked() {
    let guests = busy("web", 2, "") + &busy("db", 3, "") + &busy("spare", 1, "start = false");
    let output = Run::described(&(MACHINE.to_owned() + &guests))
        .deadline(120)
        .start_and(|control| {
            let mut client = control.connect();
            assert_eq!(client.column("list", "vm"), ["web", "db", "spare"]);
            assert_eq!(client.column("list vms", "state"), ["on", "on", "off"]);
            assert_eq!(client.column("list pools", "policy"), ["fair"]);
            assert_eq!(client.column("list pcpus", "pcpu"), ["0", "1"]);
            assert_eq!(client.column("list vcpus", "vcpu").len(), 6);
            assert!(client.done("help").len() > 10);
            let ask = |vm: &str, expected: &[&str]| {
                let mut client = control.connect();
                for _ in 0..40 {
                    assert_eq!(client.column(&format!("list vcpus {vm}"), "vcpu"), expected);
                }
            };
            thread::scope(|scope| {
                scope.spawn(|| ask("web", &["web/0", "web/1"]));
                scope.spawn(|| ask("db", &["db/0", "db/1", "db/2"]));
            });
            client.done("stop web");
            client.done("stop db");
        });
    output.expect_exit(0);
    output.expect_no_exit_allocation();
}

#[test]
fn a_share_follows_the_weight() {
    let guests = busy("a", 1, "") + &busy("b", 1, "");
    let machine = MACHINE.replace("pcpus = 2", "pcpus = 1");
    let output = Run::described(&(machine + &guests))
        .icount()
        .deadline(240)
        .start_and(|control| {
            let mut client = control.connect();
            let mut share = || {
                let before = times(&client.column("list vcpus", "run_ms"));
                client.until("list vcpus", "run_ms", |cells| {
                    times(cells)[0] > before[0] + 400.0
                });
                let after = times(&client.column("list vcpus", "run_ms"));
                (after[1] - before[1]) / (after[0] - before[0])
            };
            let even = share();
            control.connect().done("set weight b 4096");
            let weighted = share();
            control.connect().done("set weight a 4096");
            let again = share();
            for (share, expected) in [(even, 1.0), (weighted, 4.0), (again, 1.0)] {
                let error = share / expected - 1.0;
                assert!(error.abs() <= 0.03, "{share:.3} instead of {expected}");
            }
            client.done("stop a");
            client.done("stop b");
        });
    output.expect_exit(0);
    output.expect_no_exit_allocation();
}

#[test]
fn lives_and_places_change_when_they_are_told_to() {
    let guests = busy("web", 2, "") + &busy("db", 2, "") + &busy("spare", 1, "start = false");
    let output = Run::described(&(MACHINE.to_owned() + &guests))
        .deadline(120)
        .start_and(|control| {
            let mut client = control.connect();
            let is_on = |cells: &[String]| times(cells).iter().all(|time| *time > 0.0);
            client.until("list vcpus web", "run_ms", is_on);
            client.done("pause web");
            let before = client.column("list vcpus web", "run_ms");
            client.until("list vcpus db", "run_ms", |cells| times(cells)[0] > 200.0);
            assert_eq!(
                client.column("list vcpus web", "run_ms"),
                before,
                "it is paused"
            );
            assert_eq!(client.column("list vcpus web", "state"), ["blocked"; 2]);
            assert_eq!(client.column("list", "state"), ["paused", "on", "off"]);
            client.done("resume web");
            client.until("list vcpus web", "run_ms", |cells| {
                times(cells)[0] > times(&before)[0]
            });
            client.done("set affinity web/1 1");
            client.done("set affinity db 0");
            let settled = |cells: &[String]| cells == ["0", "0"];
            client.until("list vcpus db", "pcpu", settled);
            client.until("list vcpus web", "pcpu", |cells| cells[1] == "1");
            assert_eq!(client.column("list", "affinity"), ["mixed", "0", "0-1"]);
            client.done("set soft-affinity web 1");
            client.done("set soft-affinity web/1 none");
            let column = client.column("list vcpus web", "soft_affinity");
            assert_eq!(column, ["1", "-"]);
            // What is set for a guest that is off holds in its next life, and in those after it.
            let remark = client.done("set weight spare 77");
            assert_eq!(remark, ["spare is off: it has this from its next start on"]);
            client.done("start spare");
            assert_eq!(client.column("list vcpus spare", "weight"), ["77"]);
            client.until("list vcpus spare", "run_ms", |cells| times(cells)[0] > 50.0);
            client.done("reset spare");
            assert_eq!(client.column("list vcpus spare", "weight"), ["77"]);
            client.until("list vcpus spare", "run_ms", |cells| times(cells)[0] > 0.0);
            client.done("stop spare");
            assert_eq!(client.column("list", "state"), ["on", "on", "off"]);
            client.done("stop web");
            client.done("stop db");
        });
    output.expect_exit(0);
    output.expect_no_exit_allocation();
}

#[test]
fn policies_are_swapped_and_nobody_is_lost() {
    let stress = |name: &str| {
        format!(
            "[[vm]]\nname = \"{name}\"\nguest = \"stress\"\nmemory = 64\nvcpus = 4\nappend = \"seconds=6\"\n"
        )
    };
    let machine = MACHINE.to_owned() + &stress("a") + &stress("b");
    let output = Run::described(&machine).deadline(120).start_and(|control| {
        let mut client = control.connect();
        for policy in [
            "credit slice_us=500 period_us=20000",
            "deadline",
            "gang",
            "priority slice_us=2000",
            "round-robin",
            "fair",
        ] {
            client.done(&format!("policy {policy}"));
            let name = policy.split(' ').next().unwrap_or_default();
            assert_eq!(client.column("list pools", "policy"), [name]);
        }
    });
    output.expect_exit(0);
    for name in ["a", "b"] {
        output.expect_in_order([format!("[{name}] STRESS PASS vcpus=4").as_str()]);
    }
    output.expect_no_exit_allocation();
}

#[test]
fn pools_are_made_and_pcpus_leave_and_come_back() {
    let machine = MACHINE.replace("pcpus = 2", "pcpus = 3");
    let guests = busy("web", 2, "") + &busy("db", 2, "");
    let output = Run::described(&(machine + &guests))
        .deadline(120)
        .start_and(|control| {
            let mut client = control.connect();
            client.done("create pool fast 1-2 credit slice_us=500");
            assert_eq!(client.column("list pools", "policy"), ["fair", "credit"]);
            assert_eq!(client.column("list pools", "pcpus"), ["0", "1-2"]);
            client.done("set pool web fast");
            assert_eq!(client.column("list", "pool"), ["pool1", "pool0"]);
            let is_there = |cells: &[String]| cells.iter().all(|cell| cell != "0");
            client.until("list vcpus web", "pcpu", is_there);
            client.until("list vcpus db", "pcpu", |cells| cells == ["0", "0"]);
            let elsewhere = client.give("set affinity db 1").end;
            assert!(elsewhere.contains("pcpu1 is not in pool0"), "{elsewhere}");
            client.done("policy gang pool=fast");
            client.done("policy round-robin");
            assert_eq!(
                client.column("list pools", "policy"),
                ["round-robin", "gang"]
            );
            let refused = client.give("unplug 0").end;
            assert!(refused.contains("pool0 has no pCPUs but 0"), "{refused}");
            client.done("unplug 2");
            client.until("list pcpus", "state", |cells| cells[2] == "off");
            assert_eq!(client.column("list pcpus", "pool"), ["pool0", "pool1", "-"]);
            assert_eq!(client.give("unplug 2").end, "error: pcpu2 is off");
            client.until("list vcpus web", "pcpu", |cells| cells == ["1", "1"]);
            client.done("plug 2");
            client.until("list pcpus", "state", |cells| cells[2] == "busy");
            client.done("move pcpu 2 all");
            assert_eq!(client.column("list pools", "pcpus"), ["0,2", "1"]);
            let in_use = client.give("remove pool fast").end;
            assert_eq!(in_use, "error: web belongs to pool1: move it first");
            client.done("set pool web all");
            client.done("remove pool fast");
            assert_eq!(client.column("list pools", "pcpus"), ["0-2"]);
            let before = times(&client.column("list vcpus", "run_ms"));
            let have_run = |cells: &[String]| {
                let mut pairs = times(cells).into_iter().zip(&before);
                pairs.all(|(now, before)| now > *before)
            };
            client.until("list vcpus", "run_ms", have_run);
            client.done("stop web");
            client.done("stop db");
        });
    output.expect_exit(0);
    output.expect_no_exit_allocation();
}

#[test]
fn the_command_gives_commands_as_well() {
    let output = Run::described(&(MACHINE.to_owned() + &busy("web", 1, "")))
        .deadline(60)
        .start_and(|control| {
            let give = |arguments: &[&str]| {
                let mut command = Command::new(env!("CARGO_BIN_EXE_trapline"));
                let output = command
                    .arg("control")
                    .arg(control.path())
                    .args(arguments)
                    .output();
                let output = output.expect("it starts");
                let said = String::from_utf8_lossy(&output.stdout).into_owned();
                (output.status.code(), said)
            };
            assert_eq!(
                give(&["set", "weight", "web", "7"]),
                (Some(0), "ok\n".into())
            );
            let (status, said) = give(&["pause", "mail"]);
            assert_eq!(status, Some(1));
            assert!(said.starts_with("error: there is no VM \"mail\""), "{said}");
            let (status, said) = give(&["--json", "list", "pools"]);
            let reply: serde_json::Value = serde_json::from_str(&said).expect("JSON");
            assert_eq!((status, &reply["rows"][0][2]), (Some(0), &"fair".into()));
            let mut many = Command::new(env!("CARGO_BIN_EXE_trapline"));
            many.arg("control").arg(control.path());
            many.stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut many = many.spawn().expect("it starts");
            let mut lines = many.stdin.take().expect("a pipe");
            let commands = b"set priority web 9\n\nexplode\nset priority web 8";
            lines.write_all(commands).expect("it reads");
            drop(lines);
            let output = many.wait_with_output().expect("it ends");
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            let ends: Vec<&str> = said
                .lines()
                .filter(|line| !line.starts_with("policy"))
                .collect();
            assert_eq!((output.status.code(), ends.len()), (Some(1), 3), "{said}");
            assert!(ends[1].starts_with("error: there is no command"), "{said}");
            assert_eq!(give(&["stop", "web"]), (Some(0), "ok\n".into()));
        });
    output.expect_exit(0);
}

/// What it was promised counts, and not what there was when it started.
#[test]
fn a_guest_that_starts_while_its_pcpu_is_off_gets_it_when_that_is_back() {
    let guests =
        busy("web", 1, "affinity = \"0\"") + &busy("db", 1, "affinity = \"0-1\"\nstart = false");
    let output = Run::described(&(MACHINE.to_owned() + &guests))
        .deadline(120)
        .start_and(|control| {
            let mut client = control.connect();
            client.done("unplug 1");
            client.until("list pcpus", "state", |cells| cells[1] == "off");
            client.done("start db");
            client.until("list vcpus db", "pcpu", |cells| cells == ["0"]);
            client.done("plug 1");
            client.until("list vcpus db", "pcpu", |cells| cells == ["1"]);
            assert_eq!(client.column("list", "affinity"), ["0", "0-1"]);
            client.done("stop web");
            client.done("stop db");
        });
    output.expect_exit(0);
    output.expect_no_exit_allocation();
}

/// The others are perhaps still on their way then.
#[test]
fn a_pcpu_is_unplugged_as_soon_as_commands_are_taken() {
    let machine = MACHINE.replace("pcpus = 2", "pcpus = 8");
    let output = Run::described(&(machine + &busy("web", 8, "")))
        .deadline(120)
        .start_and(|control| {
            let mut client = control.connect();
            client.done("unplug 0");
            client.until("list pcpus", "state", |cells| cells[0] == "off");
            client.done("plug 0");
            client.until("list pcpus", "state", |cells| cells[0] == "busy");
            client.done("stop web");
        });
    output.expect_exit(0);
    output.expect_no_exit_allocation();
}
