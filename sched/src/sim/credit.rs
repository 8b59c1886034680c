//! What the credit policy gives, on whole machines: shares by weight, and no more than caps allow.

use super::{
    Instruction::*,
    Script, Setup, Simulation,
    shares::{expect_shares, machine, shares_of, weight},
    short::busy,
};
use crate::{Entitlement, GroupId, PcpuSet, Policy, VcpuId, policies::Credit};
use alloc::{boxed::Box, vec, vec::Vec};

const SLICE: u64 = 100;
const PERIOD: u64 = 1000;
/// What capped vCPUs take at a time at most.
const QUANTUM: u64 = SLICE;

fn credit(pcpus: u16, vcpus: usize) -> Box<dyn Policy> {
    let pcpus = PcpuSet::all(pcpus);
    Box::new(Credit::new(SLICE, PERIOD, pcpus, vcpus as u16))
}

fn member(group: u16, cap: impl Into<Option<u32>>) -> Entitlement {
    Entitlement {
        group: GroupId::new(group),
        cap: cap.into(),
        ..Entitlement::default()
    }
}

fn shares(pcpus: u16, entitlements: &[Entitlement], end: u64) -> Vec<u64> {
    let guests = entitlements.iter().map(|&each| (busy(), each)).collect();
    let count = entitlements.len();
    shares_of(machine(pcpus, credit(pcpus, count), guests), count, end)
}

fn shares_by_weight(pcpus: u16, weights: &[u16], end: u64) -> Vec<u64> {
    let entitlements: Vec<_> = weights.iter().map(|&w| weight(w)).collect();
    shares(pcpus, &entitlements, end)
}

#[test]
fn equal_vcpus_share_pcpus_that_do_not_divide_by_them() {
    expect_shares(&shares_by_weight(2, &[1024; 3], 40_000), &[667; 3], 15);
    expect_shares(&shares_by_weight(4, &[1024; 5], 40_000), &[800; 5], 15);
    expect_shares(&shares_by_weight(3, &[1024; 7], 40_000), &[429; 7], 15);
}

#[test]
fn time_goes_by_weight() {
    let shares = |pcpus, weights: &[u16]| shares_by_weight(pcpus, weights, 70_000);
    expect_shares(&shares(1, &[1000, 2000, 4000]), &[143, 286, 571], 5);
    let four = shares(2, &[1000, 1000, 2000, 4000]);
    expect_shares(&four, &[250, 250, 500, 1000], 15);
    expect_shares(&shares_by_weight(1, &[1, 10_000], 5_000_000), &[0, 1000], 1);
}

#[test]
fn a_weight_that_asks_for_more_than_a_pcpu_leaves_the_rest_to_the_others() {
    let shares = |weights: &[u16]| shares_by_weight(2, weights, 40_000);
    expect_shares(&shares(&[10_000, 1000, 1000]), &[1000, 500, 500], 10);
    let four = shares(&[10_000, 100, 100, 100]);
    expect_shares(&four, &[1000, 333, 333, 333], 10);
}

#[test]
fn what_a_vcpu_with_a_whole_pcpu_was_entitled_to_beyond_it_is_not_saved_up() {
    let weights = [10_000, 100, 100];
    let guests = weights.map(|each| (busy(), weight(each)));
    let mut sim = machine(2, credit(2, 3), guests.into());
    sim.run_until(40_000);
    let run = |sim: &Simulation| [0, 1, 2].map(|index| sim.times(VcpuId::new(index)).run);
    let before = run(&sim);
    sim.handle(VcpuId::new(0))
        .set_entitlement(&weight(100))
        .unwrap();
    sim.run_until(60_000);
    let after = run(&sim);
    let shares = [0, 1, 2].map(|index: usize| (after[index] - before[index]) / 20);
    expect_shares(&shares, &[667; 3], 20);
}

#[test]
fn a_sleeper_gains_nothing() {
    let sleeper = Script::forever([Compute(99), WaitFor(399)]);
    let guests = [sleeper, busy(), busy()].map(|script| (script, weight(1024)));
    let mut sim = machine(1, credit(1, 3), guests.into());
    sim.run_until(100_000);
    let run = |index| sim.times(VcpuId::new(index)).run;
    assert!(run(0) <= 21_000, "it ran {}", run(0));
    assert!(run(1).abs_diff(run(2)) <= 5 * SLICE);
    // After a long sleep it has the credit of one reset, and not all that it did not use.
    let late = Script::forever([WaitFor(50_000), Compute(1_000_000)]);
    let guests = [late, busy()].map(|script| (script, weight(1024)));
    let mut sim = machine(1, credit(1, 2), guests.into());
    sim.run_until(60_000);
    let run = sim.times(VcpuId::new(0)).run;
    assert!(run <= 5000 + 5 * SLICE, "it ran {run} of the last 10,000");
    assert!(run >= 5000 - SLICE, "it ran {run} of the last 10,000");
}

#[test]
fn a_cap_holds_on_an_idle_machine() {
    for pcpus in 1..=4 {
        expect_shares(&shares(pcpus, &[member(0, 50)], 50_000), &[500], 15);
        expect_shares(&shares(pcpus, &[member(0, 7)], 50_000), &[70], 3);
        // All vCPUs of a VM share its cap.
        for cap in [50, 100, 150] {
            if cap <= 100 * u32::from(pcpus) {
                let all = shares(pcpus, &[member(0, cap); 4], 50_000);
                expect_shares(&[all.iter().sum()], &[u64::from(cap) * 10], 30);
            }
        }
    }
}

#[test]
fn a_cap_holds_on_a_busy_machine_and_the_others_get_the_rest_by_weight() {
    for pcpus in 1..=4_u16 {
        let others = [1, 2, 1, 2].map(|times| weight(1000 * times));
        let mut entitlements: Vec<_> = others.into();
        for index in 0..usize::from(pcpus) {
            // Uncapped it would get more than that; each on its own, the others are in VM 0.
            entitlements.push(Entitlement {
                weight: crate::Weight::new(10_000).unwrap(),
                ..member(1 + index as u16, 20)
            });
        }
        let shares = shares(pcpus, &entitlements, 100_000);
        let rest = 800 * u64::from(pcpus);
        let expected = |part: u64| (rest * part / 6).min(1000);
        expect_shares(&shares[4..], &vec![200; usize::from(pcpus)], 6);
        if pcpus <= 3 {
            let light_and_heavy = [expected(1), expected(2), expected(1), expected(2)];
            expect_shares(&shares[..4], &light_and_heavy, 24);
        }
        assert!(shares.iter().sum::<u64>() >= 999 * u64::from(pcpus) - 20);
    }
}

#[test]
fn a_cap_that_is_set_changed_and_lifted_counts_from_the_next_period_on() {
    let guests = vec![(busy(), member(0, None)), (busy(), member(1, None))];
    let mut sim = machine(2, credit(2, 2), guests);
    let mut before = 0;
    for (end, cap, expected) in [
        (10, None, 10_000),
        (20, Some(30), 3000),
        (30, Some(60), 6000),
        (40, None, 10_000),
    ] {
        let first = sim.handle(VcpuId::new(0));
        first.set_entitlement(&member(0, cap)).unwrap();
        sim.run_until(end * PERIOD);
        let run = sim.times(VcpuId::new(0)).run;
        assert!(
            (run - before).abs_diff(expected) <= PERIOD * 3 / 10,
            "{cap:?}: {run}"
        );
        before = run;
        assert_eq!(sim.times(VcpuId::new(1)).run, end * PERIOD);
    }
}

#[test]
fn others_slices_do_not_cost_a_capped_vcpu_its_budget() {
    let entitlements = [member(0, None), member(1, 30)];
    expect_shares(&shares(1, &entitlements, 100_000), &[700, 300], 9);
    // The other's slices are longer than periods; a few of them come before the capped one is so far behind.
    let long = Credit::new(5 * PERIOD, PERIOD, PcpuSet::all(1), 2);
    let guests = entitlements.map(|each| (busy(), each));
    let sim = machine(1, Box::new(long), guests.into());
    expect_shares(&shares_of(sim, 2, 400_000), &[700, 300], 9);
}

/// What all vCPUs together ran in each period, from the trace.
fn run_by_period(sim: &Simulation, vcpus: core::ops::Range<u16>, periods: u64) -> Vec<u64> {
    let mut run = vec![0; periods as usize];
    for stretch in sim.stretches() {
        let is_counted = vcpus.contains(&(stretch.vcpu.index() as u16));
        let ticks = stretch.start..stretch.start + stretch.duration;
        for period in ticks.start / PERIOD..=(ticks.end - 1) / PERIOD {
            let begin = ticks.start.max(period * PERIOD);
            let end = ticks.end.min((period + 1) * PERIOD);
            if is_counted && period < periods {
                run[period as usize] += end - begin;
            }
        }
    }
    run
}

#[test]
fn no_period_has_more_than_its_budget_and_what_is_unused_is_lost() {
    // Two sleep through many periods, and then want all; two more always do.
    let late = |ticks| Script::forever([WaitFor(ticks), Compute(3100)]);
    let scripts = [busy(), late(5300), late(7100), busy()];
    for pcpus in 2..=4 {
        let guests = scripts.clone().map(|script| (script, member(0, 150)));
        let mut sim = machine(pcpus, credit(pcpus, 4), guests.into());
        sim.run_until(100 * PERIOD);
        let run = run_by_period(&sim, 0..4, 100);
        assert!(run.iter().all(|&run| run <= 1500), "{run:?}");
        assert!(
            run.iter()
                .all(|&run| run >= 1500 - u64::from(pcpus) * QUANTUM)
        );
    }
    // One that sleeps in between gets what it does not save up.
    let guests = vec![(late(4500), member(0, 50))];
    let mut sim = machine(1, credit(1, 1), guests);
    sim.run_until(50 * PERIOD);
    let run = run_by_period(&sim, 0..1, 50);
    assert!(run.iter().all(|&run| run <= 500), "{run:?}");
    assert!(run.contains(&500), "{run:?}");
}

#[test]
fn one_that_is_yielded_to_stays_within_its_cap() {
    let generous = Script::forever([Compute(1), Yield(Some(VcpuId::new(1)))]);
    let guests = vec![(generous, member(0, None)), (busy(), member(1, 30))];
    let mut sim = machine(1, credit(1, 2), guests);
    sim.run_until(50 * PERIOD);
    let run = run_by_period(&sim, 1..2, 50);
    assert!(run.iter().all(|&run| run == 300), "{run:?}");
}

#[test]
fn vcpus_that_come_and_go_stay_within_the_cap() {
    let script = |ticks| Script::forever([Compute(ticks), WaitFor(3 * ticks), Yield(None)]);
    for seed in 0..40 {
        let guests = (0..6).map(|index| script(5 + (seed + 7 * index) % 60));
        let caps = [120, 120, 120, 30, 30, 30];
        let entitlement = |index: usize| member(index as u16 / 3, caps[index]);
        let mut sim = Simulation::with_setup(Setup {
            pcpus: 3,
            policy: credit(3, 6),
            scripts: guests.collect(),
            affinities: Vec::new(),
            entitlements: (0..6).map(entitlement).collect(),
            seed: Some(seed),
        });
        sim.run_until(20 * PERIOD);
        let (first, second) = (run_by_period(&sim, 0..3, 20), run_by_period(&sim, 3..6, 20));
        assert!(
            first.iter().all(|&run| run <= 1200),
            "seed {seed}: {first:?}"
        );
        assert!(
            second.iter().all(|&run| run <= 300),
            "seed {seed}: {second:?}"
        );
        assert!(
            second.iter().sum::<u64>() >= 20 * 270,
            "seed {seed}: {second:?}"
        );
    }
}
