//! That another weight counts at once, also for those that are ready, where time goes by weight.

use super::{
    Simulation,
    shares::{expect_shares, machine, weight},
    short::busy,
};
use crate::{
    PcpuSet, Policy, VcpuId,
    policies::{Credit, Fair},
};
use alloc::{boxed::Box, vec, vec::Vec};

const SLICE: u64 = 100;

fn policies() -> [Box<dyn Policy>; 2] {
    [
        Box::new(Fair::with_slice(SLICE, 3)),
        Box::new(Credit::new(SLICE, 1000, PcpuSet::all(1), 3)),
    ]
}

fn run_times(sim: &Simulation, count: u16) -> Vec<u64> {
    let ids = (0..count).map(VcpuId::new);
    ids.map(|id| sim.times(id).run).collect()
}

/// What each got from `start` on until `end`, in thousandths.
fn shares_since(sim: &mut Simulation, count: u16, start: u64, end: u64) -> Vec<u64> {
    sim.run_until(start);
    let before = run_times(sim, count);
    sim.run_until(end);
    let both = run_times(sim, count).into_iter().zip(before);
    both.map(|(after, before)| (after - before) * 1000 / (end - start))
        .collect()
}

#[test]
fn a_light_one_that_has_had_its_slice_is_soon_due_again_once_it_is_heavy() {
    for policy in policies() {
        let guests = vec![(busy(), weight(10_000)), (busy(), weight(1))];
        let mut sim = machine(1, policy, guests);
        // It has had a slice, ten thousand of which the other one has now before it.
        while sim.times(VcpuId::new(1)).run < SLICE {
            let now = run_times(&sim, 2).iter().sum::<u64>();
            sim.run_until(now + 1);
        }
        let now = run_times(&sim, 2).iter().sum::<u64>();
        let light = sim.handle(VcpuId::new(1));
        light.set_entitlement(&weight(10_000)).unwrap();
        // As long as a heavy one can use what a reset gives it.
        let shares = shares_since(&mut sim, 2, now + 50 * SLICE, now + 250 * SLICE);
        expect_shares(&shares, &[500; 2], 30);
    }
}

#[test]
fn a_heavy_one_that_waits_has_no_more_than_its_slice_left_once_it_is_light() {
    for policy in policies() {
        let guests = vec![(busy(), weight(1000)); 3];
        let mut sim = machine(1, policy, guests);
        sim.run_until(50 * SLICE);
        let heavy = sim.handle(VcpuId::new(2));
        heavy.set_entitlement(&weight(10)).unwrap();
        let shares = shares_since(&mut sim, 3, 60 * SLICE, 260 * SLICE);
        expect_shares(&shares, &[497, 497, 5], 30);
    }
}
