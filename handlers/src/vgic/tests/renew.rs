//! What is listed and stays so, or comes again, while there is room for everything.

use super::{
    interface::SPURIOUS,
    machine::{GICR, Machine, SGI_FRAME, SGI1R},
};
use trapline_vcpu::exit::SystemRegister;

const SGI0R: SystemRegister = SystemRegister::new(3, 0, 12, 11, 7);

/// One vCPU with four list registers, as on QEMU, and SGI 5.
fn single() -> Machine {
    let mut machine = Machine::new(1, 4);
    machine.enable(0, 5);
    machine
}

#[test]
fn an_sgi_to_oneself_is_listed_and_nobody_woken() {
    let mut machine = single();
    for _time in 0..3 {
        machine.looked = 0;
        machine.write_register(0, SGI1R, 5 << 24 | 1);
        assert_eq!(machine.looked, 0, "it is listed before the guest goes on");
        assert_eq!(machine.acknowledge(0), 5);
        machine.write_register(0, SGI1R, 5 << 24 | 1);
        machine.end(0, 5);
        assert_eq!(machine.acknowledge(0), 5, "it was sent while active");
        machine.end(0, 5);
        assert_eq!(machine.acknowledge(0), SPURIOUS);
    }
}

#[test]
fn what_comes_again_is_one_read_and_one_write_of_a_list_register() {
    let mut machine = single();
    for _time in 0..3 {
        machine.write_register(0, SGI1R, 5 << 24 | 1);
        assert_eq!(machine.acknowledge(0), 5);
        machine.end(0, 5);
    }
    let before = machine.interface(0).accesses.get();
    machine.write_register(0, SGI1R, 5 << 24 | 1);
    assert_eq!(machine.interface(0).accesses.get(), before + 2);
}

#[test]
fn what_waits_for_its_group_leaves_its_list_register() {
    let mut machine = single();
    // SGI 5 alone is in group 0.
    machine.write(0, GICR + SGI_FRAME + 0x80, 4, !(1 << 5) & 0xffff_ffff);
    for intid in [100, 101] {
        machine.enable(0, intid);
        machine.set_edge(intid);
        machine.line(intid).pulse();
    }
    machine.settle();
    // Whoever turns group 1 off has not told anybody yet.
    let off = machine.vgic.set_groups(0b01);
    machine.write_register(0, SGI0R, 5 << 24 | 1);
    assert_eq!(machine.acknowledge(0), 5);
    machine.end(0, 5);
    assert_eq!(machine.acknowledge(0), SPURIOUS, "their group is off");
    machine.vgic.set_groups(0b11);
    for intid in [100, 101] {
        machine.vgic.tell_of_groups(None, intid, off);
    }
    machine.settle();
    for intid in [100, 101] {
        assert_eq!(machine.acknowledge(0), intid);
        machine.end(0, intid);
    }
}
