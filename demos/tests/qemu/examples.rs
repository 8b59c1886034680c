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
