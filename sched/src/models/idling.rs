//! A pCPU goes idle and looks for somebody who waits, against who places a vCPU and looks for a pCPU that idles.

use super::harness::*;
use crate::{BlockReason, Decision, PcpuSet, Place, PoolId, Scheduler};
use loom::thread;

#[test]
fn loom_going_idle_against_placing() {
    explore(|| {
        let start = Start::new(2);
        let b = start.running(PcpuSet::only(P0));
        let c = start.running(PcpuSet::only(P1));
        let a = start.vcpu(PcpuSet::all(2));
        let mut pcpus = [start.pcpu(P0), start.pcpu(P1)];
        assert_eq!(pcpus.each_mut().map(Pcpu::schedule), [Decision::Run; 2]);
        start.forget_kicks();
        let other = thread::spawn({
            let a = a.clone();
            move || a.claim_power_on().expect("it is off").commit()
        });
        let _ = pcpus[1].block(BlockReason::Off);
        other.join().unwrap();
        while pcpus.iter_mut().any(Pcpu::look) {}
        assert_eq!(
            (b.place(), c.place()),
            (Place::Loaded(P0), Place::Parked(P1))
        );
        assert_eq!(a.place(), Place::Loaded(P1), "no pCPU idles while it waits");
    });
}

#[test]
fn loom_going_idle_against_placing_on_an_armed_pcpu() {
    explore(|| {
        let start = Start::new(2);
        let mut busy = start.pcpu(P0);
        let a = start.running(PcpuSet::all(2));
        assert_eq!(busy.schedule(), Decision::Run);
        a.pause();
        assert_eq!(busy.schedule(), Decision::Idle);
        let [_b, _c] = [P0, P0].map(|pcpu| start.running(PcpuSet::only(pcpu)));
        assert_eq!(busy.schedule(), Decision::Run);
        assert!(busy.hardware.timer.take().is_some(), "it is armed");
        let mut idler = start.pcpu(P1);
        start.forget_kicks();
        let other = thread::spawn({
            let a = a.clone();
            move || a.resume()
        });
        let _ = idler.schedule();
        other.join().unwrap();
        // Only kicks count: a slice is too long to idle.
        while busy.look() | idler.look() {
            busy.hardware.timer = None;
        }
        assert_eq!(a.place(), Place::Loaded(P1), "no pCPU idles while it waits");
    });
}

#[test]
fn loom_going_idle_against_receiving() {
    explore(|| {
        let start = Start::new(2);
        let mut busy = start.pcpu(P0);
        let _b = start.running(PcpuSet::only(P0));
        assert_eq!(busy.schedule(), Decision::Run);
        let a = start.running(PcpuSet::all(2));
        let mut idler = start.pcpu(P1);
        start.forget_kicks();
        let other = thread::spawn(move || {
            let _ = busy.schedule();
            busy
        });
        let _ = idler.schedule();
        let mut busy = other.join().unwrap();
        busy.hardware.timer = None;
        while busy.look() | idler.look() {
            busy.hardware.timer = None;
        }
        assert_eq!(a.place(), Place::Loaded(P1), "no pCPU idles while it waits");
    });
}

/// Whoever idles asks where most wait, in vain, while somebody who can run there comes to a third one.
#[test]
fn loom_asking_in_vain_against_receiving() {
    explore_to(3, || {
        let start = Start::new(3);
        let mut crowded = start.pcpu(P0);
        let _waiting = [P0, P0].map(|pcpu| start.running(PcpuSet::only(pcpu)));
        assert_eq!(crowded.schedule(), Decision::Run);
        let mut busy = start.pcpu(P1);
        let _b = start.running(PcpuSet::only(P1));
        assert_eq!(busy.schedule(), Decision::Run);
        let a = start.running(PcpuSet::all(3));
        let mut idler = start.pcpu(P2);
        start.forget_kicks();
        let other = thread::spawn(move || {
            let _ = busy.schedule();
            busy
        });
        let _ = idler.schedule();
        crowded.look();
        let mut busy = other.join().unwrap();
        // Only kicks count: a slice is too long to idle.
        while crowded.look() | busy.look() | idler.look() {
            for pcpu in [&mut crowded, &mut busy] {
                pcpu.hardware.timer = None;
            }
        }
        assert_eq!(a.place(), Place::Loaded(P2), "no pCPU idles while it waits");
    });
}

#[test]
fn loom_one_idle_pcpu_is_claimed_once() {
    explore(|| {
        let start = Start::new(2);
        let busy = start.running(PcpuSet::only(P0));
        let mut pcpus = [start.pcpu(P0), start.pcpu(P1)];
        assert_eq!(
            pcpus.each_mut().map(Pcpu::schedule),
            [Decision::Run, Decision::Idle]
        );
        let claim = |scheduler: &Scheduler<Model>| {
            scheduler
                .claim_nearest(PoolId::FIRST, PcpuSet::all(2), None)
                .is_some()
        };
        start.forget_kicks();
        let other = thread::spawn({
            let scheduler = start.scheduler.clone();
            move || claim(&scheduler)
        });
        let here = claim(&start.scheduler);
        assert!(here ^ other.join().unwrap());
        assert_eq!(busy.place(), Place::Loaded(P0));
    });
}
