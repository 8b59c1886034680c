//! How policies take over while vCPUs run, and what happens when one breaks its promise.

use super::{
    Action, Costs, Outside, PolicySpec, RunOptions, Scenario, Setup, Simulation, Workload,
    engine::Engine,
    scenarios::{MS, scenario, vm},
    short::busy,
};
use crate::{
    Bounds, Choice, Entitlements, LocalPolicy, PcpuId, PcpuSet, Pick, Policy, Ready, Slice,
    TraceEvent, VcpuId,
    policies::{Fair, NAMES, RoundRobin},
};
use alloc::{boxed::Box, format, string::ToString, sync::Arc, vec, vec::Vec};

const SLICE: u64 = 10;

fn machine(pcpus: u16, vcpus: usize, policy: Box<dyn Policy>) -> Simulation {
    Simulation::with_setup(setup(pcpus, vcpus, policy))
}

fn setup(pcpus: u16, vcpus: usize, policy: Box<dyn Policy>) -> Setup {
    Setup {
        pcpus,
        policy,
        scripts: (0..vcpus).map(|_| busy()).collect(),
        affinities: Vec::new(),
        entitlements: Vec::new(),
        seed: None,
    }
}

fn run(sim: &Simulation, vcpu: u16) -> u64 {
    sim.times(VcpuId::new(vcpu)).run
}

#[test]
fn another_policy_takes_over_at_once_and_loses_nobody() {
    let mut sim = machine(2, 5, Box::new(RoundRobin::with_slice(1_000_000)));
    sim.run_until(1000);
    // Three of the five have never run.
    let waiting = (0..5).filter(|&vcpu| run(&sim, vcpu) == 0).count();
    assert_eq!(waiting, 3);
    sim.set_policy(Box::new(Fair::with_slice(SLICE, 5)))
        .unwrap();
    sim.run_until(1000 + 4 * SLICE);
    assert!(
        (0..5).all(|vcpu| run(&sim, vcpu) > 0),
        "all have had a turn"
    );
    sim.set_policy(Box::new(RoundRobin::with_slice(SLICE)))
        .unwrap();
    let before: Vec<u64> = (0..5).map(|vcpu| run(&sim, vcpu)).collect();
    sim.run_until(2000);
    for (vcpu, before) in (0..5).zip(before) {
        assert!(run(&sim, vcpu) > before + 100, "vcpu{vcpu}");
    }
    assert_eq!(sim.policy_failures(), []);
}

/// A machine on which each of `vcpus` busy vCPUs has a pCPU for itself; what switches and interrupts take is as in scenarios.
fn uncrowded(policy: &str, pcpus: u16, vcpus: u16) -> Scenario {
    scenario(policy, pcpus, vec![vm("busy", vcpus, Workload::CpuBound)])
}

/// A kick, and what its answer takes: an interrupt, and one binding at most.
fn kick_and_drain(engine: &Engine, costs: Costs) -> u64 {
    engine.world().longest_kick() + costs.exit + costs.switch
}

/// When a policy took over on `pcpu` last.
fn taken_over_at(engine: &Engine, pcpu: PcpuId) -> Option<u64> {
    let mut last = None;
    let trace = engine.scheduler().trace(pcpu).expect("it is there");
    trace.visit(|record| {
        if record.event == TraceEvent::Policy {
            last = Some(record.time);
        }
    });
    last
}

/// The longest time for which `vcpu` did not run, from `start` until now.
fn longest_gap(engine: &Engine, vcpu: VcpuId, start: u64) -> u64 {
    let (mut longest, mut ran_until) = (0, start);
    for stretch in engine.stretches().iter().filter(|other| other.vcpu == vcpu) {
        longest = longest.max(stretch.start.saturating_sub(ran_until));
        ran_until = ran_until.max(stretch.start + stretch.duration);
    }
    longest.max(engine.now() - ran_until)
}

/// For how long each pCPU has been busy with switches and interrupts.
fn overheads(engine: &Engine) -> Vec<u64> {
    let stations = engine.stations.iter();
    stations.map(|station| station.overhead.get()).collect()
}

/// Policies take over one after the other, at any time. Over all seeds each takes over from each, itself included.
#[track_caller]
fn swap_and_expect_no_stop(pcpus: u16, vcpus: u16, seed: u64, interleave: bool) {
    let name = |number: u64| NAMES[number as usize % NAMES.len()];
    let (first, step) = (seed / NAMES.len() as u64, seed);
    let scenario = uncrowded(name(first), pcpus, vcpus);
    let options = RunOptions {
        interleave,
        record_stretches: true,
    };
    let policy = scenario.policy.policy().expect("a good policy");
    let engine = scenario.engine(policy, seed, &options);
    for swap in 1..=NAMES.len() as u64 {
        let start = engine.now() + MS + (7919 * seed + 104_729 * swap) % (3 * MS);
        engine.run_until(start);
        let before = overheads(&engine);
        let policy = PolicySpec {
            name: name(first + swap * step).into(),
            ..scenario.policy.clone()
        };
        let what = format!("seed {seed}: {} takes over at {start}", policy.name);
        let swapped = engine.try_action(&Action::SetPolicy { pool: None, policy });
        assert_eq!(swapped, Ok(()), "{what}");
        let most = kick_and_drain(&engine, scenario.costs);
        // Longer than any slice.
        engine.run_until(start + 2 * MS);
        for pcpu in engine.scheduler().pcpus().iter() {
            let after = taken_over_at(&engine, pcpu).map(|time| time.checked_sub(start));
            let is_soon = after.flatten().is_some_and(|after| after <= most);
            assert!(is_soon, "{what}: on {pcpu} after {after:?}");
        }
        for vcpu in (0..vcpus).map(VcpuId::new) {
            let gap = longest_gap(&engine, vcpu, start);
            assert!(gap <= most, "{what}: {vcpu} stands still for {gap}");
        }
        // Others interrupt as well if they may.
        for (before, after) in before.into_iter().zip(overheads(&engine)) {
            let took = after - before;
            let most = scenario.costs.exit + scenario.costs.switch;
            assert!(interleave || took <= most, "{what}, which takes {took}");
        }
    }
}

#[test]
fn no_policy_that_takes_over_stops_anybody_for_longer_than_a_kick_and_a_drain() {
    for seed in 0..256 {
        for (pcpus, vcpus) in [(1, 1), (4, 4), (6, 5)] {
            swap_and_expect_no_stop(pcpus, vcpus, seed, false);
            swap_and_expect_no_stop(pcpus, vcpus, seed, true);
        }
    }
}

#[test]
fn policies_that_take_over_in_quick_succession_are_all_dropped() {
    let policy = || Arc::new(());
    let witnesses: Vec<Arc<()>> = (0..50).map(|_| policy()).collect();
    let mut sim = machine(3, 4, Box::new(RoundRobin::with_slice(SLICE)));
    for (index, witness) in witnesses.iter().enumerate() {
        let broken = Broken::new(How::NotAtAll, Some(Arc::clone(witness)));
        sim.set_policy(Box::new(broken)).unwrap();
        if index % 3 == 0 {
            sim.run_until(10 * index as u64 + 5);
        }
    }
    sim.run_until(1000);
    sim.set_policy(Box::new(RoundRobin::with_slice(SLICE)))
        .unwrap();
    sim.run_until(1100);
    sim.set_policy(Box::new(RoundRobin::with_slice(SLICE)))
        .unwrap();
    for (index, witness) in witnesses.iter().enumerate() {
        assert_eq!(
            Arc::strong_count(witness),
            1,
            "policy {index} is still there"
        );
    }
}

/// In which way a policy breaks its promise, which is that nobody waits for more than 100 ticks.
#[derive(Clone, Copy)]
enum How {
    NotAtAll,
    /// It never picks vCPU 0.
    Starves,
    /// It picks those who are not there, and idles.
    PicksAbsent,
    /// Its slices never end.
    PicksForEver,
}

struct Broken {
    how: How,
    witness: Option<Arc<()>>,
}

struct BrokenLocal {
    how: How,
    ready: Vec<VcpuId>,
    _witness: Option<Arc<()>>,
}

impl Broken {
    fn new(how: How, witness: Option<Arc<()>>) -> Self {
        Self { how, witness }
    }
}

impl Policy for Broken {
    fn name(&self) -> &'static str {
        "broken"
    }

    fn bounds(&self, _ready: usize) -> Bounds {
        Bounds {
            work_conserving: false,
            longest_wait: Some(100),
        }
    }

    fn renew(&self, _pcpus: PcpuSet) -> Box<dyn Policy> {
        Box::new(Self::new(self.how, self.witness.clone()))
    }

    fn local(&self, _pcpu: PcpuId, entitlements: &Arc<Entitlements>) -> Box<dyn LocalPolicy> {
        Box::new(BrokenLocal {
            how: self.how,
            ready: Vec::with_capacity(entitlements.len()),
            _witness: self.witness.clone(),
        })
    }
}

impl LocalPolicy for BrokenLocal {
    fn enqueue(&mut self, vcpu: VcpuId, _why: Ready, _now: u64) {
        self.ready.push(vcpu);
    }

    fn pick(&mut self, _now: u64) -> Choice {
        let slice = match self.how {
            How::PicksForEver => Slice::UNLIMITED,
            _ => Slice::of(SLICE),
        };
        let is_starved = |&vcpu: &VcpuId| matches!(self.how, How::Starves) && vcpu.index() == 0;
        let absent = Pick {
            vcpu: VcpuId::new(60_000),
            slice,
        };
        match self.ready.iter().position(|vcpu| !is_starved(vcpu)) {
            _ if matches!(self.how, How::PicksAbsent) => Choice::Run(absent),
            Some(index) => Choice::Run(Pick {
                vcpu: self.ready.remove(index),
                slice,
            }),
            None => Choice::Idle(None),
        }
    }

    fn take(&mut self, vcpu: VcpuId, now: u64) -> Option<Slice> {
        self.withdraw(vcpu, now);
        None
    }

    fn withdraw(&mut self, vcpu: VcpuId, _now: u64) {
        self.ready.retain(|&ready| ready != vcpu);
    }

    fn surrender(&mut self, _allowed: &mut dyn FnMut(VcpuId) -> bool) -> Option<VcpuId> {
        None
    }

    fn charge(&mut self, _vcpu: VcpuId, _ticks: u64, _now: u64) {}

    fn waiting(&self) -> usize {
        self.ready.len()
    }
}

#[test]
fn a_policy_that_lets_somebody_starve_is_replaced_everywhere() {
    for how in [How::Starves, How::PicksForEver, How::PicksAbsent] {
        let mut sim = machine(2, 5, Box::new(Broken::new(how, None)));
        sim.run_until(2000);
        let failures = sim.policy_failures();
        assert_eq!(failures.len(), 1, "it is said once");
        let failure = failures[0];
        assert_eq!((failure.policy, failure.promised), ("broken", 100));
        assert!(failure.waited > 200 && failure.waited < 1000, "{failure:?}");
        let before: Vec<u64> = (0..5).map(|vcpu| run(&sim, vcpu)).collect();
        sim.run_until(3000);
        for (vcpu, before) in (0..5).zip(before) {
            assert!(run(&sim, vcpu) > before + 200, "vcpu{vcpu} has its turns");
        }
        // The next policy gets its chance.
        sim.set_policy(Box::new(Fair::with_slice(SLICE, 5)))
            .unwrap();
        sim.run_until(4000);
        assert_eq!(sim.policy_failures().len(), 1);
    }
}

#[test]
fn a_policy_that_keeps_its_word_is_left_alone() {
    let mut sim = machine(2, 9, Box::new(RoundRobin::with_slice(SLICE)));
    sim.run_until(20_000);
    assert_eq!(sim.policy_failures(), []);
}

#[test]
fn a_policy_is_not_blamed_for_a_timer_that_is_late() {
    let mut sim = machine(1, 3, Box::new(RoundRobin::with_slice(SLICE)));
    sim.set_timer_delay(4 * SLICE);
    sim.run_until(20_000);
    assert_eq!(sim.policy_failures(), []);
    let mut sim = machine(1, 3, Box::new(Broken::new(How::Starves, None)));
    sim.set_timer_delay(4 * SLICE);
    sim.run_until(20_000);
    assert_eq!(sim.policy_failures().len(), 1, "who starves somebody is");
}

#[test]
fn a_policy_is_not_blamed_for_a_pcpu_that_was_out_of_service() {
    let policy = Box::new(RoundRobin::with_slice(SLICE));
    let mut sim = Simulation::with_setup(Setup {
        affinities: [1; 3].map(PcpuSet::from_bits).into(),
        ..setup(2, 3, policy)
    });
    sim.run_until(45);
    sim.act(Outside::Drain(PcpuId::new(0).unwrap()));
    sim.run_until(5000);
    sim.act(Outside::Undrain(PcpuId::new(0).unwrap()));
    sim.run_until(6000);
    assert_eq!(sim.policy_failures(), []);
}

#[test]
fn a_policy_is_not_given_more_vcpus_than_it_has_room_for() {
    let mut sim = machine(2, 5, Box::new(RoundRobin::with_slice(SLICE)));
    let refusal = sim
        .set_policy(Box::new(Fair::with_slice(SLICE, 4)))
        .unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "the policy fair was made for 4 vCPUs, and this is vcpu4"
    );
    sim.run_until(100);
    assert!(
        (0..5).all(|vcpu| run(&sim, vcpu) > 0),
        "the old one goes on"
    );
}
