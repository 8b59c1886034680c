//! The stress guest: nothing lost, doubled or damaged.

use crate::harness::{Run, is_full_tier};

#[test]
fn sixteen_vcpus_on_four_pcpus_lose_nothing() {
    let seeds: &[u64] = if is_full_tier() { &[1, 2] } else { &[1] };
    for seed in seeds {
        let run = Run::stress()
            .vcpus(16)
            .pcpus(4)
            .option("--seconds", 5)
            .option("--seed", seed);
        let output = run.deadline(300).start();
        output.expect_exit(0);
        output.expect_in_order(["STRESS PASS vcpus=16"]);
    }
}

/// More pCPUs than the host has: each of them is often away for longer than the guest expects. From the 17th on they have
/// another affinity at level 1.
#[test]
fn many_vcpus_on_many_pcpus_lose_nothing() {
    if is_full_tier() {
        for (vcpus, pcpus) in [(32, 16), (40, 17), (64, 32), (64, 48), (64, 64)] {
            let run = Run::stress().vcpus(vcpus).pcpus(pcpus);
            let output = run.option("--seconds", 1).deadline(300).start();
            output.expect_exit(0);
            output.expect_in_order([&format!("STRESS PASS vcpus={vcpus}")]);
        }
    }
}

#[test]
fn counting_instructions_many_pcpus_lose_nothing() {
    if is_full_tier() {
        let run = Run::stress().vcpus(48).pcpus(33).icount();
        let output = run.option("--seconds", 1).deadline(300).start();
        output.expect_exit(0);
        output.expect_in_order(["STRESS PASS vcpus=48"]);
    }
}

#[test]
fn the_stress_guest_passes_on_bare_qemu() {
    let output = Run::stress()
        .vcpus(4)
        .bare()
        .option("--seconds", 2)
        .deadline(120)
        .start();
    output.expect_exit(0);
    output.expect_in_order(["STRESS PASS"]);
}
