//! What the hypervisor says when it fails itself.

use crate::harness::Run;

#[test]
fn a_hypervisor_that_fails_says_where_and_ends_with_status_3() {
    let run = Run::guest("test-guest")
        .hypervisor("test-hypervisor")
        .append("test=fail-hypervisor")
        .vcpus(3)
        .pcpus(2);
    let output = run.deadline(60).start();
    output.expect_exit(3);
    let report = &output.log;
    for expected in [
        "panic on pcpu",
        "rule: vcpu 0 asked for this failure",
        // The backtrace, by name.
        "break_a_rule",
        // The other pCPU, each vCPU, and what happened last.
        "pcpu1",
        "VcpuId(2)",
        "last events",
        "Switch",
    ] {
        output.require(report.contains(expected), || {
            format!("the report lacks {expected:?}")
        });
    }
}

/// Each pCPU has a page below its stack that nobody can write, and another stack to say so on.
#[test]
fn a_stack_that_overflows_is_named() {
    for pcpu in ["0", "1"] {
        let run = Run::guest("test-guest")
            .hypervisor("test-hypervisor")
            .append("test=overflow-hypervisor")
            .affinity(pcpu)
            .vcpus(1)
            .pcpus(2);
        let output = run.deadline(60).start();
        output.expect_exit(3);
        for expected in [
            &format!("stack overflow: FAR is in the guard page of pcpu{pcpu}"),
            "overflow_the_stack",
        ] {
            output.require(output.log.contains(expected), || {
                format!("the report lacks {expected:?}")
            });
        }
    }
}
