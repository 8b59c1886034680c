//! What is delivered, when, and in which order.

use super::{
    interface::{OPEN, SPLIT_ENDS, SPURIOUS},
    machine::{GICD, GICR, Machine, SGI_FRAME, SGI1R},
};
use std::vec::Vec;

/// One vCPU with four list registers, as on QEMU.
fn single() -> Machine {
    Machine::new(1, 4)
}

#[test]
fn a_level_is_delivered_until_it_drops() {
    let mut machine = single();
    let line = machine.line(33);
    machine.enable(0, 33);
    line.set_level(true);
    machine.settle();
    assert_eq!(machine.acknowledge(0), 33);
    assert_eq!(machine.acknowledge(0), SPURIOUS);
    machine.end(0, 33);
    assert_eq!(
        machine.acknowledge(0),
        33,
        "the line is sampled again at the EOI"
    );
    line.set_level(false);
    machine.settle();
    machine.end(0, 33);
    assert_eq!(machine.acknowledge(0), SPURIOUS);
}

#[test]
fn a_level_that_drops_in_a_list_register_is_withdrawn() {
    let mut machine = single();
    let line = machine.line(33);
    machine.enable(0, 33);
    line.set_level(true);
    machine.settle();
    assert!(machine.interface(0).is_signalled());
    line.set_level(false);
    machine.settle();
    assert_eq!(machine.acknowledge(0), SPURIOUS);
}

#[test]
fn an_edge_while_active_is_delivered_again() {
    let mut machine = single();
    let line = machine.line(40);
    machine.set_edge(40);
    machine.enable(0, 40);
    line.pulse();
    machine.settle();
    assert_eq!(machine.acknowledge(0), 40);
    assert!(!machine.is_pending(0, 40) && machine.is_active(0, 40));
    line.pulse();
    machine.settle();
    assert!(machine.is_pending(0, 40) && machine.is_active(0, 40));
    assert_eq!(machine.acknowledge(0), SPURIOUS);
    machine.end(0, 40);
    assert_eq!(machine.acknowledge(0), 40);
    machine.end(0, 40);
    assert_eq!(machine.acknowledge(0), SPURIOUS);
}

#[test]
fn a_more_urgent_interrupt_preempts() {
    let mut machine = single();
    for (intid, priority) in [(50, 0x80), (51, 0x40), (52, 0x80)] {
        machine.set_edge(intid);
        machine.set_priority(0, intid, priority);
        machine.enable(0, intid);
    }
    machine.line(50).pulse();
    machine.settle();
    assert_eq!(machine.acknowledge(0), 50);
    machine.line(52).pulse();
    machine.settle();
    assert_eq!(
        machine.acknowledge(0),
        SPURIOUS,
        "the same priority does not preempt"
    );
    machine.line(51).pulse();
    machine.settle();
    assert_eq!(machine.acknowledge(0), 51);
    machine.end(0, 51);
    assert_eq!(machine.acknowledge(0), SPURIOUS);
    machine.end(0, 50);
    assert_eq!(machine.acknowledge(0), 52);
}

#[test]
fn wfi_waits_for_what_beats_the_priority_mask() {
    let mut machine = single();
    machine.enable(0, 34);
    let line = machine.line(34);
    line.set_level(true);
    machine.settle();
    machine.interface(0).machine_control = OPEN & 0xff_ffff | 0x80 << 24;
    assert!(!machine.has_deliverable(0), "its priority equals the mask");
    assert_eq!(machine.acknowledge(0), SPURIOUS);
    machine.interface(0).machine_control = OPEN & 0xff_ffff | 0x88 << 24;
    assert!(machine.has_deliverable(0));
    machine.interface(0).machine_control &= !0b10;
    assert!(
        !machine.has_deliverable(0),
        "the CPU interface does not take group 1"
    );
    machine.interface(0).machine_control = OPEN;
    machine.set_bit(0, 0x180, 34);
    assert!(!machine.has_deliverable(0), "it is disabled");
}

#[test]
fn wfi_ends_for_an_interrupt_that_does_not_preempt() {
    let mut machine = single();
    for intid in [34, 35] {
        machine.enable(0, intid);
        machine.set_bit(0, 0x200, intid);
    }
    assert_eq!(machine.acknowledge(0), 34);
    assert!(!machine.interface(0).is_signalled());
    assert!(machine.has_deliverable(0));
}

#[test]
fn split_ends_deactivate_in_any_order() {
    let mut machine = single();
    machine.interface(0).machine_control = OPEN | SPLIT_ENDS;
    for intid in 40..44 {
        machine.set_edge(intid);
        machine.enable(0, intid);
        machine.line(intid).pulse();
    }
    machine.settle();
    for intid in 40..44 {
        assert_eq!(machine.acknowledge(0), intid);
        machine.end(0, intid);
        assert!(machine.is_active(0, intid), "EOI only drops the priority");
    }
    // All list registers hold active interrupts, and something new is due.
    machine.enable(0, 45);
    machine.set_bit(0, 0x200, 45);
    assert_eq!(machine.acknowledge(0), 45);
    machine.end(0, 45);
    for intid in [42, 45, 40, 43, 41] {
        machine.deactivate(0, intid);
        assert!(!machine.is_active(0, intid));
    }
    machine.line(42).pulse();
    machine.settle();
    assert_eq!(machine.acknowledge(0), 42);
}

#[test]
fn what_is_disabled_while_active_ends_as_usual() {
    let mut machine = single();
    machine.enable(0, 33);
    let line = machine.line(33);
    line.set_level(true);
    machine.settle();
    assert_eq!(machine.acknowledge(0), 33);
    machine.set_bit(0, 0x180, 33);
    assert!(machine.is_active(0, 33));
    machine.end(0, 33);
    assert!(!machine.is_active(0, 33));
    assert_eq!(
        machine.acknowledge(0),
        SPURIOUS,
        "disabled, though its line is high"
    );
    machine.enable(0, 33);
    assert_eq!(machine.acknowledge(0), 33);
}

/// Forty interrupts with different priorities arrive while everything is masked; all come out, the most urgent first.
fn forty(list_registers: usize, preempts: bool) {
    let mut machine = Machine::new(1, list_registers);
    machine.interface(0).machine_control &= 0xff_ffff;
    let urgency = |intid: u32| ((intid * 7) % 40, intid);
    for intid in 40..80 {
        machine.set_edge(intid);
        machine.set_priority(0, intid, (urgency(intid).0 as u8 % 16) << 3);
        machine.enable(0, intid);
        machine.line(intid).pulse();
        machine.settle();
    }
    let mut order: Vec<u32> = (40..80).collect();
    order.sort_by_key(|&intid| (urgency(intid).0 % 16, intid));
    machine.interface(0).machine_control = OPEN;
    for expected in order {
        let intid = machine.acknowledge(0);
        assert_eq!(intid, expected);
        if preempts {
            // A more urgent one comes while this one is handled.
            machine.set_priority(0, 90, 0);
            machine.enable(0, 90);
            machine.set_bit(0, 0x200, 90);
            let preempting = machine.acknowledge(0);
            if preempting == 90 {
                machine.end(0, 90);
            } else {
                assert_eq!(preempting, SPURIOUS);
                machine.set_bit(0, 0x280, 90);
            }
        }
        machine.end(0, intid);
    }
    assert_eq!(machine.acknowledge(0), SPURIOUS);
    assert!((40..80).all(|intid| !machine.is_active(0, intid)));
}

#[test]
fn forty_are_due_with_four_list_registers() {
    forty(4, false);
    forty(4, true);
}

#[test]
fn forty_are_due_with_any_number_of_list_registers() {
    for list_registers in [1, 2, 3, 16] {
        forty(list_registers, false);
        forty(list_registers, true);
    }
}

#[test]
fn sixteen_nested_priorities_end_in_order_with_one_list_register() {
    for list_registers in [1, 2, 4] {
        let mut machine = Machine::new(1, list_registers);
        for level in (0..16u32).rev() {
            machine.set_priority(0, 40 + level, (level as u8) << 3);
            machine.enable(0, 40 + level);
            machine.set_bit(0, 0x200, 40 + level);
            assert_eq!(machine.acknowledge(0), 40 + level);
        }
        for level in 0..16 {
            assert!(machine.is_active(0, 40 + level));
            machine.end(0, 40 + level);
            assert!(
                !machine.is_active(0, 40 + level),
                "{level} with {list_registers}"
            );
        }
    }
}

#[test]
fn a_group_that_is_off_does_not_hold_up_the_other() {
    let mut machine = single();
    machine.interface(0).machine_control &= !0b10;
    for intid in 40..48 {
        machine.enable(0, intid);
        machine.set_bit(0, 0x200, intid);
    }
    machine.set_priority(0, 60, 0xf0);
    let group = machine.read(0, GICD + 0x84, 4);
    machine.write(0, GICD + 0x84, 4, group & !(1 << (60 - 32)));
    machine.enable(0, 60);
    machine.set_bit(0, 0x200, 60);
    assert_eq!(machine.acknowledge(0), 60);
    machine.end(0, 60);
    machine.interface(0).machine_control = OPEN;
    machine.settle();
    assert_eq!(machine.acknowledge(0), 40);
}

#[test]
fn retargeting_moves_what_is_listed() {
    let mut machine = Machine::new(2, 4);
    machine.set_edge(40);
    machine.enable(0, 40);
    machine.line(40).pulse();
    machine.settle();
    assert!(machine.interface(0).is_signalled());
    machine.route(40, 1);
    assert_eq!(machine.acknowledge(0), SPURIOUS);
    assert_eq!(machine.acknowledge(1), 40);
}

#[test]
fn retargeting_what_is_active_leaves_the_end_to_who_acknowledged() {
    for edge in [false, true] {
        let mut machine = Machine::new(2, 4);
        let line = machine.line(40);
        if edge {
            machine.set_edge(40);
        }
        machine.enable(0, 40);
        line.set_level(true);
        machine.settle();
        assert_eq!(machine.acknowledge(0), 40);
        machine.route(40, 1);
        line.pulse();
        machine.settle();
        assert_eq!(machine.acknowledge(1), SPURIOUS, "it is active elsewhere");
        machine.end(0, 40);
        assert_eq!(machine.acknowledge(0), SPURIOUS);
        assert_eq!(machine.acknowledge(1), 40);
    }
}

#[test]
fn an_interrupt_routed_to_nobody_waits() {
    let mut machine = Machine::new(2, 4);
    machine.enable(0, 40);
    machine.route(40, 9);
    machine.set_bit(0, 0x200, 40);
    assert_eq!(
        (machine.acknowledge(0), machine.acknowledge(1)),
        (SPURIOUS, SPURIOUS)
    );
    machine.route(40, 1);
    assert_eq!(machine.acknowledge(1), 40);
}

#[test]
fn what_is_live_survives_a_migration() {
    let mut machine = Machine::new(3, 4);
    machine.unbind(2);
    machine.set_edge(40);
    for (intid, priority) in [(40, 0x80), (41, 0x60), (3, 0x40)] {
        machine.set_priority(0, intid, priority);
        machine.enable(0, intid);
    }
    machine.line(40).pulse();
    machine.settle();
    assert_eq!(machine.acknowledge(0), 40);
    machine.set_bit(0, 0x200, 41);
    machine.write_register(1, SGI1R, 3 << 24 | 1);
    machine.line(40).pulse();
    for pcpu in [2, 0, 2, 0] {
        machine.migrate(0, pcpu);
    }
    assert_eq!(machine.acknowledge(0), 3);
    machine.migrate(0, 2);
    machine.end(0, 3);
    assert_eq!(machine.acknowledge(0), 41);
    machine.end(0, 41);
    assert_eq!(machine.acknowledge(0), SPURIOUS);
    machine.migrate(0, 0);
    machine.end(0, 40);
    assert_eq!(
        machine.acknowledge(0),
        40,
        "the edge that came while it was active"
    );
}

#[test]
fn only_what_can_be_taken_wakes() {
    let mut machine = single();
    machine.unbind(0);
    let line = machine.line(33);
    line.set_level(true);
    assert!(!machine.was_woken(0), "disabled");
    line.set_level(false);
    machine.bind(0, 0);
    machine.enable(0, 33);
    machine.write(0, GICD, 4, 0);
    machine.unbind(0);
    line.set_level(true);
    assert!(
        !machine.was_woken(0),
        "the distributor does not forward its group"
    );
    machine.bind(0, 0);
    assert_eq!(machine.acknowledge(0), SPURIOUS);
    machine.write(0, GICD, 4, 0b10);
    assert_eq!(machine.acknowledge(0), 33);
    machine.unbind(0);
    line.set_level(false);
    line.set_level(true);
    assert!(!machine.was_woken(0), "it is active");
}

#[test]
fn a_refresh_with_nothing_to_do_touches_no_list_register() {
    let mut machine = single();
    let before = machine.interface(0).accesses.get();
    assert!(!machine.has_deliverable(0));
    assert_eq!(machine.interface(0).accesses.get(), before);
}

#[test]
fn sgis_reach_whom_they_name() {
    let mut machine = Machine::new(34, 4);
    for vcpu in 0..34 {
        machine.enable(vcpu, 5);
    }
    // Aff1 = 1, Aff0 = 0 and 3, and 15 others that do not exist beyond Aff1 = 2, Aff0 = 1.
    machine.write_register(0, SGI1R, 5 << 24 | 1 << 16 | 0b1001);
    machine.write_register(0, SGI1R, 5 << 24 | 2 << 16 | 0xfffe);
    machine.write_register(0, SGI1R, 5 << 24 | 1 << 44 | 0xffff);
    machine.write_register(0, SGI1R, 5 << 24 | 1 << 48 | 0xffff);
    let taken: Vec<usize> = (0..34)
        .filter(|&vcpu| machine.acknowledge(vcpu) == 5)
        .collect();
    assert_eq!(taken, [16, 19, 33]);
    for &vcpu in &taken {
        machine.end(vcpu, 5);
    }
    machine.write_register(7, SGI1R, 5 << 24 | 1 << 40);
    let taken = (0..34)
        .filter(|&vcpu| machine.acknowledge(vcpu) == 5)
        .count();
    assert_eq!((taken, machine.is_active(7, 5)), (33, false));
}

#[test]
fn a_cpu_that_is_turned_on_starts_afresh_but_keeps_sgis() {
    let mut machine = Machine::new(2, 4);
    machine.enable(1, 5);
    machine.enable(1, 20);
    machine.set_bit(1, 0x200, 20);
    assert_eq!(machine.acknowledge(1), 20);
    machine.unbind(1);
    machine.write_register(0, SGI1R, 5 << 24 | 0b10);
    let (vgic, cpu) = (machine.vgic.clone(), &mut machine.cpus[1]);
    vgic.reset_cpu(cpu);
    machine.bind(1, 1);
    assert_eq!(machine.interface(1).machine_control, 0);
    assert!(!machine.bit(1, 0x100, 5) && !machine.is_active(1, 20));
    assert!(machine.is_pending(1, 5));
    machine.interface(1).machine_control = OPEN;
    assert_eq!(machine.acknowledge(1), SPURIOUS);
    machine.enable(1, 5);
    assert_eq!(machine.acknowledge(1), 5);
}

#[test]
fn messages_are_levels_or_edges() {
    let mut machine = Machine::new(1, 4);
    let (set, clear) = (GICD + 0x40, GICD + 0x48);
    machine.enable(0, 40);
    machine.write(0, set, 4, 40);
    for _ in 0..2 {
        assert_eq!(machine.acknowledge(0), 40);
        machine.end(0, 40);
    }
    machine.set_bit(0, 0x280, 40);
    assert!(machine.is_pending(0, 40), "the message still holds it high");
    machine.write(0, clear, 4, 40);
    assert_eq!(machine.acknowledge(0), SPURIOUS);
    machine.set_edge(41);
    machine.enable(0, 41);
    machine.write(0, set, 2, 41);
    assert_eq!(machine.acknowledge(0), 41);
    machine.end(0, 41);
    assert_eq!(machine.acknowledge(0), SPURIOUS);
    machine.write(0, set, 4, 41);
    machine.write(0, clear, 4, 41);
    assert_eq!(machine.acknowledge(0), SPURIOUS);
    // A line that is high as well stays, and no message reaches what is not shared or not there.
    let line = machine.line(42);
    line.set_level(true);
    machine.write(0, set, 4, 42);
    machine.write(0, clear, 4, 42);
    assert!(machine.is_pending(0, 42));
    for intid in [0, 27, 128, 1020, 8192] {
        machine.write(0, set, 4, intid);
    }
    assert_eq!(machine.read(0, GICR + SGI_FRAME + 0x200, 4), 0);
}
