//! The registers that an instruction moves, the device that it moves them to, and what is expected of both.

use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

use trapline_demos::guest::{
    exceptions::{Frame, Kind},
    gic::{self, offset},
    mmio,
};

use crate::support::check;

/// UARTIBRD, 16 bits, and UARTFBRD behind it, 6 bits: they hold what is written. [DDI0183]
pub(super) const DIVISORS: usize = 0x0900_0024;
/// The last word of the UART's page; behind it there is nothing.
pub(super) const UART_END: usize = 0x0900_0ffc;
/// Of a priority register that belongs to eight SPIs which nothing uses.
pub(super) const PRIORITIES: usize = gic::DISTRIBUTOR + offset::IPRIORITYR + 200;
/// Of the routes of four of these: registers of 64 bits.
pub(super) const ROUTES: usize = gic::DISTRIBUTOR + offset::IROUTER + 8 * 200;
pub(super) const ROUTE: [u64; 4] = [
    0x81_0022_3344,
    0x82_0033_4455,
    0x83_0044_5566,
    0x84_0055_6677,
];
/// What registers hold that an instruction must not change, and of which nothing may be left where it does.
pub(super) const OLD: u64 = 0xdead_beef_f00d_cafe;

pub(super) static ABORTS: AtomicU64 = AtomicU64::new(0);
pub(super) static LAST_ESR: AtomicU64 = AtomicU64::new(0);
pub(super) static FORMS: AtomicU64 = AtomicU64::new(0);

/// The registers that an instruction may use: x9 is its base, x12 its offset.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C, align(16))]
pub(super) struct Registers {
    pub(super) x9: u64,
    pub(super) x10: u64,
    pub(super) x11: u64,
    pub(super) x12: u64,
    pub(super) vectors: [[u64; 2]; 2],
}

impl Registers {
    pub(super) const fn at(address: usize) -> Self {
        Self {
            x9: address as u64,
            x10: OLD,
            x11: OLD,
            x12: 1,
            vectors: [[OLD; 2]; 2],
        }
    }

    pub(super) fn expect(&self, what: &str, expected: &Self) {
        FORMS.fetch_add(1, SeqCst);
        check!(
            self == expected,
            "`{what}` left {self:#x?} instead of {expected:#x?}"
        );
    }
}

/// Runs one or a few instructions on `registers`; x14 and x15 are theirs to use.
macro_rules! run {
    ($registers:expr, $($instruction:literal),+) => {{
        let mut registers: Registers = $registers;
        // SAFETY: the instructions access a device only, and no register but those of the list; the program itself uses no
        // vector register.
        unsafe {
            asm!(
                ".arch_extension fp",
                ".arch_extension simd",
                "ldp x9, x10, [x13]",
                "ldp x11, x12, [x13, #16]",
                "ldp q0, q1, [x13, #32]",
                $($instruction,)+
                "stp x9, x10, [x13]",
                "stp x11, x12, [x13, #16]",
                "stp q0, q1, [x13, #32]",
                inout("x13") &raw mut registers => _,
                out("x9") _, out("x10") _, out("x11") _, out("x12") _, out("x14") _, out("x15") _,
            );
        }
        registers
    }};
}

/// The instruction reads these values into x10 and x11 (or only the first), and moves x9 by so many bytes.
macro_rules! loads {
    ($address:expr, $instruction:literal, $moved:expr, $x10:expr $(, $x11:expr)?) => {{
        let mut expected = Registers::at($address);
        expected.x9 = expected.x9.wrapping_add_signed($moved);
        expected.x10 = $x10;
        $(expected.x11 = $x11;)?
        run!(Registers::at($address), $instruction).expect($instruction, &expected);
    }};
}

/// The same for v0 and v1.
macro_rules! loads_vectors {
    ($address:expr, $instruction:literal, $moved:expr, $v0:expr $(, $v1:expr)?) => {{
        let mut expected = Registers::at($address);
        expected.x9 = expected.x9.wrapping_add_signed($moved);
        expected.vectors[0] = $v0;
        $(expected.vectors[1] = $v1;)?
        run!(Registers::at($address), $instruction).expect($instruction, &expected);
    }};
}

/// The instruction stores from x10 and x11, v0 and v1, which hold these values, and moves x9; then `$read` is `$value`.
macro_rules! stores {
    ($address:expr, $instruction:literal, $moved:expr, [$first:expr, $second:expr], $read:expr, $value:expr) => {{
        let given = Registers {
            x10: $first,
            x11: $second,
            vectors: [[$first, !$first], [$second, !$second]],
            ..Registers::at($address)
        };
        let expected = Registers {
            x9: given.x9.wrapping_add_signed($moved),
            ..given
        };
        run!(given, $instruction).expect($instruction, &expected);
        let value = $read;
        check!(
            value == $value,
            "`{}` left {value:#x?} in the device instead of {:#x?}",
            $instruction,
            $value
        );
    }};
}

/// The instruction aborts at its own address and changes no register.
macro_rules! aborts {
    ($address:expr, $instruction:literal) => {{
        let before = ABORTS.load(SeqCst);
        run!(Registers::at($address), $instruction).expect($instruction, &Registers::at($address));
        check!(
            ABORTS.load(SeqCst) == before + 1,
            "`{}` did not abort",
            $instruction
        );
        let status = LAST_ESR.load(SeqCst) & 0x3f;
        check!(
            status == 0x10,
            "`{}`: status {status:#x} is no external abort",
            $instruction
        );
    }};
}

pub(super) fn skip_abort(kind: Kind, frame: &mut Frame) {
    check!(
        kind == Kind::Synchronous && frame.class() == 0x25,
        "{kind:?} exception, esr {:#x} at {:#x}",
        frame.esr,
        frame.elr
    );
    LAST_ESR.store(frame.esr, SeqCst);
    ABORTS.fetch_add(1, SeqCst);
    frame.skip();
}

pub(super) fn divisors() -> [u32; 2] {
    [mmio::read32(DIVISORS), mmio::read32(DIVISORS + 4)]
}

pub(super) fn set_divisors(values: [u32; 2]) {
    mmio::write32(DIVISORS, values[0]);
    mmio::write32(DIVISORS + 4, values[1]);
}

pub(super) fn routes() -> [u64; 4] {
    [0, 1, 2, 3].map(|index| mmio::read64(ROUTES + 8 * index))
}

pub(super) fn set_routes(values: [u64; 4]) {
    for (index, value) in values.into_iter().enumerate() {
        mmio::write64(ROUTES + 8 * index, value);
    }
}
