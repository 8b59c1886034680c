//! What moves between pools, against who wakes, parks or moves it at the same time.

use super::harness::{Model, P0, P1, P2, Pcpu, Start, explore, explore_to, interrupt, round_robin};
use crate::{BlockReason, Decision, PcpuSet, Place, PoolId, VcpuHandle};
use alloc::{boxed::Box, sync::Arc};
use loom::thread;

/// A second pool with `pcpus`, and `members` of the first one in it.
fn second_pool(start: &Start, pcpus: PcpuSet, members: &[Arc<VcpuHandle<Model>>]) -> PoolId {
    let policy = Box::new(round_robin(10));
    let pool = start.scheduler.create_pool("second", pcpus, policy);
    let pool = pool.expect("the first one has others");
    let moved = start.scheduler.move_vcpus(members, pool);
    moved.expect("it takes everybody");
    pool
}

fn look_until_nobody_is_kicked<const N: usize>(pcpus: &mut [Pcpu; N]) {
    loop {
        let mut has_looked = false;
        for pcpu in pcpus.iter_mut() {
            pcpu.hardware.timer = None;
            has_looked |= pcpu.look();
        }
        if !has_looked {
            return;
        }
    }
}

#[test]
fn loom_a_vcpu_changes_its_pool_while_it_is_woken() {
    explore(|| {
        let start = Start::new(2);
        let a = start.running(PcpuSet::all(2));
        let second = second_pool(&start, PcpuSet::only(P1), &[]);
        let mut pcpus = [start.pcpu(P0), start.pcpu(P1)];
        assert_eq!(pcpus[0].schedule(), Decision::Run);
        a.pause();
        assert_eq!(pcpus.each_mut().map(Pcpu::schedule), [Decision::Idle; 2]);
        start.forget_kicks();
        let other = thread::spawn({
            let a = a.clone();
            move || a.resume()
        });
        let moved = start
            .scheduler
            .move_vcpus(core::slice::from_ref(&a), second);
        moved.expect("it takes everybody");
        other.join().unwrap();
        look_until_nobody_is_kicked(&mut pcpus);
        assert_eq!(a.place(), Place::Loaded(P1));
    });
}

#[test]
fn loom_a_vcpu_changes_its_pool_while_it_parks() {
    explore(|| {
        let start = Start::new(2);
        let [a, b] = [(); 2].map(|()| start.running(PcpuSet::all(2)));
        let second = second_pool(&start, PcpuSet::only(P1), &[]);
        let mut pcpus = [start.pcpu(P0), start.pcpu(P1)];
        assert_eq!(
            pcpus.each_mut().map(Pcpu::schedule),
            [Decision::Run, Decision::Idle]
        );
        start.forget_kicks();
        let other = thread::spawn({
            let (a, scheduler) = (a.clone(), start.scheduler.clone());
            move || {
                scheduler
                    .move_vcpus(&[a.clone()], second)
                    .expect("it takes everybody");
                interrupt(&a);
            }
        });
        let _ = pcpus[0].block(BlockReason::Waiting);
        other.join().unwrap();
        look_until_nobody_is_kicked(&mut pcpus);
        assert_eq!(
            (a.place(), b.place()),
            (Place::Loaded(P1), Place::Loaded(P0))
        );
        assert_eq!(pcpus[1].loaded().due_seen, 1);
    });
}

#[test]
fn loom_a_vcpu_changes_its_pool_while_it_is_sent_to_a_pcpu() {
    explore(|| {
        let start = Start::new(3);
        let a = start.running(PcpuSet::all(3));
        let second = second_pool(&start, PcpuSet::only(P2), &[]);
        let mut pcpus = [P0, P1, P2].map(|pcpu| start.pcpu(pcpu));
        let _ = pcpus.each_mut().map(Pcpu::schedule);
        start.forget_kicks();
        let other = thread::spawn({
            let (a, scheduler) = (a.clone(), start.scheduler.clone());
            move || {
                scheduler
                    .move_vcpus(&[a], second)
                    .expect("it takes everybody")
            }
        });
        let _ = a.migrate(P1);
        pcpus[0].look();
        other.join().unwrap();
        look_until_nobody_is_kicked(&mut pcpus);
        assert_eq!(a.place(), Place::Loaded(P2));
    });
}

/// Who is sent to the pCPU that leaves goes to the one that stays, and who waits where it comes to gets it.
#[test]
fn loom_a_pcpu_changes_its_pool_while_vcpus_are_posted() {
    explore(|| {
        let start = Start::new(3);
        let a = start.vcpu(PcpuSet::all(3));
        let [b, c] = [(); 2].map(|()| start.vcpu(PcpuSet::all(3)));
        let second = second_pool(&start, PcpuSet::only(P2), &[b.clone(), c.clone()]);
        let mut pcpus = [P0, P1, P2].map(|pcpu| start.pcpu(pcpu));
        for vcpu in [&b, &c] {
            vcpu.claim_power_on().expect("it is off").commit();
        }
        assert_eq!(
            pcpus.each_mut().map(Pcpu::schedule),
            [Decision::Idle, Decision::Idle, Decision::Run]
        );
        // The pCPU that stays is not the one that is chosen first.
        assert!(start.scheduler.claim_idle(PoolId::FIRST, P0));
        start.forget_kicks();
        let other = thread::spawn({
            let a = a.clone();
            move || a.claim_power_on().expect("it is off").commit()
        });
        start
            .scheduler
            .move_pcpu(P1, second)
            .expect("another one stays");
        other.join().unwrap();
        look_until_nobody_is_kicked(&mut pcpus);
        assert_eq!(a.place(), Place::Loaded(P0));
        let places = [b.place(), c.place()];
        assert!(places.contains(&Place::Loaded(P1)) && places.contains(&Place::Loaded(P2)));
    });
}

#[test]
fn loom_a_pcpu_changes_its_pool_while_the_policy_there_does() {
    explore(|| {
        let start = Start::new(3);
        let [b, c] = [(); 2].map(|()| start.vcpu(PcpuSet::all(3)));
        let second = second_pool(&start, PcpuSet::only(P2), &[b.clone(), c.clone()]);
        let mut pcpus = [P1, P2].map(|pcpu| start.pcpu(pcpu));
        for vcpu in [&b, &c] {
            vcpu.claim_power_on().expect("it is off").commit();
        }
        assert_eq!(
            pcpus.each_mut().map(Pcpu::schedule),
            [Decision::Idle, Decision::Run]
        );
        start.forget_kicks();
        let other = thread::spawn({
            let scheduler = start.scheduler.clone();
            move || {
                scheduler.move_pcpu(P1, second).expect("another one stays");
                let policy = Box::new(round_robin(20));
                scheduler.set_policy(second, policy).expect("it admits all");
            }
        });
        pcpus[0].look();
        other.join().unwrap();
        look_until_nobody_is_kicked(&mut pcpus);
        let places = [b.place(), c.place()];
        assert!(places.contains(&Place::Loaded(P1)) && places.contains(&Place::Loaded(P2)));
    });
}

#[test]
fn loom_a_pcpu_is_unplugged_while_a_vcpu_wakes_up() {
    explore(|| {
        let start = Start::new(2);
        let a = start.running(PcpuSet::all(2));
        let mut pcpus = [start.pcpu(P0), start.pcpu(P1)];
        a.migrate(P1).expect("it may");
        assert_eq!(
            pcpus.each_mut().map(Pcpu::schedule),
            [Decision::Idle, Decision::Run]
        );
        assert_eq!(a.place(), Place::Loaded(P1));
        let _ = pcpus[1].block(BlockReason::Waiting);
        a.pause();
        assert_eq!(pcpus[1].schedule(), Decision::Idle);
        a.resume();
        assert!(a.is_parked());
        start.forget_kicks();
        let other = thread::spawn({
            let a = a.clone();
            move || interrupt(&a)
        });
        start.scheduler.unplug(P1).expect("another one stays");
        other.join().unwrap();
        look_until_nobody_is_kicked(&mut pcpus);
        assert_eq!(a.place(), Place::Loaded(P0));
        assert!(pcpus[1].sched.is_drained());
        assert_eq!(pcpus[0].loaded().due_seen, 1);
    });
}

/// What comes for the new pool while the pCPU still reads what came for the old one is let in by the new policy.
#[test]
fn loom_a_pcpu_reads_its_mail_while_it_changes_its_pool() {
    explore_to(3, || {
        let start = Start::new(3);
        let second = second_pool(&start, PcpuSet::only(P2), &[]);
        let [a, b] = [PoolId::FIRST, second].map(|pool| start.vcpu_in(pool, PcpuSet::all(3)));
        let mut pcpus = [P0, P1].map(|pcpu| start.pcpu(pcpu));
        let _ = pcpus.each_mut().map(Pcpu::schedule);
        assert!(start.scheduler.claim_idle(PoolId::FIRST, P0));
        a.claim_power_on().expect("it is off").commit();
        let other = thread::spawn({
            let (b, scheduler) = (b.clone(), start.scheduler.clone());
            move || {
                scheduler.move_pcpu(P1, second).expect("another one stays");
                b.claim_power_on().expect("it is off").commit();
            }
        });
        pcpus[1].look();
        other.join().unwrap();
        look_until_nobody_is_kicked(&mut pcpus);
        assert_eq!(
            (a.place(), b.place()),
            (Place::Loaded(P0), Place::Loaded(P1))
        );
    });
}

/// Who wakes up while a pCPU comes to its pool is sent there only once the pCPU can know.
#[test]
fn loom_a_vcpu_wakes_up_while_a_pcpu_comes_to_its_pool() {
    explore(|| {
        let start = Start::new(3);
        let second = second_pool(&start, PcpuSet::only(P2), &[]);
        let b = start.vcpu_in(second, PcpuSet::all(3));
        let mut pcpus = [P1, P2].map(|pcpu| start.pcpu(pcpu));
        assert_eq!(pcpus.each_mut().map(Pcpu::schedule), [Decision::Idle; 2]);
        assert!(start.scheduler.claim_idle(second, P2));
        start.forget_kicks();
        let other = thread::spawn({
            let scheduler = start.scheduler.clone();
            move || scheduler.move_pcpu(P1, second).expect("another one stays")
        });
        b.claim_power_on().expect("it is off").commit();
        pcpus[0].look();
        other.join().unwrap();
        look_until_nobody_is_kicked(&mut pcpus);
        assert!(matches!(b.place(), Place::Loaded(_)));
    });
}

#[test]
fn loom_a_pcpu_comes_to_a_pool_where_a_vcpu_waits() {
    explore(|| {
        let start = Start::new(3);
        let second = second_pool(&start, PcpuSet::only(P2), &[]);
        let vcpus = [(); 2].map(|()| start.vcpu_in(second, PcpuSet::all(3)));
        let mut pcpus = [P1, P2].map(|pcpu| start.pcpu(pcpu));
        for vcpu in &vcpus {
            vcpu.claim_power_on().expect("it is off").commit();
        }
        assert_eq!(
            pcpus.each_mut().map(Pcpu::schedule),
            [Decision::Idle, Decision::Run]
        );
        start.forget_kicks();
        let other = thread::spawn({
            let scheduler = start.scheduler.clone();
            move || scheduler.move_pcpu(P1, second).expect("another one stays")
        });
        pcpus.iter_mut().rev().for_each(|pcpu| _ = pcpu.look());
        other.join().unwrap();
        look_until_nobody_is_kicked(&mut pcpus);
        let places = vcpus.map(|vcpu| vcpu.place());
        assert!(places.contains(&Place::Loaded(P1)) && places.contains(&Place::Loaded(P2)));
    });
}
