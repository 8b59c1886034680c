//! A GICv2: its registers, SGIs with senders, and interrupts for a set of vCPUs.

use std::{sync::Arc, vec::Vec};

use proptest::prelude::*;
use trapline_vcpu::{
    Action,
    exit::{Direction, MmioAccess},
};

use super::{
    interface::{SPLIT_ENDS, SPURIOUS},
    machine::{GICD, Machine, Signals, config},
};
use crate::vgic::{Version, Vgic, VgicConfig, VgicError};

const GICC: u64 = 0x0801_0000;
const DIR: u64 = GICC + 0x1000;
const TARGETS: u64 = GICD + 0x800;
const SGIR: u64 = GICD + 0xf00;
const TAKE_BACK: u64 = GICD + 0xf10;
const PEND: u64 = GICD + 0xf20;
const WORD: u64 = 0xffff_ffff;
const SGI: u32 = 3;
const SPI: u32 = 40;

fn config_v2(vcpus: usize) -> VgicConfig {
    VgicConfig {
        version: Version::V2 {
            cpu_interface_base: GICC,
        },
        ..config(vcpus)
    }
}

/// All vCPUs on and bound, with everything in group 0, on, and priority 0x80.
fn machine(vcpus: usize, list_registers: usize) -> Machine {
    let mut machine = Machine::at_rest(config_v2(vcpus), list_registers, |vgic| vgic);
    for vcpu in 0..vcpus {
        let vgic = machine.vgic.clone();
        vgic.turned_on(&machine.cpus[vcpu]);
        for intid in 0..32 {
            machine.write(vcpu, GICD + 0x400 + intid, 1, 0x80);
        }
    }
    for intid in 32..128 {
        machine.write(0, GICD + 0x400 + intid, 1, 0x80);
    }
    machine.write(0, GICD, 4, 0b11);
    machine
}

fn send(machine: &mut Machine, from: usize, targets: u64) {
    machine.write(from, SGIR, 4, targets << 16 | u64::from(SGI));
}

/// Acknowledges: the INTID, and who sent it.
fn acknowledge(machine: &mut Machine, vcpu: usize) -> (u32, u64) {
    let intid = machine.interface(vcpu).acknowledge();
    let registers = machine.interface(vcpu).list_registers.iter();
    let mut active = registers.filter(|value| *value >> 63 != 0 && **value as u32 == intid);
    let source = active.next().map_or(0, |value| value >> 32 & 7);
    machine.settle();
    (intid, source)
}

/// All that is taken, one after the other: the senders in the order in which they come.
fn take_all(machine: &mut Machine, vcpu: usize) -> Vec<u64> {
    let mut senders = Vec::new();
    while let (intid @ ..SPURIOUS, sender) = acknowledge(machine, vcpu) {
        assert_eq!(intid, SGI);
        senders.push(sender);
        machine.end(vcpu, intid);
    }
    senders.sort_unstable();
    senders
}

/// A 32-bit register at rest, and what it reads after all ones and then all zeros were written.
struct Expected(u64, &'static str, u64, u64, u64);

#[test]
fn the_distributor_answers_as_its_map_says() {
    let mut machine = Machine::at_rest(config_v2(3), 4, |vgic| vgic);
    // 128 INTIDs, three CPU interfaces.
    let kind = 3 | 2 << 5;
    #[rustfmt::skip]
    let map = [
        Expected(GICD, "GICD_CTLR", 0, 0b11, 0),
        Expected(GICD + 4, "GICD_TYPER", kind, kind, kind),
        Expected(GICD + 8, "GICD_IIDR", 0x5400_043b, 0x5400_043b, 0x5400_043b),
        Expected(GICD + 0x80, "GICD_IGROUPR", 0, WORD, 0),
        Expected(GICD + 0x8c, "GICD_IGROUPR", 0, WORD, 0),
        Expected(GICD + 0x90, "GICD_IGROUPR", 0, 0, 0),
        // SGIs are always on, and are not made pending here.
        Expected(GICD + 0x100, "GICD_ISENABLER", 0xffff, WORD, WORD),
        Expected(GICD + 0x180, "GICD_ICENABLER", WORD, 0xffff, 0xffff),
        Expected(GICD + 0x200, "GICD_ISPENDR", 0, 0xffff_0000, 0xffff_0000),
        Expected(GICD + 0x280, "GICD_ICPENDR", 0xffff_0000, 0, 0),
        Expected(GICD + 0x304, "GICD_ISACTIVER", 0, WORD, WORD),
        Expected(GICD + 0x384, "GICD_ICACTIVER", WORD, 0, 0),
        Expected(GICD + 0x41c, "GICD_IPRIORITYR", 0, 0xf8f8_f8f8, 0),
        Expected(GICD + 0x420, "GICD_IPRIORITYR", 0, 0xf8f8_f8f8, 0),
        Expected(GICD + 0x800, "GICD_ITARGETSR", 0x0101_0101, 0x0101_0101, 0x0101_0101),
        Expected(GICD + 0x820, "GICD_ITARGETSR", 0, 0x0707_0707, 0),
        Expected(GICD + 0xc00, "GICD_ICFGR", 0xaaaa_aaaa, 0xaaaa_aaaa, 0xaaaa_aaaa),
        Expected(GICD + 0xc08, "GICD_ICFGR", 0, 0xaaaa_aaaa, 0),
        Expected(GICD + 0xf00, "GICD_SGIR", 0, 0, 0),
        Expected(GICD + 0xf24, "GICD_SPENDSGIR", 0, 0x0707_0707, 0x0707_0707),
        Expected(GICD + 0xf14, "GICD_CPENDSGIR", 0x0707_0707, 0, 0),
        Expected(GICD + 0xfe8, "GICD_PIDR4 to GICD_CIDR3", 0x2b, 0x2b, 0x2b),
    ];
    for Expected(address, name, reset, after_ones, after_zeros) in map {
        assert_eq!(machine.vgic.register_name(address), Some(name));
        assert_eq!(machine.read(0, address, 4), reset, "{name} at reset");
        machine.write(0, address, 4, WORD);
        assert_eq!(machine.read(0, address, 4), after_ones, "{name}: ones");
        machine.write(0, address, 4, 0);
        assert_eq!(machine.read(0, address, 4), after_zeros, "{name}: zeros");
    }
    for beyond in [GICD + 0x40, GICD + 0xd00, GICD + 0x6100, GICD + 0xffe8] {
        machine.write(0, beyond, 4, WORD);
        assert_eq!(machine.read(0, beyond, 4), 0);
    }
    // Each its own.
    assert_eq!(machine.read(2, TARGETS + 5, 1), 0b100);
    assert_eq!(machine.read(2, GICD + 0x100, 4), 0xffff);
}

#[test]
fn the_cpu_interface_is_the_hardwares_but_for_a_part() {
    let mut machine = machine(1, 2);
    let frames = machine.vgic.frames();
    assert_eq!(frames, [GICD..=GICC - 1, GICC + 0x1000..=GICC + 0xffff]);
    assert_eq!(machine.read(0, DIR, 4), 0);
    machine.write(0, GICC + 0xfff8, 8, WORD);
    for address in [GICC - 0x1_0001, GICC + 0x1_0000] {
        let access = MmioAccess {
            address,
            width: 4,
            direction: Direction::Read,
            rt: 0,
            sign_extend: false,
            is_64bit: false,
        };
        let vgic = machine.vgic.clone();
        let (cpu, pcpu) = (&mut machine.cpus[0], &mut machine.pcpus[0]);
        assert_eq!(vgic.mmio(cpu, pcpu, &access), Action::Decline);
    }
}

#[test]
fn each_senders_sgi_is_one_interrupt() {
    for list_registers in 1..=4 {
        let mut machine = machine(8, list_registers);
        for from in [7, 0, 3, 1] {
            send(&mut machine, from, 1 << 1);
        }
        send(&mut machine, 3, 1 << 1);
        assert_eq!(machine.read(1, PEND + 3, 1), 0b1000_1011);
        assert_eq!(machine.read(0, PEND + 3, 1), 0, "another CPU's");
        assert!(machine.read(1, GICD + 0x200, 4) & 1 << SGI != 0);
        assert_eq!(take_all(&mut machine, 1), [0, 1, 3, 7]);
        assert_eq!(machine.read(1, PEND + 3, 1), 0);
        assert!(machine.has_deliverable(0) || !machine.has_deliverable(1));
    }
}

#[test]
fn an_sgi_reaches_whom_its_filter_says() {
    let mut machine = machine(3, 4);
    let reached = |machine: &mut Machine, value: u64| {
        machine.write(1, SGIR, 4, value | u64::from(SGI));
        [0, 1, 2].map(|vcpu| take_all(machine, vcpu).len())
    };
    assert_eq!(reached(&mut machine, 0b1111_1100 << 16), [0, 0, 1]);
    assert_eq!(reached(&mut machine, 0b101 << 16), [1, 0, 1]);
    assert_eq!(reached(&mut machine, 1 << 24 | 0xff << 16), [1, 0, 1]);
    assert_eq!(reached(&mut machine, 2 << 24 | 0xff << 16), [0, 1, 0]);
    assert_eq!(reached(&mut machine, 3 << 24 | 0xff << 16), [0, 0, 0]);
}

#[test]
fn an_sgi_that_comes_while_it_is_active_comes_again() {
    for from in [0, 1] {
        let mut machine = machine(2, 4);
        send(&mut machine, 0, 1);
        assert_eq!(acknowledge(&mut machine, 0), (SGI, 0));
        send(&mut machine, from, 1);
        assert_eq!(acknowledge(&mut machine, 0).0, SPURIOUS);
        // It is taken off and put back with its sender.
        machine.migrate(0, 0);
        let listed = machine.interface(0).list_registers[0];
        assert_eq!((listed >> 62, listed >> 32 & 7), (0b10, 0));
        machine.end(0, SGI);
        assert_eq!(take_all(&mut machine, 0), [from as u64]);
    }
}

#[test]
fn an_sgi_is_taken_back_wherever_it_is() {
    for is_bound in [true, false] {
        let mut machine = machine(3, 1);
        for from in 0..3 {
            send(&mut machine, from, 1);
        }
        if !is_bound {
            machine.migrate(0, 0);
        }
        // The one that is listed, and one that is not.
        machine.write(0, TAKE_BACK + 3, 1, 0b011);
        assert_eq!(machine.read(0, PEND + 3, 1), 0b100);
        assert_eq!(take_all(&mut machine, 0), [2]);
    }
}

#[test]
fn gicc_dir_deactivates() {
    let mut machine = machine(2, 2);
    machine.interface(0).machine_control |= SPLIT_ENDS;
    send(&mut machine, 1, 1);
    assert_eq!(acknowledge(&mut machine, 0), (SGI, 1));
    machine.end(0, SGI);
    assert!(machine.read(0, GICD + 0x300, 4) & 1 << SGI != 0);
    machine.write(0, DIR, 4, 1 << 10 | u64::from(SGI));
    assert_eq!(machine.read(0, GICD + 0x300, 4), 0);
}

fn raise(machine: &mut Machine) {
    machine.line(SPI).pulse();
    machine.settle();
}

fn takers(machine: &Machine) -> Vec<usize> {
    let is_signalled = |vcpu: &usize| machine.pcpus[*vcpu].is_signalled();
    (0..machine.pcpus.len()).filter(is_signalled).collect()
}

#[test]
fn a_shared_interrupt_goes_to_one_of_its_targets() {
    let mut machine = machine(4, 2);
    machine.set_edge(SPI);
    machine.write(0, GICD + 0x104, 4, 1 << (SPI - 32));
    raise(&mut machine);
    assert_eq!(takers(&machine), [], "it has no target at reset");
    let register = TARGETS + u64::from(SPI);
    machine.write(0, register, 1, 0b100);
    assert_eq!(takers(&machine), [2]);
    // It is listed there, and is to go elsewhere.
    machine.write(0, register, 1, 0b1010);
    for _ in 0..6 {
        let [taker @ (1 | 3)] = takers(&machine)[..] else {
            panic!("{:?} take it", takers(&machine));
        };
        assert_eq!(machine.acknowledge(taker), SPI);
        machine.end(taker, SPI);
        raise(&mut machine);
    }
    // Nobody of the set takes part: it waits for the first who does.
    for vcpu in [1, 3] {
        machine.interface(vcpu).machine_control &= !0b11;
        machine.settle();
    }
    assert_eq!(takers(&machine), []);
    machine.interface(3).machine_control |= 0b11;
    machine.settle();
    assert_eq!(takers(&machine), [3]);
    machine.write(0, register, 1, 0b0001);
    assert_eq!(takers(&machine), [0]);
}

#[test]
fn a_single_vcpu_is_the_target_of_everything() {
    let mut machine = machine(1, 2);
    machine.set_edge(SPI);
    machine.write(0, GICD + 0x104, 4, 1 << (SPI - 32));
    machine.write(0, TARGETS + u64::from(SPI), 1, 0);
    assert_eq!(machine.read(0, TARGETS + u64::from(SPI), 1), 0);
    raise(&mut machine);
    assert_eq!(takers(&machine), [0]);
}

#[test]
fn what_a_gicv2_cannot_have_is_refused() {
    let refuse = |config| Vgic::new(config, Arc::new(Signals::default())).err();
    assert_eq!(refuse(config_v2(8)), None);
    assert_eq!(refuse(config_v2(9)), Some(VgicError::VcpuCount(9)));
    let overlapping = VgicConfig {
        distributor_base: GICC,
        ..config_v2(1)
    };
    assert_eq!(refuse(overlapping), Some(VgicError::Frames));
    let vgic = Vgic::new(config_v2(1), Arc::new(Signals::default())).unwrap();
    let memory = Arc::new(crate::support::FakeMemory::default());
    let refused = vgic.with_its(0x0808_0000, memory).err();
    assert_eq!(refused, Some(VgicError::NoLpis));
}

/// What a guest with three vCPUs does.
#[derive(Clone, Debug)]
enum Step {
    Send { from: usize, targets: u8 },
    Acknowledge(usize),
    End(usize),
    Pend { vcpu: usize, senders: u8 },
    TakeBack { vcpu: usize, senders: u8 },
    Migrate(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let vcpu = 0..3usize;
    let set = 0..8u8;
    prop_oneof![
        3 => (vcpu.clone(), set.clone()).prop_map(|(from, targets)| Step::Send { from, targets }),
        3 => vcpu.clone().prop_map(Step::Acknowledge),
        3 => vcpu.clone().prop_map(Step::End),
        1 => (vcpu.clone(), set.clone()).prop_map(|(vcpu, senders)| Step::Pend { vcpu, senders }),
        1 => (vcpu.clone(), set).prop_map(|(vcpu, senders)| Step::TakeBack { vcpu, senders }),
        1 => vcpu.prop_map(Step::Migrate),
    ]
}

proptest! {
    /// Against a model of one set of senders and one active one for each vCPU.
    #[test]
    fn no_senders_sgi_is_lost_or_doubled(steps in prop::collection::vec(step(), 1..60), list_registers in 1..4usize) {
        let mut machine = machine(3, list_registers);
        let mut pending = [0u8; 3];
        let mut active = [None; 3];
        for step in steps {
            match step {
                Step::Send { from, targets } => {
                    send(&mut machine, from, targets.into());
                    let reached = (0..3).filter(|vcpu| targets >> vcpu & 1 != 0);
                    reached.for_each(|vcpu| pending[vcpu] |= 1 << from);
                }
                Step::Acknowledge(vcpu) => {
                    let (intid, sender) = acknowledge(&mut machine, vcpu);
                    if pending[vcpu] == 0 || active[vcpu].is_some() {
                        prop_assert_eq!(intid, SPURIOUS);
                    } else {
                        prop_assert_eq!(intid, SGI);
                        prop_assert!(pending[vcpu] >> sender & 1 != 0, "{} did not send", sender);
                        pending[vcpu] &= !(1 << sender);
                        active[vcpu] = Some(sender);
                    }
                }
                Step::End(vcpu) => {
                    if active[vcpu].take().is_some() {
                        machine.end(vcpu, SGI);
                    }
                }
                Step::Pend { vcpu, senders } => {
                    machine.write(vcpu, PEND + 3, 1, senders.into());
                    pending[vcpu] |= senders;
                }
                Step::TakeBack { vcpu, senders } => {
                    machine.write(vcpu, TAKE_BACK + 3, 1, senders.into());
                    pending[vcpu] &= !senders;
                }
                Step::Migrate(vcpu) => machine.migrate(vcpu, vcpu),
            }
            for vcpu in 0..3 {
                prop_assert_eq!(machine.read(vcpu, PEND + 3, 1), u64::from(pending[vcpu]));
                let is_active = machine.read(vcpu, GICD + 0x300, 4) & 1 << SGI != 0;
                prop_assert_eq!(is_active, active[vcpu].is_some());
                let source = machine.interface(vcpu).list_registers.iter();
                let mut source = source.filter(|value| *value >> 63 != 0);
                let source = source.next().map(|value| value >> 32 & 7);
                prop_assert_eq!(source, active[vcpu], "the end needs its sender");
            }
        }
    }
}
