//! Machines by chance, a seed each: no rule breaks, and afterwards everybody who can run does.

use super::{Instruction::*, Outside, Script, Setup, Simulation, hostile::Hostile, short::pcpu};
use crate::{
    BlockReason, Entitlement, GroupId, PcpuSet, Policy, Reservation, VcpuId, Weight,
    policies::{
        Credit, Deadline, Fair, Gang, NAMES, Pinned, PolicyOptions, Priority, RoundRobin, Table,
        TableDriven, Window, policy_by_name,
    },
};
use alloc::{boxed::Box, vec, vec::Vec};

/// What each of `vcpus` shall get; whatever the affinities, all reservations can be kept.
fn entitlements(seed: u64, vcpus: u64) -> Vec<Entitlement> {
    let entitlement = |index: u64| {
        let chance = (seed + index).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let group = (chance / 8 % 2) as u16;
        let reservation = Reservation::new(1 + chance % 3, 25 + chance % 50);
        Entitlement {
            reservation: reservation.ok().filter(|_| chance.is_multiple_of(2)),
            priority: (chance % 4) as u8,
            group: GroupId::new(group),
            weight: Weight::new([512, 1024, 2048][chance as usize % 3]).unwrap(),
            cap: Some(30).filter(|_| group == 1 && seed.is_multiple_of(2)),
            slice: None,
            halt_poll: [0, 40, 400][(chance / 4) as usize % 3],
        }
    };
    (0..vcpus).map(entitlement).collect()
}

/// What a machine does by chance: guests, affinities, actions from outside.
pub(super) fn random_machine(seed: u64, policy: Box<dyn Policy>) -> Simulation {
    let mut x = seed.wrapping_mul(0x2545_f491_4f6c_dd1d) | 1;
    let mut below = |limit: u64| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        (x >> 11) % limit
    };
    let pcpus = 1 + below(4) as u16;
    let vcpus = 1 + below(7);
    let mut script = || {
        let mut peer = || VcpuId::new(below(vcpus) as u16);
        let peers: [VcpuId; 4] = core::array::from_fn(|_| peer());
        let instruction = |choice: u64, amount: u64| match choice {
            0..4 => Compute(1 + amount % 25),
            4..7 => WaitFor(amount % 40),
            7 => Wait,
            8..11 => Interrupt(peers[amount as usize % 4]),
            11 => Yield((amount < 50).then_some(peers[0])),
            12 => Inspect(peers[1]),
            13 => Migrate(pcpu(amount as u16 % pcpus)),
            14 => PowerOn(peers[2]),
            _ => PowerOff,
        };
        let length = 2 + below(8);
        Script::forever(
            (0..length)
                .map(|_| (below(16), below(100)))
                .map(|(a, b)| instruction(a, b))
                .collect::<Vec<_>>(),
        )
    };
    let scripts = (0..vcpus).map(|_| script()).collect();
    Simulation::with_setup(Setup {
        pcpus,
        policy,
        scripts,
        affinities: Vec::new(),
        entitlements: entitlements(seed, vcpus),
        seed: Some(seed),
    })
}

/// After the unrest everybody who can run does.
pub(super) fn settle_and_expect_progress(mut sim: Simulation, seed: u64) {
    sim.set_unrest(false);
    let pool_pcpus = sim.engine.scheduler().pcpus();
    pool_pcpus
        .iter()
        .for_each(|pcpu| sim.act(Outside::Undrain(pcpu)));
    let ids: Vec<_> = (0..sim.engine.vcpu_count() as u16)
        .map(VcpuId::new)
        .collect();
    for &id in &ids {
        sim.act(Outside::SetAffinity(id, pool_pcpus));
        sim.act(Outside::Resume(id));
    }
    let start = sim.engine.now();
    sim.run_until(start + 10);
    let before: Vec<_> = ids.iter().map(|&id| sim.times(id)).collect();
    sim.run_until(start + 1000);
    for (&id, before) in ids.iter().zip(before) {
        let after = sim.times(id);
        let is_stuck = after.run == before.run && after.ready > before.ready;
        assert!(!is_stuck, "seed {seed}: {id} is ready and never runs");
        let remote = sim
            .handle(id)
            .state
            .load()
            .is_blocked_by(BlockReason::Remote);
        assert!(
            !remote || after.run > before.run,
            "seed {seed}: nobody answers {id}"
        );
    }
}

#[test]
fn a_thousand_machines_by_chance_break_no_rule() {
    for seed in 0..1000 {
        let mut sim = random_machine(seed, Box::new(RoundRobin::with_slice(10)));
        sim.set_unrest(true);
        sim.run_until(400);
        settle_and_expect_progress(sim, seed);
    }
}

#[test]
fn pinned_machines_by_chance_break_no_rule() {
    for seed in 0..200 {
        let mut sim = random_machine(seed, Box::new(Pinned::with_slice(10)));
        sim.set_unrest(true);
        sim.run_until(400);
        settle_and_expect_progress(sim, seed);
    }
}

/// `policy` takes over again and again, whatever else does in between.
fn hunt(policy: impl Fn() -> Box<dyn Policy>) {
    for seed in 0..300 {
        let mut sim = random_machine(seed, policy());
        for end in [100, 200, 300, 400] {
            sim.set_unrest(true);
            sim.run_until(end);
            sim.set_unrest(false);
            // Where a vCPU may run by now may be nowhere where it would get what it shall.
            drop(sim.set_policy(policy()));
        }
        settle_and_expect_progress(sim, seed);
    }
}

#[test]
fn fair_machines_by_chance_break_no_rule() {
    hunt(|| Box::new(Fair::with_slice(10, 8)));
}

#[test]
fn deadline_machines_by_chance_break_no_rule() {
    hunt(|| Box::new(Deadline::with_slice(10, 8)));
}

#[test]
fn credit_machines_by_chance_break_no_rule() {
    hunt(|| Box::new(Credit::new(10, 50, PcpuSet::all(4), 8)));
}

#[test]
fn gang_machines_by_chance_break_no_rule() {
    hunt(|| Box::new(Gang::new(10, PcpuSet::all(4), 8)));
}

#[test]
fn table_machines_by_chance_break_no_rule() {
    let window = |group, ticks| Window {
        group: Some(GroupId::new(group)),
        ticks,
    };
    // VM 0 has no window on the last pCPU.
    let frame = |index| match index {
        3 => vec![window(1, 9)],
        _ => vec![window(1, 3), window(0, 11 + u64::from(index))],
    };
    let frames = || (0..4).map(|index| (pcpu(index), frame(index)));
    hunt(|| Box::new(TableDriven::new(10, Table::new(frames()).unwrap(), 8)));
}

#[test]
fn priority_machines_by_chance_break_no_rule() {
    for seed in 0..300 {
        let mut sim = random_machine(seed, Box::new(Priority::with_slice(10, 8)));
        sim.set_unrest(true);
        sim.run_until(400);
    }
}

/// The policy called `name` if it promises how long one waits, for the machines above; they have no windows.
fn promising(name: &str) -> Option<Box<dyn Policy>> {
    let window = Window {
        group: Some(GroupId::new(0)),
        ticks: 10,
    };
    let options = PolicyOptions {
        slice_ticks: 10,
        max_vcpus: 8,
        pcpus: PcpuSet::all(4),
        period_ticks: 50,
        table: Table::new([(pcpu(0), vec![window])]).ok(),
    };
    let policy = policy_by_name(name, options).expect("its options make sense");
    let promised = policy.bounds(1).longest_wait;
    promised.map(|_| policy)
}

/// For long enough that the watchdog would see it.
#[test]
fn who_promises_how_long_one_waits_keeps_it() {
    let names = NAMES.into_iter().filter(|name| promising(name).is_some());
    let names: Vec<_> = names.collect();
    assert_eq!(names, ["round-robin", "pinned", "fair", "credit", "gang"]);
    for name in names {
        for seed in 0..20 {
            // Caps, which some machines have, promise nothing.
            let mut sim = random_machine(2 * seed + 1, promising(name).unwrap());
            sim.run_until(40_000);
            assert_eq!(sim.policy_failures(), [], "{name}, seed {seed}");
        }
    }
}

#[test]
fn a_hostile_policy_is_unfair_but_breaks_no_rule() {
    for seed in 0..200 {
        let mut sim = random_machine(seed, Box::new(Hostile));
        sim.set_unrest(true);
        sim.run_until(400);
    }
}
