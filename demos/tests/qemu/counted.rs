//! What an exit or a switch does not do, shown by counting.

use crate::harness::{Output, Run};

/// `vcpus` vCPUs on one pCPU make so many calls each, and have as many turns on any host.
fn call(calls: u64, vcpus: usize) -> Output {
    let run = Run::guest("test-guest").append(&format!("test=many-calls calls={calls}"));
    // The shortest slice there is, so that many switches happen.
    let run = run.vcpus(vcpus).pcpus(1).option("--slice", 50).icount();
    let output = run.start();
    output.expect_exit(0);
    output.expect_in_order(["TEST many-calls PASS"]);
    output.expect_no_exit_allocation();
    output
}

fn sum(values: Vec<u64>) -> u64 {
    values.iter().sum()
}

#[test]
fn a_call_touches_no_context_register_of_el1() {
    let [few, many] = [1_000, 100_000].map(|calls| call(calls, 1));
    let calls = [&few, &many].map(|output| sum(output.column("vcpus", "exits_call")));
    many.require(calls[1] - calls[0] >= 99_000, || {
        format!("calls: {calls:?}")
    });
    // Bound once, unbound once at its end: that takes as many registers however many calls lie between.
    let copied = [&few, &many].map(|output| output.counter("context_registers_vcpu0"));
    many.require(copied[0] == copied[1], || {
        format!("EL1 context registers copied: {copied:?}")
    });
}

#[test]
fn a_switch_without_floating_point_saves_none() {
    let output = call(120_000, 2);
    let switches = sum(output.column("vcpus", "switches"));
    output.require(switches > 1_000, || format!("only {switches} switches"));
    for vcpu in 0..2 {
        let copied = output.counter(&format!("context_registers_vcpu{vcpu}"));
        output.require(copied > switches, || {
            format!("vCPU {vcpu}: {copied} context registers were copied at {switches} switches")
        });
        let saves = output.counter(&format!("fp_saves_vcpu{vcpu}"));
        output.require(saves == 0, || format!("vCPU {vcpu}: {saves} FP saves"));
    }
}

#[test]
fn a_switch_with_floating_point_saves_it() {
    let run = Run::guest("test-guest").append("test=fp-switch");
    let output = run.vcpus(2).pcpus(1).start();
    output.expect_exit(0);
    for vcpu in 0..2 {
        let saves = output.counter(&format!("fp_saves_vcpu{vcpu}"));
        output.require(saves > 10, || format!("vCPU {vcpu}: {saves} FP saves"));
    }
}

/// EL1 context registers that are copied for a thousand switches between two vCPUs that wake each other.
fn copied_for_switches(policy: &str) -> u64 {
    let run = Run::guest("bench-guest").append("figures=switch").icount();
    let output = run.vcpus(2).pcpus(1).policy(policy).deadline(60).start();
    output.expect_exit(0);
    let switches = sum(output.column("vcpus", "switches"));
    output.require(switches > 400, || format!("only {switches} switches"));
    let copied = (0..2).map(|vcpu| output.counter(&format!("context_registers_vcpu{vcpu}")));
    copied.sum::<u64>() * 1000 / switches
}

#[test]
fn a_vcpu_that_loses_its_pcpu_to_itself_keeps_its_registers_in_it() {
    let [pinned, plain] = ["pinned", "round-robin"].map(copied_for_switches);
    assert!(
        pinned < plain + plain / 20,
        "{pinned} registers were copied for a thousand switches, under round-robin {plain}"
    );
}

/// What `bench-hypervisor` counts under `policy`: the scheduling of a switch, and the same with a bind that takes 1000 ticks.
fn scheduling(policy: &str) -> [u64; 2] {
    let run = Run::guest("bench-guest").hypervisor("bench-hypervisor");
    let run = run.vcpus(2).pcpus(1).policy(policy).icount();
    let output = run.deadline(60).start();
    output.expect_exit(0);
    ["scheduling", "scheduling_slow_bind"].map(|name| output.counter(name))
}

/// One bind in a switch is counted, and nothing twice; what round-robin does is a part of what fair does.
#[test]
fn the_scheduling_of_a_switch_is_counted_to_the_instruction() {
    let plain = scheduling("round-robin");
    let fair = scheduling("fair");
    for [ticks, slow] in [plain, fair] {
        assert!((1000..=1020).contains(&(slow - ticks)), "{ticks}, {slow}");
        assert!((500..3000).contains(&ticks), "{ticks}");
    }
    assert!(fair[0] > plain[0], "{fair:?} against {plain:?}");
    assert_eq!(plain, scheduling("round-robin"), "another run");
}
