//! What the table-driven policy does, exactly, and how little VMs notice of each other.

use super::{
    Instruction::*, Outside, Script, Setup, Simulation, Stretch, short::busy, short::pcpu,
};
use crate::{
    Entitlement, GroupId, PcpuId, PcpuSet, Policy, VcpuId,
    policies::{BadTable, Table, TableDriven, Window},
};
use alloc::{boxed::Box, string::ToString, vec, vec::Vec};

const SLICE: u64 = 10;

fn window(group: u16, ticks: u64) -> Window {
    Window {
        group: Some(GroupId::new(group)),
        ticks,
    }
}

const fn pause(ticks: u64) -> Window {
    Window { group: None, ticks }
}

fn member(group: u16) -> Entitlement {
    Entitlement {
        group: GroupId::new(group),
        ..Entitlement::default()
    }
}

/// A machine with a pCPU for each frame, and a vCPU of the given VM for each guest.
fn machine(frames: Vec<Vec<Window>>, guests: Vec<(u16, Script)>) -> Simulation {
    let pcpus = frames.len() as u16;
    let table = Table::new((0..pcpus).map(pcpu).zip(frames)).expect("a good table");
    let policy = Box::new(TableDriven::new(SLICE, table, guests.len() as u16));
    let (groups, scripts): (Vec<_>, _) = guests.into_iter().unzip();
    Simulation::with_setup(Setup {
        pcpus,
        policy,
        scripts,
        affinities: Vec::new(),
        entitlements: groups.into_iter().map(member).collect(),
        seed: None,
    })
}

#[test]
fn a_drained_pcpu_does_not_ask_for_the_next_window_any_more() {
    let mut sim = machine(
        vec![vec![pause(30), window(0, 10)], vec![window(0, 40)]],
        vec![(0, busy()), (0, busy())],
    );
    sim.run_until(5);
    sim.act(Outside::Drain(pcpu(0)));
    sim.run_until(10);
    let sets = sim.timer_sets(pcpu(0));
    sim.run_until(500);
    assert_eq!(sim.timer_sets(pcpu(0)), sets);
    assert_eq!(
        sim.times(VcpuId::new(0)).run + sim.times(VcpuId::new(1)).run,
        500
    );
}

#[test]
fn each_vm_runs_in_its_windows_and_its_vcpus_take_turns() {
    let frame = vec![window(0, 25), pause(5), window(1, 20)];
    let guests = vec![(0, busy()), (1, busy()), (0, busy())];
    let mut sim = machine(vec![frame], guests);
    sim.run_until(110);
    sim.expect_trace([
        "0 vcpu0 for 10",
        "10 vcpu2 for 10",
        "20 vcpu0 for 5",
        "30 vcpu1 for 20",
        "50 vcpu2 for 10",
        "60 vcpu0 for 10",
        "70 vcpu2 for 5",
        "80 vcpu1 for 20",
        "100 vcpu0 for 10",
    ]);
}

#[test]
fn frames_differ_between_pcpus_and_vcpus_spread_over_those_that_have_windows() {
    let frames = vec![
        vec![window(0, 15), window(1, 15)],
        vec![window(1, 20)],
        vec![window(0, 10), pause(30)],
    ];
    let guests = vec![(0, busy()), (0, busy()), (1, busy()), (1, busy())];
    let mut sim = machine(frames, guests);
    sim.run_until(60);
    sim.expect_trace([
        "0 pcpu0 vcpu0 for 15",
        "0 pcpu1 vcpu3 for 60",
        "0 pcpu2 vcpu1 for 10",
        "15 pcpu0 vcpu2 for 15",
        "30 pcpu0 vcpu0 for 15",
        "40 pcpu2 vcpu1 for 10",
        "45 pcpu0 vcpu2 for 15",
    ]);
}

#[test]
fn a_vcpu_that_wakes_in_its_window_runs_at_once_and_otherwise_in_the_next() {
    let frame = vec![window(0, 20), window(1, 30)];
    let sleeper = Script::forever([Compute(3), WaitFor(10)]);
    let mut sim = machine(vec![frame], vec![(0, sleeper)]);
    sim.run_until(110);
    sim.expect_trace([
        "0 vcpu0 for 4",
        "14 vcpu0 for 4",
        "50 vcpu0 for 4",
        "64 vcpu0 for 4",
        "100 vcpu0 for 4",
    ]);
}

/// The stretches of VM 0, which has a vCPU on each pCPU, while VM 1 does what `script` says and is interrupted or not.
fn neighbour_of(script: &Script, is_interrupted: bool) -> Vec<Stretch> {
    let frames = vec![
        vec![window(0, 30), window(1, 20), pause(7)],
        vec![window(1, 10), window(0, 30), window(1, 5)],
    ];
    let mut guests = vec![
        (0, Script::forever([Compute(17), Yield(None), WaitFor(9)])),
        (0, busy()),
    ];
    guests.extend((0..6).map(|_| (1, script.clone())));
    let mut sim = machine(frames, guests);
    for step in 1..400 {
        sim.run_until(5 * step);
        if is_interrupted {
            (2..8).for_each(|vcpu| sim.act(Outside::Interrupt(VcpuId::new(vcpu))));
        }
    }
    let of_first = |stretch: &Stretch| stretch.vcpu.index() < 2;
    sim.stretches().into_iter().filter(of_first).collect()
}

#[test]
fn nothing_that_a_vm_does_moves_another_vms_windows() {
    let alone = neighbour_of(&Script::once([]), false);
    let peer = |index| VcpuId::new(index);
    let storm = [
        Interrupt(peer(2)),
        Interrupt(peer(5)),
        Yield(Some(peer(3))),
        Interrupt(peer(7)),
        WaitFor(1),
    ];
    let power = [PowerOn(peer(4)), Compute(1), Inspect(peer(6)), PowerOff];
    for script in [busy(), Script::forever(storm), Script::forever(power)] {
        assert_eq!(neighbour_of(&script, false), alone);
        assert_eq!(neighbour_of(&script, true), alone);
    }
}

#[test]
fn pcpus_that_idle_on_purpose_do_not_wake_each_other() {
    let frames = || vec![window(0, 10), pause(990)];
    let mut sim = machine(vec![frames(); 4], (0..8).map(|_| (0, busy())).collect());
    sim.run_until(10_000);
    for index in 0..4 {
        let counters = sim.counters(pcpu(index)).unwrap();
        assert!(counters.kicks_received <= 20, "{counters:?}");
        assert_eq!(counters.times.busy, 100);
        assert_eq!(counters.bad_picks, 0);
    }
}

#[test]
fn a_vcpu_that_was_sent_away_comes_back_to_where_its_vm_has_windows() {
    let frames = vec![vec![window(0, 10)], vec![window(1, 10)]];
    let mut sim = machine(frames, vec![(0, busy())]);
    sim.act(Outside::Drain(pcpu(0)));
    sim.run_until(100);
    assert_eq!(sim.times(VcpuId::new(0)).run, 0);
    sim.act(Outside::Undrain(pcpu(0)));
    sim.run_until(200);
    // The other pCPU asks at the end of its next window.
    assert!(sim.times(VcpuId::new(0)).run >= 85);
    sim.act(Outside::Migrate(VcpuId::new(0), pcpu(1)));
    sim.run_until(300);
    assert!(sim.times(VcpuId::new(0)).run >= 185);
}

#[test]
fn a_table_that_makes_no_sense_is_refused_with_the_numbers() {
    let refusal = |frames: Vec<(PcpuId, Vec<Window>)>| Table::new(frames).unwrap_err().to_string();
    let (first, second) = (pcpu(0), pcpu(1));
    assert_eq!(refusal(vec![]), BadTable::NoWindow.to_string());
    assert_eq!(
        refusal(vec![(first, vec![pause(5)])]),
        "a table needs at least one window for a VM"
    );
    assert_eq!(
        refusal(vec![(first, vec![window(0, 1)]), (second, vec![])]),
        "the frame of pcpu1 has no windows"
    );
    assert_eq!(
        refusal(vec![(second, vec![window(0, 1), pause(0)])]),
        "window 1 of pcpu1 has 0 ticks: it needs at least 1"
    );
    let twice = vec![(first, vec![window(0, 1)]), (first, vec![window(0, 1)])];
    assert_eq!(refusal(twice), "pcpu0 has two frames");
    let long = vec![(first, vec![window(0, u64::MAX), window(0, 1)])];
    assert_eq!(
        refusal(long),
        "the frame of pcpu0 has more than 18446744073709551615 ticks"
    );
}

#[test]
fn a_vcpu_without_a_window_is_refused_with_the_numbers() {
    let frames = [(pcpu(0), vec![window(0, 1)]), (pcpu(2), vec![window(0, 1)])];
    let policy = TableDriven::new(SLICE, Table::new(frames).unwrap(), 4);
    let admit = |group, affinity| policy.admit(VcpuId::new(0), &member(group), affinity);
    assert_eq!(
        admit(3, PcpuSet::all(4)).unwrap_err().to_string(),
        "VM 3 has no window in the table"
    );
    assert_eq!(
        admit(0, PcpuSet::from_bits(0b1010))
            .unwrap_err()
            .to_string(),
        "VM 0 has windows on pCPUs 0,2 only, and its vCPU may run on 1,3 only"
    );
    assert_eq!(admit(0, PcpuSet::all(4)), Ok(Some(pcpu(0))));
}
