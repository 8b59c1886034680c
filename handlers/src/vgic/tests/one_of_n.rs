//! Interrupts that any vCPU may take: one does, whatever the others do meanwhile.

use std::vec::Vec;

use proptest::prelude::*;

use super::{
    interface::{OPEN, SPURIOUS},
    machine::{GICD, GICR, Machine},
};

const VCPUS: usize = 3;
/// Edge-triggered, enabled, group 1, to any.
const FIRST: u32 = 40;
const COUNT: u32 = 6;
const TO_ANYBODY: u64 = 1 << 31;

fn wake(machine: &mut Machine, by: usize, vcpu: usize, is_awake: bool) {
    let address = GICR + 0x2_0000 * vcpu as u64 + 0x14;
    machine.write(by, address, 4, u64::from(!is_awake) << 1);
}

/// DPG1NS of `vcpu`.
fn refuse(machine: &mut Machine, by: usize, vcpu: usize, is_refused: bool) {
    let address = GICR + 0x2_0000 * vcpu as u64;
    machine.write(by, address, 4, u64::from(is_refused) << 25);
}

/// The guest of a bound vCPU turns its group 1 on or off.
fn take_group(machine: &mut Machine, vcpu: usize, is_on: bool) {
    machine.interface(vcpu).machine_control = OPEN & !0b10 | u64::from(is_on) << 1;
    machine.settle();
}

/// All vCPUs are bound and take part.
fn shared_by_all() -> Machine {
    let mut machine = Machine::new(VCPUS, 2);
    for vcpu in 0..VCPUS {
        wake(&mut machine, 0, vcpu, true);
    }
    for intid in FIRST..FIRST + COUNT {
        machine.set_edge(intid);
        machine.enable(0, intid);
        machine.write(0, GICD + 0x6000 + 8 * u64::from(intid), 8, TO_ANYBODY);
    }
    machine.settle();
    machine
}

fn signalled(machine: &Machine) -> Vec<usize> {
    let is_signalled =
        |&vcpu: &usize| machine.places[vcpu].is_some_and(|pcpu| machine.pcpus[pcpu].is_signalled());
    (0..VCPUS).filter(is_signalled).collect()
}

fn pulse(machine: &mut Machine, intid: u32) {
    machine.line(intid).pulse();
    machine.settle();
}

#[test]
fn it_goes_to_one() {
    let mut machine = shared_by_all();
    for _ in 0..5 {
        pulse(&mut machine, FIRST);
        let [taker] = signalled(&machine)[..] else {
            panic!("{:?} have it", signalled(&machine));
        };
        assert_eq!(machine.acknowledge(taker), FIRST);
        machine.end(taker, FIRST);
    }
}

#[test]
fn several_go_to_several() {
    let mut machine = shared_by_all();
    (FIRST..FIRST + COUNT).for_each(|intid| pulse(&mut machine, intid));
    assert_eq!(signalled(&machine), [0, 1, 2]);
    for vcpu in 0..VCPUS {
        for _ in 0..COUNT as usize / VCPUS {
            let intid = machine.acknowledge(vcpu);
            assert_ne!(intid, SPURIOUS);
            machine.end(vcpu, intid);
        }
        assert_eq!(machine.acknowledge(vcpu), SPURIOUS);
    }
}

#[test]
fn it_goes_to_one_that_is_bound_and_takes_part() {
    let mut machine = shared_by_all();
    machine.unbind(0);
    refuse(&mut machine, 1, 1, true);
    pulse(&mut machine, FIRST);
    assert_eq!(signalled(&machine), [2]);
    // It is listed there, and goes on to the one that is left.
    refuse(&mut machine, 1, 1, false);
    wake(&mut machine, 1, 2, false);
    assert_eq!(signalled(&machine), [1]);
    machine.unbind(1);
    machine.bind(0, 0);
    assert_eq!(signalled(&machine).len(), 0, "vCPU 1 keeps it");
    machine.bind(1, 1);
    assert_eq!(signalled(&machine), [1]);
    machine.unbind(1);
    machine.settle();
    assert_eq!(signalled(&machine), [0], "vCPU 0 is bound");
}

#[test]
fn it_waits_until_somebody_takes_part() {
    let mut machine = shared_by_all();
    (0..VCPUS).for_each(|vcpu| take_group(&mut machine, vcpu, false));
    pulse(&mut machine, FIRST);
    assert_eq!(signalled(&machine).len(), 0);
    take_group(&mut machine, 1, true);
    assert_eq!(signalled(&machine), [1]);
    // It moves on when the guest turns its group off.
    take_group(&mut machine, 2, true);
    take_group(&mut machine, 1, false);
    assert_eq!(signalled(&machine), [2]);
}

#[test]
fn who_turns_itself_off_passes_it_on() {
    let mut machine = shared_by_all();
    refuse(&mut machine, 0, 0, true);
    refuse(&mut machine, 0, 2, true);
    pulse(&mut machine, FIRST);
    assert_eq!(signalled(&machine), [1]);
    refuse(&mut machine, 0, 2, false);
    let vgic = machine.vgic.clone();
    vgic.turned_off(&machine.cpus[1]);
    machine.unbind(1);
    machine.settle();
    assert_eq!(signalled(&machine), [2]);
    // Turned on again, it takes part once it has turned its group on.
    vgic.reset_cpu(&mut machine.cpus[1]);
    machine.bind(1, 1);
    machine.migrate(2, 2);
    assert_eq!(signalled(&machine), [2]);
}

#[test]
fn one_that_is_routed_again_goes_there() {
    let mut machine = shared_by_all();
    pulse(&mut machine, FIRST);
    for vcpu in [2, 0, 1] {
        machine.route(FIRST, vcpu);
        assert_eq!(signalled(&machine), [vcpu]);
        machine.write(0, GICD + 0x6000 + 8 * u64::from(FIRST), 8, TO_ANYBODY);
        assert_eq!(signalled(&machine).len(), 1);
    }
}

#[derive(Clone, Debug)]
enum Op {
    Pulse(u32),
    Acknowledge(usize),
    Leave(usize),
    Bind(usize),
    Group(usize, bool),
    Refuse(usize, bool),
    Awake(usize, bool),
}

fn op() -> impl Strategy<Value = Op> {
    let vcpu = 0..VCPUS;
    prop_oneof![
        4 => (FIRST..FIRST + COUNT).prop_map(Op::Pulse),
        4 => vcpu.clone().prop_map(Op::Acknowledge),
        1 => vcpu.clone().prop_map(Op::Leave),
        2 => vcpu.clone().prop_map(Op::Bind),
        1 => (vcpu.clone(), any::<bool>()).prop_map(|(vcpu, on)| Op::Group(vcpu, on)),
        1 => (vcpu.clone(), any::<bool>()).prop_map(|(vcpu, on)| Op::Refuse(vcpu, on)),
        1 => (vcpu, any::<bool>()).prop_map(|(vcpu, on)| Op::Awake(vcpu, on)),
    ]
}

/// What vCPU `vcpu` acknowledges is pending, and is not any more.
fn take(machine: &mut Machine, pending: &mut [bool; COUNT as usize], vcpu: usize) -> bool {
    let intid = machine.acknowledge(vcpu);
    if intid == SPURIOUS {
        return false;
    }
    let pending = &mut pending[(intid - FIRST) as usize];
    assert!(*pending, "interrupt {intid} is taken twice");
    *pending = false;
    machine.end(vcpu, intid);
    true
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn each_is_taken_once(ops in prop::collection::vec(op(), 1..150), last in 0..VCPUS) {
        let mut machine = shared_by_all();
        let mut pending = [false; COUNT as usize];
        for op in ops {
            let runner = (0..VCPUS).find(|&vcpu| machine.places[vcpu].is_some());
            match op {
                Op::Pulse(intid) => {
                    pending[(intid - FIRST) as usize] = true;
                    pulse(&mut machine, intid);
                }
                Op::Acknowledge(vcpu) if machine.places[vcpu].is_some() => {
                    take(&mut machine, &mut pending, vcpu);
                }
                Op::Leave(vcpu) if machine.places[vcpu].is_some() => machine.unbind(vcpu),
                Op::Bind(vcpu) if machine.places[vcpu].is_none() => machine.bind(vcpu, vcpu),
                Op::Group(vcpu, on) if machine.places[vcpu].is_some() => take_group(&mut machine, vcpu, on),
                Op::Refuse(vcpu, on) => {
                    runner.into_iter().for_each(|by| refuse(&mut machine, by, vcpu, on));
                }
                Op::Awake(vcpu, on) => {
                    runner.into_iter().for_each(|by| wake(&mut machine, by, vcpu, on));
                }
                _ => {}
            }
            machine.settle();
        }
        // All others leave; the last one takes part, and gets what is left.
        for vcpu in 0..VCPUS {
            if machine.places[vcpu].is_none() {
                machine.bind(vcpu, vcpu);
            }
        }
        for vcpu in 0..VCPUS {
            refuse(&mut machine, last, vcpu, vcpu != last);
            wake(&mut machine, last, vcpu, true);
        }
        take_group(&mut machine, last, true);
        machine.settle();
        while take(&mut machine, &mut pending, last) {}
        prop_assert_eq!(pending, [false; COUNT as usize]);
    }
}
