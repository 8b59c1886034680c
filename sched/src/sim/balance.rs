//! Which pCPU has whom: imbalance between busy ones, caches that some share, and preferences.

use super::{
    Instruction::*,
    Outside, Script, Setup, Simulation, Stretch,
    short::{busy, pcpu, set, vcpu},
};
use crate::{
    Entitlement, PcpuSet, Policy, PoolId, Reservation, VcpuId, Weight,
    policies::{Deadline, Fair, Priority, RoundRobin},
};
use alloc::{boxed::Box, vec::Vec};

const SLICE: u64 = 10;
const PERIOD: u64 = 20;

fn round_robin() -> Box<dyn Policy> {
    Box::new(RoundRobin::new(SLICE, PERIOD))
}

/// Nobody is given away between busy pCPUs after the first time.
fn lazy() -> Box<dyn Policy> {
    Box::new(RoundRobin::new(SLICE, u64::MAX - 1))
}

/// vCPUs that are turned on where `affinities` say, and may run anywhere afterwards.
fn machine(
    pcpus: u16,
    policy: Box<dyn Policy>,
    guests: impl IntoIterator<Item = (Script, &'static str)>,
    priorities: &[u8],
) -> Simulation {
    let (scripts, affinities): (Vec<_>, Vec<_>) = guests.into_iter().unzip();
    let entitlement = |&priority: &u8| Entitlement {
        priority,
        ..Entitlement::default()
    };
    Simulation::with_clusters(
        Setup {
            pcpus,
            policy,
            scripts,
            affinities: affinities.into_iter().map(set).collect(),
            entitlements: priorities.iter().map(entitlement).collect(),
            seed: None,
        },
        2,
    )
}

impl Simulation {
    fn allow(&mut self, vcpus: impl IntoIterator<Item = usize>, pcpus: &str) {
        for index in vcpus {
            self.act(Outside::SetAffinity(vcpu(index), set(pcpus)));
        }
    }

    fn gifts(&self) -> u64 {
        let pcpus = self.engine.scheduler().pcpus();
        let counters = pcpus.iter().filter_map(|pcpu| self.counters(pcpu));
        counters.map(|counters| counters.handed_over).sum()
    }

    /// How long each of the first `count` vCPUs runs in the next `ticks`.
    fn runs(&mut self, count: usize, ticks: u64) -> Vec<u64> {
        let before: Vec<u64> = (0..count)
            .map(|index| self.times(vcpu(index)).run)
            .collect();
        let end = self.engine.now() + ticks;
        self.run_until(end);
        let ran = |index: usize| self.times(vcpu(index)).run - before[index];
        (0..count).map(ran).collect()
    }

    /// Where `vcpu` has run since `start`.
    fn haunts(&self, vcpu: VcpuId, start: u64) -> PcpuSet {
        let is_later =
            |stretch: &Stretch| stretch.vcpu == vcpu && stretch.start + stretch.duration > start;
        let mut haunts = PcpuSet::EMPTY;
        let stretches = self.stretches();
        let later = stretches.iter().filter(|&stretch| is_later(stretch));
        later.for_each(|stretch| haunts.insert(stretch.pcpu));
        haunts
    }
}

#[track_caller]
fn expect_runs(ran: &[u64], expected: &[u64]) {
    let is_near = |(ran, expected): (&u64, &u64)| ran.abs_diff(*expected) <= 2 * SLICE;
    let is_right = ran.len() == expected.len() && ran.iter().zip(expected).all(is_near);
    assert!(is_right, "{ran:?} and not {expected:?}");
}

#[test]
fn three_on_one_busy_pcpu_and_one_on_another_even_out() {
    let guests = ["0", "0", "0", "1"].map(|place| (busy(), place));
    let mut sim = machine(2, round_robin(), guests, &[]);
    sim.run_until(50);
    sim.allow(0..4, "0-1");
    // Whoever has waited least goes; within a period and a turn.
    sim.run_until(50 + PERIOD + 2 * SLICE);
    assert_eq!(sim.gifts(), 1);
    expect_runs(&sim.runs(4, 1000), &[500; 4]);
    assert_eq!(sim.gifts(), 1);
}

/// The two that have more do not look at the same time.
#[test]
fn pcpus_look_at_different_times_in_a_balance_period() {
    let policy = || Box::new(RoundRobin::new(SLICE, 40 * SLICE));
    let first_gift = |giver: u16, swaps: bool| {
        let here = [giver; 3].map(|pcpu| (busy(), ["0", "1", "2", "3"][usize::from(pcpu)]));
        let there = (busy(), "3");
        let mut sim = machine(4, policy(), here.into_iter().chain([there]), &[]);
        if swaps {
            sim.run_until(2000);
            let scheduler = sim.engine.scheduler().clone();
            scheduler.set_policy(PoolId::FIRST, policy()).unwrap();
        }
        sim.allow(0..3, ["0,3", "1,3", "2-3", "3"][usize::from(giver)]);
        let start = sim.engine.now();
        let later = (start..start + 1000).find(|&now| {
            sim.run_until(now);
            sim.gifts() == 1
        });
        (later.expect("it gives in each period") - start) % (40 * SLICE)
    };
    for swaps in [false, true] {
        let gifts = [0, 1, 2].map(|giver| first_gift(giver, swaps));
        for (giver, gift) in gifts.into_iter().enumerate() {
            let expected = giver as u64 * 10 * SLICE;
            let is_near = (expected..=expected + 2 * SLICE).contains(&gift);
            assert!(is_near, "{gifts:?}");
        }
    }
}

#[test]
fn where_numbers_do_not_divide_nobody_goes_back_and_forth() {
    let guests = ["0", "0", "0", "0", "0"].map(|place| (busy(), place));
    let mut sim = machine(2, round_robin(), guests, &[]);
    sim.run_until(50);
    sim.allow(0..5, "0-1");
    sim.run_until(500);
    let gifts = sim.gifts();
    assert!((1..=2).contains(&gifts), "{gifts}");
    sim.run_until(3000);
    assert_eq!(
        sim.gifts(),
        gifts,
        "three and two is as good as two and three"
    );
}

#[test]
fn at_most_one_goes_in_a_balance_period() {
    let guests = ["1"]
        .into_iter()
        .chain(["0"; 12])
        .map(|place| (busy(), place));
    let mut sim = machine(2, round_robin(), guests, &[]);
    sim.run_until(5);
    sim.allow(0..13, "0-1");
    for periods in 1..5 {
        sim.run_until(5 + periods * PERIOD);
        assert!(sim.gifts() <= periods + 1, "{} in {periods}", sim.gifts());
    }
    sim.run_until(20 * PERIOD);
    assert!((5..=6).contains(&sim.gifts()), "{}", sim.gifts());
}

#[test]
fn who_may_not_go_and_who_prefers_to_stay_are_not_sent_away() {
    let guests = ["0", "0", "0", "0", "1"].map(|place| (busy(), place));
    let mut sim = machine(2, round_robin(), guests, &[]);
    for index in [1, 2, 3] {
        let handle = sim.handle(vcpu(index)).clone();
        handle.set_soft_affinity(set("0")).unwrap();
    }
    sim.run_until(50);
    sim.allow(1..4, "0-1");
    sim.run_until(1000);
    for index in 0..4 {
        assert_eq!(sim.haunts(vcpu(index), 0), set("0"), "{index}");
    }
    let handle = sim.handle(vcpu(2)).clone();
    handle.set_soft_affinity(PcpuSet::EMPTY).unwrap();
    sim.run_until(1100);
    assert_eq!(
        sim.haunts(vcpu(2), 1060),
        set("1"),
        "it may, and may as well"
    );
}

/// However many others there are where nobody waits.
#[test]
fn who_may_go_to_one_pcpu_only_gets_there() {
    let guests = || {
        let here = ["0"; 6].map(|place| (busy(), place));
        let there = ["1", "2", "3", "4", "5", "6", "7", "7"].map(|place| (busy(), place));
        here.into_iter().chain(there)
    };
    let mut sim = machine(8, round_robin(), guests(), &[]);
    sim.run_until(50);
    sim.allow(0..6, "0,7");
    sim.run_until(50 + PERIOD);
    assert_eq!(sim.gifts(), 1, "those where nobody may go are not tried");
    // One that may go anywhere prefers to stay: nobody knows before it is tried that nobody goes there.
    let mut sim = machine(8, round_robin(), guests(), &[]);
    sim.run_until(50);
    let handle = sim.handle(vcpu(0)).clone();
    handle.set_soft_affinity(set("0")).unwrap();
    sim.allow(0..1, "0-7");
    sim.allow(1..6, "0,7");
    sim.run_until(50 + 3 * PERIOD + 2 * SLICE);
    assert!(sim.gifts() >= 1);
    sim.run_until(1000);
    assert_eq!(sim.gifts(), 2, "four and four");
    assert_eq!(sim.haunts(vcpu(0), 0), set("0"));
}

#[test]
fn equal_priorities_even_out_and_nobody_goes_where_more_important_ones_run() {
    let policy = || Box::new(Priority::new(SLICE, PERIOD, 8));
    let guests = || ["0", "0", "0", "1"].map(|place| (busy(), place));
    let mut sim = machine(2, policy(), guests(), &[5, 5, 5, 5]);
    sim.run_until(50);
    sim.allow(0..4, "0-1");
    sim.run_until(100);
    expect_runs(&sim.runs(4, 1000), &[500; 4]);
    let mut sim = machine(2, policy(), guests(), &[5, 5, 5, 9]);
    sim.run_until(50);
    sim.allow(0..4, "0-1");
    sim.run_until(100);
    expect_runs(&sim.runs(4, 900), &[300, 300, 300, 900]);
}

/// More wait on the first pCPU, but not more of those that are equal to what runs on the other.
#[test]
fn less_important_ones_that_wait_do_not_send_more_important_ones_away() {
    let policy = Box::new(Priority::new(SLICE, PERIOD, 9));
    let here = ["0"; 6].map(|place| (busy(), place));
    let there = ["1"; 3].map(|place| (busy(), place));
    let guests = here.into_iter().chain(there);
    let mut sim = machine(2, policy, guests, &[5, 5, 1, 1, 1, 1, 5, 5, 5]);
    sim.run_until(50);
    sim.allow([0, 1, 6, 7, 8], "0-1");
    sim.run_until(1000);
    assert_eq!(sim.gifts(), 0, "two and three cannot be more equal");
}

#[test]
fn a_policy_that_leaves_vcpus_where_they_are_is_not_helped() {
    let guests = ["0", "0", "0", "1"].map(|place| (busy(), place));
    let mut sim = machine(
        2,
        Box::new(crate::policies::Pinned::with_slice(SLICE)),
        guests,
        &[],
    );
    sim.run_until(50);
    sim.allow(0..4, "0-1");
    sim.run_until(500);
    assert_eq!(sim.gifts(), 0);
}

/// One that weighs as much as three others is content with them on another pCPU, though two of these wait.
#[test]
fn a_policy_that_sees_to_it_itself_is_not_helped() {
    let guests = ["0", "0", "0", "1"].map(|place| (busy(), place));
    let mut sim = machine(2, Box::new(Fair::with_slice(SLICE, 4)), guests, &[]);
    for (index, weight) in [100, 100, 100, 300].into_iter().enumerate() {
        let entitlement = Entitlement {
            weight: Weight::new(weight).unwrap(),
            ..Entitlement::default()
        };
        let handle = sim.handle(vcpu(index)).clone();
        handle.set_entitlement(&entitlement).unwrap();
    }
    sim.run_until(50);
    sim.allow(0..4, "0-1");
    sim.run_until(1000);
    assert_eq!(sim.gifts(), 0);
}

#[test]
fn who_wakes_goes_to_an_idle_pcpu_that_shares_a_cache_with_its_last_one() {
    let sleeper = Script::forever([Compute(5), WaitFor(50)]);
    let guests = [
        (sleeper, "3"),
        (Script::forever([WaitFor(20), Compute(1000)]), "3"),
    ];
    let mut sim = machine(6, lazy(), guests, &[]);
    sim.run_until(10);
    sim.allow([0], "0-5");
    sim.run_until(200);
    assert_eq!(sim.haunts(vcpu(0), 10), set("2"), "its last one is busy");
}

#[test]
fn an_idle_pcpu_takes_from_one_that_shares_its_cache_although_more_wait_elsewhere() {
    let until = Script::forever([Compute(100), WaitFor(1000)]);
    let far = ["0"; 5].map(|place| (busy(), place));
    let near = ["2"; 2].map(|place| (busy(), place));
    let guests = [(until, "3")].into_iter().chain(far).chain(near);
    let mut sim = machine(4, lazy(), guests, &[]);
    sim.run_until(50);
    sim.allow(1..6, "0,3");
    sim.allow(6..8, "2-3");
    sim.run_until(140);
    let stretches = sim.stretches();
    let first = stretches
        .iter()
        .find(|stretch| stretch.pcpu == pcpu(3) && stretch.start >= 100);
    let first = first.expect("it does not idle").vcpu.index();
    assert!(first >= 6, "vcpu{first}");
}

/// Its registers stay where they are if it would wake up there anyway.
#[test]
fn who_cannot_wake_up_where_it_prefers_waits_loaded() {
    let sleeper = || Script::forever([Compute(5), WaitFor(7)]);
    let switches = |sim: &Simulation| sim.handle(vcpu(0)).switches.read();
    let policies: [(Box<dyn Policy>, &str); 2] = [
        (round_robin(), "0"),
        (Box::new(Deadline::with_slice(SLICE, 8)), "0-3"),
    ];
    for (policy, affinity) in policies {
        let name = policy.name();
        let mut sim = machine(4, policy, [(sleeper(), affinity)], &[]);
        let handle = sim.handle(vcpu(0)).clone();
        let reserved = Entitlement {
            reservation: Some(Reservation::new(5, 10).unwrap()),
            ..Entitlement::default()
        };
        handle.set_entitlement(&reserved).unwrap();
        sim.run_until(30);
        let home = handle.last_pcpu();
        let elsewhere = PcpuSet::all(4).difference(PcpuSet::only(home));
        handle.set_soft_affinity(elsewhere).unwrap();
        sim.run_until(50);
        let before = switches(&sim);
        sim.run_until(1000);
        assert!(sim.times(vcpu(0)).run > 300);
        assert_eq!(handle.last_pcpu(), home, "{name}");
        assert_eq!(switches(&sim), before, "{name}");
    }
}

#[test]
fn preferred_pcpus_are_used_while_they_have_room_and_again_when_they_have_it_again() {
    let sleeper = || Script::forever([Compute(5), WaitFor(7)]);
    let guests = [
        (sleeper(), "0-3"),
        (sleeper(), "0-3"),
        (busy(), "2"),
        (busy(), "3"),
    ];
    let mut sim = machine(4, round_robin(), guests, &[]);
    let others = [vcpu(2), vcpu(3)];
    others
        .iter()
        .for_each(|&other| sim.act(Outside::Pause(other)));
    for index in [0, 1] {
        let handle = sim.handle(vcpu(index)).clone();
        handle.set_soft_affinity(set("2-3")).unwrap();
    }
    let expect = |sim: &mut Simulation, from: u64, until: u64, place: &str| {
        sim.run_until(until);
        let haunts = [0, 1].map(|index| sim.haunts(vcpu(index), from));
        assert_eq!(haunts[0].union(haunts[1]), set(place), "{from}..{until}");
        let waited: u64 = [0, 1]
            .map(|index| sim.times(vcpu(index)).ready)
            .iter()
            .sum();
        assert!(
            waited <= until / 20,
            "nobody waits for the sake of it: {waited}"
        );
    };
    // They were turned on before they had said what they prefer.
    expect(&mut sim, 20, 300, "2-3");
    others
        .iter()
        .for_each(|&other| sim.act(Outside::Resume(other)));
    expect(&mut sim, 340, 600, "0-1");
    others
        .iter()
        .for_each(|&other| sim.act(Outside::Pause(other)));
    expect(&mut sim, 630, 900, "2-3");
}
