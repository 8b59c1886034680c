//! What yielding gives and costs: who is yielded to runs at once, and nobody else pays for it.

use super::{Instruction::*, Script, Setup, Simulation, short::busy, short::vcpu};
use crate::{
    Entitlement, GroupId, PcpuId, PcpuSet, Policy, PolicyOptions, VcpuId, Weight,
    policies::{NAMES, RoundRobin, Table, Window},
    policy_by_name,
};
use alloc::{boxed::Box, vec, vec::Vec};

const SLICE: u64 = 100;
const END: u64 = 90_000;

fn yields_to(ticks: u64, to: u16) -> Script {
    Script::forever([Compute(ticks), Yield(Some(vcpu(to)))])
}

fn policy(name: &str) -> Box<dyn Policy> {
    let window = |group, ticks| Window {
        group: Some(GroupId::new(group)),
        ticks,
    };
    let frame = vec![window(0, 2 * SLICE), window(1, SLICE)];
    let options = PolicyOptions {
        slice_ticks: SLICE,
        max_vcpus: 4,
        pcpus: PcpuSet::all(1),
        period_ticks: 10 * SLICE,
        table: Some(Table::new([(PcpuId::new(0).unwrap(), frame)]).unwrap()),
    };
    policy_by_name(name, options).unwrap()
}

/// One pCPU, with two vCPUs of one VM and one of another.
fn machine(name: &str, scripts: [Script; 3]) -> Simulation {
    weighted(name, scripts, Entitlement::default())
}

/// The same, of which the other one shall have `others`.
fn weighted(name: &str, scripts: [Script; 3], others: Entitlement) -> Simulation {
    let member = |group| Entitlement {
        group: GroupId::new(group),
        ..if group == 1 {
            others
        } else {
            Entitlement::default()
        }
    };
    Simulation::with_setup(Setup {
        pcpus: 1,
        policy: policy(name),
        scripts: scripts.into(),
        affinities: Vec::new(),
        entitlements: [0, 0, 1].map(member).into(),
        seed: None,
    })
}

#[test]
fn a_pcpu_knows_whether_others_wait_there() {
    let rare = Script::forever([WaitFor(150), Compute(20)]);
    let yields = Script::forever([Compute(39), Yield(None)]);
    let mut sim = Simulation::new(RoundRobin::with_slice(SLICE), [yields, rare]);
    let pcpu = PcpuId::new(0).unwrap();
    // Until it has yielded in vain it does not matter.
    for (until, is_contended) in [
        (20, true),
        (45, true),
        (85, false),
        (195, true),
        (300, false),
    ] {
        sim.run_until(until);
        assert_eq!(sim.is_contended(pcpu), is_contended, "at {until}");
    }
}

#[test]
fn one_that_has_yielded_was_not_preempted() {
    let yields = Script::once([Compute(10), Yield(None), Compute(END)]);
    let mut sim = Simulation::new(RoundRobin::with_slice(SLICE), [yields, busy()]);
    let preempted =
        |sim: &Simulation| [0, 1].map(|index| sim.handle(vcpu(index)).preempted_on().is_some());
    sim.run_until(5);
    assert_eq!(preempted(&sim), [false, true], "it has not run yet");
    sim.run_until(50);
    assert_eq!(preempted(&sim), [false, false]);
    assert!(sim.handle(vcpu(0)).ready_on().is_some());
    sim.run_until(150);
    assert_eq!(preempted(&sim), [false, true]);
    sim.run_until(250);
    assert_eq!(preempted(&sim), [true, false]);
}

/// How long `vcpu` did not run, each time.
fn waits(sim: &Simulation, vcpu: VcpuId) -> impl Iterator<Item = u64> {
    let stretches = sim.stretches().into_iter();
    let ran: Vec<_> = stretches.filter(|ran| ran.vcpu == vcpu).collect();
    let ends = ran.clone().into_iter().map(|ran| ran.start + ran.duration);
    ran.into_iter()
        .skip(1)
        .zip(ends)
        .map(|(next, end)| next.start - end)
}

fn runs(sim: &Simulation) -> [u64; 3] {
    [0, 1, 2].map(|index| sim.times(vcpu(index)).run)
}

#[test]
fn others_lose_nothing_to_vcpus_that_yield_to_each_other() {
    for name in NAMES {
        for ticks in [1, 37, SLICE - 1, SLICE, 3 * SLICE] {
            let pair = [yields_to(ticks, 1), yields_to(ticks, 0), busy()];
            let mut sim = machine(name, pair);
            sim.run_until(END);
            let runs = runs(&sim);
            assert!(runs[2] >= END / 3 - 3 * SLICE, "{name}, {ticks}: {runs:?}");
            if name != "gang" {
                assert!(runs[2] <= END / 3 + END / 20, "{name}, {ticks}: {runs:?}");
            }
        }
    }
}

#[test]
fn others_lose_nothing_to_one_that_is_always_yielded_to() {
    for name in NAMES {
        for ticks in [1, 60, SLICE - 1] {
            let mut sim = machine(name, [yields_to(ticks, 1), busy(), busy()]);
            sim.run_until(END);
            let runs = runs(&sim);
            assert!(runs[2] >= END / 3 - 3 * SLICE, "{name}, {ticks}: {runs:?}");
            if name != "gang" {
                assert!(runs[2] <= END / 3 + END / 20, "{name}, {ticks}: {runs:?}");
            }
        }
    }
}

#[test]
fn others_keep_what_their_weight_gives_them() {
    let others = Entitlement {
        weight: Weight::new(512).unwrap(),
        slice: Some(3 * SLICE),
        ..Entitlement::default()
    };
    for name in ["fair", "credit"] {
        for second in [busy(), yields_to(1, 0)] {
            let mut sim = weighted(name, [yields_to(1, 1), second, busy()], others);
            sim.run_until(END);
            let runs = runs(&sim);
            assert!(runs[2] >= END / 5 - 9 * SLICE, "{name}: {runs:?}");
        }
    }
}

#[test]
fn others_lose_nothing_to_storms_of_interrupts() {
    let sends_to = |ticks, to| Script::forever([Compute(ticks), Interrupt(vcpu(to))]);
    for name in NAMES {
        for ticks in [1, 37, SLICE - 1, SLICE, 3 * SLICE] {
            let storm = [sends_to(ticks, 1), sends_to(ticks, 0), busy()];
            let mut sim = machine(name, storm);
            sim.run_until(END);
            let runs = runs(&sim);
            assert!(runs[2] >= END / 3 - 3 * SLICE, "{name}, {ticks}: {runs:?}");
            let longest = waits(&sim, vcpu(2)).max().unwrap();
            assert!(longest <= 3 * SLICE, "{name}, {ticks}: {longest}");
        }
    }
}

#[test]
fn one_that_was_sent_an_interrupt_runs_next_where_the_policy_lets_it() {
    for (name, next) in [
        ("fair", 3),
        ("credit", 3),
        ("round-robin", 1),
        ("priority", 1),
    ] {
        let sender = Script::once([Compute(5), Interrupt(vcpu(3)), Compute(END)]);
        let scripts = [sender, busy(), busy(), busy()];
        let mut sim = Simulation::with_setup(Setup {
            pcpus: 1,
            policy: policy(name),
            scripts: scripts.into(),
            affinities: Vec::new(),
            entitlements: Vec::new(),
            seed: None,
        });
        sim.run_until(4 * SLICE);
        let order: Vec<_> = sim.stretches().iter().map(|ran| ran.vcpu.index()).collect();
        assert_eq!(order[..2], [0, next], "{name}");
    }
}

#[test]
fn who_is_yielded_to_gains_the_rest_of_the_slice() {
    for name in ["round-robin", "priority", "table", "deadline"] {
        let mut sim = machine(name, [yields_to(SLICE / 4 - 1, 1), busy(), busy()]);
        sim.run_until(END);
        let runs = runs(&sim);
        let expected = [END / 12, END * 7 / 12, END / 3];
        let is_close = |(run, expected): (&u64, u64)| run.abs_diff(expected) <= 3 * SLICE;
        assert!(
            runs.iter().zip(expected).all(is_close),
            "{name}: {runs:?} instead of {expected:?}"
        );
    }
}

#[test]
fn who_yields_again_and_again_saves_nothing_up() {
    for name in NAMES {
        for to in [None, Some(vcpu(1))] {
            let yields = [Compute(1), Yield(to)].repeat(500);
            let generous = Script::once(yields.into_iter().chain([Compute(END)]));
            let mut sim = machine(name, [generous, busy(), busy()]);
            let mut at = 0;
            while sim.times(vcpu(0)).run < 1000 {
                at += SLICE;
                sim.run_until(at);
            }
            let before = runs(&sim);
            sim.run_until(at + 9 * SLICE);
            let gained = runs(&sim)[2] - before[2];
            assert!(gained >= SLICE, "{name}, {to:?}: {gained}");
        }
    }
}

#[test]
fn a_spinner_that_yields_to_the_holder_lets_it_finish() {
    for name in NAMES {
        let holder = Script::once([Compute(SLICE / 2)]);
        let spins = |to: Option<VcpuId>| match to {
            Some(to) => Script::forever([Compute(2), Yield(Some(to))]),
            None => busy(),
        };
        let finished = |to| {
            let mut sim = machine(name, [spins(to), holder.clone(), busy()]);
            let mut now = 0;
            while sim.times(vcpu(1)).run <= SLICE / 2 {
                now += 1;
                sim.run_until(now);
                assert!(now < END, "{name}: the holder never finishes");
            }
            now
        };
        let (directed, plain) = (finished(Some(vcpu(1))), finished(None));
        assert!(directed <= plain, "{name}: {directed} instead of {plain}");
        // The first slot may be the other gang's.
        let most = if name == "gang" { 2 * SLICE } else { SLICE };
        assert!(directed <= most, "{name}: {directed}");
    }
}
