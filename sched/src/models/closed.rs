//! A closed pCPU that has a box in its inbox: what is asked of that vCPU meanwhile, and what makes room for it elsewhere, counts.

use super::harness::*;
use crate::{BlockReason, Decision, PcpuId, PcpuSet, Place, VcpuHandle};
use alloc::sync::Arc;
use loom::thread::{self, JoinHandle};

/// A machine whose second pCPU is closed, the first in service, and a third one drained; and a vCPU that is off and may run on
/// `affinity`.
fn second_is_closed(affinity: PcpuSet) -> (Start, [Pcpu; 3], Arc<VcpuHandle<Model>>) {
    let start = Start::new(3);
    let mut pcpus = [P0, P1, P2].map(|pcpu| start.pcpu(pcpu));
    start.scheduler.drain(P1);
    start.scheduler.drain(P2);
    let decisions = pcpus.each_mut().map(Pcpu::schedule);
    assert_eq!(decisions[1..], [Decision::Drained; 2]);
    assert_eq!(pcpus[1].sched.close(), Ok(()));
    start.forget_kicks();
    let vcpu = start.vcpu(affinity);
    (start, pcpus, vcpu)
}

/// Somebody turns it on, which puts it where it may run.
fn turn_on(vcpu: &Arc<VcpuHandle<Model>>) -> JoinHandle<()> {
    let vcpu = vcpu.clone();
    thread::spawn(move || vcpu.claim_power_on().expect("it is off").commit())
}

fn only(pcpus: &[PcpuId]) -> PcpuSet {
    let pcpus = pcpus.iter().copied().map(PcpuSet::only);
    pcpus.fold(PcpuSet::EMPTY, PcpuSet::union)
}

#[test]
fn loom_a_stop_of_who_waits_at_a_closed_pcpu() {
    explore(|| {
        let (start, _pcpus, vcpu) = second_is_closed(only(&[P1]));
        let other = turn_on(&vcpu);
        vcpu.stop();
        other.join().unwrap();
        assert!(vcpu.is_parked());
        assert_eq!(start.stopped(), 1);
        assert!(vcpu.retire().is_ok(), "nobody else has its box");
    });
}

#[test]
fn loom_another_affinity_for_who_waits_at_a_closed_pcpu() {
    explore_to(3, || {
        let (_start, [mut first, ..], vcpu) = second_is_closed(only(&[P1]));
        let other = turn_on(&vcpu);
        vcpu.set_affinity(only(&[P0])).expect("it is there");
        other.join().unwrap();
        while first.look() {}
        assert_eq!(vcpu.place(), Place::Loaded(P0));
    });
}

#[test]
fn loom_another_pcpu_comes_back_for_who_waits_at_a_closed_one() {
    explore(|| {
        let (start, [_, _, mut third], vcpu) = second_is_closed(only(&[P1, P2]));
        let other = turn_on(&vcpu);
        assert!(start.scheduler.undrain(P2));
        other.join().unwrap();
        while third.look() {}
        assert_eq!(vcpu.place(), Place::Loaded(P2));
    });
}

/// Whoever looks at the box last sees what both have asked.
#[test]
fn loom_two_who_ask_something_of_who_waits_at_a_closed_pcpu() {
    explore_to(2, || {
        let (start, [mut first, ..], vcpu) = second_is_closed(only(&[P1]));
        turn_on(&vcpu).join().unwrap();
        assert_eq!(vcpu.place(), Place::Queued(P1));
        let other = thread::spawn({
            let vcpu = vcpu.clone();
            move || vcpu.set_affinity(only(&[P0])).expect("it is there")
        });
        vcpu.stop();
        other.join().unwrap();
        while first.look() {}
        assert!(vcpu.is_parked());
        assert_eq!(start.stopped(), 1);
    });
}

/// Nobody looks for its timer at a closed pCPU.
#[test]
fn loom_a_drain_against_a_pcpu_that_has_a_deadline_and_closes() {
    explore(|| {
        let start = Start::new(2);
        let mut pcpu = start.pcpu(P1);
        let [a, b] = [(); 2].map(|()| start.running(only(&[P1])));
        assert_eq!(pcpu.schedule(), Decision::Run);
        for vcpu in [&a, &b] {
            vcpu.set_affinity(PcpuSet::all(2)).expect("both are there");
        }
        pcpu.hardware.deadline = Some(100);
        let _ = pcpu.block(BlockReason::Waiting);
        pcpu.hardware.deadline = None;
        let runs = pcpu.loaded().handle.clone();
        let waits = if runs.id() == a.id() { &b } else { &a };
        assert!(waits.is_parked(), "the other runs");
        let _ = pcpu.block(BlockReason::Off);
        assert_eq!(pcpu.hardware.timer, Some(100));
        start.forget_kicks();
        let other = thread::spawn({
            let scheduler = start.scheduler.clone();
            move || scheduler.drain(P1)
        });
        pcpu.look();
        let is_closed = pcpu.sched.close().is_ok();
        assert!(other.join().unwrap());
        if is_closed {
            assert_eq!(pcpu.hardware.timer, None);
            assert_eq!(waits.place(), Place::Queued(P0), "it is woken early");
        }
    });
}
