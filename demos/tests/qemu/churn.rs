//! Handlers come and go while guests use them.

use crate::harness::Run;

#[test]
fn a_device_comes_and_goes_while_four_vcpus_read_it() {
    // No vCPU may use the fifth pCPU: it is the one that registers and removes.
    let run = Run::guest("test-guest")
        .hypervisor("test-hypervisor")
        .append("test=handler-churn")
        .vcpus(4)
        .pcpus(5)
        .affinity("0-3");
    let output = run.deadline(240).start();
    output.expect_exit(0);
    output.expect_in_order(["TEST handler-churn PASS"]);

    let counted = |name| output.counter(&format!("churn_{name}"));
    for (name, expected) in [
        ("registered", 10_000),
        ("dropped", 10_000),
        ("exit_frees", 0),
    ] {
        output.require(counted(name) == expected, || {
            format!("churn_{name} is {}, not {expected}", counted(name))
        });
    }
    let seen = |what| output.said("handler-churn", what);
    output.require(seen("answers") == counted("answers"), || {
        "the guest did not get the answers that were given".into()
    });
    output.require(seen("answers") > 1_000 && seen("aborts") > 1_000, || {
        "the device was not there and away in turn".into()
    });
    output.expect_no_exit_allocation();
}
