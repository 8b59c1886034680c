//! The same promises on a CPU with everything that QEMU models: what is hidden from guests stays hidden, what is switched is.

use crate::harness::{Run, is_full_tier};

#[track_caller]
fn pass_on_max(name: &str, vcpus: usize, pcpus: usize) {
    pass_on("max", name, vcpus, pcpus);
}

#[track_caller]
fn pass_on(model: &str, name: &str, vcpus: usize, pcpus: usize) {
    let run = Run::guest("test-guest").cpu(model);
    let run = run.append(&format!("test={name} strict=1"));
    let output = run.vcpus(vcpus).pcpus(pcpus).deadline(60).start();
    output.expect_exit(0);
    output.expect_in_order([&format!("TEST {name} PASS")]);
    output.expect_absent("FAIL");
}

#[test]
fn what_the_max_model_has_more_is_hidden() {
    pass_on_max("hidden-features", 1, 1);
    pass_on_max("undef-unknown", 1, 1);
}

#[test]
fn keys_and_floating_point_registers_are_ones_own_on_the_max_model() {
    pass_on_max("pauth", 4, 1);
    pass_on_max("fp-switch", 3, 1);
}

#[test]
fn undescribed_loads_and_stores_reach_devices_on_other_models() {
    pass_on("cortex-a53", "isv", 1, 1);
    pass_on("max", "isv", 1, 1);
}

#[test]
fn interrupts_and_timers_work_on_the_max_model() {
    if is_full_tier() {
        for name in [
            "vgic-priority",
            "vgic-eoimode1-dir",
            "vgic-disable-active",
            "vgic-40-due",
            "timer-istatus",
        ] {
            pass_on_max(name, 1, 1);
        }
        pass_on_max("vgic-active-read", 2, 2);
        pass_on_max("psci", 4, 2);
    }
}

#[test]
fn the_stress_guest_passes_on_the_max_model() {
    if is_full_tier() {
        let run = Run::stress()
            .cpu("max")
            .vcpus(8)
            .pcpus(4)
            .option("--seconds", 2);
        let output = run.deadline(300).start();
        output.expect_exit(0);
        output.expect_in_order(["STRESS PASS vcpus=8"]);
    }
}
