//! What a load or store does, from its A64 encoding: for the accesses that a syndrome does not describe (ISV=0). And whether
//! a wait is one that guests do not have.
//!
//! Pure. It knows loads and stores of one or two general or vector registers, with every way to address. Exclusives, atomics,
//! vector structures and tags are not among them. [DDI0487: Loads and Stores, encoding table]
//!
//! ```text
//! word -> LoadStore { direction, registers, bytes, bank, addressing } -> (emulate) elements, each one MMIO access
//! ```

/// A load or store.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct LoadStore {
    /// From the registers to memory.
    pub(crate) is_store: bool,
    /// The registers, in the order of their addresses: the second one of a pair only.
    pub(crate) registers: [u8; 2],
    /// How many of the registers move: 1 or 2.
    pub(crate) count: u8,
    /// How much of each register moves: 1, 2, 4, 8, or 16 bytes.
    pub(crate) bytes: u8,
    /// What the registers are.
    pub(crate) bank: Bank,
    /// Where in memory.
    pub(crate) addressing: Addressing,
}

/// Which registers move.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Bank {
    /// X or W registers; 31 is XZR.
    General {
        /// A load extends the sign.
        sign_extend: bool,
        /// The register is an X.
        is_64bit: bool,
    },
    /// B, H, S, D or Q registers.
    Vector,
}

/// How the address comes about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Addressing {
    /// What the offset is added to.
    pub(crate) base: Base,
    /// What is added.
    pub(crate) offset: Offset,
    /// When it is added.
    pub(crate) index: Index,
}

/// The base of an address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Base {
    /// A general register; 31 is SP.
    Register(u8),
    /// The address of the instruction.
    ProgramCounter,
}

/// The offset of an address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Offset {
    /// In bytes.
    Immediate(i64),
    /// A general register, 31 for XZR, extended and then shifted left.
    Register {
        /// Its number.
        register: u8,
        /// How it is extended.
        extension: Extension,
        /// By how many bits it is shifted left then.
        shift: u8,
    },
}

/// How an offset register becomes 64 bits wide. [DDI0487: ExtendReg]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Extension {
    /// Its low 32 bits, with zeros.
    UnsignedWord,
    /// Its low 32 bits, with their sign.
    SignedWord,
    /// All of it.
    Whole,
}

/// Whether the base register changes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Index {
    /// The offset is added for the access only.
    Offset,
    /// The base becomes the address of the access.
    Before,
    /// The access is at the base, which then gets the offset added.
    After,
}

/// Bits `high` to `low` of an instruction.
const fn field(word: u32, high: u32, low: u32) -> u32 {
    word >> low & (u32::MAX >> (31 - (high - low)))
}

const fn is_set(word: u32, bit: u32) -> bool {
    word >> bit & 1 != 0
}

/// Bits `high` to `low` as a two's complement number.
const fn signed_field(word: u32, high: u32, low: u32) -> i64 {
    let unused = 63 - (high - low);
    ((field(word, high, low) as u64) << unused) as i64 >> unused
}

const fn register_field(word: u32, low: u32) -> u8 {
    field(word, low + 4, low) as u8
}

const RT: u32 = 0;
const RN: u32 = 5;
const RT2: u32 = 10;
const RM: u32 = 16;
/// V: vector registers move.
const VECTOR: u32 = 26;

/// What `word` loads or stores; `None` if it is not one of the loads and stores that this module knows.
pub(crate) fn decode(word: u32) -> Option<LoadStore> {
    match (field(word, 29, 27), field(word, 25, 24)) {
        (0b101, 0b00 | 0b01) => pair(word),
        (0b011, 0b00) => literal(word),
        (0b011, 0b01) => unscaled_ordered(word),
        (0b111, 0b00) if !is_set(word, 21) => immediate_9(word),
        (0b111, 0b00) => match field(word, 11, 10) {
            0b00 => load_acquire_pc(word),
            0b10 => register_offset(word),
            _ => None,
        },
        (0b111, 0b01) => {
            let (access, scale) = single(word)?;
            let offset = i64::from(field(word, 21, 10)) << scale;
            Some(access.at(
                register_base(word),
                Offset::Immediate(offset),
                Index::Offset,
            ))
        }
        (0b001, 0b00) if !is_set(word, VECTOR) => ordered(word),
        _ => None,
    }
}

/// A load or store whose address is not known yet.
struct Unaddressed {
    is_store: bool,
    registers: [u8; 2],
    count: u8,
    bytes: u8,
    bank: Bank,
}

impl Unaddressed {
    fn at(self, base: Base, offset: Offset, index: Index) -> LoadStore {
        LoadStore {
            is_store: self.is_store,
            registers: self.registers,
            count: self.count,
            bytes: self.bytes,
            bank: self.bank,
            addressing: Addressing {
                base,
                offset,
                index,
            },
        }
    }
}

const fn register_base(word: u32) -> Base {
    Base::Register(register_field(word, RN))
}

/// LDP, LDPSW, STP, LDNP and STNP.
fn pair(word: u32) -> Option<LoadStore> {
    let is_store = !is_set(word, 22);
    let index = match field(word, 24, 23) {
        0b01 => Index::After,
        0b11 => Index::Before,
        _ => Index::Offset,
    };
    let is_without_allocation = field(word, 24, 23) == 0b00;
    let (scale, bank) = match (field(word, 31, 30), is_set(word, VECTOR)) {
        (0b00, false) => (2, general(false, false)),
        (0b01, false) if !is_store && !is_without_allocation => (2, general(true, true)),
        (0b10, false) => (3, general(false, true)),
        (size @ 0b00..=0b10, true) => (2 + size, Bank::Vector),
        _ => return None,
    };
    let access = Unaddressed {
        is_store,
        registers: [register_field(word, RT), register_field(word, RT2)],
        count: 2,
        bytes: 1 << scale,
        bank,
    };
    let offset = signed_field(word, 21, 15) << scale;
    Some(access.at(register_base(word), Offset::Immediate(offset), index))
}

/// LDR and LDRSW from an address beside the instruction.
fn literal(word: u32) -> Option<LoadStore> {
    let (bytes, bank) = match (field(word, 31, 30), is_set(word, VECTOR)) {
        (0b00, false) => (4, general(false, false)),
        (0b01, false) => (8, general(false, true)),
        (0b10, false) => (4, general(true, true)),
        (size @ 0b00..=0b10, true) => (4 << size, Bank::Vector),
        // PRFM, and what is not allocated.
        _ => return None,
    };
    let access = one(word, false, bytes, bank);
    let offset = Offset::Immediate(signed_field(word, 23, 5) << 2);
    Some(access.at(Base::ProgramCounter, offset, Index::Offset))
}

/// LDUR, STUR, LDTR, STTR, and LDR and STR whose base changes.
fn immediate_9(word: u32) -> Option<LoadStore> {
    let (access, _) = single(word)?;
    let index = match field(word, 11, 10) {
        0b00 => Index::Offset,
        0b01 => Index::After,
        0b11 => Index::Before,
        _ if is_set(word, VECTOR) => return None,
        _ => Index::Offset,
    };
    let offset = Offset::Immediate(signed_field(word, 20, 12));
    Some(access.at(register_base(word), offset, index))
}

/// LDR and STR with a register as offset.
fn register_offset(word: u32) -> Option<LoadStore> {
    let (access, scale) = single(word)?;
    let extension = match field(word, 15, 13) {
        0b010 => Extension::UnsignedWord,
        0b110 => Extension::SignedWord,
        0b011 | 0b111 => Extension::Whole,
        _ => return None,
    };
    let offset = Offset::Register {
        register: register_field(word, RM),
        extension,
        shift: if is_set(word, 12) { scale } else { 0 },
    };
    Some(access.at(register_base(word), offset, Index::Offset))
}

/// LDAR, LDLAR, STLR and STLLR; the rest of their group are exclusives and compare-and-swaps.
fn ordered(word: u32) -> Option<LoadStore> {
    // o2 and o1.
    if !is_set(word, 23) || is_set(word, 21) {
        return None;
    }
    let size = field(word, 31, 30);
    let access = one(
        word,
        !is_set(word, 22),
        1 << size,
        general(false, size == 3),
    );
    Some(access.at(register_base(word), Offset::Immediate(0), Index::Offset))
}

/// LDAPR; the rest of its group are atomics.
fn load_acquire_pc(word: u32) -> Option<LoadStore> {
    let size = field(word, 31, 30);
    // A, R and Rs, then o3 and opc.
    if is_set(word, VECTOR) || field(word, 23, 16) != 0b1011_1111 || field(word, 15, 12) != 0b1100 {
        return None;
    }
    let access = one(word, false, 1 << size, general(false, size == 3));
    Some(access.at(register_base(word), Offset::Immediate(0), Index::Offset))
}

/// LDAPUR and STLUR.
fn unscaled_ordered(word: u32) -> Option<LoadStore> {
    if is_set(word, VECTOR) || is_set(word, 21) || field(word, 11, 10) != 0b00 {
        return None;
    }
    let (access, _) = single(word)?;
    let offset = Offset::Immediate(signed_field(word, 20, 12));
    Some(access.at(register_base(word), offset, Index::Offset))
}

/// `word` is WFIT or WFET. [DDI0487: System instructions with register argument]
pub(crate) const fn is_timed_wait(word: u32) -> bool {
    word & 0xffff_ffc0 == 0xd503_1000
}

/// The register and width of a single load or store by its size and opc, and the logarithm of the width.
fn single(word: u32) -> Option<(Unaddressed, u8)> {
    let size = field(word, 31, 30) as u8;
    let opc = field(word, 23, 22);
    if is_set(word, VECTOR) {
        let scale = match (opc, size) {
            (0b00 | 0b01, _) => size,
            (_, 0b00) => 4,
            _ => return None,
        };
        let is_store = opc & 1 == 0;
        return Some((one(word, is_store, 1 << scale, Bank::Vector), scale));
    }
    let bank = match (opc, size) {
        (0b00 | 0b01, _) => general(false, size == 3),
        (0b10, 0..=2) => general(true, true),
        (0b11, 0..=1) => general(true, false),
        // PRFM, and what is not allocated.
        _ => return None,
    };
    Some((one(word, opc == 0b00, 1 << size, bank), size))
}

const fn general(sign_extend: bool, is_64bit: bool) -> Bank {
    Bank::General {
        sign_extend,
        is_64bit,
    }
}

const fn one(word: u32, is_store: bool, bytes: u8, bank: Bank) -> Unaddressed {
    Unaddressed {
        is_store,
        registers: [register_field(word, RT), 31],
        count: 1,
        bytes,
        bank,
    }
}

#[cfg(test)]
mod tests;
