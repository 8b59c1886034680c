//! Where a vCPU goes, on a machine of eight pCPUs in clusters of two, as the head of `place` says; and what is said and kept of what
//! it was promised.

use super::*;
use crate::{
    PowerState, Reservation, SchedulerConfig,
    policies::{Deadline, RoundRobin},
};
use alloc::{boxed::Box, string::ToString};

/// So many pCPUs share a cache.
struct Clusters(usize);

impl Host for Clusters {
    fn now(&self) -> u64 {
        0
    }

    fn kick(&self, _pcpu: PcpuId) {}

    fn this_pcpu(&self) -> Option<PcpuId> {
        None
    }

    fn cluster(&self, pcpu: PcpuId) -> u64 {
        (pcpu.index() / self.0) as u64
    }

    fn microseconds(&self, ticks: u64) -> Option<u64> {
        Some(ticks / 10)
    }
}

struct Nothing(Arc<VcpuHandle<Self>>);

impl Vcpu for Nothing {
    type Shared = ();

    fn handle(&self) -> &Arc<VcpuHandle<Self>> {
        &self.0
    }
}

fn pcpu(index: u16) -> PcpuId {
    PcpuId::new(index).unwrap()
}

fn set(text: &str) -> PcpuSet {
    text.parse().unwrap()
}

/// The machine, and a vCPU of it that may run anywhere.
fn machine() -> (Arc<Scheduler<Nothing>>, Arc<VcpuHandle<Nothing>>) {
    machine_of(8, 2)
}

fn machine_of(pcpus: u16, cluster: usize) -> (Arc<Scheduler<Nothing>>, Arc<VcpuHandle<Nothing>>) {
    let scheduler = Scheduler::new(SchedulerConfig {
        name: "all".into(),
        pcpus: PcpuSet::all(pcpus),
        max_vcpus: 2,
        policy: Box::new(RoundRobin::with_slice(10)),
        fallback_slice: 10,
        host: Arc::new(Clusters(cluster)),
    })
    .unwrap();
    let entitlement = Entitlement::default();
    let handle = scheduler.create_vcpu(PcpuSet::all(pcpus), &entitlement, Nothing, ());
    (scheduler, handle.unwrap())
}

impl Scheduler<Nothing> {
    fn nobody_idles(&self) {
        let pcpus = self.pcpus();
        pcpus
            .iter()
            .for_each(|pcpu| self.retract_idle(PoolId::FIRST, pcpu));
    }

    /// Where the vCPU goes while those of `idle` idle, and then that one no longer does.
    fn choose_while_idle(&self, handle: &VcpuHandle<Nothing>, idle: &str, last: u16) -> usize {
        self.nobody_idles();
        for pcpu in set(idle).iter() {
            self.publish_idle(PoolId::FIRST, pcpu);
        }
        let chosen = self.choose(handle, Some(pcpu(last)));
        assert!(!self.idle_pcpus().contains(chosen), "it is claimed");
        chosen.index()
    }
}

#[test]
fn an_idle_pcpu_is_taken_by_cache_distance() {
    let (scheduler, handle) = machine();
    assert_eq!(
        scheduler.choose_while_idle(&handle, "0-7", 5),
        5,
        "the last one"
    );
    assert_eq!(
        scheduler.choose_while_idle(&handle, "0-4", 5),
        4,
        "a near one"
    );
    assert_eq!(scheduler.choose_while_idle(&handle, "2,7", 5), 2, "any");
}

#[test]
fn a_preference_goes_before_distance_and_waiting_for_it_does_not() {
    let (scheduler, handle) = machine();
    handle.set_soft_affinity(set("0-1,6")).unwrap();
    assert_eq!(scheduler.choose_while_idle(&handle, "0-7", 5), 0);
    assert_eq!(scheduler.choose_while_idle(&handle, "0-7", 1), 1);
    assert_eq!(
        scheduler.choose_while_idle(&handle, "1-6", 7),
        6,
        "a near one of those"
    );
    assert_eq!(
        scheduler.choose_while_idle(&handle, "2-5", 3),
        3,
        "none of them idles"
    );
    scheduler.nobody_idles();
    // It waits, and rather there.
    for index in [2, 0, 6] {
        scheduler
            .cell(pcpu(index))
            .waiting
            .fetch_add(1, Ordering::Relaxed);
    }
    let busy = scheduler.choose(&handle, Some(pcpu(3)));
    assert_eq!(busy, pcpu(1));
    handle.set_soft_affinity(PcpuSet::EMPTY).unwrap();
    assert_eq!(scheduler.choose(&handle, Some(pcpu(3))), pcpu(3));
    assert_eq!(
        handle.set_soft_affinity(set("8")),
        Err(AffinityError::AbsentPcpu(pcpu(8)))
    );
}

#[test]
fn near_pcpus_where_two_fewer_wait_come_before_far_ones_where_fewer_do() {
    let (scheduler, _) = machine();
    scheduler.nobody_idles();
    for (index, waiting) in [0, 5, 5, 5, 3, 5, 6, 7].into_iter().enumerate() {
        let pcpu = pcpu(index as u16);
        scheduler.online.insert(pcpu, Ordering::Relaxed);
        scheduler
            .cell(pcpu)
            .waiting
            .store(waiting, Ordering::Relaxed);
    }
    let quieter = |here, tried| {
        let quieter = scheduler.quieter(PoolId::FIRST, pcpu(here), 2, set(tried), 0);
        quieter.map(|(pcpu, _)| pcpu.index())
    };
    let reach = |pcpus| scheduler.cell(pcpu(5)).set_reach(set(pcpus));
    for index in [0, 5, 6] {
        scheduler.cell(pcpu(index)).set_reach(PcpuSet::all(8));
    }
    assert_eq!(quieter(5, "7"), Some(4), "it is near");
    assert_eq!(quieter(5, "4"), Some(0), "the fewest wait there");
    assert_eq!(quieter(5, "0,4"), None, "one fewer is not enough");
    reach("0-3,5-7");
    assert_eq!(quieter(5, "7"), Some(0), "nobody here may run on the other");
    reach("0-7");
    assert_eq!(quieter(6, "0,4"), None);
    assert_eq!(quieter(0, "7"), None);
    scheduler.publish_idle(PoolId::FIRST, pcpu(4));
    scheduler.drain(pcpu(0));
    assert_eq!(
        quieter(5, "7"),
        None,
        "who idles asks, and who leaves gets none"
    );
}

/// On a machine larger than what is looked at each time.
#[test]
fn who_has_to_wait_finds_after_some_turns_where_the_fewest_do_wherever_that_is() {
    let (scheduler, handle) = machine_of(64, 2);
    scheduler.nobody_idles();
    for pcpu in scheduler.pcpus().iter() {
        scheduler.cell(pcpu).waiting.store(9, Ordering::Relaxed);
    }
    for quiet in [1, 2, 30, 63].map(pcpu) {
        scheduler.cell(quiet).waiting.store(0, Ordering::Relaxed);
        let turns = (0..16).map(|_| {
            handle.switches.increment();
            scheduler.choose(&handle, Some(pcpu(3)))
        });
        let found = turns.filter(|&found| found == quiet).count();
        let is_near = quiet == pcpu(2);
        assert!(found == 16 || found > 0 && !is_near, "{quiet}: {found}");
        scheduler.cell(quiet).waiting.store(9, Ordering::Relaxed);
    }
}

/// Those that share a cache with it are not looked at twice.
#[test]
fn who_has_to_wait_finds_each_time_where_the_fewest_do_among_16_near_ones_and_16_others() {
    let (scheduler, handle) = machine_of(32, 16);
    scheduler.nobody_idles();
    for pcpu in scheduler.pcpus().iter() {
        scheduler.online.insert(pcpu, Ordering::Relaxed);
        scheduler.cell(pcpu).waiting.store(9, Ordering::Relaxed);
    }
    scheduler.cell(pcpu(3)).set_reach(PcpuSet::all(32));
    for quiet in [2, 20].map(pcpu) {
        scheduler.cell(quiet).waiting.store(0, Ordering::Relaxed);
        for turn in 0..16 {
            handle.switches.increment();
            assert_eq!(scheduler.choose(&handle, Some(pcpu(3))), quiet);
            let quieter = scheduler.quieter(PoolId::FIRST, pcpu(3), 2, PcpuSet::EMPTY, turn);
            assert_eq!(quieter, Some((quiet, 0)), "{turn}");
        }
        scheduler.cell(quiet).waiting.store(9, Ordering::Relaxed);
    }
}

#[test]
fn an_affinity_goes_before_a_preference() {
    let (scheduler, handle) = machine();
    handle.set_affinity(set("2-3")).unwrap();
    handle.set_soft_affinity(set("3-7")).unwrap();
    assert_eq!(scheduler.choose_while_idle(&handle, "0-7", 2), 3);
    assert_eq!(scheduler.choose_while_idle(&handle, "0-2,4-7", 2), 2);
    assert_eq!(
        scheduler.choose(&handle, Some(pcpu(6))),
        pcpu(3),
        "nobody idles there"
    );
}

#[test]
fn a_vcpu_that_was_promised_a_pcpu_that_is_off_gets_it_when_that_is_back() {
    let (scheduler, _) = machine();
    let entitlement = Entitlement::default();
    let restore = |affinity| {
        let made = scheduler.restore_vcpu_in(PoolId::FIRST, affinity, &entitlement, Nothing, ());
        made.map_err(|error| error.to_string())
    };
    scheduler.unplug(pcpu(3)).unwrap();
    let refused = restore(set("3")).err().unwrap();
    assert!(refused.starts_with("pcpu3 is not in pool0"), "{refused}");
    let refused = restore(set("2-3,8")).err().unwrap();
    assert_eq!(refused, AffinityError::AbsentPcpu(pcpu(8)).to_string());
    let handle = restore(set("2-3")).unwrap();
    assert_eq!(scheduler.entitlements().affinity(handle.id()), set("2"));
    scheduler.plug(pcpu(3), PoolId::FIRST).unwrap();
    assert_eq!(scheduler.entitlements().affinity(handle.id()), set("2-3"));
}

#[test]
fn one_that_was_retired_says_nothing_of_the_next_one_with_its_number() {
    let (scheduler, first) = machine();
    let gone = scheduler.create_vcpu(set("0"), &Entitlement::default(), Nothing, ());
    let gone = gone.unwrap();
    let second = scheduler.create_pool("second", set("6-7"), Box::new(RoundRobin::with_slice(10)));
    let second = second.unwrap();
    gone.retire().expect("it is off");
    let entitlement = Entitlement {
        priority: 3,
        ..Entitlement::default()
    };
    let next = scheduler.create_vcpu_in(second, set("6"), &entitlement, Nothing, ());
    let next = next.unwrap();
    assert_eq!(next.id(), gone.id());
    assert_eq!((next.affinity(), next.pool_id()), (set("6"), second));
    assert_eq!(next.entitlement().priority, 3);
    assert_eq!(gone.affinity(), PcpuSet::EMPTY);
    assert_eq!(gone.pool_id(), PoolId::FIRST);
    assert_eq!(gone.entitlement(), Entitlement::default());
    assert_eq!(first.affinity(), PcpuSet::all(8));
}

#[test]
fn a_refusal_is_in_microseconds_where_the_host_knows_them() {
    let (scheduler, first) = machine();
    let second = scheduler.create_vcpu(set("0"), &Entitlement::default(), Nothing, ());
    let (second, policy) = (second.unwrap(), Deadline::with_slice(10, 2));
    scheduler
        .set_policy(PoolId::FIRST, Box::new(policy))
        .unwrap();
    first.set_affinity(set("0")).unwrap();
    let entitlement = Entitlement {
        reservation: Some(Reservation::new(600, 1000).unwrap()),
        ..Entitlement::default()
    };
    first.set_entitlement(&entitlement).unwrap();
    let refused = second.set_entitlement(&entitlement).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "a budget of 60 us in a period of 100 needs 60.0 % of a pCPU, and the emptiest of those it may use has 40.0 % left"
    );
}

#[test]
fn one_that_is_named_twice_moves_once_and_keeps_what_is_reserved_for_it() {
    let (scheduler, first) = machine();
    let policy = Box::new(Deadline::with_slice(10, 2));
    let second = scheduler.create_pool("second", set("7"), policy).unwrap();
    let entitlement = Entitlement {
        reservation: Some(Reservation::new(600, 1000).unwrap()),
        ..Entitlement::default()
    };
    first.set_entitlement(&entitlement).unwrap();
    let moved = scheduler.move_vcpus(&[first.clone(), first.clone()], second);
    assert_eq!((moved, first.pool_id()), (Ok(()), second));
    let another = scheduler.create_vcpu_in(second, set("7"), &entitlement, Nothing, ());
    assert!(another.is_err(), "the pool's only pCPU has no room for it");
}

#[test]
fn one_that_is_rearmed_has_forgotten_where_it_was_sent() {
    let (_, handle) = machine();
    handle.migrate(pcpu(3)).unwrap();
    handle.stop();
    assert!(handle.rearm());
    assert_eq!(handle.next_pcpu(pcpu(0)), None, "it may stay anywhere");
}

#[test]
fn one_that_somebody_is_turning_on_is_not_rearmed() {
    let (_, handle) = machine();
    handle.stop();
    let claim = handle.claim_power_on().unwrap();
    assert!(!handle.rearm(), "the claim is somebody's");
    claim.commit();
    assert!(handle.rearm(), "it has not run");
    assert_eq!(handle.power_state(), PowerState::Off);
}

/// Whoever runs where it was last has nothing to do with it.
#[test]
fn what_a_parked_vcpu_shall_get_ends_nobodys_turn() {
    let (scheduler, handle) = machine();
    let attention = &scheduler.cell(handle.last_pcpu()).attention;
    let entitlement = Entitlement {
        priority: 3,
        ..Entitlement::default()
    };
    handle.set_entitlement(&entitlement).unwrap();
    assert!(!attention.is_raised());
    handle.claim_power_on().unwrap().commit();
    let _ = attention.take();
    handle.set_entitlement(&Entitlement::default()).unwrap();
    assert!(attention.take().turn(), "its policy compares it anew");
}
