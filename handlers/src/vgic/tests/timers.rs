//! The timers' interrupts, which are the hardware's while the vCPU is bound.

use super::{
    interface::{OPEN, SPLIT_ENDS, SPURIOUS},
    machine::Machine,
};
use trapline_vcpu::interrupts::TimerPpi;

fn with_timer(vcpus: usize) -> Machine {
    let mut machine = Machine::new(vcpus, 4);
    machine.enable(0, 27);
    machine
}

#[test]
fn a_timer_is_delivered_once_and_ended_by_the_guest() {
    let mut machine = with_timer(1);
    machine.set_timer(0, 0, true);
    assert_eq!(machine.acknowledge(0), 27);
    assert!(machine.pcpus[0].physical_active[0]);
    machine.set_timer(0, 0, false);
    assert_eq!(machine.acknowledge(0), SPURIOUS);
    machine.end(0, 27);
    assert!(
        !machine.pcpus[0].physical_active[0],
        "the guest's EOI deactivates it"
    );
    machine.set_timer(0, 0, true);
    assert_eq!(machine.acknowledge(0), 27);
}

#[test]
fn a_timer_whose_line_stays_high_comes_again() {
    let mut machine = with_timer(1);
    machine.set_timer(0, 0, true);
    for _ in 0..3 {
        assert_eq!(machine.acknowledge(0), 27);
        machine.end(0, 27);
    }
}

#[test]
fn a_timer_that_fires_while_disabled_waits_and_may_be_withdrawn() {
    let mut machine = Machine::new(1, 4);
    machine.set_timer(0, 0, true);
    assert!(machine.is_pending(0, 27));
    assert_eq!(machine.acknowledge(0), SPURIOUS);
    machine.set_timer(0, 0, false);
    assert!(!machine.is_pending(0, 27));
    assert!(!machine.pcpus[0].physical_active[0], "it may fire again");
    machine.set_timer(0, 0, true);
    machine.enable(0, 27);
    assert_eq!(machine.acknowledge(0), 27);
}

#[test]
fn a_timer_that_expired_while_unbound_comes_with_the_binding() {
    let mut machine = with_timer(2);
    machine.unbind(0);
    machine.set_timer(0, 0, true);
    machine.unbind(1);
    machine.bind(0, 1);
    assert!(machine.pcpus[1].physical_active[0]);
    assert_eq!(machine.acknowledge(0), 27);
    machine.end(0, 27);
    assert_eq!(machine.acknowledge(0), 27);
}

#[test]
fn a_timer_handler_may_move_between_pcpus() {
    let mut machine = with_timer(3);
    machine.unbind(2);
    machine.set_timer(0, 0, true);
    assert_eq!(machine.acknowledge(0), 27);
    machine.migrate(0, 2);
    assert!(machine.is_active(0, 27));
    assert_eq!(
        machine.acknowledge(0),
        SPURIOUS,
        "it is still being handled"
    );
    machine.set_timer(0, 0, false);
    machine.end(0, 27);
    assert!(!machine.is_active(0, 27));
    assert!(!machine.pcpus[2].physical_active[0]);
    assert_eq!(machine.acknowledge(0), SPURIOUS);
    machine.set_timer(0, 0, true);
    assert_eq!(machine.acknowledge(0), 27);
}

#[test]
fn a_timer_handler_that_moves_ends_in_software_until_the_timer_fires_there() {
    let mut machine = with_timer(3);
    machine.unbind(2);
    machine.set_timer(0, 0, true);
    assert_eq!(machine.acknowledge(0), 27);
    machine.timers[0][0] = false;
    machine.migrate(0, 2);
    let listed = machine.interface(0).list_registers[0];
    assert_eq!(
        listed >> 61,
        0b100,
        "active, without the physical interrupt of the pCPU it left"
    );
    machine.end(0, 27);
    assert_eq!(machine.acknowledge(0), SPURIOUS);
}

#[test]
fn wfi_ends_for_a_timer_that_has_not_fired_yet() {
    let mut machine = with_timer(1);
    machine.timers[0][0] = true;
    machine.interface(0).timer_lines[0] = true;
    assert!(machine.has_deliverable(0));
    assert!(
        !machine.interface(0).is_signalled(),
        "the hardware is about to deliver it"
    );
    machine.settle();
    assert_eq!(machine.acknowledge(0), 27);
    assert!(!machine.has_deliverable(0), "it is being handled");
}

#[test]
fn a_timer_whose_line_has_dropped_ends_no_wait() {
    let mut machine = with_timer(1);
    machine.timers[0][0] = true;
    machine.interface(0).timer_lines[0] = true;
    assert!(machine.has_deliverable(0));
    machine.timers[0][0] = false;
    machine.interface(0).timer_lines[0] = false;
    assert!(!machine.has_deliverable(0), "it never fired");
    assert!(!machine.is_pending(0, 27));
}

#[test]
fn a_timer_is_deactivated_by_a_trapped_write_too() {
    let mut machine = with_timer(1);
    machine.interface(0).machine_control = OPEN | SPLIT_ENDS;
    machine.set_timer(0, 0, true);
    assert_eq!(machine.acknowledge(0), 27);
    machine.set_timer(0, 0, false);
    machine.end(0, 27);
    assert!(machine.pcpus[0].physical_active[0]);
    machine.deactivate(0, 27);
    assert!(!machine.is_active(0, 27));
    assert!(!machine.pcpus[0].physical_active[0]);
}

#[test]
fn software_may_make_a_timer_interrupt_pending() {
    let mut machine = with_timer(1);
    machine.set_bit(0, 0x200, 27);
    assert_eq!(machine.acknowledge(0), 27);
    machine.end(0, 27);
    assert_eq!(machine.acknowledge(0), SPURIOUS);
    machine.set_bit(0, 0x200, 27);
    machine.set_timer(0, 0, true);
    assert_eq!(machine.acknowledge(0), 27);
    machine.set_timer(0, 0, false);
    machine.end(0, 27);
    assert_eq!(machine.acknowledge(0), SPURIOUS);
    assert!(!machine.pcpus[0].physical_active[0]);
}

#[test]
fn a_timer_wakes_while_its_interrupt_is_enabled() {
    let mut machine = with_timer(1);
    let is_enabled =
        |machine: &Machine, timer| machine.vgic.is_timer_enabled(&machine.cpus[0], timer);
    assert!(is_enabled(&machine, TimerPpi::Virtual));
    assert!(!is_enabled(&machine, TimerPpi::Physical));
    machine.set_bit(0, 0x180, 27);
    assert!(!is_enabled(&machine, TimerPpi::Virtual));
}

#[test]
fn a_timer_interrupt_that_belongs_to_nobody_does_not_stay() {
    let mut machine = with_timer(1);
    machine.unbind(0);
    machine.pcpus[0].physical_active[0] = true;
    machine.bind(0, 0);
    assert!(!machine.pcpus[0].physical_active[0]);
    machine.set_timer(0, 0, true);
    assert_eq!(machine.acknowledge(0), 27);
}
