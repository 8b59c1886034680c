//! The test guest: one promise of the machine at a time. QEMU itself is asked first, where it can be.

use crate::harness::{Output, Run, is_full_tier};

/// The test's name, and how many vCPUs and pCPUs it wants.
type Test = (&'static str, usize, usize);

/// Tests that pass on bare QEMU too.
const TESTS: &[Test] = &[
    ("vgic-priority", 1, 1),
    ("vgic-pmr", 1, 1),
    ("vgic-eoimode1-dir", 1, 1),
    ("vgic-disable-active", 1, 1),
    ("vgic-level-lowered", 1, 1),
    ("vgic-level-resample", 1, 1),
    ("vgic-40-due", 1, 1),
    ("vgic-active-read", 2, 2),
    ("vgic-retarget", 2, 2),
    ("sgi-all", 4, 2),
    ("timer-istatus", 1, 1),
    ("timer-imask", 1, 1),
    ("undef-unknown", 1, 1),
    ("hidden-features", 1, 1),
    ("unknown-calls", 1, 1),
    ("unmapped", 1, 1),
    ("psci", 4, 2),
    ("fp-switch", 2, 1),
    ("pauth", 1, 1),
];

#[track_caller]
fn expect_pass(output: &Output, name: &str) {
    output.expect_exit(0);
    output.expect_in_order([&format!("TEST {name} PASS")]);
    output.expect_absent("FAIL");
}

fn run(name: &str, vcpus: usize) -> Run {
    Run::guest("test-guest")
        .append(&format!("test={name}"))
        .vcpus(vcpus)
        .deadline(60)
}

#[test]
fn the_guests_tests_pass_on_bare_qemu() {
    if is_full_tier() {
        for &(name, vcpus, _) in TESTS {
            expect_pass(&run(name, vcpus).bare().start(), name);
        }
    }
}

#[test]
fn the_guests_tests_pass_under_trapline() {
    for &(name, vcpus, pcpus) in TESTS {
        expect_pass(&run(name, vcpus).pcpus(pcpus).start(), name);
    }
}
