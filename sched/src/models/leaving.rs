//! A vCPU is sent elsewhere or waits, while the policy changes or the pCPU that has it, or is to get it, leaves.

use super::harness::*;
use crate::{BlockReason, Decision, PcpuSet, Place, Scheduler};
use loom::thread;

/// The ways in which a pCPU goes out of service.
const LEAVES: [fn(&Scheduler<Model>); 2] = [
    |scheduler| assert!(scheduler.drain(P1)),
    |scheduler| _ = scheduler.unplug(P1).expect("another one stays"),
];

/// Whichever policy each pCPU follows when the vCPU comes or goes, both end with the new one, which knows exactly who is there.
#[test]
fn loom_a_policy_takes_over_while_a_vcpu_is_sent_to_another_pcpu() {
    explore_to(3, || {
        let start = Start::new(2);
        let mut pcpus = [start.pcpu(P0), start.pcpu(P1)];
        let a = start.running(PcpuSet::all(2));
        let [b, c] = [P0, P1].map(|pcpu| start.running(PcpuSet::only(pcpu)));
        assert_eq!(pcpus.each_mut().map(Pcpu::schedule), [Decision::Run; 2]);
        assert_eq!(a.place(), Place::Loaded(P0));
        start.forget_kicks();
        let other = thread::spawn({
            let scheduler = start.scheduler.clone();
            move || succeed(&scheduler, 20)
        });
        a.migrate(P1).expect("it may");
        let _ = pcpus.each_mut().map(Pcpu::look);
        other.join().unwrap();
        while pcpus.iter_mut().any(Pcpu::look) {}
        assert_eq!(b.place(), Place::Loaded(P0));
        let timer = pcpus[1].hardware.timer;
        assert_eq!(timer, Some(20), "two share by the new policy");
        let ran = pcpus[1].loaded().handle.id();
        let other = if ran == a.id() { &c } else { &a };
        let _ = pcpus.each_mut().map(|pcpu| pcpu.block(BlockReason::Off));
        assert_eq!(other.place(), Place::Loaded(P1), "the other is ready");
        for pcpu in [P0, P1] {
            let counters = start.scheduler.pcpu_counters(pcpu, 0);
            let bad_picks = counters.expect("it is there").bad_picks;
            assert_eq!(bad_picks, 0, "{pcpu} picks nobody who is gone");
        }
    });
}

#[test]
fn loom_a_vcpu_is_sent_to_a_pcpu_that_leaves() {
    LEAVES.into_iter().for_each(|leave| {
        explore_to(3, move || {
            let start = Start::new(2);
            let [mut first, mut second] = [P0, P1].map(|pcpu| start.pcpu(pcpu));
            let a = start.running(PcpuSet::all(2));
            assert_eq!(first.schedule(), Decision::Run);
            assert_eq!(second.schedule(), Decision::Idle);
            start.forget_kicks();
            let other = thread::spawn({
                let scheduler = start.scheduler.clone();
                move || {
                    leave(&scheduler);
                    second.close();
                }
            });
            // It is refused if the pCPU is not in the pool any more.
            let _ = a.migrate(P1);
            first.look();
            other.join().unwrap();
            while first.look() {}
            assert_eq!(a.place(), Place::Loaded(P0), "it is where it can run");
            assert_eq!(first.loaded().bound, Some(P0));
        });
    });
}

#[test]
fn loom_a_vcpu_waits_where_the_pcpu_leaves() {
    LEAVES.into_iter().for_each(|leave| {
        explore(move || {
            let start = Start::new(2);
            let mut pcpus = [start.pcpu(P0), start.pcpu(P1)];
            let a = start.running(PcpuSet::all(2));
            a.migrate(P1).expect("it may");
            let decisions = pcpus.each_mut().map(Pcpu::schedule);
            assert_eq!(decisions, [Decision::Idle, Decision::Run]);
            start.forget_kicks();
            let other = thread::spawn({
                let scheduler = start.scheduler.clone();
                move || leave(&scheduler)
            });
            let _ = pcpus[1].block(BlockReason::Waiting);
            other.join().unwrap();
            pcpus[1].look();
            assert!(a.is_parked(), "it waits without a pCPU");
            assert_eq!(pcpus[1].sched.close(), Ok(()), "nothing keeps it");
            interrupt(&a);
            pcpus[0].look();
            assert_eq!(a.place(), Place::Loaded(P0), "it wakes up elsewhere");
            assert_eq!(pcpus[0].loaded().due_seen, 1);
        });
    });
}
