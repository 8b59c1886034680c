//! Syndromes as the manual writes them, one test per rule.

use super::*;

const IL: u64 = 1 << 25;
const ISV: u64 = 1 << 24;
const TRANSLATION_LEVEL3: u64 = 0b000111;
const PERMISSION_LEVEL3: u64 = 0b001111;
const EXTERNAL: u64 = 0b010000;

/// Fault registers that fail the test when they are read without need.
struct Registers {
    far: Option<u64>,
    hpfar: Option<u64>,
    translated: Option<u64>,
    system_control: Option<u64>,
}

const UNREAD: Registers = Registers {
    far: None,
    hpfar: None,
    translated: None,
    system_control: None,
};

impl FaultAddresses for Registers {
    fn far(&self) -> u64 {
        self.far.expect("FAR_EL2 is not needed here")
    }
    fn hpfar(&self) -> u64 {
        self.hpfar.expect("HPFAR_EL2 is not needed or UNKNOWN here")
    }
    fn translate(&self, _virtual_address: u64) -> Option<u64> {
        self.translated
    }
    fn system_control(&self) -> u64 {
        self.system_control.expect("SCTLR_EL1 is not needed here")
    }
}

fn fault(far: u64, hpfar: u64) -> Registers {
    Registers {
        far: Some(far),
        hpfar: Some(hpfar),
        translated: None,
        system_control: Some(0),
    }
}

fn frame_with(index: u8, value: u64) -> TrapFrame {
    let mut frame = TrapFrame::default();
    frame.set_gpr(index, value);
    frame
}

fn frame_at(elr: u64, spsr: u64) -> TrapFrame {
    let mut frame = TrapFrame::default();
    (frame.elr, frame.spsr) = (elr, spsr);
    frame
}

const fn syndrome(class: u64, iss: u64) -> u64 {
    class << 26 | IL | iss
}

#[test]
fn calls_carry_their_immediate_and_read_no_fault_register() {
    let frame = TrapFrame::default();
    let hvc = decode(&frame, syndrome(0x16, 0xbeef), &UNREAD);
    let smc = decode(&frame, syndrome(0x17, 7), &UNREAD);
    let call = |conduit, immediate| Exit::Call(Call { conduit, immediate });
    assert_eq!(hvc, call(Conduit::Hvc, 0xbeef));
    assert_eq!(smc, call(Conduit::Smc, 7));
}

#[test]
fn a_trapped_register_is_named_by_its_encoding() {
    // ICC_SGI1R_EL1 is S3_0_C12_C11_5; the guest writes it from x9.
    let iss = 3 << 20 | 5 << 17 | 12 << 10 | 9 << 5 | 11 << 1;
    let write = decode(&frame_with(9, u64::MAX), syndrome(0x18, iss), &UNREAD);
    let read = decode(&frame_with(9, u64::MAX), syndrome(0x18, iss | 1), &UNREAD);
    let access = |direction| {
        Exit::SystemRegister(SystemRegisterAccess {
            register: SystemRegister::new(3, 0, 12, 11, 5),
            rt: 9,
            direction,
        })
    };
    assert_eq!(write, access(Direction::Write(u64::MAX)));
    assert_eq!(read, access(Direction::Read));
}

#[test]
fn a_write_from_xzr_writes_zero() {
    let iss = 3 << 20 | 31 << 5;
    let exit = decode(&TrapFrame::default(), syndrome(0x18, iss), &UNREAD);
    assert!(
        matches!(exit, Exit::SystemRegister(access) if access.direction == Direction::Write(0))
    );
}

#[test]
fn each_wait_instruction_is_told_apart() {
    let frame = frame_with(4, 1000);
    let register = 4 << 5 | 1 << 2;
    let wait = |iss| decode(&frame, syndrome(0x01, iss), &UNREAD);
    assert_eq!(wait(0b00), Exit::Wait(WaitKind::Interrupt));
    assert_eq!(wait(0b01), Exit::Wait(WaitKind::Event));
    assert_eq!(
        wait(register | 0b10),
        Exit::Wait(WaitKind::InterruptUntil(1000))
    );
    assert_eq!(
        wait(register | 0b11),
        Exit::Wait(WaitKind::EventUntil(1000))
    );
}

#[test]
fn an_aarch32_instruction_whose_condition_fails_does_nothing() {
    const ZERO: u64 = 1 << 30;
    let (equal, not_equal) = (1 << 24, 1 << 24 | 1 << 20);
    let frame = frame_at(0x1000, 0x10 | ZERO);
    for class in [0x01, 0x03, 0x04, 0x05, 0x06, 0x08, 0x0c] {
        let skipped = decode(&frame, syndrome(class, not_equal), &UNREAD);
        assert_eq!(skipped, Exit::ConditionFailed, "class {class:#x}");
        let executed = decode(&frame, syndrome(class, equal), &UNREAD);
        assert_ne!(executed, Exit::ConditionFailed, "class {class:#x}");
    }
    let waits = decode(&frame, syndrome(0x01, equal), &UNREAD);
    assert_eq!(waits, Exit::Wait(WaitKind::Interrupt));
    let mut stepped = frame.clone();
    step_over(&mut stepped, &Exit::ConditionFailed, syndrome(0x03, 0));
    assert_eq!(stepped.elr, 0x1004);
}

#[test]
fn a_described_store_has_its_address_width_and_value() {
    for (size, width, value) in [(0, 1, 0xef), (1, 2, 0xcdef), (2, 4, 0x89ab_cdef)] {
        let iss = ISV | size << 22 | 3 << 16 | 1 << 6 | TRANSLATION_LEVEL3;
        let exit = decode(
            &frame_with(3, 0x0123_4567_89ab_cdef),
            syndrome(0x24, iss),
            &fault(0xffff_0000_1234_5018, 0x0900_0000 >> 8),
        );
        let Exit::Mmio(access) = exit else {
            panic!("{exit:?}")
        };
        assert_eq!(access.address, 0x0900_0018);
        assert_eq!(access.width, width);
        assert_eq!(access.direction, Direction::Write(value));
    }
}

#[test]
fn a_big_endian_guest_moves_its_bytes_in_the_opposite_order() {
    const E0E: u64 = 1 << 24;
    const EE: u64 = 1 << 25;
    const EL0: u64 = 0;
    const EL1: u64 = 0b0101;
    const AARCH32: u64 = 1 << 4;
    #[rustfmt::skip] // read by column
    let cases = [
        (EL1, EE, true),  (EL1, E0E, false), (EL0, E0E, true), (EL0, EE, false),
        (AARCH32, E0E | EE, false), (AARCH32 | 1 << 9, 0, true),
    ];
    for (spsr, system_control, is_swapped) in cases {
        let registers = Registers {
            system_control: Some(system_control),
            ..fault(0, 0x0900_0000 >> 8)
        };
        let mut frame = frame_with(3, 0x0123_4567_89ab_cdef);
        frame.spsr = spsr;
        for (size, plain, swapped) in [
            (0, 0xef, 0xef),
            (1, 0xcdef, 0xefcd),
            (2, 0x89ab_cdef, 0xefcd_ab89),
            (3, 0x0123_4567_89ab_cdef, 0xefcd_ab89_6745_2301),
        ] {
            let iss = ISV | size << 22 | 3 << 16 | 1 << 15 | TRANSLATION_LEVEL3;
            let write = decode(&frame, syndrome(0x24, iss | 1 << 6), &registers);
            let expected = if is_swapped { swapped } else { plain };
            assert!(
                matches!(write, Exit::Mmio(access) if access.direction == Direction::Write(expected)),
                "{write:x?}, spsr {spsr:#x}"
            );
            let read = decode(&frame, syndrome(0x24, iss), &registers);
            finish_read(&mut frame, &read, expected, &registers);
            assert_eq!(frame.gpr(3), plain);
            frame.set_gpr(3, 0x0123_4567_89ab_cdef);
        }
    }
}

#[test]
fn a_described_load_says_how_to_extend() {
    let iss = ISV | 1 << 21 | 1 << 15 | 30 << 16 | TRANSLATION_LEVEL3;
    let exit = decode(&TrapFrame::default(), syndrome(0x24, iss), &fault(0, 0));
    let Exit::Mmio(access) = exit else {
        panic!("{exit:?}")
    };
    assert_eq!(access.direction, Direction::Read);
    assert_eq!(access.rt, 30);
    assert!(access.sign_extend && access.is_64bit);
}

#[test]
fn the_non_secure_bit_of_hpfar_is_not_part_of_the_address() {
    let exit = decode(
        &TrapFrame::default(),
        syndrome(0x24, TRANSLATION_LEVEL3),
        &fault(0x123, 1 << 63 | 0x0a00_0000 >> 8),
    );
    assert!(matches!(exit, Exit::DataAbort(abort) if abort.address == Some(0x0a00_0123)));
}

#[test]
fn what_the_syndrome_does_not_describe_is_no_mmio() {
    let cache_maintenance = ISV | 1 << 8 | TRANSLATION_LEVEL3;
    for iss in [TRANSLATION_LEVEL3, cache_maintenance] {
        let exit = decode(
            &TrapFrame::default(),
            syndrome(0x24, iss),
            &fault(0x18, 0x90000),
        );
        let Exit::DataAbort(abort) = exit else {
            panic!("{exit:?}")
        };
        assert_eq!(abort.address, Some(0x0900_0018));
        assert_eq!(abort.virtual_address, Some(0x18));
    }
}

#[test]
fn a_table_walk_gives_the_page_of_the_table() {
    let iss = ISV | 1 << 7 | TRANSLATION_LEVEL3;
    let exit = decode(
        &TrapFrame::default(),
        syndrome(0x24, iss),
        &fault(0xabc, 0x90000),
    );
    let Exit::DataAbort(abort) = exit else {
        panic!("{exit:?}")
    };
    assert!(abort.is_table_walk);
    assert_eq!(abort.address, Some(0x0900_0000));
}

#[test]
fn an_external_abort_has_no_intermediate_address_and_perhaps_no_virtual_one() {
    let with_far = Registers {
        far: Some(8),
        ..UNREAD
    };
    let known = decode(
        &TrapFrame::default(),
        syndrome(0x24, ISV | EXTERNAL),
        &with_far,
    );
    let unknown = decode(
        &TrapFrame::default(),
        syndrome(0x24, 1 << 10 | EXTERNAL),
        &UNREAD,
    );
    assert!(matches!(known, Exit::DataAbort(abort)
        if abort.address.is_none() && abort.virtual_address == Some(8)));
    assert!(matches!(unknown, Exit::DataAbort(abort)
        if abort.address.is_none() && abort.virtual_address.is_none()));
}

#[test]
fn a_permission_fault_leaves_hpfar_unknown_so_the_address_is_translated() {
    let registers = |translated| Registers {
        far: Some(0x18),
        hpfar: None,
        translated,
        system_control: Some(0),
    };
    let esr = syndrome(0x24, ISV | 1 << 6 | PERMISSION_LEVEL3);
    let found = decode(&TrapFrame::default(), esr, &registers(Some(0x0900_0018)));
    let lost = decode(&TrapFrame::default(), esr, &registers(None));
    assert!(matches!(found, Exit::Mmio(access) if access.address == 0x0900_0018));
    assert!(matches!(lost, Exit::DataAbort(abort) if abort.address.is_none()));
}

#[test]
fn an_instruction_abort_has_both_addresses() {
    let exit = decode(
        &TrapFrame::default(),
        syndrome(0x20, TRANSLATION_LEVEL3),
        &fault(0xffff_0000_0000_0124, 0x90000),
    );
    let Exit::InstructionAbort(abort) = exit else {
        panic!("{exit:?}")
    };
    assert_eq!(abort.virtual_address, Some(0xffff_0000_0000_0124));
    assert_eq!(abort.address, Some(0x0900_0124));
}

#[test]
fn every_syndrome_decodes_to_something() {
    let addresses = Registers {
        far: Some(u64::MAX),
        hpfar: Some(u64::MAX),
        translated: Some(u64::MAX),
        system_control: Some(u64::MAX),
    };
    let frame = frame_with(0, u64::MAX);
    for class in 0..64 {
        for iss in (0..1 << 25).step_by(0x3fd) {
            let exit = decode(&frame, class << 26 | iss, &addresses);
            assert_eq!(ExitClass::ALL[exit.class().index()], exit.class());
            if let Exit::Other { class: other, .. } = exit {
                assert_eq!(u64::from(other), class);
            }
        }
    }
}

#[test]
fn an_serror_keeps_its_syndrome() {
    let esr = syndrome(0x2f, 0x11);
    let exit = decode(&TrapFrame::default(), esr, &UNREAD);
    assert_eq!(exit, Exit::SError { esr });
}

#[test]
fn loads_extend_to_their_register() {
    #[rustfmt::skip] // read by column
    let cases = [
        // width, sign, 64-bit, device's answer, register
        (1, false, false, 0x1234_5680,           0x80),
        (1, true,  false, 0x80,                  0xffff_ff80),
        (1, true,  true,  0x80,                  0xffff_ffff_ffff_ff80),
        (2, true,  true,  0x7fff,                0x7fff),
        (4, false, false, 0xffff_ffff_0000_0001, 1),
        (4, true,  true,  0x8000_0000,           0xffff_ffff_8000_0000),
        (8, false, true,  u64::MAX,              u64::MAX),
    ];
    for (width, sign_extend, is_64bit, value, expected) in cases {
        let access = MmioAccess {
            address: 0,
            width,
            direction: Direction::Read,
            rt: 2,
            sign_extend,
            is_64bit,
        };
        let mut frame = frame_with(2, 0x5555_5555_5555_5555);
        complete_read(&mut frame, &access, value);
        assert_eq!(frame.gpr(2), expected, "width {width} sign {sign_extend}");
    }
}

#[test]
fn an_hvc_is_not_stepped_over_and_an_smc_is() {
    for (class, moved) in [(0x16, 0), (0x17, 4), (0x18, 4), (0x01, 4), (0x2f, 0)] {
        let esr = syndrome(class, 0);
        let mut frame = frame_at(0x4000_0000, 0b101 | 0b11 << 10 | 1 << 21);
        let exit = decode(&frame, esr, &UNREAD);
        step_over(&mut frame, &exit, esr);
        assert_eq!(frame.elr, 0x4000_0000 + moved, "class {class:#x}");
        let is_cleared = frame.spsr == 0b101;
        assert_eq!(
            is_cleared,
            moved != 0,
            "BTYPE and SS go with the instruction"
        );
    }
}

#[test]
fn a_16_bit_instruction_in_an_it_block_is_stepped_over_in_both() {
    // ITSTATE goes from 0b0000_0110 to 0b0000_1100 and 0b0001_1000, whose low three bits end the block.
    let esr = 0x01 << 26;
    let mut frame = frame_at(0x1000, 0x30 | 0b10 << 25 | 0b1 << 10);
    let exit = decode(&frame, esr, &UNREAD);
    step_over(&mut frame, &exit, esr);
    assert_eq!(frame.elr, 0x1002);
    assert_eq!(frame.spsr, 0x30 | 0b11 << 10);
    step_over(&mut frame, &exit, esr);
    assert_eq!(frame.spsr, 0x30 | 0b110 << 10);
    step_over(&mut frame, &exit, esr);
    assert_eq!(frame.spsr, 0x30);
}

#[test]
fn a_call_that_is_retried_runs_again() {
    for (conduit, elr_of_exit) in [(Conduit::Hvc, 0x1004), (Conduit::Smc, 0x1000)] {
        let mut frame = TrapFrame {
            elr: elr_of_exit,
            ..TrapFrame::default()
        };
        let call = Exit::Call(Call {
            conduit,
            immediate: 0,
        });
        rewind(&mut frame, &call);
        assert_eq!(frame.elr, 0x1000, "{conduit:?}");
        let is_step_due = frame.spsr & 1 << 21 != 0;
        assert_eq!(
            is_step_due,
            conduit == Conduit::Hvc,
            "an HVC was stepped over"
        );
    }
}
