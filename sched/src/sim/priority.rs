//! Who runs under the priority policy, on whole machines.

use super::{
    Instruction::*,
    Outside, Script, Setup, Simulation, Successor,
    short::{busy, vcpu},
};
use crate::{Entitlement, PcpuId, PcpuSet, Place, PoolId, policies::Priority};
use alloc::{boxed::Box, vec::Vec};

const SLICE: u64 = 10;

fn priority(priority: u8) -> Entitlement {
    Entitlement {
        priority,
        ..Entitlement::default()
    }
}

fn setup(pcpus: u16, guests: impl IntoIterator<Item = (Script, u8)>) -> Setup {
    let (scripts, priorities): (Vec<_>, Vec<_>) = guests.into_iter().unzip();
    Setup {
        pcpus,
        policy: Box::new(Priority::with_slice(SLICE, scripts.len() as u16)),
        entitlements: priorities.into_iter().map(priority).collect(),
        scripts,
        affinities: Vec::new(),
        seed: None,
    }
}

fn machine(pcpus: u16, guests: impl IntoIterator<Item = (Script, u8)>) -> Simulation {
    Simulation::with_setup(setup(pcpus, guests))
}

fn run(sim: &Simulation, index: u16) -> u64 {
    sim.times(vcpu(index)).run
}

/// No vCPU waits while a less important one runs where it may run. Nobody is on its way to be told so.
fn expect_the_most_important_run(sim: &Simulation, name: &str) {
    let scheduler = sim.engine.scheduler();
    if sim.engine.world().has_kick_under_way()
        || scheduler.policy_name(PoolId::FIRST) != Some(Priority::NAME)
    {
        return;
    }
    let now = sim.engine.now();
    let handles = &sim.engine.handles;
    for waiting in handles {
        let important = waiting.entitlement().priority;
        if !matches!(waiting.place(), Place::Queued(_)) {
            continue;
        }
        for running in handles {
            let snapshot = running.snapshot(now);
            let Place::Loaded(pcpu) = snapshot.place else {
                continue;
            };
            let could_run = waiting.can_run_on(pcpu) && snapshot.is_runnable;
            assert!(
                !could_run || running.entitlement().priority >= important,
                "{name} at {now} {} waits while {} runs on {pcpu}",
                waiting.id(),
                running.id()
            );
        }
    }
}

#[test]
fn a_more_important_vcpu_preempts_at_once_and_lets_the_turn_go_on() {
    let rare = Script::forever([Compute(1), WaitFor(11)]);
    let mut sim = machine(1, [(busy(), 1), (busy(), 1), (rare, 2)]);
    sim.run_until(40);
    sim.expect_trace([
        "0 vcpu2 for 2",
        "2 vcpu0 for 10",
        "12 vcpu1 for 1",
        "13 vcpu2 for 2",
        "15 vcpu1 for 9",
        "24 vcpu0 for 2",
        "26 vcpu2 for 2",
        "28 vcpu0 for 8",
        "36 vcpu1 for 3",
        "39 vcpu2 for 1",
    ]);
}

#[test]
fn equal_vcpus_take_turns_and_less_important_ones_wait_for_ever() {
    let guests = [7, 7, 7, 3].map(|priority| (busy(), priority));
    let mut sim = machine(1, guests);
    sim.run_until(3000);
    let runs = [0, 1, 2, 3].map(|index| run(&sim, index));
    assert_eq!(runs, [1000, 1000, 1000, 0]);
    let turns = sim.stretches();
    assert!(turns.iter().all(|turn| turn.duration == SLICE));
}

#[test]
fn a_vcpu_has_turns_of_its_own_length() {
    let mut setup = setup(1, [(busy(), 7), (busy(), 7)]);
    setup.entitlements[1].slice = Some(3 * SLICE);
    let mut sim = Simulation::with_setup(setup);
    sim.run_until(4000);
    assert_eq!([run(&sim, 0), run(&sim, 1)], [1000, 3000]);
}

#[test]
fn one_that_yields_lets_its_equals_run_and_nobody_else() {
    let yields = Script::forever([Compute(4), Yield(None)]);
    let to_less = Script::forever([Compute(4), Yield(Some(vcpu(2)))]);
    let mut sim = machine(1, [(yields, 5), (to_less, 5), (busy(), 4)]);
    sim.run_until(1000);
    assert_eq!([0, 1, 2].map(|index| run(&sim, index)), [500, 500, 0]);
}

#[test]
fn the_most_important_run_and_the_least_important_pcpu_takes_who_wakes_up() {
    let rare = Script::forever([WaitFor(99), Compute(100)]);
    let guests = [
        (busy(), 5),
        (busy(), 3),
        (busy(), 4),
        (rare, 9),
        (busy(), 1),
    ];
    let mut sim = machine(3, guests);
    for end in 1..2000 {
        sim.run_until(end);
        expect_the_most_important_run(&sim, "");
    }
    // The rare one takes the pCPU of the least important of three, and no other.
    assert_eq!([run(&sim, 0), run(&sim, 2), run(&sim, 4)], [1999, 1999, 0]);
    assert!(run(&sim, 3) >= 990 && run(&sim, 1) >= 990);
}

#[test]
fn a_pcpu_that_turns_to_less_takes_what_waits_elsewhere() {
    // The first waits behind a more important one; the third goes to sleep on the other pCPU, where a less important one is.
    let sleeper = Script::forever([Compute(99), WaitFor(100)]);
    let mut setup = setup(2, [(busy(), 5), (busy(), 9), (sleeper, 8), (busy(), 1)]);
    setup.affinities = [0b11, 0b01, 0b10, 0b10].map(PcpuSet::from_bits).into();
    let mut sim = Simulation::with_setup(setup);
    for end in 1..1000 {
        sim.run_until(end);
        expect_the_most_important_run(&sim, "");
    }
    assert_eq!([run(&sim, 1), run(&sim, 3)], [999, 0]);
    assert_eq!(run(&sim, 0) + run(&sim, 2), 999);
    assert!(run(&sim, 0) >= 400);
}

#[test]
fn a_pcpu_gives_to_all_that_turn_to_less_at_once() {
    // Two wait behind the most important one; on each of the other pCPUs a sleeper leaves its place to one that is less.
    let sleeper = || Script::forever([Compute(99), WaitFor(100)]);
    let (less, behind) = ((busy(), 1), (busy(), 5));
    let guests = [
        (sleeper(), 8),
        (sleeper(), 8),
        less.clone(),
        less,
        (busy(), 9),
    ];
    let mut setup = setup(3, guests.into_iter().chain([behind.clone(), behind]));
    let affinities = [0b001, 0b010, 0b001, 0b010, 0b100, 0b100, 0b100];
    setup.affinities = affinities.map(PcpuSet::from_bits).into();
    let mut sim = Simulation::with_setup(setup);
    sim.run_until(50);
    for index in [5, 6] {
        sim.act(Outside::SetAffinity(vcpu(index), PcpuSet::all(3)));
    }
    sim.run_until(99);
    let giver = PcpuId::new(2).expect("it is below the limit");
    let kicks = |sim: &Simulation| {
        sim.counters(giver)
            .expect("it is of the machine")
            .kicks_received
    };
    let before = kicks(&sim);
    for end in 100..=200 {
        sim.run_until(end);
        expect_the_most_important_run(&sim, "");
    }
    assert_eq!([2, 3, 5, 6].map(|index| run(&sim, index)), [0, 0, 100, 100]);
    assert_eq!(kicks(&sim) - before, 1, "told once, it gives to both");
}

#[test]
fn an_affinity_that_grows_lets_a_vcpu_preempt_elsewhere() {
    let mut setup = setup(2, [(busy(), 5), (busy(), 9), (busy(), 1)]);
    setup.affinities = [0b01, 0b01, 0b10].map(PcpuSet::from_bits).into();
    let mut sim = Simulation::with_setup(setup);
    sim.run_until(100);
    assert_eq!([0, 1, 2].map(|index| run(&sim, index)), [0, 100, 100]);
    sim.act(Outside::SetAffinity(vcpu(0), PcpuSet::all(2)));
    sim.run_until(200);
    assert_eq!([0, 1, 2].map(|index| run(&sim, index)), [100, 200, 100]);
}

#[test]
fn a_new_priority_counts_at_once() {
    let mut sim = machine(1, [(busy(), 5), (busy(), 5), (busy(), 1)]);
    sim.run_until(25);
    let raised = sim.handle(vcpu(2)).set_entitlement(&priority(6));
    assert_eq!(raised, Ok(()));
    sim.run_until(100);
    sim.expect_trace([
        "0 vcpu0 for 10",
        "10 vcpu1 for 10",
        "20 vcpu0 for 5",
        "25 vcpu2 for 75",
    ]);
}

/// A number below `limit` by chance.
fn below(x: &mut u64, limit: u64) -> u64 {
    *x ^= *x << 13;
    *x ^= *x >> 7;
    *x ^= *x << 17;
    (*x >> 11) % limit
}

#[test]
fn whatever_happens_no_vcpu_waits_while_a_less_important_one_runs_in_its_place() {
    for seed in 1..=300_u64 {
        let x = &mut seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let pcpus = 1 + below(x, 4) as u16;
        let count = 2 + below(x, 8);
        let mut guest = || {
            let peer = vcpu(below(x, count) as u16);
            let (compute, wait) = (1 + below(x, 60), 1 + below(x, 60));
            let instructions = match below(x, 4) {
                0 => [Compute(1_000_000), Yield(None), Wait],
                1 => [Compute(compute), WaitFor(wait), Interrupt(peer)],
                2 => [Compute(compute), Interrupt(peer), Wait],
                _ => [Compute(compute), Yield(Some(peer)), WaitFor(wait)],
            };
            (Script::forever(instructions), below(x, 5) as u8)
        };
        let guests: Vec<_> = (0..count).map(|_| guest()).collect();
        let mut setup = setup(pcpus, guests);
        // Kicks take their time, and others act at any moment, in two of three machines.
        setup.seed = (seed % 3 != 0).then_some(seed);
        let mut sim = Simulation::with_setup(setup);
        sim.set_unrest(seed % 3 == 2);
        for end in 1..400 {
            sim.run_until(end);
            // The unrest lets others take over as well.
            if sim.engine.scheduler().policy_name(PoolId::FIRST) != Some(Priority::NAME) {
                sim.act(Outside::SetPolicy(PoolId::FIRST, Successor::Priority));
            }
            expect_the_most_important_run(&sim, &alloc::format!("seed {seed}:"));
        }
    }
}
