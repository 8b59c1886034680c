//! A drained pCPU closes and opens again, against who sends it something at the same time.

use super::harness::*;
use crate::{Decision, PcpuSet, Place, PoolId, VcpuHandle};
use alloc::sync::Arc;
use loom::thread;

/// A pCPU that idles unseen, one that is open, and a vCPU that is paused and parked where the second had it.
fn parked_on_the_second() -> (Start, [Pcpu; 2], Arc<VcpuHandle<Model>>) {
    let start = Start::new(2);
    let mut second = start.pcpu(P1);
    let vcpu = start.running(PcpuSet::only(P1));
    assert_eq!(second.schedule(), Decision::Run);
    vcpu.pause();
    assert_eq!(second.schedule(), Decision::Idle);
    vcpu.set_affinity(PcpuSet::all(2)).expect("both are there");
    let mut first = start.pcpu(P0);
    assert_eq!(first.schedule(), Decision::Idle);
    // Whoever looks for an idle pCPU finds the second one.
    start.scheduler.retract_idle(PoolId::FIRST, P0);
    start.forget_kicks();
    (start, [first, second], vcpu)
}

#[test]
fn loom_close_against_post() {
    explore(|| {
        let (start, [mut first, mut second], vcpu) = parked_on_the_second();
        let other = thread::spawn({
            let vcpu = vcpu.clone();
            move || vcpu.resume()
        });
        start.scheduler.drain(P1);
        second.close();
        other.join().unwrap();
        first.look();
        assert_eq!(
            vcpu.place(),
            Place::Loaded(P0),
            "it has gone where it can run"
        );
    });
}

#[test]
fn loom_reopen_against_post() {
    explore(|| {
        let (start, [_first, mut second], _) = parked_on_the_second();
        start.scheduler.drain(P1);
        second.close();
        let vcpu = start.vcpu(PcpuSet::only(P1));
        let other = thread::spawn({
            let vcpu = vcpu.clone();
            move || vcpu.claim_power_on().expect("it is off").commit()
        });
        second.sched.reopen();
        let _ = second.schedule();
        start.scheduler.undrain(P1);
        other.join().unwrap();
        while second.look() {}
        assert_eq!(
            vcpu.place(),
            Place::Loaded(P1),
            "it has waited for its pCPU"
        );
    });
}

/// It is either closed, and whoever puts it back into service learns that, or in service and looks.
#[test]
fn loom_close_against_undrain() {
    explore(|| {
        let (start, [_first, mut second], _) = parked_on_the_second();
        start.scheduler.drain(P1);
        let other = thread::spawn({
            let scheduler = start.scheduler.clone();
            move || scheduler.undrain(P1)
        });
        let mut is_closed = second.sched.close().is_ok();
        if !is_closed && second.schedule() == Decision::Drained {
            is_closed = second.sched.close().is_ok();
        }
        let is_in_service = other.join().unwrap();
        assert_ne!(is_closed, is_in_service);
        if is_in_service {
            let vcpu = start.running(PcpuSet::only(P1));
            while second.look() {}
            assert_eq!(vcpu.place(), Place::Loaded(P1));
        }
    });
}

/// Whoever wants it back and cannot have it keeps it from closing only as long as that takes.
#[test]
fn loom_close_against_a_plug_that_is_refused() {
    explore(|| {
        let (start, [_first, mut second], _) = parked_on_the_second();
        start.scheduler.drain(P1);
        assert_eq!(second.schedule(), Decision::Drained);
        start.forget_kicks();
        let other = thread::spawn({
            let scheduler = start.scheduler.clone();
            move || scheduler.while_open(P1, || ()).is_some()
        });
        let is_closed = second.sched.close().is_ok();
        let was_open = other.join().unwrap();
        if !is_closed {
            assert!(was_open, "nobody else kept it from closing");
            assert!(second.look(), "it is told to try again");
            assert_eq!(second.sched.close(), Ok(()));
        }
    });
}

#[test]
fn loom_reopen_against_a_policy_that_takes_over() {
    explore(|| {
        let (start, [_first, mut second], _) = parked_on_the_second();
        start.scheduler.drain(P1);
        second.close();
        let other = thread::spawn({
            let scheduler = start.scheduler.clone();
            move || succeed(&scheduler, 20)
        });
        second.sched.reopen();
        let _ = second.schedule();
        other.join().unwrap();
        start.scheduler.undrain(P1);
        let [_b, _c] = [P1; 2].map(|pcpu| start.running(PcpuSet::only(pcpu)));
        while second.look() && second.hardware.timer.is_none() {}
        assert_eq!(second.hardware.timer, Some(20), "the last policy's slice");
    });
}
