//! Instructions on a device that is bytes, so that what a guest would have read and written there can be seen.

use std::vec::Vec;

use super::*;

extern crate std;

const DEVICE: u64 = 0x0900_0000;
const VIRTUAL: u64 = 0xffff_0000_1234_5000;
const IS_WRITE: u64 = 1 << 6;
const EL1H: u64 = 0b0101;

const LDP_X1_X2_X3: u32 = 0xa940_0861;
const LDP_X1_X2_X3_AFTER_16: u32 = 0xa8c1_0861;
const STP_X1_X2_X3_BEFORE_16: u32 = 0xa981_0861;
const LDPSW_X1_X2_X3: u32 = 0x6940_0861;
const LDP_Q1_Q2_X3: u32 = 0xad40_0861;
const STP_Q1_Q2_X3: u32 = 0xad00_0861;
const LDR_S1_X3: u32 = 0xbd40_0061;
const STR_H1_X3: u32 = 0x7d00_0061;
const LDR_X1_SP_AFTER_8: u32 = 0xf840_87e1;
const LDRSB_X1_X3_AFTER_1: u32 = 0x3880_1461;
const LDR_W1_X3_W4_SXTW_2: u32 = 0xb864_d861;
const LDR_X1_PC_PLUS_8: u32 = 0x5800_0041;
const LDXR_X1_X3: u32 = 0xc85f_7c61;

/// A guest in front of a device of 64 bytes, each with its place as value.
struct Guest {
    frame: TrapFrame,
    vectors: [[u64; 2]; 32],
    stack_pointer: u64,
    is_big_endian: bool,
    device: [u8; 64],
    accessed: Vec<(u64, u8)>,
}

impl Guest {
    /// x3 holds the address of the device.
    fn new() -> Self {
        let mut frame = TrapFrame::default();
        frame.set_gpr(3, VIRTUAL);
        frame.elr = VIRTUAL;
        frame.spsr = EL1H;
        let mut byte = 0;
        Self {
            frame,
            vectors: [[0x7777_7777_7777_7777; 2]; 32],
            stack_pointer: VIRTUAL,
            is_big_endian: false,
            device: [(); 64].map(|()| {
                byte += 1;
                byte - 1
            }),
            accessed: Vec::new(),
        }
    }

    fn abort(iss: u64, offset: u64) -> Abort {
        Abort {
            esr: 0x24 << 26 | 1 << 25 | 0b000111 | iss,
            virtual_address: Some(VIRTUAL + offset),
            address: Some(DEVICE + offset),
            is_table_walk: false,
        }
    }

    fn access(&self, word: u32, abort: &Abort) -> Option<Access> {
        Access::new(
            word,
            &self.frame,
            self.stack_pointer,
            self.is_big_endian,
            abort,
        )
    }

    fn next(&self, access: &Access) -> Next {
        access.next(&self.frame, &self.vectors, |_| None)
    }

    /// Does the next element; `false` if there is none.
    fn advance(&mut self, access: &mut Access) -> bool {
        let Next::Element(element) = self.next(access) else {
            return false;
        };
        self.accessed.push((element.address, element.width));
        let start = (element.address - DEVICE) as usize;
        let place = &mut self.device[start..start + usize::from(element.width)];
        let mut bytes = [0; 8];
        let action = match element.direction {
            Direction::Read => {
                bytes[..place.len()].copy_from_slice(place);
                Action::FinishRead(u64::from_le_bytes(bytes))
            }
            Direction::Write(value) => {
                place.copy_from_slice(&value.to_le_bytes()[..place.len()]);
                Action::Finish
            }
        };
        assert_eq!(access.answered(action), Then::GoOn);
        true
    }

    fn finish(&mut self, access: &Access) {
        assert_eq!(self.next(access), Next::Done);
        if let Some(stack_pointer) = access.finish(&mut self.frame, &mut self.vectors) {
            self.stack_pointer = stack_pointer;
        }
    }

    fn run(&mut self, word: u32) {
        let iss = if instruction::decode(word).unwrap().is_store {
            IS_WRITE
        } else {
            0
        };
        let mut access = self.access(word, &Self::abort(iss, 0)).unwrap();
        while self.advance(&mut access) {}
        self.finish(&access);
    }
}

#[test]
fn a_pair_is_loaded_in_order_and_its_base_moves_afterwards() {
    let mut guest = Guest::new();
    guest.run(LDP_X1_X2_X3_AFTER_16);
    assert_eq!(guest.accessed, [(DEVICE, 8), (DEVICE + 8, 8)]);
    assert_eq!(guest.frame.gpr(1), 0x0706_0504_0302_0100);
    assert_eq!(guest.frame.gpr(2), 0x0f0e_0d0c_0b0a_0908);
    assert_eq!(guest.frame.gpr(3), VIRTUAL + 16);
}

#[test]
fn a_pair_is_stored_where_its_base_has_moved() {
    let mut guest = Guest::new();
    guest.frame.set_gpr(1, 0x1111_1111_1111_1111);
    guest.frame.set_gpr(2, 0x2222_2222_2222_2222);
    guest.frame.set_gpr(3, VIRTUAL - 16);
    guest.run(STP_X1_X2_X3_BEFORE_16);
    assert_eq!(guest.device[..8], [0x11; 8]);
    assert_eq!(guest.device[8..16], [0x22; 8]);
    assert_eq!((guest.device[16], guest.frame.gpr(3)), (16, VIRTUAL));
}

#[test]
fn signs_are_extended_in_each_register() {
    let mut guest = Guest::new();
    guest.device[3] = 0x80;
    guest.run(LDPSW_X1_X2_X3);
    assert_eq!(guest.frame.gpr(1), 0xffff_ffff_8002_0100);
    assert_eq!(guest.frame.gpr(2), 0x0706_0504);
    guest.device[0] = 0xfe;
    guest.run(LDRSB_X1_X3_AFTER_1);
    assert_eq!(guest.frame.gpr(1), 0xffff_ffff_ffff_fffe);
    assert_eq!(guest.frame.gpr(3), VIRTUAL + 1);
}

#[test]
fn vector_registers_move_in_halves_and_are_cleared_above() {
    let mut guest = Guest::new();
    guest.run(LDP_Q1_Q2_X3);
    let all: Vec<_> = (0..4).map(|half| (DEVICE + 8 * half, 8)).collect();
    assert_eq!(guest.accessed, all);
    assert_eq!(
        guest.vectors[1],
        [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908]
    );
    assert_eq!(
        guest.vectors[2],
        [0x1716_1514_1312_1110, 0x1f1e_1d1c_1b1a_1918]
    );
    guest.run(LDR_S1_X3);
    assert_eq!(guest.vectors[1], [0x0302_0100, 0]);
    guest.vectors[1] = [0xaaaa_bbbb_cccc_dddd, 0xeeee];
    guest.run(STR_H1_X3);
    assert_eq!(guest.device[..3], [0xdd, 0xdd, 2]);
    guest.vectors[2] = [0x5555_5555_5555_5555, 0x6666_6666_6666_6666];
    guest.run(STP_Q1_Q2_X3);
    assert_eq!(guest.device[8..12], [0xee, 0xee, 0, 0]);
    assert_eq!(guest.device[16..24], [0x55; 8]);
    assert_eq!(guest.device[24..32], [0x66; 8]);
}

#[test]
fn big_endian_data_has_its_most_significant_byte_first() {
    let mut guest = Guest::new();
    guest.is_big_endian = true;
    guest.run(LDP_X1_X2_X3);
    assert_eq!(guest.frame.gpr(1), 0x0001_0203_0405_0607);
    assert_eq!(guest.frame.gpr(2), 0x0809_0a0b_0c0d_0e0f);
    guest.run(LDP_Q1_Q2_X3);
    assert_eq!(
        guest.vectors[1],
        [0x0809_0a0b_0c0d_0e0f, 0x0001_0203_0405_0607]
    );
    guest.vectors[1] = [0x0f0e_0d0c_0b0a_0908, 0x0706_0504_0302_0100];
    guest.run(STP_Q1_Q2_X3);
    assert_eq!(
        guest.device[..16],
        [7, 6, 5, 4, 3, 2, 1, 0, 15, 14, 13, 12, 11, 10, 9, 8]
    );
}

#[test]
fn every_kind_of_address_is_found() {
    let mut guest = Guest::new();
    guest.run(LDR_X1_SP_AFTER_8);
    assert_eq!(guest.stack_pointer, VIRTUAL + 8);
    assert_eq!(guest.frame.gpr(1), 0x0706_0504_0302_0100);
    guest.frame.set_gpr(3, VIRTUAL + 8);
    guest.frame.set_gpr(4, 0x1234_5678_ffff_fffe);
    guest.run(LDR_W1_X3_W4_SXTW_2);
    assert_eq!(guest.frame.gpr(1), 0x0302_0100);
    guest.frame.elr = VIRTUAL - 8;
    guest.run(LDR_X1_PC_PLUS_8);
    assert_eq!(guest.frame.gpr(1), 0x0706_0504_0302_0100);
    assert_eq!(guest.frame.gpr(31), 0);
}

#[test]
fn an_access_that_waits_goes_on_where_it_was() {
    let mut guest = Guest::new();
    let before = guest.frame.clone();
    let mut access = guest
        .access(LDP_X1_X2_X3_AFTER_16, &Guest::abort(0, 0))
        .unwrap();
    assert!(guest.advance(&mut access));
    assert_eq!(
        guest.frame, before,
        "no register changes before all is done"
    );
    // What the first half of the device holds now is of no interest any more.
    guest.device[..8].fill(0xff);
    let mut resumed = access;
    assert!(guest.advance(&mut resumed) && !guest.advance(&mut resumed));
    guest.finish(&resumed);
    assert_eq!(guest.accessed, [(DEVICE, 8), (DEVICE + 8, 8)]);
    assert_eq!(guest.frame.gpr(1), 0x0706_0504_0302_0100);
    assert_eq!(guest.frame.gpr(2), 0x0f0e_0d0c_0b0a_0908);
}

#[test]
fn what_waits_before_anything_was_done_is_run_again_as_a_whole() {
    let guest = Guest::new();
    for action in [Action::Retry, Action::WaitAndRetry, Action::Suspend] {
        let mut access = guest.access(LDP_X1_X2_X3, &Guest::abort(0, 0)).unwrap();
        assert_eq!(access.answered(action), Then::Answer(action));
    }
}

#[test]
fn what_an_element_says_of_the_vcpu_outlasts_the_wait_of_the_next() {
    let guest = Guest::new();
    let yields = Action::Yield(crate::YieldTo::ANYBODY);
    for action in [Action::Retry, Action::WaitAndRetry, Action::Suspend] {
        for says in [yields, Action::Wait, Action::PowerOff] {
            let mut access = guest.access(LDP_X1_X2_X3, &Guest::abort(0, 0)).unwrap();
            assert_eq!(access.answered(says), Then::GoOn);
            assert_eq!(access.answered(action), Then::Keep(action));
            let mut resumed = access;
            assert_eq!(resumed.answered(Action::FinishRead(0)), Then::GoOn);
            assert_eq!(
                (guest.next(&resumed), resumed.afterwards()),
                (Next::Done, says)
            );
        }
    }
}

#[test]
fn of_two_elements_the_one_that_keeps_the_vcpu_longer_decides() {
    let guest = Guest::new();
    let order = [
        Action::Finish,
        Action::Yield(crate::YieldTo::ANYBODY),
        Action::Wait,
        Action::PowerOff,
    ];
    for (index, first) in order.into_iter().enumerate() {
        for (other, second) in order.into_iter().enumerate() {
            let mut access = guest.access(LDP_X1_X2_X3, &Guest::abort(0, 0)).unwrap();
            assert_eq!(access.answered(first), Then::GoOn);
            assert_eq!(access.answered(second), Then::GoOn);
            assert_eq!(access.afterwards(), order[index.max(other)]);
        }
    }
}

#[test]
fn each_page_is_translated_by_itself() {
    let mut guest = Guest::new();
    guest.frame.set_gpr(3, VIRTUAL + 0xff8);
    let mut access = guest.access(LDP_X1_X2_X3, &Guest::abort(0, 0xff8)).unwrap();
    let elsewhere = |address| (address == VIRTUAL + 0x1000).then_some(0x0a00_0000);
    let address = |access: &Access, translate: &dyn Fn(u64) -> Option<u64>| match access.next(
        &guest.frame,
        &guest.vectors,
        translate,
    ) {
        Next::Element(element) => Some(element.address),
        _ => None,
    };
    assert_eq!(address(&access, &elsewhere), Some(DEVICE + 0xff8));
    assert_eq!(access.answered(Action::FinishRead(0)), Then::GoOn);
    assert_eq!(address(&access, &elsewhere), Some(0x0a00_0000));
    assert_eq!(guest.next(&access), Next::Nowhere, "the page is not mapped");

    // One element in two pages.
    guest.frame.set_gpr(3, VIRTUAL + 0xffc);
    let access = guest.access(LDP_X1_X2_X3, &Guest::abort(0, 0xffc)).unwrap();
    assert_eq!(guest.next(&access), Next::Nowhere);
}

#[test]
fn an_instruction_that_cannot_have_caused_the_abort_is_not_done() {
    let guest = Guest::new();
    let is_done = |word, iss, offset| guest.access(word, &Guest::abort(iss, offset)).is_some();
    assert!(is_done(LDP_X1_X2_X3, 0, 0) && is_done(LDP_X1_X2_X3, 0, 15));
    assert!(!is_done(LDP_X1_X2_X3, IS_WRITE, 0), "it reads");
    assert!(!is_done(LDP_X1_X2_X3, 0, 16), "it ends before");
    assert!(
        !is_done(STP_X1_X2_X3_BEFORE_16, IS_WRITE, 15),
        "it begins behind"
    );
    assert!(
        !is_done(LDXR_X1_X3, 0, 0),
        "a device supports no exclusives"
    );
    let mut tagged = Guest::abort(0, 0);
    tagged.virtual_address = Some(VIRTUAL & UNTAGGED | 0x5a << 56);
    assert!(
        guest.access(LDP_X1_X2_X3, &tagged).is_some(),
        "a tag is no address"
    );
}

#[test]
fn an_abort_is_judged_by_its_syndrome() {
    const CACHE_MAINTENANCE: u64 = 1 << 8;
    let plain = Guest::abort(0, 0);
    let maintenance = Guest::abort(CACHE_MAINTENANCE | IS_WRITE, 0);
    let walk = Abort {
        is_table_walk: true,
        ..maintenance
    };
    let external = Abort {
        address: None,
        ..maintenance
    };
    assert_eq!(judge(&plain, false), Verdict::Decode);
    assert_eq!(judge(&plain, true), Verdict::Abort, "AArch32");
    assert_eq!(judge(&maintenance, false), Verdict::Finish);
    assert_eq!(judge(&maintenance, true), Verdict::Finish);
    assert_eq!(judge(&walk, false), Verdict::Abort);
    assert_eq!(judge(&external, false), Verdict::Abort);
}
