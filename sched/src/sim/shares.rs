//! Who got how much, for the tests of policies that divide time.

use super::{Script, Setup, Simulation};
use crate::{Entitlement, Policy, VcpuId, Weight};
use alloc::{boxed::Box, vec::Vec};

pub(super) fn weight(weight: u16) -> Entitlement {
    Entitlement {
        weight: Weight::new(weight).expect("a good weight"),
        ..Entitlement::default()
    }
}

/// A machine without seed whose vCPUs may run anywhere.
pub(super) fn machine(
    pcpus: u16,
    policy: Box<dyn Policy>,
    guests: Vec<(Script, Entitlement)>,
) -> Simulation {
    let (scripts, entitlements) = guests.into_iter().unzip();
    Simulation::with_setup(Setup {
        pcpus,
        policy,
        scripts,
        affinities: Vec::new(),
        entitlements,
        seed: None,
    })
}

/// What each of the first `count` vCPUs got of one pCPU until `end`, in thousandths.
pub(super) fn shares_of(mut sim: Simulation, count: usize, end: u64) -> Vec<u64> {
    sim.run_until(end);
    let ids = (0..count as u16).map(VcpuId::new);
    ids.map(|id| sim.times(id).run * 1000 / end).collect()
}

#[track_caller]
pub(super) fn expect_shares(shares: &[u64], expected: &[u64], within: u64) {
    assert_eq!(shares.len(), expected.len());
    let is_good = shares
        .iter()
        .zip(expected)
        .all(|(a, b)| a.abs_diff(*b) <= within);
    assert!(
        is_good,
        "{shares:?} instead of {expected:?} within {within}"
    );
}
