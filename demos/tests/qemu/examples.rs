//! The examples of how Trapline is embedded do what they show.

use crate::harness::Run;

#[track_caller]
fn expect_doorbell(vcpus: usize, pcpus: usize, counted: &str) {
    let output = Run::guest("example-guest")
        .hypervisor("example-device")
        .vcpus(vcpus)
        .pcpus(pcpus)
        .append(&format!("pcpus={pcpus}"))
        .deadline(60)
        .start();
    output.expect_exit(0);
    output.expect_in_order([counted]);
    output.expect_absent("FAIL");
}

#[test]
fn a_device_of_ones_own_interrupts_moves_and_wakes() {
    expect_doorbell(4, 4, "EXAMPLE PASS moves=8 wakes=3");
}

#[test]
fn a_device_of_ones_own_works_on_shared_pcpus() {
    expect_doorbell(4, 2, "EXAMPLE PASS moves=4 wakes=3");
}

#[track_caller]
fn expect_foreign_loop(vcpus: usize, pcpus: usize, cpu: &str) {
    let output = Run::guest("stress-guest")
        .hypervisor("example-loop")
        .vcpus(vcpus)
        .pcpus(pcpus)
        .cpu(cpu)
        .append("seconds=4")
        .deadline(120)
        .start();
    output.expect_exit(0);
    output.expect_in_order([&format!("STRESS PASS vcpus={vcpus}")]);
    for pcpu in 0..pcpus {
        for what in ["round_trips", "beats", "host_vector"] {
            let count = output.counter(&format!("{what}_pcpu{pcpu}"));
            output.require(count >= 100, || {
                format!("{count} {what} on pCPU {pcpu} are too few")
            });
        }
    }
}

/// The image ends with status 3 at the first register that is not what the host had.
#[test]
fn a_host_with_a_loop_of_its_own_gets_its_hardware_back() {
    expect_foreign_loop(8, 4, "cortex-a72");
}

/// Nobody else can run the vCPUs while the one pCPU is drained.
#[test]
fn a_host_with_one_pcpu_gets_its_hardware_back() {
    expect_foreign_loop(4, 1, "max");
}
