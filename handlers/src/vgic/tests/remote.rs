//! Accesses to what another vCPU has in its list registers.

use std::sync::atomic::Ordering;

use trapline_vcpu::{
    Action,
    exit::{Direction, MmioAccess},
};

use super::{
    interface::{OPEN, SPLIT_ENDS, SPURIOUS},
    machine::{GICD, GICR, Machine, SGI_FRAME, SGI1R},
};

/// vCPU 1 has handled nothing yet; edge interrupt 40 is routed to it and listed there.
fn listed_elsewhere() -> Machine {
    let mut machine = Machine::new(3, 4);
    machine.set_edge(40);
    machine.route(40, 1);
    machine.enable(0, 40);
    machine.line(40).pulse();
    machine.settle();
    assert!(machine.interface(1).is_signalled());
    machine
}

#[test]
fn state_elsewhere_is_read_as_it_is() {
    let mut machine = listed_elsewhere();
    assert!(machine.is_pending(0, 40) && !machine.is_active(0, 40));
    assert_eq!(machine.interface(1).acknowledge(), 40);
    assert!(!machine.is_pending(0, 40) && machine.is_active(0, 40));
    machine.interface(1).end(40);
    assert!(!machine.is_pending(0, 40) && !machine.is_active(0, 40));
}

#[test]
fn pending_state_elsewhere_is_cleared() {
    let mut machine = listed_elsewhere();
    machine.set_bit(0, 0x280, 40);
    assert_eq!(machine.acknowledge(1), SPURIOUS);
    machine.line(40).pulse();
    machine.settle();
    assert_eq!(machine.acknowledge(1), 40);
}

#[test]
fn what_is_disabled_elsewhere_stays_pending() {
    let mut machine = listed_elsewhere();
    machine.set_bit(0, 0x180, 40);
    assert_eq!(machine.acknowledge(1), SPURIOUS);
    assert!(machine.is_pending(0, 40));
    machine.enable(0, 40);
    assert_eq!(machine.acknowledge(1), 40);
}

#[test]
fn active_state_elsewhere_is_cleared_for_good() {
    let mut machine = listed_elsewhere();
    assert_eq!(machine.acknowledge(1), 40);
    machine.set_bit(0, 0x380, 40);
    assert!(!machine.is_active(0, 40));
    machine.migrate(1, 1);
    assert!(!machine.is_active(0, 40));
}

#[test]
fn any_vcpu_may_deactivate_a_shared_interrupt_when_ends_are_split() {
    let mut machine = listed_elsewhere();
    for vcpu in 0..2 {
        machine.interface(vcpu).machine_control = OPEN | SPLIT_ENDS;
        machine.migrate(vcpu, vcpu);
    }
    assert_eq!(machine.acknowledge(1), 40);
    machine.end(1, 40);
    machine.deactivate(0, 40);
    assert!(!machine.is_active(1, 40));
}

#[test]
fn an_access_waits_for_the_owner_and_for_nobody_else() {
    let mut machine = listed_elsewhere();
    let access = MmioAccess {
        address: GICD + 0x204,
        width: 4,
        direction: Direction::Read,
        rt: 0,
        sign_extend: false,
        is_64bit: false,
    };
    let vgic = machine.vgic.clone();
    let action = vgic.mmio(&mut machine.cpus[0], &mut machine.pcpus[0], &access);
    assert_eq!(action, Action::Suspend);
    assert_eq!(machine.signals.syncs.load(Ordering::SeqCst), 0b010);
    // A fold that does not come from the request counts as well, and so does going away.
    machine.signals.syncs.store(0, Ordering::SeqCst);
    machine.unbind(1);
    assert_eq!(machine.signals.completed.load(Ordering::SeqCst), 0b001);
    let action = vgic.mmio(&mut machine.cpus[0], &mut machine.pcpus[0], &access);
    assert_eq!(action, Action::FinishRead(1 << 8));
}

#[test]
fn an_access_is_complete_though_the_owner_lists_again() {
    let mut machine = listed_elsewhere();
    let access = MmioAccess {
        address: GICD + 0x204,
        width: 4,
        direction: Direction::Read,
        rt: 0,
        sign_extend: false,
        is_64bit: false,
    };
    let vgic = machine.vgic.clone();
    assert_eq!(
        vgic.mmio(&mut machine.cpus[0], &mut machine.pcpus[0], &access),
        Action::Suspend
    );
    vgic.synchronize(&mut machine.cpus[1], &mut machine.pcpus[1]);
    assert!(machine.interface(1).is_signalled());
    let action = vgic.mmio(&mut machine.cpus[0], &mut machine.pcpus[0], &access);
    assert_eq!(action, Action::FinishRead(1 << 8));
}

#[test]
fn turning_a_group_off_withdraws_it_everywhere() {
    let mut machine = listed_elsewhere();
    machine.write(0, GICD, 4, 0b01);
    assert!(!machine.interface(1).is_signalled());
    machine.write(0, GICD, 4, 0b11);
    assert_eq!(machine.acknowledge(1), 40);
}

#[test]
fn the_private_interrupts_of_another_vcpu_are_seen_and_ended() {
    let mut machine = Machine::new(2, 4);
    machine.enable(1, 5);
    machine.write_register(0, SGI1R, 5 << 24 | 0b10);
    let frame = GICR + 0x2_0000 + SGI_FRAME;
    assert_eq!(machine.read(0, frame + 0x200, 4), 1 << 5);
    assert_eq!(machine.acknowledge(1), 5);
    assert_eq!(
        (
            machine.read(0, frame + 0x200, 4),
            machine.read(0, frame + 0x300, 4)
        ),
        (0, 1 << 5)
    );
    machine.write(0, frame + 0x380, 4, 1 << 5);
    assert_eq!(machine.read(1, frame + 0x300, 4), 0);
}

#[test]
fn two_vcpus_that_wait_for_each_other_go_on() {
    let mut machine = listed_elsewhere();
    machine.set_edge(41);
    machine.enable(0, 41);
    machine.line(41).pulse();
    machine.settle();
    let access = MmioAccess {
        address: GICD + 0x204,
        width: 4,
        direction: Direction::Read,
        rt: 0,
        sign_extend: false,
        is_64bit: false,
    };
    let vgic = machine.vgic.clone();
    let look = |machine: &mut Machine, vcpu: usize| {
        let pcpu = &mut machine.pcpus[vcpu];
        vgic.mmio(&mut machine.cpus[vcpu], pcpu, &access)
    };
    assert_eq!(look(&mut machine, 0), Action::Suspend);
    assert_eq!(look(&mut machine, 1), Action::Suspend);
    machine.settle();
    assert_eq!(machine.signals.completed.load(Ordering::SeqCst), 0b11);
    let both = Action::FinishRead(0b11 << 8);
    assert_eq!((look(&mut machine, 0), look(&mut machine, 1)), (both, both));
}

/// vCPU 0 makes interrupt 40 pending, waits for vCPU 1, which takes it before vCPU 0 tries again.
#[test]
fn a_write_that_waited_is_not_done_twice() {
    let mut machine = listed_elsewhere();
    assert_eq!(machine.acknowledge(1), 40);
    let access = MmioAccess {
        address: GICD + 0x204,
        width: 4,
        direction: Direction::Write(1 << 8),
        rt: 0,
        sign_extend: false,
        is_64bit: false,
    };
    let vgic = machine.vgic.clone();
    let write =
        |machine: &mut Machine| vgic.mmio(&mut machine.cpus[0], &mut machine.pcpus[0], &access);
    assert_eq!(write(&mut machine), Action::Suspend);
    machine.settle();
    machine.end(1, 40);
    assert_eq!(machine.acknowledge(1), 40);
    machine.end(1, 40);
    assert_eq!(write(&mut machine), Action::Finish);
    machine.settle();
    assert_eq!(machine.acknowledge(1), SPURIOUS);
    machine.set_bit(0, 0x200, 40);
    assert_eq!(machine.acknowledge(1), 40, "the next one is new");
}
