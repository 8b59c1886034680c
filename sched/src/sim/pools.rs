//! Pools of pCPUs: who belongs where, and what moves between them while guests run.

use super::{
    Instruction::*,
    Outside, Script, Setup, Simulation, Stretch, Successor,
    chance::{random_machine, settle_and_expect_progress},
    short::{busy, pcpu, set, vcpu},
};
use crate::{
    Entitlement, GroupId, MigrateError, PcpuId, PcpuSet, PoolId, Reservation, VcpuId,
    admitted::Admitted,
    policies::{Deadline, RoundRobin},
};
use alloc::{
    boxed::Box,
    format,
    string::{String, ToString},
    vec::Vec,
};

const SLICE: u64 = 10;
const SECOND: PoolId = match PoolId::new(1) {
    Some(second) => second,
    None => PoolId::FIRST,
};

/// `vcpus` that are always busy, two to a VM.
fn setup(pcpus: u16, vcpus: u16) -> Setup {
    let entitlement = |index: u16| Entitlement {
        group: GroupId::new(index / 2),
        ..Entitlement::default()
    };
    Setup {
        pcpus,
        policy: Box::new(RoundRobin::with_slice(SLICE)),
        scripts: (0..vcpus).map(|_| busy()).collect(),
        affinities: Vec::new(),
        entitlements: (0..vcpus).map(entitlement).collect(),
        seed: None,
    }
}

/// Four pCPUs, of which the upper two are a second pool with `successor`.
fn two_pools(vcpus: u16, successor: Successor) -> Simulation {
    let mut sim = Simulation::with_setup(setup(4, vcpus));
    sim.expect(Outside::CreatePool(set("2-3"), successor));
    sim
}

impl Simulation {
    fn expect(&mut self, change: Outside) {
        let outcome = self.engine.regroup(change);
        assert_eq!(outcome, Ok(()), "{change:?}");
    }

    fn refusal(&mut self, change: Outside) -> String {
        let before = self.engine.scheduler().pools();
        let refusal = self.engine.regroup(change).unwrap_err().to_string();
        assert_eq!(
            self.engine.scheduler().pools(),
            before,
            "nothing has changed"
        );
        refusal
    }

    /// The pCPUs on which `vcpu` has run since `start`.
    fn places(&self, vcpu: VcpuId, start: u64) -> PcpuSet {
        let mut places = PcpuSet::EMPTY;
        let is_later =
            |stretch: &&Stretch| stretch.vcpu == vcpu && stretch.start + stretch.duration > start;
        let stretches = self.stretches();
        let later = stretches.iter().filter(is_later);
        later.for_each(|stretch| places.insert(stretch.pcpu));
        places
    }

    fn run(&self, vcpu: VcpuId) -> u64 {
        self.times(vcpu).run
    }
}

#[test]
fn a_new_pool_takes_its_pcpus_and_the_vcpus_there_go_to_those_that_stay() {
    let mut sim = Simulation::with_setup(setup(4, 4));
    sim.run_until(50);
    sim.expect(Outside::CreatePool(set("2-3"), Successor::Fair));
    sim.run_until(60);
    sim.run_until(1060);
    for index in 0..4 {
        assert_eq!(
            sim.places(vcpu(index), 60).difference(set("0-1")),
            PcpuSet::EMPTY
        );
        assert!(
            sim.run(vcpu(index)) >= 50 + 400,
            "{index} shares two pCPUs with three others"
        );
    }
    let pools = sim.engine.scheduler().pools();
    let lines = pools.iter().map(|pool| {
        let vcpus = pool.vcpus.len();
        format!(
            "{} {} {} {} {vcpus}",
            pool.id, pool.name, pool.pcpus, pool.policy
        )
    });
    let lines: Vec<String> = lines.collect();
    assert_eq!(
        lines,
        ["pool0 first 0-1 round-robin 4", "pool1 with-2-3 2-3 fair 0"]
    );
}

#[test]
fn a_vm_moves_as_a_whole_and_runs_there_only() {
    let mut sim = two_pools(4, Successor::Fair);
    sim.run_until(100);
    sim.expect(Outside::MoveGroup(GroupId::new(1), SECOND));
    sim.run_until(1100);
    for index in 0..4 {
        let home = if index < 2 { set("0-1") } else { set("2-3") };
        assert_eq!(
            sim.places(vcpu(index), 101).difference(home),
            PcpuSet::EMPTY
        );
        assert!(
            sim.run(vcpu(index)) >= 1000,
            "{index} has a pCPU of its own"
        );
    }
    let pool_ids = [0, 1, 2, 3].map(|index| sim.handle(vcpu(index)).pool_id());
    assert_eq!(pool_ids, [PoolId::FIRST, PoolId::FIRST, SECOND, SECOND]);
    assert_eq!(
        sim.handle(vcpu(0)).migrate(pcpu(2)),
        Err(MigrateError::NotInPool)
    );
}

#[test]
fn a_vm_that_waits_wakes_up_in_its_new_pool() {
    let mut setup = setup(4, 3);
    setup.scripts[2] = Script::forever([Wait, Compute(5)]);
    let mut sim = Simulation::with_setup(setup);
    sim.expect(Outside::CreatePool(set("2-3"), Successor::Credit));
    sim.run_until(50);
    sim.expect(Outside::MoveVcpu(vcpu(2), SECOND));
    sim.run_until(60);
    sim.act(Outside::Interrupt(vcpu(2)));
    sim.run_until(100);
    assert_eq!(
        sim.places(vcpu(2), 55).difference(set("2-3")),
        PcpuSet::EMPTY
    );
    assert!(sim.run(vcpu(2)) >= 6);
}

#[test]
fn a_pcpu_that_moves_leaves_its_vcpus_and_runs_those_of_its_new_pool_at_once() {
    let mut sim = two_pools(5, Successor::RoundRobin);
    sim.expect(Outside::MoveVcpu(vcpu(2), SECOND));
    sim.expect(Outside::MoveVcpu(vcpu(3), SECOND));
    sim.expect(Outside::MoveVcpu(vcpu(4), SECOND));
    sim.run_until(200);
    sim.expect(Outside::MovePcpu(pcpu(1), SECOND));
    sim.run_until(201);
    let before: Vec<u64> = (0..5).map(|index| sim.run(vcpu(index))).collect();
    sim.run_until(1201);
    let ran: Vec<u64> = (0..5)
        .map(|index| sim.run(vcpu(index)) - before[index])
        .collect();
    assert_eq!(ran, [500, 500, 1000, 1000, 1000]);
    sim.expect(Outside::MovePcpu(pcpu(1), PoolId::FIRST));
    sim.run_until(1300);
    assert_eq!(
        sim.places(vcpu(1), 1210).union(sim.places(vcpu(0), 1210)),
        set("0-1")
    );
}

#[test]
fn only_pcpus_and_vcpus_of_its_own_pool_count_for_a_policy() {
    // Three on two pCPUs, and one alone on the other two, whose time is nobody else's.
    let mut sim = two_pools(4, Successor::Fair);
    sim.expect(Outside::SetPolicy(PoolId::FIRST, Successor::Fair));
    sim.expect(Outside::MoveVcpu(vcpu(3), SECOND));
    sim.run_until(100);
    let before: Vec<u64> = (0..4).map(|index| sim.run(vcpu(index))).collect();
    sim.run_until(3100);
    for index in 0..4_u16 {
        let ran = sim.run(vcpu(index)) - before[usize::from(index)];
        let expected = if index == 3 { 3000 } else { 2000 };
        assert!(ran.abs_diff(expected) <= 40, "{index} ran for {ran}");
    }
    assert_eq!(
        sim.counters(pcpu(2)).unwrap().kicks_received,
        1,
        "nobody asks an idle one of another pool"
    );
}

#[test]
fn a_pool_that_has_no_vcpus_goes_and_its_pcpus_come_back() {
    let mut sim = two_pools(4, Successor::Gang);
    sim.expect(Outside::MoveVcpu(vcpu(0), SECOND));
    sim.run_until(50);
    assert_eq!(
        sim.refusal(Outside::RemovePool(SECOND)),
        "pool1 still has 1 vCPUs: move them first"
    );
    sim.expect(Outside::MoveVcpu(vcpu(0), PoolId::FIRST));
    sim.expect(Outside::RemovePool(SECOND));
    sim.run_until(60);
    let before: Vec<u64> = (0..4).map(|index| sim.run(vcpu(index))).collect();
    sim.run_until(1060);
    for index in 0..4_u16 {
        assert_eq!(sim.run(vcpu(index)) - before[usize::from(index)], 1000);
    }
    assert_eq!(sim.engine.scheduler().pools().len(), 1);
    sim.expect(Outside::CreatePool(set("1"), Successor::Fair));
}

#[test]
fn a_pool_that_is_gone_is_not_the_next_one_with_its_number() {
    let mut sim = two_pools(4, Successor::RoundRobin);
    sim.run_until(10);
    sim.expect(Outside::Unplug(pcpu(3)));
    sim.expect(Outside::RemovePool(SECOND));
    sim.expect(Outside::CreatePool(set("1"), Successor::Fair));
    let pools = sim.engine.scheduler().pools();
    let ids: Vec<String> = pools.iter().map(|pool| pool.id.to_string()).collect();
    assert_eq!(ids, ["pool0", "pool1"]);
    // Whoever has unplugged it remembers from where.
    for change in [
        Outside::Plug(pcpu(3), SECOND),
        Outside::MovePcpu(pcpu(2), SECOND),
        Outside::MoveVcpu(vcpu(0), SECOND),
        Outside::RemovePool(SECOND),
        Outside::SetPolicy(SECOND, Successor::Gang),
    ] {
        assert_eq!(sim.refusal(change), "there is no pool1", "{change:?}");
    }
    sim.expect(Outside::Plug(pcpu(3), pools[1].id));
    assert_eq!(sim.engine.scheduler().pool_of(pcpu(3)), Some(pools[1].id));
    sim.expect(Outside::MoveVcpu(vcpu(0), pools[1].id));
    sim.run_until(100);
    assert_eq!(
        sim.places(vcpu(0), 11).difference(set("1,3")),
        PcpuSet::EMPTY
    );
    assert_eq!(sim.handle(vcpu(0)).pool_id(), pools[1].id);
}

#[test]
fn what_a_pool_cannot_keep_is_refused_with_the_numbers_and_changes_nothing() {
    let mut setup = setup(4, 4);
    setup.affinities = [set("0"), set("0-3"), set("0-3"), set("0-3")].to_vec();
    let half = Reservation::new(60, 100).ok();
    for entitlement in &mut setup.entitlements[1..] {
        entitlement.reservation = half;
    }
    let mut sim = Simulation::with_setup(setup);
    let mut expect = |change, message: &str| assert_eq!(sim.refusal(change), message);
    expect(Outside::MoveVcpu(vcpu(1), SECOND), "there is no pool1");
    expect(
        Outside::CreatePool(set("0-3"), Successor::Fair),
        "pool0 has no pCPUs but 0-3, and needs at least one",
    );
    expect(
        Outside::CreatePool(set("7"), Successor::Fair),
        "the machine has no pcpu7",
    );
    expect(
        Outside::CreatePool(PcpuSet::EMPTY, Successor::Fair),
        "a pool needs at least one pCPU",
    );
    expect(
        Outside::CreatePool(set("0-1"), Successor::Fair),
        "vcpu0 may run on pCPUs 0 only, and pool0 would have 2-3",
    );
    sim.expect(Outside::CreatePool(set("3"), Successor::Deadline));
    sim.expect(Outside::SetPolicy(PoolId::FIRST, Successor::Deadline));
    let mut expect = |change, message: &str| assert_eq!(sim.refusal(change), message);
    expect(
        Outside::MoveVcpu(vcpu(0), SECOND),
        "vcpu0 may run on pCPUs 0 only, and pool1 would have 3",
    );
    // VM 1 has two vCPUs with 60 % each, and the pool has one pCPU.
    let full = "a budget of 60 ticks in a period of 100 needs 60.0 % of a pCPU, and the emptiest of those it may use has 40.0 % left";
    expect(Outside::MoveGroup(GroupId::new(1), SECOND), full);
    expect(Outside::Unplug(pcpu(2)), full);
    expect(Outside::MovePcpu(pcpu(2), SECOND), full);
    expect(
        Outside::Unplug(pcpu(0)),
        "vcpu0 may run on pCPUs 0 only, and pool0 would have 1-2",
    );
    expect(
        Outside::Unplug(pcpu(3)),
        "pool1 has no pCPUs but 3, and needs at least one",
    );
    expect(
        Outside::Plug(pcpu(3), SECOND),
        "pcpu3 is not unplugged: it belongs to pool1",
    );
    expect(
        Outside::RemovePool(PoolId::FIRST),
        "pool0 is for all that name no other pool, and stays",
    );
    // What was refused has left nothing behind: one of the two fits.
    sim.expect(Outside::MoveVcpu(vcpu(2), SECOND));
    sim.expect(Outside::Unplug(pcpu(2)));
    let mut expect = |change, message: &str| assert_eq!(sim.refusal(change), message);
    expect(
        Outside::MovePcpu(pcpu(2), SECOND),
        "pcpu2 is unplugged: it belongs to no pool",
    );
}

/// By number each goes where most is left, and for the third that is nowhere.
#[test]
fn a_pool_whose_reservations_fit_takes_its_policy_anew_and_loses_a_pcpu_that_it_does_not_need() {
    let mut setup = setup(3, 5);
    setup.affinities = (0..5).map(|_| set("0-1")).collect();
    setup.policy = Box::new(Deadline::with_slice(SLICE, 5));
    let mut sim = Simulation::with_setup(setup);
    let reserve = |index, percent, affinity| {
        let handle = sim.handle(vcpu(index));
        handle.set_affinity(set(affinity)).unwrap();
        let entitlement = Entitlement {
            reservation: Reservation::new(percent, 100).ok(),
            ..Entitlement::default()
        };
        handle.set_entitlement(&entitlement).unwrap();
        handle.set_affinity(set("0-1")).unwrap();
    };
    // 50 + 50 and 33 + 33 + 34: neither by number nor with the largest first does this fit.
    reserve(0, 34, "0");
    reserve(1, 33, "0");
    reserve(2, 50, "1");
    reserve(3, 33, "0");
    reserve(4, 50, "1");
    let homes = |sim: &Simulation| {
        [0, 1, 2, 3, 4].map(|index| sim.engine.scheduler().entitlements().home(vcpu(index)))
    };
    let before = homes(&sim);
    assert_eq!(before, [0, 0, 1, 0, 1].map(PcpuId::new));
    sim.expect(Outside::SetPolicy(PoolId::FIRST, Successor::Deadline));
    assert_eq!(homes(&sim), before);
    sim.expect(Outside::Unplug(pcpu(2)));
    assert_eq!(homes(&sim), before);
    sim.expect(Outside::Plug(pcpu(2), PoolId::FIRST));
    assert_eq!(homes(&sim), before);
}

/// In the order of their numbers the two small ones would take half of each pCPU.
#[test]
fn a_policy_that_reserves_begins_with_who_needs_most() {
    let mut setup = setup(2, 3);
    for (entitlement, percent) in setup.entitlements.iter_mut().zip([50, 50, 90]) {
        entitlement.reservation = Reservation::new(percent, 100).ok();
    }
    let mut sim = Simulation::with_setup(setup);
    sim.expect(Outside::SetPolicy(PoolId::FIRST, Successor::Deadline));
    let entitlements = sim.engine.scheduler().entitlements();
    let homes = [0, 1, 2].map(|index| entitlements.home(vcpu(index)));
    assert_eq!(homes, [1, 1, 0].map(PcpuId::new));
}

#[test]
fn an_affinity_names_pcpus_of_the_pool_or_all() {
    let mut sim = two_pools(2, Successor::Fair);
    let handle = sim.handle(vcpu(0)).clone();
    assert_eq!(
        handle.set_affinity(set("1-2")).unwrap_err().to_string(),
        "pcpu2 is not in pool0, which has pCPUs 0-1: name some of those, or all of the machine for any"
    );
    handle.set_affinity(set("1")).unwrap();
    sim.run_until(50);
    assert_eq!(sim.places(vcpu(0), 1), set("1"));
    handle.set_affinity(set("0-3")).unwrap();
    sim.expect(Outside::MoveVcpu(vcpu(0), SECOND));
    sim.run_until(100);
    assert_eq!(
        sim.places(vcpu(0), 51).difference(set("2-3")),
        PcpuSet::EMPTY
    );
}

#[test]
fn an_unplugged_pcpu_keeps_nothing_and_comes_back_to_the_pool_that_it_is_plugged_into() {
    let mut setup = setup(3, 4);
    setup.scripts[3] = Script::forever([Compute(3), WaitFor(400)]);
    let mut sim = Simulation::with_setup(setup);
    sim.run_until(50);
    sim.expect(Outside::Unplug(pcpu(1)));
    sim.run_until(51);
    sim.run_until(1000);
    for index in 0..4 {
        assert!(!sim.places(vcpu(index), 51).contains(pcpu(1)));
    }
    let busy: u64 = (0..3).map(|index| sim.run(vcpu(index))).sum();
    assert!(busy >= 150 + 1880, "the other two are busy: {busy}");
    assert_eq!(sim.engine.scheduler().pool_of(pcpu(1)), None);
    assert!(
        !sim.engine.scheduler().undrain(pcpu(1)),
        "it is more than drained"
    );
    sim.expect(Outside::CreatePool(set("2"), Successor::Fair));
    sim.expect(Outside::Plug(pcpu(1), SECOND));
    sim.expect(Outside::MoveVcpu(vcpu(0), SECOND));
    sim.expect(Outside::MoveVcpu(vcpu(1), SECOND));
    sim.run_until(1100);
    assert_eq!(
        sim.places(vcpu(0), 1010).union(sim.places(vcpu(1), 1010)),
        set("1-2")
    );
}

/// Everything moves: vCPUs, VMs and pCPUs between two pools whose policies change, while pCPUs are unplugged and come back.
#[test]
fn pools_by_chance_break_no_rule() {
    for seed in 0..1000 {
        let policy = Admitted::new(Box::new(RoundRobin::with_slice(SLICE)));
        let mut sim = random_machine(seed, Box::new(policy));
        let pcpus = sim.engine.scheduler().pcpus();
        if pcpus.len() < 2 {
            continue;
        }
        let upper = pcpus.difference(PcpuSet::all(pcpus.len() as u16 / 2));
        sim.expect(Outside::CreatePool(upper, Successor::RoundRobin));
        sim.set_unrest(true);
        sim.run_until(1000);
        sim.set_unrest(false);
        for pcpu in pcpus.iter() {
            sim.act(Outside::Plug(pcpu, PoolId::FIRST));
        }
        for pool in [PoolId::FIRST, SECOND] {
            sim.act(Outside::SetPolicy(pool, Successor::RoundRobin));
        }
        settle_and_expect_progress(sim, seed);
    }
}
