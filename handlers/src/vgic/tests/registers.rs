//! Every register of the distributor, the redistributors and the trapped system registers.

use std::{sync::Arc, vec, vec::Vec};

use trapline_vcpu::{
    Action, GuestFault,
    exit::{Direction, MmioAccess, SystemRegister, SystemRegisterAccess},
};

use super::interface::Interface;
use super::machine::{GICD, GICR, Machine, SGI_FRAME, Signals, config};
use crate::vgic::{
    InterruptLine, LineError, SystemRegisters, Version, Vgic, VgicConfig, VgicCpu, VgicError,
};

const WORD: u64 = 0xffff_ffff;

/// A 32-bit register at rest, and what it reads after all ones and then all zeros were written.
struct Expected(u64, &'static str, u64, u64, u64);

fn check(machine: &mut Machine, expected: &[Expected]) {
    for &Expected(address, name, reset, after_ones, after_zeros) in expected {
        assert_eq!(
            machine.vgic.register_name(address),
            Some(name),
            "{address:#x}"
        );
        assert_eq!(
            machine.read(0, address, 4),
            reset,
            "{name} at {address:#x} at reset"
        );
        machine.write(0, address, 4, WORD);
        assert_eq!(
            machine.read(0, address, 4),
            after_ones,
            "{name} at {address:#x} after ones"
        );
        machine.write(0, address, 4, 0);
        assert_eq!(
            machine.read(0, address, 4),
            after_zeros,
            "{name} at {address:#x} after zeros"
        );
    }
}

/// Two vCPUs as reset leaves them: group 0, priority 0.
fn at_reset() -> Machine {
    let mut machine = Machine::new(2, 4);
    for vcpu in 0..2 {
        machine.unbind(vcpu);
    }
    machine.vgic.reset();
    for vcpu in 0..2 {
        let vgic = machine.vgic.clone();
        vgic.reset_cpu(&mut machine.cpus[vcpu]);
        machine.bind(vcpu, vcpu);
    }
    machine
}

#[test]
fn the_distributor_answers_as_its_map_says() {
    let mut machine = at_reset();
    // 128 INTIDs of 10 bits, Aff3 valid, messages, 1 of N.
    let kind = 3 | 1 << 16 | 9 << 19 | 1 << 24;
    #[rustfmt::skip]
    check(&mut machine, &[
        Expected(GICD, "GICD_CTLR", 0x50, 0x53, 0x50),
        Expected(GICD + 4, "GICD_TYPER", kind, kind, kind),
        Expected(GICD + 8, "GICD_IIDR", 0x5400_043b, 0x5400_043b, 0x5400_043b),
        Expected(GICD + 0x40, "GICD_SETSPI_NSR", 0, 0, 0),
        Expected(GICD + 0x48, "GICD_CLRSPI_NSR", 0, 0, 0),
        Expected(GICD + 0x80, "GICD_IGROUPR", 0, 0, 0),
        Expected(GICD + 0x8c, "GICD_IGROUPR", 0, WORD, 0),
        Expected(GICD + 0x90, "GICD_IGROUPR", 0, 0, 0),
        Expected(GICD + 0x100, "GICD_ISENABLER", 0, 0, 0),
        Expected(GICD + 0x104, "GICD_ISENABLER", 0, WORD, WORD),
        Expected(GICD + 0x184, "GICD_ICENABLER", WORD, 0, 0),
        Expected(GICD + 0x204, "GICD_ISPENDR", 0, WORD, WORD),
        Expected(GICD + 0x284, "GICD_ICPENDR", WORD, 0, 0),
        Expected(GICD + 0x304, "GICD_ISACTIVER", 0, WORD, WORD),
        Expected(GICD + 0x384, "GICD_ICACTIVER", WORD, 0, 0),
        Expected(GICD + 0x400, "GICD_IPRIORITYR", 0, 0, 0),
        Expected(GICD + 0x420, "GICD_IPRIORITYR", 0, 0xf8f8_f8f8, 0),
        Expected(GICD + 0xc00, "GICD_ICFGR", 0, 0, 0),
        Expected(GICD + 0xc08, "GICD_ICFGR", 0, 0xaaaa_aaaa, 0),
        Expected(GICD + 0x6100, "GICD_IROUTER", 0, 0x80ff_ffff, 0),
        Expected(GICD + 0x6104, "GICD_IROUTER", 0, 0xff, 0),
        Expected(GICD + 0xffe8, "GICD_PIDR4 to GICD_CIDR3", 0x3b, 0x3b, 0x3b),
    ]);
    let identification = |machine: &mut Machine, base| -> Vec<u64> {
        (0..12)
            .map(|index| machine.read(0, base + 0xffd0 + 4 * index, 4))
            .collect()
    };
    assert_eq!(
        identification(&mut machine, GICD),
        [0x44, 0, 0, 0, 0x92, 0xb4, 0x3b, 0, 0x0d, 0xf0, 5, 0xb1]
    );
    assert_eq!(
        identification(&mut machine, GICR),
        [0x44, 0, 0, 0, 0x93, 0xb4, 0x3b, 0, 0x0d, 0xf0, 5, 0xb1]
    );
}

#[test]
fn a_redistributor_answers_as_its_map_says() {
    let mut machine = at_reset();
    let (frame, sgi) = (GICR + 0x2_0000, GICR + 0x2_0000 + SGI_FRAME);
    #[rustfmt::skip]
    check(&mut machine, &[
        Expected(frame + 4, "GICR_IIDR", 0x5400_043b, 0x5400_043b, 0x5400_043b),
        Expected(frame, "GICR_CTLR", 0, 0x0300_0000, 0),
        Expected(frame + 8, "GICR_TYPER", 0x130, 0x130, 0x130),
        Expected(frame + 0xc, "GICR_TYPER", 1, 1, 1),
        Expected(frame + 0x14, "GICR_WAKER", 6, 6, 0),
        Expected(frame + 0xffe8, "GICR_PIDR4 to GICR_CIDR3", 0x3b, 0x3b, 0x3b),
        Expected(sgi + 0x80, "GICR_IGROUPR0", 0, WORD, 0),
        Expected(sgi + 0x100, "GICR_ISENABLER0", 0, WORD, WORD),
        Expected(sgi + 0x180, "GICR_ICENABLER0", WORD, 0, 0),
        Expected(sgi + 0x200, "GICR_ISPENDR0", 0, WORD, WORD),
        Expected(sgi + 0x280, "GICR_ICPENDR0", WORD, 0, 0),
        Expected(sgi + 0x300, "GICR_ISACTIVER0", 0, WORD, WORD),
        Expected(sgi + 0x380, "GICR_ICACTIVER0", WORD, 0, 0),
        Expected(sgi + 0x41c, "GICR_IPRIORITYR", 0, 0xf8f8_f8f8, 0),
        Expected(sgi + 0xc00, "GICR_ICFGR0, GICR_ICFGR1", 0xaaaa_aaaa, 0xaaaa_aaaa, 0xaaaa_aaaa),
        // The timers stay level-sensitive.
        Expected(sgi + 0xc04, "GICR_ICFGR0, GICR_ICFGR1", 0, 0x8a2a_aaaa, 0),
    ]);
    assert_eq!(
        machine.read(0, GICR + 8, 8),
        1 << 5,
        "vCPU 0 is not the last one"
    );
    assert_eq!(machine.read(0, frame + 8, 8), 1 << 32 | 0x130);
}

#[test]
fn a_far_affinity_is_shown_and_found() {
    let signals = Arc::new(Signals::default());
    let affinities = vec![0, 0x7f_0002_0311];
    let vgic = Vgic::new(
        VgicConfig {
            affinities,
            ..config(1)
        },
        signals,
    )
    .unwrap();
    let mut cpu = vgic.cpu(1).unwrap();
    let mut interface = Interface::new(4);
    vgic.bind(&mut cpu, &mut interface);
    let mut access = MmioAccess {
        address: GICR + 0x2_0008,
        width: 8,
        direction: Direction::Read,
        rt: 0,
        sign_extend: false,
        is_64bit: true,
    };
    let action = vgic.mmio(&mut cpu, &mut interface, &access);
    assert_eq!(action, Action::FinishRead(0x7f02_0311 << 32 | 0x130));
    access = MmioAccess {
        address: GICD + 4,
        width: 4,
        ..access
    };
    let Action::FinishRead(kind) = vgic.mmio(&mut cpu, &mut interface, &access) else {
        panic!()
    };
    assert_ne!(kind & 1 << 26, 0, "Aff0 beyond 15 takes the range selector");
    let send = |value, cpu: &mut VgicCpu, interface: &mut Interface| {
        let access = SystemRegisterAccess {
            register: super::machine::SGI1R,
            rt: 0,
            direction: Direction::Write(value),
        };
        assert_eq!(
            vgic.system_register(cpu, interface, &access),
            Action::Finish
        );
    };
    access = MmioAccess {
        address: GICR + 0x2_0000 + SGI_FRAME + 0x80,
        direction: Direction::Write(WORD),
        ..access
    };
    assert_eq!(vgic.mmio(&mut cpu, &mut interface, &access), Action::Finish);
    send(
        0x7f << 48 | 1 << 44 | 2 << 32 | 9 << 24 | 3 << 16 | 0b10,
        &mut cpu,
        &mut interface,
    );
    access = MmioAccess {
        address: GICR + 0x2_0000 + SGI_FRAME + 0x200,
        direction: Direction::Read,
        ..access
    };
    assert_eq!(
        vgic.mmio(&mut cpu, &mut interface, &access),
        Action::FinishRead(1 << 9)
    );
}

#[test]
fn only_the_widths_of_a_register_reach_it() {
    let mut machine = at_reset();
    machine.write(0, GICD + 0x421, 1, 0xff);
    assert_eq!(machine.read(0, GICD + 0x420, 4), 0xf800);
    assert_eq!(machine.read(0, GICD + 0x421, 1), 0xf8);
    assert_eq!(machine.read(0, GICD + 0x420, 2), 0, "no halfwords");
    assert_eq!(machine.read(0, GICD + 0x420, 8), 0);
    machine.write(0, GICD + 0x104, 8, u64::MAX);
    machine.write(0, GICD + 0x105, 1, 0xff);
    machine.write(0, GICD + 0x106, 4, WORD);
    assert_eq!(machine.read(0, GICD + 0x104, 4), 0);
    machine.write(0, GICD + 0x6100, 8, u64::MAX);
    assert_eq!(machine.read(0, GICD + 0x6100, 8), 0xff_80ff_ffff);
    machine.write(0, GICD + 0x6100, 4, 0x0102_0304);
    assert_eq!(machine.read(0, GICD + 0x6100, 8), 0xff_0002_0304);
    assert_eq!(machine.read(0, GICD + 0x6104, 8), 0, "not aligned");
    machine.write(0, GICD + 0x42, 2, 40);
    machine.write(0, GICD + 0x40, 1, 40);
    assert!(!machine.is_pending(0, 40), "neither half is a byte");
    machine.write(0, GICD + 0x40, 2, 40);
    assert!(machine.is_pending(0, 40));
}

#[test]
fn nothing_in_the_frames_panics() {
    let mut machine = Machine::new(2, 4);
    for base in [GICD, GICR, GICR + SGI_FRAME, GICR + 0x3_0000] {
        for offset in (0..0x1_0000)
            .step_by(4)
            .chain([1, 2, 3, 5, 0x401, 0x403, 0x6101, 0xffff])
        {
            for width in [1, 2, 4, 8] {
                machine.read(0, base + offset, width);
                // The frames' controls stay as they are.
                if offset != 0 {
                    machine.write(0, base + offset, width, u64::MAX);
                    machine.write(0, base + offset, width, 0);
                }
            }
        }
    }
    for address in [0, GICD - 1, GICD + 0x1_0000, GICR + 0x4_0000, u64::MAX] {
        let access = MmioAccess {
            address,
            width: 4,
            direction: Direction::Read,
            rt: 0,
            sign_extend: false,
            is_64bit: false,
        };
        let vgic = machine.vgic.clone();
        let action = vgic.mmio(&mut machine.cpus[0], &mut machine.pcpus[0], &access);
        assert_eq!(
            action,
            Action::Decline,
            "{address:#x} is not the interrupt controller's"
        );
    }
}

#[test]
fn system_registers_answer_as_the_architecture_says() {
    let mut machine = Machine::new(2, 4);
    let vgic = machine.vgic.clone();
    let mut access = |register, direction| {
        let access = SystemRegisterAccess {
            register,
            rt: 0,
            direction,
        };
        vgic.system_register(&mut machine.cpus[0], &mut machine.pcpus[0], &access)
    };
    let [dir, sgi1, asgi1, sgi0, sre] = SystemRegisters::REGISTERS;
    for register in [dir, sgi1, asgi1, sgi0] {
        assert_eq!(
            access(register, Direction::Read),
            Action::Fault(GuestFault::Undefined)
        );
        for value in [0, u64::MAX, 0xff_ffff] {
            assert_eq!(access(register, Direction::Write(value)), Action::Finish);
        }
    }
    assert_eq!(access(sre, Direction::Read), Action::FinishRead(7));
    assert_eq!(access(sre, Direction::Write(0)), Action::Finish);
    assert_eq!(
        access(SystemRegister::new(3, 0, 12, 12, 4), Direction::Read),
        Action::Decline
    );
}

#[test]
fn an_sgi_is_sent_in_its_own_group_only() {
    let mut machine = Machine::new(2, 4);
    let [_, sgi1, asgi1, sgi0, _] = SystemRegisters::REGISTERS;
    machine.write_register(0, sgi0, 4 << 24 | 0b10);
    machine.write_register(0, asgi1, 4 << 24 | 0b10);
    assert!(!machine.is_pending(1, 4));
    machine.write_register(0, sgi1, 4 << 24 | 0b10);
    assert!(machine.is_pending(1, 4));
    machine.write(1, GICR + 0x2_0000 + SGI_FRAME + 0x80, 4, WORD & !(1 << 6));
    machine.write_register(0, sgi1, 6 << 24 | 0b10);
    assert!(!machine.is_pending(1, 6));
    machine.write_register(0, sgi0, 6 << 24 | 0b10);
    assert!(machine.is_pending(1, 6));
}

#[test]
fn a_line_belongs_to_one_device() {
    let machine = Machine::new(1, 4);
    let claim = |intid| InterruptLine::claim(&machine.vgic, intid).map(|line| line.intid());
    for intid in [0, 27, 31, 128, u32::MAX] {
        assert_eq!(claim(intid), Err(LineError::NoSuchInterrupt(intid)));
    }
    let line = machine.line(127);
    let clone = line.clone();
    assert_eq!(claim(127), Err(LineError::Claimed(127)));
    drop(line);
    assert_eq!(claim(127), Err(LineError::Claimed(127)));
    clone.set_level(true);
    drop(clone);
    assert_eq!(claim(127), Ok(127));
    let mut machine = machine;
    assert!(
        !machine.is_pending(0, 127),
        "a device that goes lowers its line"
    );
}

const fn v3_at(redistributor_base: u64) -> Version {
    Version::V3 { redistributor_base }
}

#[test]
fn configurations_that_cannot_be_are_refused() {
    let refuse = |change: fn(&mut VgicConfig)| {
        let mut config = config(2);
        change(&mut config);
        Vgic::new(config, Arc::new(Signals::default())).err()
    };
    assert_eq!(refuse(|_| {}), None);
    assert_eq!(refuse(|config| config.spi_count = 988), None);
    assert_eq!(
        refuse(|config| config.affinities.clear()),
        Some(VgicError::VcpuCount(0))
    );
    assert_eq!(
        refuse(|config| config.affinities = (0..65).collect()),
        Some(VgicError::VcpuCount(65))
    );
    assert_eq!(
        refuse(|config| config.affinities[1] = 0),
        Some(VgicError::Affinity(0))
    );
    assert_eq!(
        refuse(|config| config.affinities[1] = 1 << 24),
        Some(VgicError::Affinity(1 << 24))
    );
    assert_eq!(
        refuse(|config| config.spi_count = 33),
        Some(VgicError::SpiCount(33))
    );
    assert_eq!(
        refuse(|config| config.spi_count = 1024),
        Some(VgicError::SpiCount(1024))
    );
    assert_eq!(
        refuse(|config| config.distributor_base += 4),
        Some(VgicError::Frames)
    );
    assert_eq!(
        refuse(|config| config.version = v3_at(GICD)),
        Some(VgicError::Frames)
    );
    assert_eq!(
        refuse(|config| config.version = v3_at(GICD - 0x2_0000)),
        Some(VgicError::Frames)
    );
    assert_eq!(
        refuse(|config| config.version = v3_at(0u64.wrapping_sub(0x1_0000))),
        Some(VgicError::Frames)
    );
}
