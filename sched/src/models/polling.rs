//! A pCPU polls for the wake-up of the vCPU that waits there, gives up, and waits for an interrupt, while others have something for it.

use super::harness::*;
use crate::{BlockReason, Decision, Entitlement, Look, PcpuSet, VcpuHandle};
use alloc::sync::Arc;
use loom::thread;

/// A pCPU with a vCPU whose last wait was short, so that it polls in the next one.
fn polling_pcpu() -> (Start, Pcpu, Arc<VcpuHandle<Model>>) {
    let (start, mut pcpu, [a]) = busy_pcpu();
    let polled = Entitlement {
        halt_poll: 8,
        ..Entitlement::default()
    };
    a.set_entitlement(&polled).expect("no policy minds");
    // It was told of that with a kick, which would make it look in any case.
    assert_eq!(pcpu.schedule(), Decision::Run);
    start.forget_kicks();
    a.halt_poll.end(8, 1, false);
    (start, pcpu, a)
}

impl Pcpu {
    /// The loaded vCPU waits, and the pCPU looks once: nobody makes time pass, so it gives up when the caller says.
    fn wait_polling(&mut self) {
        if self.block(BlockReason::Waiting) != Decision::Poll {
            return;
        }
        // The second look finds an interrupt pending, or the window over.
        while self.sched.look(false) == Look::Again {
            if self.sched.look(true) == Look::Idle {
                return;
            }
        }
        let _ = self.schedule();
    }
}

#[test]
fn loom_polling_against_wake() {
    explore(|| {
        let (_start, mut pcpu, a) = polling_pcpu();
        let other = thread::spawn({
            let a = a.clone();
            move || interrupt(&a)
        });
        pcpu.wait_polling();
        other.join().unwrap();
        pcpu.look();
        assert_eq!(
            pcpu.loaded().due_seen,
            1,
            "the pCPU has seen it, or was told"
        );
        assert_eq!(pcpu.schedule(), Decision::Run);
    });
}

#[test]
fn loom_polling_against_a_vcpu_that_comes() {
    explore_to(3, || {
        let (start, mut pcpu, a) = polling_pcpu();
        let b = start.vcpu(PcpuSet::only(P0));
        let other = thread::spawn({
            let b = b.clone();
            move || b.claim_power_on().expect("it is off").commit()
        });
        pcpu.wait_polling();
        other.join().unwrap();
        pcpu.look();
        assert_eq!(pcpu.loaded().handle.id(), b.id(), "it runs");
        assert!(a.is_parked(), "the one that waits has made room");
    });
}

#[test]
fn loom_polling_against_a_drain() {
    explore(|| {
        let (start, mut pcpu, a) = polling_pcpu();
        let other = thread::spawn({
            let scheduler = start.scheduler.clone();
            move || scheduler.drain(P0)
        });
        pcpu.wait_polling();
        assert!(other.join().unwrap());
        pcpu.look();
        assert!(pcpu.sched.is_drained(), "it has seen it, or was told");
        assert!(a.is_parked(), "it waits without a pCPU");
        assert_eq!(pcpu.sched.close(), Ok(()), "it polls no more");
    });
}
