//! Halt polling: what it saves, and whom it does not disturb.

use super::{Instruction::*, Outside, Script, Setup, Simulation, short::pcpu};
use crate::{Entitlement, PcpuSet, VcpuId, policies::RoundRobin};
use alloc::{boxed::Box, vec, vec::Vec};

const VCPU0: VcpuId = VcpuId::new(0);
const VCPU1: VcpuId = VcpuId::new(1);
const LIMIT: u64 = 80;

/// Each vCPU on a pCPU of its own; those that wait are polled for up to `limit`.
fn machine(scripts: impl IntoIterator<Item = Script>, limit: u64) -> Simulation {
    let scripts: Vec<Script> = scripts.into_iter().collect();
    let count = scripts.len() as u16;
    let affinity = |index| PcpuSet::only(pcpu(index));
    Simulation::with_setup(Setup {
        pcpus: count,
        policy: Box::new(RoundRobin::with_slice(10)),
        affinities: (0..count).map(affinity).collect(),
        entitlements: vec![polled(limit); scripts.len()],
        scripts,
        seed: None,
    })
}

fn polled(limit: u64) -> Entitlement {
    Entitlement {
        halt_poll: limit,
        ..Entitlement::default()
    }
}

/// One interrupts the other every so many ticks, which waits for that.
fn pings(limit: u64, ticks: u64) -> Simulation {
    let sender = Script::forever([Compute(ticks), Interrupt(VCPU1)]);
    machine([sender, Script::forever([Wait])], limit)
}

#[test]
fn who_is_woken_soon_is_polled_for_and_needs_no_kick() {
    let (mut without, mut with) = (pings(0, 20), pings(LIMIT, 20));
    for sim in [&mut without, &mut with] {
        sim.run_until(2_100);
    }
    let kicks = |sim: &Simulation| sim.counters(pcpu(1)).unwrap().kicks_received;
    let polls = with.handle(VCPU1).snapshot(2_100).halt_polls;
    assert_eq!(kicks(&without), 1 + 100, "one turned it on");
    assert_eq!(
        (kicks(&with), polls.polls, polls.lost()),
        (1 + 2, 99, 1),
        "windows of 0 and 10 are too short"
    );
    assert_eq!(without.times(VCPU1), with.times(VCPU1), "it waits as long");
    let idle = |sim: &Simulation| sim.counters(pcpu(1)).unwrap().times.idle;
    assert_eq!(idle(&without), idle(&with), "what is polled is idle time");
    assert!(polls.ticks <= with.times(VCPU1).blocked);
}

#[test]
fn who_waits_for_long_is_left_alone() {
    let mut sim = pings(LIMIT, 200);
    sim.run_until(20_000);
    let polls = sim.handle(VCPU1).snapshot(20_000).halt_polls;
    assert_eq!((polls.polls, polls.ticks), (0, 0));
}

#[test]
fn polling_ends_with_its_window_and_begins_anew_with_short_waits() {
    let short = [Compute(20), Interrupt(VCPU1)].repeat(6);
    let long = [Compute(500), Interrupt(VCPU1)].repeat(6);
    let sender = Script::forever([short, long].concat());
    let mut sim = machine([sender, Script::forever([Wait])], LIMIT);
    sim.run_until(3_140);
    let polls = sim.handle(VCPU1).snapshot(3_140).halt_polls;
    // Of the six short waits the last four, or those before them that found a window too short; of the long ones those until it is gone.
    assert!(polls.won >= 3, "{polls:?}");
    assert!((2..=4).contains(&polls.lost()), "{polls:?}");
    assert!(polls.ticks < 3_140 / 8, "{polls:?}");
    sim.run_until(6_280);
    let later = sim.handle(VCPU1).snapshot(6_280).halt_polls;
    assert_eq!(later.won, 2 * polls.won);
}

#[test]
fn a_vcpu_that_comes_ends_the_polling_at_once_and_nobody_polls_while_it_is_there() {
    let sender = Script::forever([Compute(20), Interrupt(VCPU1)]);
    let waiter = Script::forever([Wait]);
    let busy = Script::forever([Compute(7)]);
    let third = VcpuId::new(2);
    let mut sim = Simulation::with_setup(Setup {
        pcpus: 2,
        policy: Box::new(RoundRobin::with_slice(10)),
        affinities: vec![
            PcpuSet::only(pcpu(0)),
            PcpuSet::only(pcpu(1)),
            PcpuSet::only(pcpu(1)),
        ],
        entitlements: vec![polled(LIMIT); 3],
        scripts: vec![sender, waiter, busy],
        seed: None,
    });
    sim.act(Outside::Pause(third));
    sim.run_until(495);
    let before = sim.handle(VCPU1).snapshot(495).halt_polls;
    assert!(before.won > 10);
    sim.act(Outside::Resume(third));
    sim.run_until(496);
    assert_eq!(sim.times(third).ready, 0, "it runs at once");
    sim.run_until(2_000);
    let after = sim.handle(VCPU1).snapshot(2_000).halt_polls;
    assert_eq!(after.polls, before.polls, "others need the pCPU");
    assert_eq!(
        sim.times(third).total() - sim.times(third).blocked,
        2_000 - 495
    );
}

#[test]
fn a_pcpu_that_polls_counts_as_idle_for_who_wakes_up() {
    // vCPU 2 was on pCPU 0 last, which is busy, and may run on the other one, where vCPU 1 is polled for.
    let sender = Script::forever([Compute(20), Interrupt(VCPU1)]);
    let third = VcpuId::new(2);
    let mut sim = Simulation::with_setup(Setup {
        pcpus: 2,
        policy: Box::new(RoundRobin::with_slice(10_000)),
        affinities: vec![
            PcpuSet::only(pcpu(0)),
            PcpuSet::only(pcpu(1)),
            PcpuSet::only(pcpu(0)),
        ],
        entitlements: vec![polled(LIMIT); 3],
        scripts: vec![
            sender,
            Script::forever([Wait]),
            Script::forever([Compute(3), Wait]),
        ],
        seed: None,
    });
    sim.act(Outside::Pause(VCPU0));
    sim.run_until(10);
    sim.act(Outside::Resume(VCPU0));
    sim.run_until(494);
    sim.act(Outside::SetAffinity(third, PcpuSet::all(2)));
    sim.run_until(495);
    let before = sim.times(third);
    assert_eq!(sim.handle(third).last_pcpu(), pcpu(0));
    assert!(sim.handle(third).is_parked());
    sim.act(Outside::Interrupt(third));
    sim.run_until(498);
    let after = sim.times(third);
    assert_eq!(after.ready, before.ready, "it did not wait for pCPU 0");
    assert!(after.run > before.run);
}

#[test]
fn a_lower_limit_counts_from_the_next_wait_on() {
    let sender = Script::forever([Compute(20), Interrupt(VCPU1)]);
    let waiter = Script::forever([Compute(5), Wait]);
    let ticks_of_next_wait = |limit| {
        let mut sim = machine([sender.clone(), waiter.clone()], LIMIT);
        // It runs, has been polled for, and will be.
        let runs = |now: &u64| {
            sim.run_until(*now);
            !sim.handle(VCPU1).state.load().is_blocked()
        };
        let now = (2_000..2_040).find(runs).expect("every 20 ticks");
        let before = sim.handle(VCPU1).snapshot(now).halt_polls;
        assert!(before.won > 80);
        sim.handle(VCPU1).set_entitlement(&polled(limit)).unwrap();
        sim.run_until(now + 20);
        sim.handle(VCPU1).snapshot(now + 20).halt_polls.ticks - before.ticks
    };
    assert!(ticks_of_next_wait(LIMIT) > 10);
    assert!((1..=5).contains(&ticks_of_next_wait(4)));
    assert_eq!(ticks_of_next_wait(0), 0);
}

#[test]
fn a_pause_ends_the_polling() {
    let mut sim = pings(LIMIT, 20);
    sim.run_until(2_000);
    let polls = sim.handle(VCPU1).snapshot(2_000).halt_polls;
    sim.act(Outside::Pause(VCPU1));
    sim.run_until(2_001);
    assert!(sim.handle(VCPU1).is_parked());
    sim.run_until(4_000);
    let paused = sim.handle(VCPU1).snapshot(4_000).halt_polls;
    assert!(paused.polls <= polls.polls + 1, "{polls:?} {paused:?}");
    sim.act(Outside::Resume(VCPU1));
    sim.run_until(6_000);
    assert!(sim.handle(VCPU1).snapshot(6_000).halt_polls.won > polls.won + 50);
}
