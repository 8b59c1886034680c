//! What the gang policy does: all of a VM's vCPUs run, or none.

use super::{
    Instruction::*,
    Outside, Script, Setup, Simulation,
    shares::{expect_shares, shares_of},
    short::{busy, pcpu},
};
use crate::{
    Entitlement, GroupId, PcpuId, PcpuSet, Place, Policy, Refusal, VcpuId,
    policies::{Gang, RoundRobin},
};
use alloc::{boxed::Box, string::ToString, vec, vec::Vec};
use core::{ops::Range, sync::atomic::Ordering};

const SLOT: u64 = 100;

fn member(group: u16) -> Entitlement {
    Entitlement {
        group: GroupId::new(group),
        ..Entitlement::default()
    }
}

/// A vCPU of the given VM for each guest.
fn machine(pcpus: u16, guests: Vec<(u16, Script)>, seed: Option<u64>) -> Simulation {
    let policy = Box::new(Gang::new(SLOT, PcpuSet::all(pcpus), guests.len() as u16));
    with_policy(policy, pcpus, guests, seed)
}

fn with_policy(
    policy: Box<dyn Policy>,
    pcpus: u16,
    guests: Vec<(u16, Script)>,
    seed: Option<u64>,
) -> Simulation {
    let (groups, scripts): (Vec<_>, _) = guests.into_iter().unzip();
    Simulation::with_setup(Setup {
        pcpus,
        policy,
        scripts,
        affinities: Vec::new(),
        entitlements: groups.into_iter().map(member).collect(),
        seed,
    })
}

/// Busy vCPUs, so many of each VM.
fn busy_vms(counts: &[u16]) -> Vec<(u16, Script)> {
    let vms = counts.iter().zip(0..);
    vms.flat_map(|(&count, group)| (0..count).map(move |_| (group, busy())))
        .collect()
}

#[test]
fn vms_take_turns_with_all_their_vcpus() {
    let mut sim = machine(2, busy_vms(&[2, 1, 2]), None);
    sim.run_until(450);
    sim.expect_trace([
        "0 pcpu0 vcpu0 for 100",
        "0 pcpu1 vcpu1 for 100",
        "100 pcpu0 vcpu2 for 100",
        "200 pcpu0 vcpu4 for 100",
        "200 pcpu1 vcpu3 for 100",
        "300 pcpu0 vcpu0 for 100",
        "300 pcpu1 vcpu1 for 100",
        "400 pcpu0 vcpu2 for 50",
    ]);
    assert_eq!(sim.counters(pcpu(0)).unwrap().bad_picks, 0);
}

#[test]
fn all_of_a_busy_gang_run_or_none() {
    for pcpus in 2..=4 {
        let counts = [pcpus, 2, 2, 1];
        let mut sim = machine(pcpus, busy_vms(&counts), None);
        sim.run_until(50_000);
        let mut first = 0;
        for count in counts {
            // By tick, how many of them run.
            let mut running = vec![0; 50_000];
            for stretch in sim.stretches() {
                let index = stretch.vcpu.index() as u16;
                if (first..first + count).contains(&index) {
                    let ticks = stretch.start..stretch.start + stretch.duration;
                    ticks.for_each(|tick| running[tick as usize] += 1);
                }
            }
            first += count;
            let any = running.iter().filter(|&&running| running > 0).count();
            let all = running.iter().filter(|&&running| running == count).count();
            assert!(any > 10_000 && all * 100 >= any * 95, "{all} of {any}");
        }
    }
}

#[test]
fn gangs_share_time_alike_and_a_large_vm_has_several() {
    let shares = |pcpus, counts: &[u16]| {
        let count = counts.iter().sum::<u16>().into();
        shares_of(machine(pcpus, busy_vms(counts), None), count, 60_000)
    };
    expect_shares(&shares(2, &[2, 2]), &[500; 4], 5);
    // The small ones share a row.
    expect_shares(&shares(4, &[4, 1, 2]), &[500; 7], 5);
    expect_shares(&shares(4, &[2, 2]), &[1000; 4], 5);
    expect_shares(&shares(4, &[1, 1, 1, 1]), &[1000; 4], 5);
    expect_shares(&shares(2, &[1, 1, 1, 1]), &[500; 4], 5);
    // One alone runs beside any that leave its pCPU free.
    expect_shares(&shares(4, &[3, 1, 2]), &[500, 500, 500, 1000, 500, 500], 5);
    // Two gangs of VM 0, with two vCPUs and one, and one of VM 1.
    expect_shares(&shares(2, &[3, 2]), &[333; 5], 5);
    expect_shares(&shares(1, &[3]), &[333; 3], 5);
}

/// Of the ticks in which one of `vcpus` runs, how many all do that can: (all, any).
fn together(sim: &mut Simulation, vcpus: Range<u16>, end: u64) -> (u32, u32) {
    let (mut all, mut any) = (0, 0);
    for now in 1..end {
        sim.run_until(now);
        let ids = vcpus.clone().map(VcpuId::new);
        let snapshots = ids.map(|id| sim.handle(id).snapshot(now));
        let runnable: Vec<_> = snapshots.filter(|vcpu| vcpu.is_runnable).collect();
        let runs = |place| matches!(place, Place::Loaded(_));
        if runnable.iter().any(|vcpu| runs(vcpu.place)) {
            any += 1;
            all += u32::from(runnable.iter().all(|vcpu| runs(vcpu.place)));
        }
    }
    (all, any)
}

#[test]
fn those_of_a_gang_that_can_run_do_so_together_while_others_sleep() {
    for seed in 0..10 {
        let sleeper = |ticks| Script::forever([Compute(3 * ticks), WaitFor(ticks)]);
        let mut guests: Vec<_> = (0..3).map(|index| (0, sleeper(31 + 17 * index))).collect();
        guests.extend(busy_vms(&[0, 3, 1]));
        let mut sim = machine(3, guests, Some(seed));
        let (all, any) = together(&mut sim, 0..3, 20_000);
        assert!(any > 5000 && all * 100 >= any * 95, "{all} of {any}");
    }
}

#[test]
fn a_slot_has_whole_gangs_and_no_part_of_another() {
    // The second one does not fit into the row of the first: it has one vCPU on a pCPU of that.
    let (mut sim, two) = (machine(3, busy_vms(&[2, 2]), None), 2..4);
    let (all, any) = together(&mut sim, two.clone(), 20_000);
    assert!(any > 9000 && all == any, "{all} of {any}");
    // A slot that is given up is nothing for a gang of two.
    let short = || Script::forever([Compute(9), WaitFor(190)]);
    let guests = vec![(0, short()), (0, short()), (1, busy()), (1, busy())];
    let mut sim = machine(2, guests, None);
    let (all, any) = together(&mut sim, two, 20_000);
    assert!(any > 9000 && all == any, "{all} of {any}");
}

#[test]
fn a_gang_with_nobody_ready_is_passed_over() {
    let mut guests = busy_vms(&[2, 0, 2]);
    guests.push((1, Script::forever([WaitFor(100_000)])));
    let mut sim = machine(2, guests, None);
    sim.run_until(20_000);
    for index in 0..4 {
        assert!(sim.times(VcpuId::new(index)).run >= 9900);
    }
}

#[test]
fn one_that_is_alone_ready_of_its_gang_uses_a_slot_that_is_given_up() {
    // VM 0 uses a tenth of its slots; the vCPU of VM 1 looks an eighth of a slot later at the latest.
    let short = || Script::forever([Compute(9), WaitFor(190)]);
    let guests = vec![(0, short()), (0, short()), (1, busy())];
    let mut sim = machine(2, guests, None);
    sim.run_until(20_000);
    let run = |index| sim.times(VcpuId::new(index)).run;
    assert!(run(2) >= 17_000, "it ran {}", run(2));
    assert!(run(0) >= 600 && run(1) >= 600, "{} and {}", run(0), run(1));
}

#[test]
fn one_of_the_slots_gang_takes_a_slot_back_at_once() {
    let sleeper = Script::forever([Compute(9), WaitFor(20)]);
    let mut sim = machine(1, vec![(0, sleeper), (1, busy())], None);
    sim.run_until(215);
    sim.expect_trace([
        "0 vcpu0 for 10",
        "10 vcpu1 for 20",
        "30 vcpu0 for 10",
        "40 vcpu1 for 20",
        "60 vcpu0 for 10",
        "70 vcpu1 for 20",
        "90 vcpu0 for 10",
        "100 vcpu1 for 100",
        "200 vcpu0 for 10",
        "210 vcpu1 for 5",
    ]);
}

/// How often two vCPUs of VM 0 on two pCPUs wait for each other within `end`, against a busy VM of two vCPUs.
fn hand_overs(policy: Box<dyn Policy>, has_rival: bool, end: u64) -> u64 {
    let [first, second] = [VcpuId::new(0), VcpuId::new(1)];
    let mut guests = vec![
        (0, Script::forever([Compute(2), Interrupt(second), Wait])),
        (0, Script::forever([Wait, Compute(2), Interrupt(first)])),
    ];
    if has_rival {
        guests.extend(busy_vms(&[0, 2]));
    }
    let mut sim = with_policy(policy, 2, guests, None);
    sim.run_until(end);
    sim.handle(first).shared().due.load(Ordering::Relaxed)
}

#[test]
fn two_that_wait_for_each_other_do_so_as_fast_as_alone_in_half_of_the_time() {
    let gang = || Box::new(Gang::new(SLOT, PcpuSet::all(2), 4));
    let alone = hand_overs(gang(), false, 20_000);
    let with_rival = hand_overs(gang(), true, 20_000);
    let in_turns = hand_overs(Box::new(RoundRobin::with_slice(SLOT)), true, 20_000);
    assert!(alone > 2000, "{alone}");
    assert!(with_rival * 100 >= alone * 45, "{with_rival} of {alone}");
    assert!(with_rival >= 4 * in_turns, "{with_rival} and {in_turns}");
}

#[test]
fn a_vcpu_that_was_sent_away_goes_home() {
    let mut sim = machine(2, busy_vms(&[2, 2]), None);
    sim.act(Outside::Drain(pcpu(0)));
    sim.run_until(1000);
    sim.act(Outside::Undrain(pcpu(0)));
    sim.act(Outside::Migrate(VcpuId::new(1), pcpu(0)));
    sim.run_until(2000);
    let before: Vec<_> = (0..4)
        .map(|index| sim.times(VcpuId::new(index)).run)
        .collect();
    sim.run_until(12_000);
    for (index, before) in (0..4).zip(before) {
        let run = sim.times(VcpuId::new(index)).run - before;
        assert!(run.abs_diff(5000) <= 100, "vcpu{index} ran {run}");
    }
}

#[test]
fn homes_are_in_the_affinity_and_given_once_in_each_gang() {
    let policy = Gang::new(SLOT, PcpuSet::all(2), 8);
    let admit = |vcpu, group, affinity| -> Result<_, Refusal> {
        let affinity = PcpuSet::from_bits(affinity);
        let home = policy.admit(VcpuId::new(vcpu), &member(group), affinity)?;
        Ok(home.map(PcpuId::index))
    };
    assert_eq!(admit(0, 0, 0b11), Ok(Some(0)));
    assert_eq!(admit(1, 0, 0b01), Ok(Some(0)), "of the second gang");
    assert_eq!(admit(2, 0, 0b11), Ok(Some(1)), "of the first");
    assert_eq!(admit(3, 0, 0b11), Ok(Some(1)), "of the second");
    assert_eq!(admit(4, 1, 0b10), Ok(Some(1)));

    policy.release(VcpuId::new(0));
    assert_eq!(admit(4, 0, 0b11), Ok(Some(0)), "in the place of the first");

    let refused = admit(4, 0, 0b100).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "its gang runs on pCPUs 0-1, and the vCPU may run on 2 only"
    );
    assert_eq!(admit(4, 0, 0b11), Ok(Some(0)), "as before");
}

#[test]
fn the_promise_counts_the_rows_that_there_have_been() {
    let policy = Gang::new(SLOT, PcpuSet::all(2), 100);
    let longest_wait = || policy.bounds(1).longest_wait;
    for (vcpu, group) in [(0, 0), (1, 0), (2, 1), (3, 1)] {
        let home = policy.admit(VcpuId::new(vcpu), &member(group), PcpuSet::all(2));
        home.unwrap();
    }
    assert_eq!(longest_wait(), Some(3 * SLOT));
    // Somebody may have waited for the row that is gone.
    for vcpu in [0, 1] {
        policy.release(VcpuId::new(vcpu));
    }
    assert_eq!(longest_wait(), Some(3 * SLOT));
}
