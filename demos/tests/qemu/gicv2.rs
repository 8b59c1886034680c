//! GICv2, of the machine and of its guests: what only that has, and what must be the same.

use crate::{
    guests::expect_pass,
    harness::{Run, runs_long_tests},
};

/// QEMU itself is asked first.
#[track_caller]
fn expect_pass_on_both(name: &str, vcpus: usize, pcpus: usize) {
    let guest = || Run::guest("test-guest").vcpus(vcpus).option("--gic", 2);
    if runs_long_tests() {
        expect_pass(guest().bare(), name, "");
    }
    expect_pass(guest().pcpus(pcpus), name, "strict=1");
}

#[test]
fn each_senders_sgi_is_an_interrupt() {
    expect_pass_on_both("vgic2-sgi-sources", 4, 2);
}

#[test]
fn an_interrupt_for_a_set_of_cpus_is_taken_once() {
    expect_pass_on_both("vgic2-targets", 4, 2);
}

/// On the way of every guest: deactivation that traps, a line that stays high at the end, the state of another CPU.
#[test]
fn interrupts_end_as_they_should() {
    expect_pass_on_both("vgic-eoimode1-dir", 1, 1);
    expect_pass_on_both("vgic-level-resample", 1, 1);
    expect_pass_on_both("vgic-active-read", 2, 2);
}

#[test]
fn what_gicv3_does_gicv2_does() {
    if runs_long_tests() {
        for (name, vcpus, pcpus) in [
            ("vgic2-sgi-filters", 4, 2),
            ("sgi-all", 8, 3),
            ("vgic-40-due", 2, 2),
            ("vgic-group0", 1, 1),
            ("vgic-retarget", 2, 2),
        ] {
            expect_pass_on_both(name, vcpus, pcpus);
        }
    }
}

#[test]
fn linux_uses_eight_vcpus() {
    let places: &[usize] = if runs_long_tests() { &[4, 1] } else { &[4] };
    for pcpus in places {
        let linux = Run::linux().vcpus(8).pcpus(*pcpus).option("--gic", 2);
        let output = linux.deadline(300).start();
        output.expect_exit(0);
        output.expect_in_order(["trapline: nproc=8", "trapline: workload ok"]);
        output.expect_no_exit_allocation();
    }
}

#[test]
fn eight_vcpus_lose_nothing() {
    if runs_long_tests() {
        for (pcpus, seed) in [(4, 1), (8, 2)] {
            let run = Run::stress().vcpus(8).pcpus(pcpus).option("--gic", 2);
            let run = run.option("--seconds", 2).option("--seed", seed);
            let output = run.deadline(300).start();
            output.expect_exit(0);
            output.expect_in_order(["STRESS PASS vcpus=8"]);
        }
    }
}
