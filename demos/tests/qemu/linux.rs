//! Debian's stock Linux with more vCPUs than pCPUs.

use crate::harness::{Output, Run, runs_long_tests, stock_guest};

/// Linux saw `vcpus` CPUs, used them all, and powered off.
#[track_caller]
fn expect_workload(output: &Output, vcpus: usize) {
    output.expect_exit(0);
    output.expect_in_order([&format!("trapline: nproc={vcpus}"), "trapline: workload ok"]);
    let run = output.column("vcpus", "run_ticks");
    output.require(
        run.len() == vcpus && run.iter().all(|ticks| *ticks > 0),
        || format!("not every vCPU ran: {run:?}"),
    );
    output.expect_no_exit_allocation();
}

fn migrations(output: &Output) -> u64 {
    [
        "migrations_loaded",
        "migrations_queued",
        "migrations_parked",
    ]
    .iter()
    .flat_map(|field| output.column("vcpus", field))
    .sum()
}

#[test]
fn linux_uses_eight_vcpus_on_four_pcpus() {
    let output = Run::linux().vcpus(8).pcpus(4).deadline(240).start();
    expect_workload(&output, 8);
    output.require(migrations(&output) > 0, || "no vCPU ever moved".into());
}

#[test]
fn linux_uses_eight_vcpus_on_one_pcpu() {
    if runs_long_tests() {
        expect_workload(&Run::linux().vcpus(8).pcpus(1).deadline(300).start(), 8);
    }
}

#[test]
fn linux_runs_on_the_max_model_too() {
    if runs_long_tests() {
        expect_workload(
            &Run::linux()
                .cpu("max")
                .vcpus(4)
                .pcpus(2)
                .deadline(300)
                .start(),
            4,
        );
    }
}

#[test]
fn linux_itself_does_its_workload_on_bare_qemu() {
    let output = Run::linux().vcpus(4).bare().deadline(120).start();
    output.expect_exit(0);
    output.expect_in_order(["trapline: nproc=4", "trapline: workload ok"]);
}

#[test]
fn linux_stays_where_it_is_pinned() {
    let run = Run::linux()
        .vcpus(4)
        .pcpus(4)
        .policy("pinned")
        .affinity("0:1:2:3");
    let output = run.deadline(240).start();
    expect_workload(&output, 4);
    output.require(migrations(&output) == 0, || "a pinned vCPU moved".into());
}

#[test]
fn a_shell_takes_what_is_typed() {
    let guest = stock_guest();
    let run = Run::kernel(&guest.kernel).option("--initrd", guest.initrd.display());
    let output = run
        .type_after("# ", "expr 6 \\* 7\n")
        .type_after("42", "poweroff\n")
        .deadline(240)
        .start();
    output.expect_exit(0);
    output.expect_in_order(["42", "Power down"]);
}

#[test]
fn a_kernel_that_panics_is_a_guest_that_failed() {
    let guest = stock_guest();
    let run = Run::kernel(&guest.kernel).append("panic=-1").deadline(240);
    let output = run.vcpus(1).pcpus(1).start();
    output.expect_exit(1);
    output.expect_in_order(["Kernel panic"]);
}
