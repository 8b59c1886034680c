//! The largest machines: 512 vCPUs on 64 pCPUs.

use super::{Instruction::*, Outside, Script, Setup, Simulation, Successor};
use crate::{PcpuId, PcpuSet, PoolId, VcpuId, policies::RoundRobin};
use alloc::{boxed::Box, vec::Vec};

const PCPUS: u16 = 64;
const VCPUS: u16 = 512;
const SLICE: u64 = 10;

fn machine(scripts: Vec<Script>, affinities: Vec<PcpuSet>, seed: Option<u64>) -> Simulation {
    Simulation::with_setup(Setup {
        pcpus: PCPUS,
        policy: Box::new(RoundRobin::with_slice(SLICE)),
        scripts,
        affinities,
        entitlements: Vec::new(),
        seed,
    })
}

fn vcpus() -> impl Iterator<Item = VcpuId> {
    (0..VCPUS).map(VcpuId::new)
}

fn last_pcpu() -> PcpuId {
    PcpuId::new(PCPUS - 1).expect("it is below the limit")
}

#[test]
fn busy_vcpus_share_all_pcpus_alike() {
    let busy = || Script::forever([Compute(1000)]);
    let mut sim = machine(vcpus().map(|_| busy()).collect(), Vec::new(), None);
    sim.run_until(1600);
    // Eight to a pCPU: each has had its slice in every second 160 ticks.
    for vcpu in vcpus() {
        let run = sim.times(vcpu).run;
        assert!((190..=210).contains(&run), "{vcpu} ran for {run} ticks");
    }
    for pcpu in PcpuSet::all(PCPUS).iter() {
        let idle = sim.counters(pcpu).expect("it is of the machine").times.idle;
        assert_eq!(idle, 0, "{pcpu}");
    }
}

#[test]
fn one_inbox_has_room_for_all_and_one_heap_for_their_deadlines() {
    let sleeper = || Script::forever([Compute(1), WaitFor(20_000)]);
    let mut sim = machine(vcpus().map(|_| sleeper()).collect(), Vec::new(), None);
    // All sleep somewhere; then all may run on the last pCPU only, and are woken before it looks.
    sim.run_until(1000);
    for vcpu in vcpus() {
        sim.act(Outside::SetAffinity(vcpu, PcpuSet::only(last_pcpu())));
    }
    for vcpu in vcpus() {
        sim.act(Outside::Interrupt(vcpu));
    }
    sim.run_until(15_000);
    let on_last = |sim: &Simulation, from: u64| {
        let stretches = sim.stretches().into_iter().filter(|s| s.start >= from);
        let mut ran: Vec<_> = stretches
            .map(|stretch| {
                assert_eq!(stretch.pcpu, last_pcpu(), "{} strays", stretch.vcpu);
                stretch.vcpu
            })
            .collect();
        ran.sort();
        ran.dedup();
        ran.len()
    };
    assert_eq!(on_last(&sim, 1000), usize::from(VCPUS));
    // Now all wait there unbound, and each is woken by its own deadline.
    sim.run_until(60_000);
    assert_eq!(on_last(&sim, 20_000), usize::from(VCPUS));
}

#[test]
fn a_large_machine_by_chance_breaks_no_rule() {
    let peer = |vcpu: VcpuId, step: usize| VcpuId::new(((vcpu.index() + step) % 512) as u16);
    let script = |vcpu: VcpuId| {
        Script::forever([
            Compute(1 + vcpu.index() as u64 % 13),
            Interrupt(peer(vcpu, 64)),
            WaitFor(150),
            Inspect(peer(vcpu, 448)),
            Yield(None),
        ])
    };
    let affinity = |vcpu: VcpuId| match vcpu.index() % 3 {
        0 => PcpuSet::all(PCPUS),
        1 => PcpuSet::only(last_pcpu()),
        _ => PcpuSet::from_bits(u64::MAX << 32),
    };
    let scripts = vcpus().map(script).collect();
    let mut sim = machine(scripts, vcpus().map(affinity).collect(), Some(1));
    sim.set_unrest(true);
    sim.run_until(20);
    sim.set_unrest(false);
    // Others let a vCPU wait for longer than this goes on.
    sim.act(Outside::SetPolicy(PoolId::FIRST, Successor::RoundRobin));
    let all = PcpuSet::all(PCPUS);
    all.iter().for_each(|pcpu| sim.act(Outside::Undrain(pcpu)));
    for vcpu in vcpus() {
        sim.act(Outside::SetAffinity(vcpu, all));
        sim.act(Outside::Resume(vcpu));
    }
    let before: Vec<u64> = vcpus().map(|vcpu| sim.times(vcpu).run).collect();
    // All that had to be on one pCPU may still be there, and hardly anybody idles.
    sim.run_until(1000);
    for (vcpu, before) in vcpus().zip(before) {
        assert!(sim.times(vcpu).run > before, "{vcpu} is stuck");
    }
}
