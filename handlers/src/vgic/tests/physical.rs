//! A physical device's interrupt, which the guest gets in list registers that name it.

use trapline_sched::PcpuId;

use super::{
    interface::{OPEN, SPLIT_ENDS, SPURIOUS},
    machine::Machine,
};
use crate::vgic::{LineError, PhysicalLine, Vgic};

/// The guest's interrupt, and the physical one behind it.
const INTID: u32 = 34;
const PHYSICAL: u32 = 77;
const HARDWARE: u64 = 1 << 61;

/// The interrupt is enabled and goes to vCPU 0.
fn with_device(vcpus: usize, list_registers: usize) -> Machine {
    let mut machine = Machine::new(vcpus, list_registers);
    let line = PhysicalLine::claim(&machine.vgic, INTID, PHYSICAL).unwrap();
    machine.physical.push(line);
    assert!(!machine.board.shared(PHYSICAL).is_enabled);
    machine.enable(0, INTID);
    assert!(machine.board.shared(PHYSICAL).is_enabled);
    machine
}

fn set_line(machine: &mut Machine, level: bool) {
    machine.board.set_line(PHYSICAL, level);
    machine.settle();
}

fn is_active(machine: &Machine) -> bool {
    machine.board.shared(PHYSICAL).is_active
}

fn pcpu(machine: &Machine) -> Option<usize> {
    machine.board.shared(PHYSICAL).pcpu.map(PcpuId::index)
}

/// The guest takes the interrupt, quiets the device and ends it: nothing is left, and the next one comes.
#[track_caller]
fn expect_usable(machine: &mut Machine, vcpu: usize) {
    set_line(machine, true);
    assert_eq!(machine.acknowledge(vcpu), INTID);
    set_line(machine, false);
    machine.end(vcpu, INTID);
    assert!(!is_active(machine), "the guest's end deactivates it");
    assert!(!machine.is_active(vcpu, INTID));
    assert!(!machine.is_pending(vcpu, INTID));
    assert_eq!(machine.acknowledge(vcpu), SPURIOUS);
}

#[test]
fn the_guests_end_deactivates_the_physical_interrupt() {
    let mut machine = with_device(1, 4);
    set_line(&mut machine, true);
    let listed = machine.interface(0).list_registers[0];
    assert_eq!(listed >> 32 & 0x3ff, u64::from(PHYSICAL));
    assert_ne!(listed & HARDWARE, 0);
    assert!(is_active(&machine));
    let looked = std::mem::take(&mut machine.looked);
    assert_eq!(looked, 1);
    assert_eq!(machine.acknowledge(0), INTID);
    machine.board.set_line(PHYSICAL, false);
    machine.end(0, INTID);
    assert!(!is_active(&machine));
    assert_eq!(machine.looked, 0, "its end is no exit");
    expect_usable(&mut machine, 0);
}

#[test]
fn a_line_that_stays_high_comes_again() {
    let mut machine = with_device(1, 4);
    set_line(&mut machine, true);
    for count in 1..5 {
        assert_eq!(machine.board.shared(PHYSICAL).taken, count);
        assert_eq!(machine.acknowledge(0), INTID);
        assert_eq!(machine.acknowledge(0), SPURIOUS);
        machine.end(0, INTID);
    }
}

#[test]
fn it_moves_with_the_vcpu_while_pending_and_while_active() {
    let mut machine = with_device(3, 4);
    machine.unbind(2);
    assert_eq!(pcpu(&machine), Some(0));
    set_line(&mut machine, true);
    machine.migrate(0, 2);
    assert_eq!(pcpu(&machine), Some(2), "it is routed to where its vCPU is");
    assert!(is_active(&machine));
    assert_eq!(machine.acknowledge(0), INTID);
    machine.migrate(0, 0);
    assert!(machine.is_active(0, INTID));
    assert_eq!(
        machine.acknowledge(0),
        SPURIOUS,
        "it is still being handled"
    );
    let listed = machine.interface(0).list_registers[0];
    assert_ne!(listed & HARDWARE, 0, "it is still the physical one");
    set_line(&mut machine, false);
    machine.end(0, INTID);
    assert!(!is_active(&machine));
    expect_usable(&mut machine, 0);
}

#[test]
fn it_wakes_a_vcpu_that_is_not_bound() {
    let mut machine = with_device(2, 4);
    machine.unbind(0);
    set_line(&mut machine, true);
    assert!(machine.was_woken(0));
    machine.unbind(1);
    machine.bind(0, 1);
    assert_eq!(machine.acknowledge(0), INTID);
    set_line(&mut machine, false);
    machine.end(0, INTID);
    expect_usable(&mut machine, 0);
}

#[test]
fn one_that_others_end_and_raise_again_is_given_back_before_it_is_listed() {
    let mut machine = with_device(1, 4);
    set_line(&mut machine, true);
    assert_eq!(machine.acknowledge(0), INTID);
    set_line(&mut machine, false);
    machine
        .vgic
        .change(None, INTID, |record| record.clear_active().set_pending());
    machine.settle();
    assert!(!is_active(&machine));
    assert_eq!(
        machine.acknowledge(0),
        SPURIOUS,
        "its handler is not through"
    );
    machine.end(0, INTID);
    assert_eq!(machine.acknowledge(0), INTID);
    machine.end(0, INTID);
    expect_usable(&mut machine, 0);
}

#[test]
fn it_goes_where_the_guest_routes_it() {
    let mut machine = with_device(2, 4);
    machine.route(INTID, 1);
    assert_eq!(pcpu(&machine), Some(1));
    expect_usable(&mut machine, 1);
    set_line(&mut machine, true);
    machine.route(INTID, 0);
    assert_eq!(pcpu(&machine), Some(0));
    assert_eq!(machine.acknowledge(1), SPURIOUS);
    assert_eq!(machine.acknowledge(0), INTID, "the pending one goes along");
    machine.route(INTID, 1);
    set_line(&mut machine, false);
    machine.end(0, INTID);
    assert!(
        !is_active(&machine),
        "the active one is ended where it was taken"
    );
    expect_usable(&mut machine, 1);
}

#[test]
fn an_interrupt_that_is_disabled_while_active_is_ended_by_the_guest() {
    let mut machine = with_device(2, 4);
    set_line(&mut machine, true);
    assert_eq!(machine.acknowledge(0), INTID);
    // Its own write, and that of a vCPU elsewhere.
    for vcpu in [0, 1] {
        machine.set_bit(vcpu, 0x180, INTID);
        assert!(!machine.board.shared(PHYSICAL).is_enabled);
        assert!(machine.is_active(0, INTID));
        assert!(is_active(&machine));
        machine.end(0, INTID);
        assert!(!is_active(&machine));
        assert_eq!(machine.acknowledge(0), SPURIOUS, "it is disabled");
        machine.enable(0, INTID);
        assert_eq!(machine.acknowledge(0), INTID, "its line is still high");
    }
    set_line(&mut machine, false);
    machine.end(0, INTID);
    expect_usable(&mut machine, 0);
}

#[test]
fn an_interrupt_that_is_disabled_while_pending_is_given_back() {
    let mut machine = with_device(2, 4);
    for (vcpu, is_bound) in [(0, true), (1, true), (1, false)] {
        set_line(&mut machine, true);
        assert!(is_active(&machine));
        if !is_bound {
            machine.unbind(0);
        }
        machine.set_bit(vcpu, 0x180, INTID);
        assert!(!is_active(&machine));
        assert!(!machine.is_pending(1, INTID));
        set_line(&mut machine, false);
        machine.enable(1, INTID);
        if !is_bound {
            machine.bind(0, 0);
        }
        assert_eq!(machine.acknowledge(0), SPURIOUS, "its line has fallen");
        expect_usable(&mut machine, 0);
    }
}

#[test]
fn what_was_on_its_way_when_it_was_disabled_is_given_back() {
    let mut machine = with_device(1, 4);
    machine.board.set_line(PHYSICAL, true);
    assert!(machine.board.take(PHYSICAL));
    machine.set_bit(0, 0x180, INTID);
    machine.physical[0].raise();
    assert!(!is_active(&machine));
    machine.enable(0, INTID);
    assert_eq!(machine.acknowledge(0), INTID);
}

#[test]
fn software_may_clear_it() {
    let mut machine = with_device(2, 4);
    for vcpu in [0, 1] {
        set_line(&mut machine, true);
        machine.board.set_line(PHYSICAL, false);
        machine.set_bit(vcpu, 0x280, INTID);
        assert!(!is_active(&machine));
        assert_eq!(machine.acknowledge(0), SPURIOUS);
        set_line(&mut machine, true);
        machine.set_bit(vcpu, 0x280, INTID);
        assert!(machine.is_pending(0, INTID), "its line is high");
        assert_eq!(machine.acknowledge(0), INTID);
        machine.board.set_line(PHYSICAL, false);
        machine.set_bit(vcpu, 0x380, INTID);
        assert!(!is_active(&machine));
        machine.interface(0).active_priorities = Default::default();
        expect_usable(&mut machine, 0);
    }
}

#[test]
fn software_may_make_it_pending_or_active() {
    let mut machine = with_device(1, 4);
    machine.set_bit(0, 0x200, INTID);
    assert_eq!(machine.acknowledge(0), INTID);
    set_line(&mut machine, true);
    machine.end(0, INTID);
    assert_eq!(machine.acknowledge(0), INTID, "the device's own");
    machine.set_bit(0, 0x200, INTID);
    set_line(&mut machine, false);
    machine.end(0, INTID);
    assert!(!is_active(&machine));
    assert_eq!(machine.acknowledge(0), INTID, "the software's");
    machine.end(0, INTID);
    machine.set_bit(0, 0x300, INTID);
    set_line(&mut machine, true);
    assert_eq!(machine.acknowledge(0), SPURIOUS);
    machine.set_bit(0, 0x380, INTID);
    assert_eq!(machine.acknowledge(0), INTID);
    set_line(&mut machine, false);
    machine.end(0, INTID);
    expect_usable(&mut machine, 0);
}

#[test]
fn it_is_deactivated_apart_from_its_end() {
    let mut machine = with_device(2, 4);
    for vcpu in 0..2 {
        machine.interface(vcpu).machine_control = OPEN | SPLIT_ENDS;
        assert!(!machine.has_deliverable(vcpu));
    }
    // By itself, and by another vCPU.
    for vcpu in 0..2 {
        set_line(&mut machine, true);
        assert_eq!(machine.acknowledge(0), INTID);
        set_line(&mut machine, false);
        machine.end(0, INTID);
        assert!(is_active(&machine));
        machine.deactivate(vcpu, INTID);
        assert!(!is_active(&machine));
        assert_eq!(machine.acknowledge(0), SPURIOUS);
    }
}

#[test]
fn one_without_a_list_register_is_ended_too() {
    let mut machine = with_device(1, 1);
    machine.set_priority(0, INTID, 0xc0);
    machine.enable(0, 40);
    set_line(&mut machine, true);
    assert_eq!(machine.acknowledge(0), INTID);
    let urgent = machine.line(40);
    urgent.set_level(true);
    machine.settle();
    assert_eq!(machine.acknowledge(0), 40);
    assert!(is_active(&machine));
    urgent.set_level(false);
    machine.end(0, 40);
    set_line(&mut machine, false);
    machine.end(0, INTID);
    assert!(!is_active(&machine));
    expect_usable(&mut machine, 0);
}

/// With the interrupt edge-triggered, as the guest wants it.
fn with_edge(vcpus: usize) -> Machine {
    let mut machine = with_device(vcpus, 4);
    machine.set_edge(INTID);
    assert!(machine.board.shared(PHYSICAL).is_edge);
    machine
}

fn pulse(machine: &mut Machine) {
    set_line(machine, true);
    set_line(machine, false);
}

#[test]
fn an_edge_while_the_last_one_is_active_comes_after_it() {
    let mut machine = with_edge(1);
    pulse(&mut machine);
    assert_eq!(machine.acknowledge(0), INTID);
    for _ in 0..3 {
        pulse(&mut machine);
        pulse(&mut machine);
        assert_eq!(machine.acknowledge(0), SPURIOUS, "the last one is active");
        machine.end(0, INTID);
        assert_eq!(machine.acknowledge(0), INTID, "two are one");
    }
    machine.end(0, INTID);
    assert_eq!(machine.acknowledge(0), SPURIOUS);
    expect_usable(&mut machine, 0);
}

#[test]
fn an_edge_that_stays_high_comes_once() {
    let mut machine = with_edge(1);
    set_line(&mut machine, true);
    assert_eq!(machine.acknowledge(0), INTID);
    machine.end(0, INTID);
    assert!(!is_active(&machine));
    assert_eq!(machine.acknowledge(0), SPURIOUS);
    set_line(&mut machine, false);
    expect_usable(&mut machine, 0);
}

#[test]
fn an_edge_that_is_disabled_before_it_is_taken_is_not_lost() {
    for (vcpu, is_bound) in [(0, true), (1, true), (1, false)] {
        let mut machine = with_edge(2);
        pulse(&mut machine);
        if !is_bound {
            machine.unbind(0);
        }
        machine.set_bit(vcpu, 0x180, INTID);
        assert!(!is_active(&machine));
        assert!(machine.is_pending(1, INTID));
        machine.enable(1, INTID);
        if !is_bound {
            machine.bind(0, 0);
        }
        assert_eq!(machine.acknowledge(0), INTID);
        machine.end(0, INTID);
        assert_eq!(machine.acknowledge(0), SPURIOUS, "it came once");
        expect_usable(&mut machine, 0);
    }
}

#[test]
fn an_edge_that_is_on_its_way_or_comes_while_it_is_disabled_is_not_lost() {
    let mut machine = with_edge(1);
    machine.board.set_line(PHYSICAL, true);
    assert!(machine.board.take(PHYSICAL));
    machine.set_bit(0, 0x180, INTID);
    machine.physical[0].raise();
    assert!(!is_active(&machine));
    set_line(&mut machine, false);
    machine.enable(0, INTID);
    assert_eq!(machine.acknowledge(0), INTID);
    machine.end(0, INTID);
    machine.set_bit(0, 0x180, INTID);
    pulse(&mut machine);
    machine.enable(0, INTID);
    assert_eq!(machine.acknowledge(0), INTID);
    machine.end(0, INTID);
    expect_usable(&mut machine, 0);
}

#[test]
fn software_may_clear_an_edge_wherever_it_waits() {
    let mut machine = with_edge(1);
    pulse(&mut machine);
    machine.set_bit(0, 0x280, INTID);
    assert!(!is_active(&machine));
    assert_eq!(machine.acknowledge(0), SPURIOUS);
    machine.set_bit(0, 0x180, INTID);
    pulse(&mut machine);
    machine.set_bit(0, 0x280, INTID);
    machine.enable(0, INTID);
    assert_eq!(machine.acknowledge(0), SPURIOUS, "it waited in the host's");
    pulse(&mut machine);
    machine.set_bit(0, 0x180, INTID);
    machine.set_bit(0, 0x280, INTID);
    machine.enable(0, INTID);
    assert_eq!(machine.acknowledge(0), SPURIOUS, "it waited in the guest's");
    expect_usable(&mut machine, 0);
}

#[test]
fn an_edge_goes_with_the_life_that_it_came_in() {
    for is_reset in [false, true] {
        let mut machine = with_edge(1);
        pulse(&mut machine);
        assert_eq!(machine.acknowledge(0), INTID);
        pulse(&mut machine);
        assert!(machine.board.shared(PHYSICAL).latch);
        machine.unbind(0);
        if is_reset {
            machine.vgic.reset();
        }
        machine.physical.clear();
        let shared = machine.board.shared(PHYSICAL);
        assert!(!shared.latch && !shared.is_edge && !shared.is_enabled && !shared.is_active);
    }
}

#[test]
fn an_edge_of_the_guests_is_one_as_well() {
    let mut machine = with_edge(1);
    expect_usable(&mut machine, 0);
    set_line(&mut machine, true);
    assert_eq!(machine.acknowledge(0), INTID);
    machine.set_bit(0, 0x200, INTID);
    set_line(&mut machine, false);
    machine.end(0, INTID);
    assert_eq!(machine.acknowledge(0), INTID, "the software's");
    machine.end(0, INTID);
    assert!(!is_active(&machine));
    expect_usable(&mut machine, 0);
}

/// However a life ends, the physical interrupt is masked and inactive, and serves the next one.
#[test]
fn a_reset_gives_it_back() {
    for (is_taken, is_moved) in [(false, false), (true, false), (true, true)] {
        let mut machine = with_device(2, 4);
        set_line(&mut machine, true);
        if is_taken {
            assert_eq!(machine.acknowledge(0), INTID);
        }
        machine.unbind(1);
        if is_moved {
            machine.migrate(0, 1);
        }
        machine.unbind(0);
        machine.vgic.reset();
        assert!(!machine.board.shared(PHYSICAL).is_enabled);
        assert!(!is_active(&machine));
        machine.physical.clear();
        assert!(!machine.board.shared(PHYSICAL).is_enabled);
    }
}

#[test]
fn a_line_that_goes_gives_it_back() {
    for is_taken in [false, true] {
        let mut machine = with_device(1, 4);
        set_line(&mut machine, true);
        if is_taken {
            assert_eq!(machine.acknowledge(0), INTID);
        }
        machine.unbind(0);
        machine.physical.clear();
        assert!(!machine.board.shared(PHYSICAL).is_enabled);
        assert!(!is_active(&machine));
    }
}

#[test]
fn a_line_is_refused() {
    let machine = with_device(1, 4);
    let claim = |intid, physical| PhysicalLine::claim(&machine.vgic, intid, physical).err();
    assert_eq!(claim(INTID, 90), Some(LineError::Claimed(INTID)));
    assert_eq!(claim(31, 90), Some(LineError::NoSuchInterrupt(31)));
    assert_eq!(claim(40, 31), Some(LineError::NoSuchInterrupt(40)));
    assert_eq!(claim(40, 90), None);
    let signals = machine.signals.clone();
    let without = std::sync::Arc::new(Vgic::new(super::machine::config(1), signals).unwrap());
    let refused = PhysicalLine::claim(&without, INTID, PHYSICAL).err();
    assert_eq!(refused, Some(LineError::NoSuchInterrupt(INTID)));
}
