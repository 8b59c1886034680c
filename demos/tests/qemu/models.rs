//! The same promises on every model of a CPU that is ours to run on: what is hidden from guests stays hidden, what is switched is.

use std::sync::OnceLock;

use trapline_demos::host::setup::qemu::Qemu;

use crate::harness::{Run, is_full_tier, runs_long_tests};

/// Those that this QEMU has; it says which it has not.
fn models() -> &'static [&'static str] {
    static KNOWN: OnceLock<Vec<&str>> = OnceLock::new();
    KNOWN.get_or_init(|| {
        let qemu = Qemu::set_up().expect("QEMU is needed");
        let (known, unknown) = qemu.tested_models();
        assert!(known.contains(&"max"), "QEMU has at least this one");
        if !unknown.is_empty() {
            println!("skipped: this QEMU has no {}", unknown.join(", "));
        }
        known
    })
}

/// On all of them in the full tier; in the standard one on the oldest, one between and the richest, and in the quick one on that
/// alone.
fn on_each_model(test: impl Fn(&str)) {
    let is_standard = |model: &str| ["cortex-a53", "neoverse-n1"].contains(&model);
    let is_in_tier = |model: &&&str| {
        is_full_tier() || **model == "max" || runs_long_tests() && is_standard(model)
    };
    for model in models().iter().filter(is_in_tier) {
        println!("{model}");
        test(model);
    }
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
fn what_a_model_has_more_is_hidden() {
    on_each_model(|model| {
        pass_on(model, "hidden-features", 1, 1);
        pass_on(model, "undef-unknown", 1, 1);
        pass_on(model, "pmu", 1, 1);
    });
}

#[test]
fn keys_and_floating_point_registers_are_ones_own() {
    on_each_model(|model| {
        pass_on(model, "pauth", 4, 1);
        pass_on(model, "fp-switch", 3, 1);
    });
}

/// The richest one has all that is to be switched or hidden, and waits with a timeout.
#[test]
fn what_only_the_richest_model_has_is_hidden_or_ones_own() {
    pass_on("max", "timed-waits", 2, 1);
    pass_on("max", "own-registers", 2, 1);
}

#[test]
fn code_of_32_bits_runs_where_a_model_has_it() {
    on_each_model(|model| pass_on(model, "aarch32", 2, 1));
}

#[test]
fn undescribed_loads_and_stores_reach_devices() {
    on_each_model(|model| pass_on(model, "isv", 1, 1));
}

#[test]
fn a_guest_debugs_itself() {
    on_each_model(|model| {
        pass_on(model, "debug-registers", 1, 1);
        pass_on(model, "debug-step", 1, 1);
        pass_on(model, "debug-shared", 6, 2);
    });
}

#[test]
fn interrupts_and_timers_work() {
    if runs_long_tests() {
        on_each_model(|model| {
            for name in [
                "vgic-priority",
                "vgic-eoimode1-dir",
                "vgic-disable-active",
                "vgic-40-due",
                "timer-istatus",
                "unmapped",
            ] {
                pass_on(model, name, 1, 1);
            }
            pass_on(model, "vgic-active-read", 2, 2);
            pass_on(model, "psci", 4, 2);
        });
    }
}

#[test]
fn the_stress_guest_passes_on_each_model() {
    if runs_long_tests() {
        on_each_model(|model| {
            let run = Run::stress().cpu(model).vcpus(8).pcpus(4);
            let output = run.option("--seconds", 2).deadline(300).start();
            output.expect_exit(0);
            output.expect_in_order(["STRESS PASS vcpus=8"]);
        });
    }
}

#[test]
fn stock_linux_works_on_each_model() {
    if runs_long_tests() {
        on_each_model(|model| {
            let output = Run::linux()
                .cpu(model)
                .vcpus(4)
                .pcpus(2)
                .deadline(300)
                .start();
            output.expect_exit(0);
            output.expect_in_order(["trapline: nproc=4", "trapline: workload ok"]);
        });
    }
}
