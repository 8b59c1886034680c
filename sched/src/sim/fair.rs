//! What the fair policy gives, on whole machines.

use super::{
    Instruction::*,
    Script, Setup, Simulation,
    shares::{expect_shares, shares_of, weight},
    short::busy,
};
use crate::{Entitlement, PcpuSet, Policy, VcpuId, policies::Fair};
use alloc::{boxed::Box, vec::Vec};

const SLICE: u64 = 100;

fn fair(vcpus: usize) -> Box<dyn Policy> {
    Box::new(Fair::with_slice(SLICE, vcpus as u16))
}

fn machine(pcpus: u16, guests: Vec<(Script, Entitlement)>) -> Simulation {
    super::shares::machine(pcpus, fair(guests.len()), guests)
}

/// What each of `weights`, always busy, got of one pCPU until `end`, in thousandths.
fn shares(pcpus: u16, weights: &[u16], end: u64) -> Vec<u64> {
    let guests = weights.iter().map(|&w| (busy(), weight(w))).collect();
    shares_of(machine(pcpus, guests), weights.len(), end)
}

#[test]
fn equal_vcpus_share_pcpus_that_do_not_divide_by_them() {
    expect_shares(&shares(2, &[1024; 3], 40_000), &[667; 3], 15);
    expect_shares(&shares(4, &[1024; 5], 40_000), &[800; 5], 15);
    expect_shares(&shares(3, &[1024; 7], 40_000), &[429; 7], 15);
}

#[test]
fn time_goes_by_weight() {
    expect_shares(&shares(1, &[1000, 2000, 4000], 70_000), &[143, 286, 571], 5);
    expect_shares(
        &shares(2, &[1000, 1000, 2000, 4000], 70_000),
        &[250, 250, 500, 1000],
        15,
    );
    expect_shares(&shares(1, &[1, 10_000], 5_000_000), &[0, 1000], 1);
}

#[test]
fn a_weight_that_asks_for_more_than_a_pcpu_leaves_the_rest_to_the_others() {
    expect_shares(
        &shares(2, &[10_000, 1000, 1000], 40_000),
        &[1000, 500, 500],
        10,
    );
    expect_shares(
        &shares(2, &[10_000, 100, 100, 100], 40_000),
        &[1000, 333, 333, 333],
        10,
    );
    expect_shares(
        &shares(3, &[9000, 9000, 10, 20], 60_000),
        &[1000, 1000, 333, 667],
        20,
    );
}

#[test]
fn a_sleeper_gains_nothing() {
    // It sleeps for longer than it runs, and would need a fifth of the pCPU; the others share the rest alike.
    let sleeper = Script::forever([Compute(99), WaitFor(399)]);
    let guests = [sleeper, busy(), busy()].map(|script| (script, weight(1024)));
    let mut sim = machine(1, guests.into());
    sim.run_until(100_000);
    let run = |index| sim.times(VcpuId::new(index)).run;
    assert!(run(0) <= 21_000, "it ran {}", run(0));
    assert!(
        run(1).abs_diff(run(2)) <= 2 * SLICE,
        "{} and {}",
        run(1),
        run(2)
    );
    // After a long sleep it does not get what it did not use.
    let late = Script::forever([WaitFor(50_000), Compute(1_000_000)]);
    let guests = [late, busy()].map(|script| (script, weight(1024)));
    let mut sim = machine(1, guests.into());
    sim.run_until(60_000);
    let run = sim.times(VcpuId::new(0)).run;
    assert!(run <= 5000 + 3 * SLICE, "it ran {run} of the last 10,000");
}

/// How long vCPU 4, which does what `script` says with slices of `slice`, was ready without running and ran, beside four busy ones.
fn beside_four_busy(script: Script, slice: u64) -> (u64, u64) {
    let own = Entitlement {
        slice: Some(slice),
        ..Entitlement::default()
    };
    let mut guests: Vec<_> = (0..4).map(|_| (busy(), Entitlement::default())).collect();
    guests.push((script, own));
    let mut sim = machine(1, guests);
    sim.run_until(100_000);
    let times = sim.times(VcpuId::new(4));
    (times.ready, times.run)
}

#[test]
fn a_short_slice_wakes_sooner_for_the_same_share() {
    // It wants a twentieth, and is entitled to a fifth.
    let wait = |slice| beside_four_busy(Script::forever([Compute(9), WaitFor(190)]), slice).0;
    let (long, short) = (wait(SLICE), wait(SLICE / 10));
    assert!(short * 5 < long, "{short} against {long}");
    // It wants more than that: it has a fifth, however long its slice is.
    for slice in [SLICE, SLICE / 10] {
        let run = beside_four_busy(busy(), slice).1;
        assert!(run.abs_diff(20_000) <= 2 * SLICE, "it ran {run}");
    }
}

#[test]
fn vcpus_that_may_not_move_do_not_hold_up_the_others() {
    let entitlements = Vec::new();
    let mut sim = Simulation::with_setup(Setup {
        pcpus: 2,
        policy: fair(4),
        scripts: (0..4).map(|_| busy()).collect(),
        affinities: [0b01, 0b10, 0b10, 0b11].map(PcpuSet::from_bits).into(),
        entitlements,
        seed: None,
    });
    sim.run_until(40_000);
    let run = |index| sim.times(VcpuId::new(index)).run;
    // Two on each pCPU.
    for index in 0..4 {
        assert!(
            run(index).abs_diff(20_000) <= 1000,
            "vcpu{index}: {}",
            run(index)
        );
    }
}
