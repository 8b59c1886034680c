//! What one 64-bit entry says. [DDI0487: VMSAv8-64 descriptor formats, stage 2]

use super::geometry::LEAF_LEVEL;

/// Nothing is mapped, and software keeps nothing there.
pub(super) const EMPTY: u64 = 0;
/// The hardware looks at the entry only if this is set; a hidden entry keeps everything else.
pub(super) const VALID: u64 = 1;

/// A table above level 3, a page at level 3; a block has it clear.
const TABLE_OR_PAGE: u64 = 1 << 1;
const ADDRESS: u64 = 0xffff_ffff_f000;
/// MemAttr, without FEAT_S2FWB: Normal, write-back at both; Device-nGnRE.
const NORMAL_WRITE_BACK: u64 = 0b1111 << 2;
const DEVICE: u64 = 0b0001 << 2;
const READ: u64 = 1 << 6;
const WRITE: u64 = 1 << 7;
/// SH; for device memory it has no meaning.
const INNER_SHAREABLE: u64 = 0b11 << 8;
/// AF: we do not count accesses, and a clear one faults.
const ACCESSED: u64 = 1 << 10;
/// XN\[1\]; with XN\[0\] clear it means "at EL1 and EL0", with and without FEAT_XNX.
const EXECUTE_NEVER: u64 = 1 << 54;

/// The memory type that stage 2 imposes. The result is the stricter of stage 1 and stage 2.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Memory {
    /// Normal, write-back cacheable, inner shareable.
    Normal,
    /// Device-nGnRE.
    Device,
}

/// What a guest may do with memory; it can always read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Attributes {
    /// The memory type.
    pub memory: Memory,
    /// Writes do not fault.
    pub is_writable: bool,
    /// Instruction fetches do not fault.
    pub is_executable: bool,
}

impl Attributes {
    /// Memory as RAM is: everything is allowed.
    pub const RAM: Self = Self {
        memory: Memory::Normal,
        is_writable: true,
        is_executable: true,
    };
    /// Memory that only the hypervisor writes.
    pub const ROM: Self = Self {
        memory: Memory::Normal,
        is_writable: false,
        is_executable: true,
    };
    /// The registers of a device that the guest drives itself.
    pub const DEVICE: Self = Self {
        memory: Memory::Device,
        is_writable: true,
        is_executable: false,
    };

    const fn bits(self) -> u64 {
        let memory = match self.memory {
            Memory::Normal => NORMAL_WRITE_BACK | INNER_SHAREABLE,
            Memory::Device => DEVICE,
        };
        let write = if self.is_writable { WRITE } else { 0 };
        let execute = if self.is_executable { 0 } else { EXECUTE_NEVER };
        memory | READ | write | execute
    }
}

/// A block or page of `level` at physical `address`.
pub(super) const fn leaf(level: u32, address: u64, attributes: Attributes) -> u64 {
    let page = if level == LEAF_LEVEL {
        TABLE_OR_PAGE
    } else {
        0
    };
    address & ADDRESS | attributes.bits() | ACCESSED | page | VALID
}

/// The table at physical `address`.
pub(super) const fn table(address: u64) -> u64 {
    address & ADDRESS | TABLE_OR_PAGE | VALID
}

/// The physical address in a leaf, hidden or not.
pub(super) const fn address(leaf: u64) -> u64 {
    leaf & ADDRESS
}

/// The attributes in a leaf, hidden or not.
pub(super) const fn attributes(leaf: u64) -> Attributes {
    Attributes {
        memory: if leaf & NORMAL_WRITE_BACK == DEVICE {
            Memory::Device
        } else {
            Memory::Normal
        },
        is_writable: leaf & WRITE != 0,
        is_executable: leaf & EXECUTE_NEVER == 0,
    }
}

pub(super) const fn is_valid(entry: u64) -> bool {
    entry & VALID != 0
}
