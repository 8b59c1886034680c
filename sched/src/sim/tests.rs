//! The scheduler's behaviour, told as traces.

use super::{
    Instruction::*,
    Outside, Script, Setup, Simulation,
    short::{busy, pcpu},
};
use crate::{
    Entitlement, PcpuSet, Place, PoolId, PowerState, VcpuId,
    policies::{Pinned, RoundRobin},
};
use alloc::{boxed::Box, vec::Vec};

const VCPU0: VcpuId = VcpuId::new(0);
const VCPU1: VcpuId = VcpuId::new(1);
const VCPU2: VcpuId = VcpuId::new(2);

fn machine(pcpus: u16, scripts: impl IntoIterator<Item = Script>) -> Simulation {
    let policy = Box::new(RoundRobin::with_slice(10));
    let scripts = scripts.into_iter().collect();
    Simulation::with_setup(Setup {
        pcpus,
        policy,
        scripts,
        affinities: Vec::new(),
        entitlements: Vec::new(),
        seed: None,
    })
}

#[test]
fn equal_vcpus_take_turns() {
    let mut sim = Simulation::new(RoundRobin::with_slice(10), [busy(), busy()]);
    sim.run_until(30);
    sim.expect_trace(["0 vcpu0 for 10", "10 vcpu1 for 10", "20 vcpu0 for 10"]);
}

#[test]
fn a_waiting_vcpu_gives_its_pcpu_to_the_other() {
    let waiter = Script::forever([Compute(4), WaitFor(15)]);
    let mut sim = Simulation::new(RoundRobin::with_slice(10), [waiter, busy()]);
    sim.run_until(45);
    // Its timer fires at 20 while the other's slice, which nobody else had waited for, is over.
    sim.expect_trace([
        "0 vcpu0 for 5",
        "5 vcpu1 for 15",
        "20 vcpu0 for 5",
        "25 vcpu1 for 15",
        "40 vcpu0 for 5",
    ]);
}

#[test]
fn a_lone_vcpu_goes_on_when_its_timer_fires() {
    let late = Script::forever([WaitFor(10), Compute(4)]);
    let mut sim = machine(1, [late]);
    sim.run_until(30);
    sim.expect_trace(["0 vcpu0 for 1", "11 vcpu0 for 5", "26 vcpu0 for 4"]);
    assert_eq!(sim.handle(VCPU0).snapshot(30).switches, 1);
}

#[test]
fn no_timer_is_armed_when_nobody_waits() {
    let mut sim = Simulation::new(RoundRobin::with_slice(10), [busy()]);
    sim.run_until(10_000);
    assert_eq!(sim.timer_sets(pcpu(0)), 0);
    assert_eq!(sim.counters(pcpu(0)).unwrap().switches, 1);
    sim.expect_trace(["0 vcpu0 for 10000"]);
}

#[test]
fn a_wake_of_a_loaded_waiter_costs_no_switch() {
    let mut sim = machine(
        2,
        [
            Script::forever([Compute(4), Wait]),
            Script::forever([Compute(9), Interrupt(VCPU0)]),
        ],
    );
    sim.run_until(100);
    assert_eq!(sim.handle(VCPU0).snapshot(100).switches, 1);
    assert_eq!(sim.handle(VCPU0).snapshot(100).migrations.total(), 0);
    assert_eq!(sim.times(VCPU0).ready, 0);
    assert_eq!(sim.times(VCPU0).run, 50);
}

#[test]
fn a_paused_vcpu_leaves_its_pcpu_and_comes_back() {
    let mut sim = machine(1, [busy(), busy()]);
    sim.run_until(5);
    sim.act(Outside::Pause(VCPU0));
    sim.run_until(25);
    assert!(sim.handle(VCPU0).is_parked());
    sim.act(Outside::Resume(VCPU0));
    sim.run_until(35);
    sim.expect_trace(["0 vcpu0 for 5", "5 vcpu1 for 20", "25 vcpu0 for 10"]);
}

#[test]
fn a_paused_ready_vcpu_is_parked_at_once() {
    let mut sim = machine(1, [busy(), busy()]);
    sim.run_until(5);
    sim.act(Outside::Pause(VCPU1));
    sim.run_until(6);
    assert!(sim.handle(VCPU1).is_parked());
    sim.run_until(50);
    sim.expect_trace(["0 vcpu0 for 50"]);
}

#[test]
fn a_ready_vcpu_goes_to_a_pcpu_that_becomes_idle() {
    let mut sim = machine(2, [busy(), Script::once([Compute(3)]), busy()]);
    sim.run_until(20);
    // vcpu2 came to pcpu0 and waits there until vcpu1 turns itself off on pcpu1.
    sim.expect_trace([
        "0 pcpu0 vcpu0 for 20",
        "0 pcpu1 vcpu1 for 4",
        "4 pcpu1 vcpu2 for 16",
    ]);
    assert_eq!(sim.handle(VCPU2).snapshot(20).migrations.queued, 1);
    assert_eq!(sim.counters(pcpu(0)).unwrap().handed_over, 1);
    assert_eq!(sim.counters(pcpu(1)).unwrap().pulled, 1);
}

#[test]
fn a_vcpu_moves_loaded_ready_and_parked() {
    let mut sim = machine(2, [busy(), Script::forever([Wait])]);
    sim.run_until(5);
    sim.act(Outside::Migrate(VCPU0, pcpu(1)));
    sim.act(Outside::Pause(VCPU1));
    sim.run_until(6);
    sim.act(Outside::Migrate(VCPU1, pcpu(0)));
    sim.act(Outside::Resume(VCPU1));
    sim.run_until(7);
    sim.act(Outside::Interrupt(VCPU1));
    sim.run_until(20);
    let migrations = |vcpu| sim.handle(vcpu).snapshot(20).migrations;
    assert_eq!((migrations(VCPU0).loaded, migrations(VCPU1).parked), (1, 1));
    assert_eq!(sim.handle(VCPU0).place(), Place::Loaded(pcpu(1)));
    assert_eq!(sim.handle(VCPU1).last_pcpu(), pcpu(0));
}

#[test]
fn an_affinity_is_kept_by_pulls_and_wake_ups() {
    let scripts = [busy(), Script::forever([Compute(3), WaitFor(2)]), busy()];
    let affinities = [
        PcpuSet::only(pcpu(0)),
        PcpuSet::all(2),
        PcpuSet::only(pcpu(0)),
    ]
    .to_vec();
    let policy = Box::new(RoundRobin::with_slice(10));
    let mut sim = Simulation::with_setup(Setup {
        pcpus: 2,
        policy,
        scripts: scripts.to_vec(),
        affinities,
        entitlements: Vec::new(),
        seed: None,
    });
    sim.run_until(200);
    let strays = sim
        .stretches()
        .into_iter()
        .filter(|stretch| stretch.vcpu != VCPU1 && stretch.pcpu != pcpu(0));
    assert_eq!(strays.count(), 0);
    assert_eq!(
        sim.times(VCPU0).run + sim.times(VCPU2).run,
        200,
        "pcpu0 is never idle"
    );
}

#[test]
fn a_directed_yield_gives_the_rest_of_the_slice() {
    let yielder = Script::once([Compute(3), Yield(Some(VCPU2)), Compute(100)]);
    let mut sim = Simulation::new(RoundRobin::with_slice(10), [yielder, busy(), busy()]);
    sim.run_until(30);
    sim.expect_trace([
        "0 vcpu0 for 4",
        "4 vcpu2 for 6",
        "10 vcpu1 for 10",
        "20 vcpu2 for 10",
    ]);
}

#[test]
fn a_vcpu_turned_off_and_on_again_is_reset() {
    let mut sim = machine(1, [Script::once([Compute(5)]), busy()]);
    sim.run_until(20);
    assert_eq!(sim.handle(VCPU0).power_state(), PowerState::Off);
    let claim = sim.handle(VCPU0).claim_power_on();
    assert!(claim.is_ok());
    assert!(
        sim.handle(VCPU0).claim_power_on().is_err(),
        "two callers, one claim"
    );
    assert_eq!(sim.handle(VCPU0).power_state(), PowerState::OnPending);
    drop(claim);
    assert_eq!(sim.handle(VCPU0).power_state(), PowerState::Off);
    sim.act(Outside::PowerOn(VCPU0));
    assert_eq!(sim.handle(VCPU0).power_state(), PowerState::OnPending);
    sim.run_until(40);
    assert_eq!(
        sim.times(VCPU0).run,
        12,
        "its script twice, each with its CPU_OFF"
    );
}

#[test]
fn a_stopped_vm_stays_stopped_whatever_psci_says() {
    let mut sim = machine(
        1,
        [
            Script::forever([Compute(5), PowerOn(VCPU1)]),
            Script::once([Compute(1)]),
        ],
    );
    sim.run_until(10);
    sim.act(Outside::Stop(VCPU1));
    sim.run_until(50);
    assert!(sim.handle(VCPU1).is_parked());
    sim.act(Outside::Stop(VCPU0));
    sim.run_until(60);
    assert!(sim.handle(VCPU0).is_parked());
    assert!(sim.handle(VCPU0).rearm());
    assert_eq!(sim.handle(VCPU0).power_state(), PowerState::Off);
    sim.act(Outside::PowerOn(VCPU0));
    sim.run_until(70);
    assert!(matches!(sim.handle(VCPU0).place(), Place::Loaded(_)));
}

#[test]
fn a_paused_vcpu_is_announced_once_it_has_parked() {
    let mut sim = machine(1, [busy()]);
    sim.run_until(5);
    sim.act(Outside::Pause(VCPU0));
    assert!(!sim.handle(VCPU0).is_parked());
    assert_eq!(sim.pauses(), 0);
    sim.run_until(10);
    assert!(sim.handle(VCPU0).is_parked());
    assert_eq!(sim.pauses(), 1);
    sim.act(Outside::Pause(VCPU0));
    sim.handle(VCPU0).wake();
    sim.run_until(15);
    assert_eq!(sim.pauses(), 1, "it was parked already");
    sim.act(Outside::Resume(VCPU0));
    sim.run_until(20);
    assert!(!sim.handle(VCPU0).is_parked());
}

#[test]
fn a_retired_vcpu_gives_its_number_back() {
    let mut sim = machine(1, [busy()]);
    sim.run_until(5);
    assert!(sim.handle(VCPU0).retire().is_err(), "it is in use");
    sim.act(Outside::Stop(VCPU0));
    sim.run_until(6);
    let vcpu = sim.handle(VCPU0).retire().expect("it is stopped");
    assert_eq!(sim.handle(VCPU0).place(), Place::Gone);
    let entitlement = Entitlement {
        priority: 1,
        ..Entitlement::default()
    };
    assert_eq!(sim.handle(VCPU0).set_entitlement(&entitlement), Ok(()));
    assert_eq!(sim.handle(VCPU0).set_affinity(PcpuSet::all(1)), Ok(()));
    let nobody = Entitlement::default();
    assert_eq!(sim.engine.scheduler().entitlements().get(VCPU0), nobody);
    assert_eq!(sim.engine.scheduler().entitlements().present().count(), 0);
    sim.handle(VCPU0).wake();
    sim.handle(VCPU0).resume();
    drop(vcpu);
    sim.run_until(7);
}

#[test]
fn a_drained_pcpu_gives_everything_away_and_comes_back() {
    let mut sim = machine(
        2,
        [busy(), Script::forever([Compute(2), WaitFor(7)]), busy()],
    );
    sim.run_until(4);
    sim.act(Outside::Drain(pcpu(0)));
    sim.run_until(50);
    assert!(
        sim.stretches()
            .iter()
            .all(|stretch| stretch.pcpu == pcpu(1) || stretch.start <= 4)
    );
    sim.act(Outside::Undrain(pcpu(0)));
    sim.run_until(100);
    assert!(
        sim.stretches()
            .iter()
            .any(|stretch| stretch.pcpu == pcpu(0) && stretch.start >= 50)
    );
}

#[test]
fn a_vcpu_that_may_run_only_on_a_drained_pcpu_waits_for_it() {
    let policy = Box::new(RoundRobin::with_slice(10));
    let affinities = [PcpuSet::only(pcpu(0))].to_vec();
    let mut sim = Simulation::with_setup(Setup {
        pcpus: 2,
        policy,
        scripts: [busy()].to_vec(),
        affinities,
        entitlements: Vec::new(),
        seed: None,
    });
    sim.run_until(4);
    sim.act(Outside::Drain(pcpu(0)));
    sim.run_until(10);
    sim.act(Outside::Undrain(pcpu(0)));
    sim.run_until(20);
    sim.expect_trace(["0 pcpu0 vcpu0 for 4", "10 pcpu0 vcpu0 for 10"]);
}

#[test]
fn pinned_vcpus_that_share_a_pcpu_take_turns_and_one_that_is_alone_has_no_tick() {
    let guest = Script::once([Compute(15)]);
    let mut sim = Simulation::new(Pinned::with_slice(10), [guest, busy()]);
    sim.run_until(200);
    sim.expect_trace([
        "0 vcpu0 for 10",
        "10 vcpu1 for 10",
        "20 vcpu0 for 6",
        "26 vcpu1 for 174",
    ]);
}

#[test]
fn a_pinned_vcpu_has_its_pcpu_exclusively_while_it_is_alone() {
    let mut sim = Simulation::new(
        Pinned::with_slice(1000),
        [Script::once([Compute(50)]), busy()],
    );
    sim.run_until(10);
    assert!(!sim.is_exclusive(pcpu(0)), "both are on from the start");
    sim.run_until(63);
    assert!(sim.is_exclusive(pcpu(0)), "vcpu0 is off, and vcpu1 alone");
    sim.act(Outside::PowerOn(VCPU0));
    sim.run_until(64);
    assert_eq!(sim.handle(VCPU1).place(), Place::Loaded(pcpu(0)));
    assert!(!sim.is_exclusive(pcpu(0)), "vcpu0 waits");
}

#[test]
fn an_idle_pcpu_is_claimed_once() {
    let mut sim = machine(2, [busy()]);
    sim.run_until(5);
    let scheduler = sim.engine.scheduler();
    let claims = [0, 1, 1].map(|index| scheduler.claim_idle(PoolId::FIRST, pcpu(index)));
    assert_eq!(claims, [false, true, false]);
}

#[test]
fn two_that_yield_to_each_other_do_not_keep_the_pcpu() {
    let yields_to = |to| Script::forever([Compute(1), Yield(Some(to))]);
    let mut sim = Simulation::new(
        RoundRobin::with_slice(10),
        [yields_to(VCPU1), yields_to(VCPU0), busy()],
    );
    sim.run_until(400);
    assert!(
        sim.times(VCPU2).run >= 100,
        "it has its share: {:?}",
        sim.times(VCPU2)
    );
}

#[test]
fn an_inspection_waits_until_the_owner_has_folded() {
    let mut sim = machine(2, [Script::forever([Compute(3), Inspect(VCPU1)]), busy()]);
    sim.run_until(100);
    assert!(
        sim.times(VCPU0).run >= 90,
        "each is answered by a kick, not by a slice's end"
    );
    assert_eq!(
        sim.handle(VCPU1).snapshot(100).switches,
        1,
        "the other stays bound"
    );
}

#[test]
fn two_drained_pcpus_do_not_pass_a_vcpu_back_and_forth() {
    let mut sim = machine(2, [busy(), busy(), busy()]);
    sim.run_until(50);
    for index in 0..2 {
        sim.act(Outside::Drain(pcpu(index)));
    }
    sim.run_until(100);
    let kicks =
        |sim: &Simulation| [0, 1].map(|index| sim.counters(pcpu(index)).unwrap().kicks_received);
    let before = kicks(&sim);
    sim.run_until(1000);
    assert_eq!(kicks(&sim), before, "nobody moves");
    sim.act(Outside::Undrain(pcpu(1)));
    sim.run_until(1100);
    assert!(
        sim.counters(pcpu(1)).unwrap().times.busy > 100,
        "one is back"
    );
}
