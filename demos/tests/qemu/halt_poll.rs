//! Halt polling on the machine: what it saves, and that nothing is lost by it.

use std::cell::Cell;

use crate::harness::{Output, Run, is_full_tier, runs_long_tests};

/// For how long at most, in microseconds.
const LIMIT: u32 = 200;
/// SGIs to a vCPU in WFI that `bench-guest` sends for its figure, at least.
const SAMPLES: u64 = 50;

/// All vCPUs of the first guest together.
fn sum(output: &Output, what: &str) -> u64 {
    let vcpus = output.column("vcpus", "switches").len();
    let counters = (0..vcpus).map(|vcpu| output.counter(&format!("{what}_vcpu{vcpu}")));
    counters.sum()
}

/// The figures of SGIs and timers with two vCPUs on two pCPUs.
fn figures(limit: u32) -> Output {
    let run = Run::guest("bench-guest").append("figures=machine").icount();
    let run = run.vcpus(2).pcpus(2).option("--halt-poll", limit);
    let output = run.deadline(120).start();
    output.expect_exit(0);
    output.expect_in_order(["BENCH name=sgi_waiting", "BENCH END"]);
    output.expect_no_exit_allocation();
    output
}

fn kicks(output: &Output) -> u64 {
    output.column("pcpus", "kicks_received").into_iter().sum()
}

/// The instructions that `output` has for a figure.
fn instructions(output: &Output, name: &str) -> u64 {
    let start = format!("BENCH name={name} instructions=");
    let mut lines = output.console.lines();
    let value = lines.find_map(|line| line.trim().strip_prefix(start.as_str()));
    let value = value.and_then(|rest| rest.split(' ').next()?.parse().ok());
    value.expect("the guest says it")
}

#[test]
fn an_sgi_to_a_vcpu_that_is_polled_for_needs_no_kick() {
    let [without, with] = [0, LIMIT].map(figures);
    for what in ["halt_polls", "halt_polls_won", "halt_poll_ticks"] {
        without.require(sum(&without, what) == 0, || {
            format!("{what} without polling")
        });
    }
    let (polls, won) = (sum(&with, "halt_polls"), sum(&with, "halt_polls_won"));
    with.require(won <= polls && won >= 2 * SAMPLES - 10, || {
        format!("{won} of {polls} polls were won")
    });
    let kicks = [&without, &with].map(kicks);
    with.require(kicks[1] + SAMPLES - 5 <= kicks[0], || {
        format!("{kicks:?} kicks")
    });
    let figures = [&without, &with].map(|output| instructions(output, "sgi_waiting"));
    with.require(figures[1] < figures[0], || {
        format!("{figures:?} instructions for a round trip")
    });
}

/// The stress guest with all vCPUs polled for.
fn stress(vcpus: usize, pcpus: usize) -> Run {
    let run = Run::stress().vcpus(vcpus).pcpus(pcpus);
    run.option("--halt-poll", LIMIT).deadline(300)
}

#[track_caller]
fn expect_pass(output: &Output, vcpus: usize) {
    output.expect_exit(0);
    output.expect_in_order([&format!("STRESS PASS vcpus={vcpus}")]);
    output.expect_no_exit_allocation();
}

#[test]
fn polled_for_sixteen_vcpus_on_four_pcpus_lose_nothing() {
    let output = stress(16, 4).option("--seconds", 3).start();
    expect_pass(&output, 16);
    if runs_long_tests() {
        let counted = stress(16, 4).option("--seconds", 2).icount().start();
        expect_pass(&counted, 16);
        counted.require(sum(&counted, "halt_polls") > 0, || "nobody polls".into());
    }
}

#[test]
fn polled_for_vcpus_on_any_number_of_pcpus_lose_nothing() {
    if runs_long_tests() {
        let pcpus: &[usize] = if is_full_tier() {
            &[1, 2, 3, 4, 5, 6, 7, 8]
        } else {
            &[1, 2, 3, 8]
        };
        for &pcpus in pcpus {
            let output = stress(pcpus, pcpus).option("--seconds", 1).start();
            expect_pass(&output, pcpus);
            output.require(sum(&output, "halt_polls") > 0, || {
                format!("nobody polls on {pcpus} pCPUs")
            });
        }
        let gicv2 = stress(4, 4).option("--gic", 2).option("--seconds", 1);
        let output = gicv2.start();
        expect_pass(&output, 4);
        output.require(sum(&output, "halt_polls_won") > 0, || {
            "no poll is won".into()
        });
    }
}

#[test]
fn linux_is_polled_for() {
    let output = Run::linux()
        .vcpus(4)
        .pcpus(4)
        .option("--halt-poll", LIMIT)
        .deadline(300)
        .start();
    output.expect_exit(0);
    output.expect_in_order(["trapline: nproc=4", "trapline: workload ok"]);
    output.require(sum(&output, "halt_polls") > 0, || "nobody polls".into());
    output.expect_no_exit_allocation();
}

/// A guest that is polled for while somebody pauses it, changes for how long, and takes its pCPUs away.
#[test]
fn who_is_polled_for_can_be_paused_and_moved_and_told_otherwise() {
    let machine = "pcpus = 2
halt_poll_us = 1000
[[vm]]
name = \"polled\"
guest = \"stress\"
memory = \"64M\"
vcpus = 2
append = \"seconds=10\"
[[vm]]
name = \"plain\"
guest = \"test-guest\"
memory = \"16M\"
start = false
halt_poll_us = 0
append = \"test=hello\"
";
    let output = Run::described(machine).deadline(240).start_and(|control| {
        let mut client = control.connect();
        assert_eq!(client.column("list", "halt_poll_us"), ["1000", "0"]);
        let number = |cells: &[String]| cells[0].parse::<u64>().expect("a number");
        let won = |cells: &[String]| number(cells) > 20;
        client.until("list vcpus polled", "polls_won", won);
        for _ in 0..20 {
            client.done("pause polled");
            client.done("resume polled");
        }
        let is_on = |cells: &[String]| ["idle", "busy"].contains(&cells[1].as_str());
        for _ in 0..3 {
            client.done("unplug 1");
            client.until("list pcpus", "state", |cells| cells[1] == "off");
            client.done("plug 1");
            client.until("list pcpus", "state", is_on);
        }
        client.done("set halt-poll polled 0");
        assert_eq!(client.column("list", "halt_poll_us"), ["0", "0"]);
        // The window that a vCPU has is gone with its next wait.
        let last = Cell::new(0);
        client.until("list vcpus polled", "polls", |cells| {
            let polls = number(cells);
            last.replace(polls) == polls
        });
        client.done("set halt-poll polled/1 200");
        assert_eq!(client.column("list", "halt_poll_us"), ["mixed", "0"]);
    });
    output.expect_exit(0);
    output.expect_in_order(["STRESS PASS vcpus=2"]);
    output.expect_no_exit_allocation();
}
