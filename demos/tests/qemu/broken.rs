//! Policies that break their promise: round-robin takes over pool by pool, each failure is said, and the guests notice nothing.

use crate::harness::{Output, Run};

/// How often broken policies take over.
const ROUNDS: usize = 4;

/// Two pools, each with a guest that checks itself; the one in the first pool is beside the one that breaks the policies.
fn machine() -> String {
    let stress = "guest = \"stress\"\nmemory = \"64M\"\nvcpus = 4\nappend = \"seconds=1\"";
    format!(
        "pcpus = 4

[[pool]]
name = \"upper\"
pcpus = \"2-3\"

[[vm]]
name = \"driver\"
guest = \"test-guest\"
memory = \"16M\"
append = \"test=break-policies rounds={ROUNDS} seconds=600\"

[[vm]]
name = \"a\"
{stress}

[[vm]]
name = \"b\"
pool = \"upper\"
{stress}
"
    )
}

/// It is said once for each round that `policy` of `pool` broke its promise, and by how much.
#[track_caller]
fn expect_said(output: &Output, policy: &str, pool: &str) {
    let begin = format!("policy {policy} of {pool} let vcpu");
    let end = "and promised at most 20000 us: round-robin takes over";
    let lines = output.log.lines();
    let said = lines.filter(|line| line.contains(&begin) && line.ends_with(end));
    let count = said.count();
    output.require(count == ROUNDS, || {
        format!("{policy} is said to have failed {count} times of {ROUNDS}")
    });
}

#[test]
fn round_robin_takes_over_from_policies_that_break_their_promise() {
    let run = Run::described(&machine()).hypervisor("test-hypervisor");
    let output = run.icount().deadline(240).start_and(|control| {
        let failed = [
            "round-robin(starving-failed)",
            "round-robin(absent-minded-failed)",
        ];
        let mut client = control.connect();
        client.until("list pools", "policy", |cells| cells == failed);
    });
    output.expect_exit(0);
    let passes = output.console.matches("STRESS PASS vcpus=4").count();
    output.require(passes == 2, || format!("{passes} guests of 2 have passed"));
    output.expect_in_order(["TEST break-policies PASS"]);
    output.expect_no_exit_allocation();
    expect_said(&output, "starving", "pool0");
    expect_said(&output, "absent-minded", "pool1");
}
