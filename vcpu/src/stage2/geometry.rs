//! How large the address spaces are and how the walk is cut into levels.
//!
//! The walk always starts at level 1: with 4 KiB tables that covers 31 to 43 bits, and every implementation may do it.
//! [DDI0487: VTCR_EL2.SL0]

use core::ops::Range;

/// The size of a page and of a table, in bytes.
pub(super) const PAGE_SIZE: u64 = 1 << 12;
/// Where the walk starts.
pub(super) const ROOT_LEVEL: u32 = 1;
/// Where the walk ends.
pub(super) const LEAF_LEVEL: u32 = 3;
/// The most bits of an intermediate address: two level 1 tables in a row.
const MOST_GUEST_BITS: u32 = 40;
/// Entries of the root: one for each GiB.
pub(super) const ROOT_ENTRIES: usize = 1 << (MOST_GUEST_BITS - 30);
/// Entries of any other table.
pub(super) const ENTRIES: usize = 512;

/// The bytes that one entry of `level` covers.
pub(super) const fn entry_size(level: u32) -> u64 {
    1 << (12 + 9 * (LEAF_LEVEL - level))
}

/// The part of a range that one entry covers.
pub(super) struct Piece {
    /// Which entry of the table.
    pub(super) index: u16,
    /// All that the entry covers.
    pub(super) span: Range<u64>,
    /// The part of the range in it.
    pub(super) range: Range<u64>,
}

impl Piece {
    /// The range covers all of the entry.
    pub(super) fn is_whole(&self) -> bool {
        self.span == self.range
    }

    fn at(level: u32, address: u64) -> Self {
        let size = entry_size(level);
        let start = address & !(size - 1);
        Self {
            index: index(level, address),
            span: start..start + size,
            range: start..start + size,
        }
    }
}

/// Which entry of its table of `level` translates `address`.
pub(super) const fn index(level: u32, address: u64) -> u16 {
    let entries = if level == ROOT_LEVEL {
        ROOT_ENTRIES
    } else {
        ENTRIES
    };
    (address / entry_size(level) % entries as u64) as u16
}

/// The pieces of `range`, which lies in one table of `level`, in order.
pub(super) fn pieces(level: u32, range: Range<u64>) -> impl Iterator<Item = Piece> {
    let mut next = range.start;
    core::iter::from_fn(move || {
        if next >= range.end {
            return None;
        }
        let mut piece = Piece::at(level, next);
        piece.range = next..range.end.min(piece.span.end);
        next = piece.range.end;
        Some(piece)
    })
}

/// The sizes that all pCPUs of a machine can do, and VTCR_EL2 for them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Geometry {
    physical_range: u8,
    vmid_bits: u8,
}

impl Geometry {
    /// From ID_AA64MMFR0_EL1 and ID_AA64MMFR1_EL1 of a pCPU; `None` if its stage 2 has no 4 KiB granule.
    ///
    /// [DDI0487: ID_AA64MMFR0_EL1.{TGran4_2, TGran4, PARange}, ID_AA64MMFR1_EL1.VMIDBits]
    pub fn from_id_registers(mmfr0: u64, mmfr1: u64) -> Option<Self> {
        // 4 bits each; the value that means "not implemented" differs.
        let stage2_granule = mmfr0 >> 40 & 0xf;
        let stage1_granule = mmfr0 >> 28 & 0xf;
        let has_granule = match stage2_granule {
            0 => stage1_granule != 0xf,
            other => other != 1,
        };
        // Beyond 48 bits the descriptors have another format, which needs VTCR_EL2.DS.
        let physical_range = (mmfr0 & 0xf).min(5) as u8;
        let vmid_bits = if mmfr1 >> 4 & 0xf == 2 { 16 } else { 8 };
        has_granule.then_some(Self {
            physical_range,
            vmid_bits,
        })
    }

    /// What both can do, for pCPUs that differ.
    pub fn intersection(self, other: Self) -> Self {
        Self {
            physical_range: self.physical_range.min(other.physical_range),
            vmid_bits: self.vmid_bits.min(other.vmid_bits),
        }
    }

    /// The width of a VMID: 8 or 16 bits.
    pub fn vmid_bits(self) -> u32 {
        self.vmid_bits.into()
    }

    /// The size of the physical address space, in bytes.
    pub fn physical_size(self) -> u64 {
        1 << self.physical_bits()
    }

    /// The size of the intermediate physical address space, in bytes: 1 TiB, or less if the machine has less.
    pub fn guest_size(self) -> u64 {
        1 << self.guest_bits()
    }

    /// The value of VTCR_EL2. [DDI0487: VTCR_EL2]
    pub fn vtcr(self) -> u64 {
        const RES1: u64 = 1 << 31;
        const LEVEL1: u64 = 1 << 6;
        const INNER_WRITE_BACK: u64 = 1 << 8;
        const OUTER_WRITE_BACK: u64 = 1 << 10;
        const INNER_SHAREABLE: u64 = 0b11 << 12;
        const GRANULE_4K: u64 = 0b00 << 14;
        RES1 | LEVEL1
            | INNER_WRITE_BACK
            | OUTER_WRITE_BACK
            | INNER_SHAREABLE
            | GRANULE_4K
            | u64::from(64 - self.guest_bits())
            | u64::from(self.physical_range) << 16
            | u64::from(self.vmid_bits == 16) << 19
    }

    fn physical_bits(self) -> u32 {
        const BITS: [u32; 6] = [32, 36, 40, 42, 44, 48];
        BITS[usize::from(self.physical_range)]
    }

    fn guest_bits(self) -> u32 {
        self.physical_bits().min(MOST_GUEST_BITS)
    }
}
