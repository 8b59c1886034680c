//! The crossing protocols, every interleaving: up to three pCPUs and four vCPUs, the real code.
//!
//! Each model lets two parties act at once, then lets every pCPU look that was kicked or has its timer set, and asks
//! whether what was promised has happened. A pCPU that nobody told does not look. `README.md` has the command.

mod closed;
mod closing;
mod harness;
mod idling;
mod leaving;
mod polling;
mod pools;

use crate::{BlockReason, Decision, PcpuSet, Place, PowerState, VcpuHandle};
use core::sync::atomic::Ordering::Relaxed;
use harness::*;
use loom::thread;

#[test]
fn loom_park_against_wake() {
    explore(|| {
        let (_start, mut pcpu, [a, b]) = busy_pcpu();
        let other = thread::spawn({
            let a = a.clone();
            move || interrupt(&a)
        });
        let _ = pcpu.block(BlockReason::Waiting);
        other.join().unwrap();
        pcpu.look();
        if a.place() != Place::Loaded(P0) {
            assert_eq!(pcpu.loaded().handle.id(), b.id());
            let _ = pcpu.block(BlockReason::Off);
        }
        assert_eq!(pcpu.loaded().handle.id(), a.id(), "it runs again");
        assert_eq!(pcpu.loaded().due_seen, 1);
    });
}

#[test]
fn loom_waiting_loaded_against_wake() {
    explore(|| {
        let (_start, mut pcpu, [a]) = busy_pcpu();
        let other = thread::spawn({
            let a = a.clone();
            move || interrupt(&a)
        });
        let _ = pcpu.block(BlockReason::Waiting);
        other.join().unwrap();
        pcpu.look();
        assert_eq!(pcpu.loaded().due_seen, 1, "the pCPU was told");
        assert_eq!(pcpu.schedule(), Decision::Run);
    });
}

#[test]
fn loom_a_policy_takes_over_against_park_and_wake() {
    explore(|| {
        let (start, mut pcpu, [a, b]) = busy_pcpu();
        let other = thread::spawn({
            let (a, scheduler) = (a.clone(), start.scheduler.clone());
            move || {
                succeed(&scheduler, 20);
                interrupt(&a);
            }
        });
        let _ = pcpu.block(BlockReason::Waiting);
        other.join().unwrap();
        while pcpu.look() {}
        let ran = pcpu.loaded().handle.id();
        let _ = pcpu.block(BlockReason::Off);
        let other = if ran == a.id() { &b } else { &a };
        assert_eq!(pcpu.loaded().handle.id(), other.id(), "the other is ready");
    });
}

#[test]
fn loom_policies_take_over_while_one_comes() {
    explore(|| {
        let (start, mut pcpu, [a, _b]) = busy_pcpu();
        a.pause();
        assert_eq!(pcpu.schedule(), Decision::Run);
        start.forget_kicks();
        let other = thread::spawn({
            let (a, scheduler) = (a.clone(), start.scheduler.clone());
            move || {
                succeed(&scheduler, 20);
                a.resume();
                succeed(&scheduler, 30);
            }
        });
        while pcpu.look() {}
        other.join().unwrap();
        while pcpu.look() {}
        assert_eq!(
            pcpu.hardware.timer,
            Some(30),
            "two share by the last policy"
        );
    });
}

#[test]
fn loom_migrate_against_wake() {
    explore(|| {
        let start = Start::new(2);
        let a = start.running(PcpuSet::all(2));
        let mut pcpus = [start.pcpu(P0), start.pcpu(P1)];
        assert_eq!(pcpus[0].schedule(), Decision::Run);
        a.pause();
        assert_eq!(pcpus[0].schedule(), Decision::Idle);
        assert!(a.is_parked());
        start.forget_kicks();
        let other = thread::spawn({
            let a = a.clone();
            move || a.resume()
        });
        a.migrate(P1).expect("it may");
        other.join().unwrap();
        while pcpus.iter_mut().any(Pcpu::look) {}
        assert_eq!(a.place(), Place::Loaded(P1));
        assert_eq!(pcpus[1].loaded().bound, Some(P1));
    });
}

#[test]
fn loom_slice_disarm_against_post() {
    explore(|| {
        let (start, mut pcpu, [_a, b]) = busy_pcpu();
        let c = start.vcpu(PcpuSet::only(P0));
        assert!(pcpu.hardware.timer.is_some(), "another waits");
        let other = thread::spawn({
            let c = c.clone();
            move || c.claim_power_on().expect("it is off").commit()
        });
        let _ = pcpu.block(BlockReason::Off);
        other.join().unwrap();
        pcpu.look();
        assert_eq!(b.place(), Place::Loaded(P0));
        let is_known = pcpu.hardware.timer.is_some();
        assert!(is_known, "the pCPU knows that another waits");
    });
}

#[test]
fn loom_two_power_ons_against_a_power_off() {
    explore(|| {
        let (_start, mut pcpu, [a]) = busy_pcpu();
        let turn_on = |handle: &VcpuHandle<Model>, entry: u64| {
            let claim = handle.claim_power_on();
            claim.map(|claim| {
                handle.shared().entry.store(entry, Relaxed);
                claim.commit();
            })
        };
        let other = thread::spawn({
            let a = a.clone();
            move || turn_on(&a, 7).is_ok()
        });
        let _ = pcpu.block(BlockReason::Off);
        let (here, there) = (turn_on(&a, 7).is_ok(), other.join().unwrap());
        assert!(
            here != there || (here && a.place() == Place::Loaded(P0)),
            "one claim per power-off"
        );
        let _ = pcpu.schedule();
        assert_eq!(a.power_state(), PowerState::On);
        assert_eq!((pcpu.loaded().resets, pcpu.loaded().entry_seen), (2, 7));
    });
}

#[test]
fn loom_request_sync_against_unbind() {
    explore(|| {
        let (_start, mut pcpu, [a, _b]) = busy_pcpu();
        let other = thread::spawn({
            let a = a.clone();
            move || {
                a.shared().asks.fetch_add(1, Relaxed);
                a.request_sync()
            }
        });
        let _ = pcpu.block(BlockReason::Waiting);
        let is_promised = other.join().unwrap();
        pcpu.look();
        assert!(
            !is_promised || a.shared().answers.load(Relaxed) == 1,
            "who was told to wait gets an answer"
        );
    });
}
