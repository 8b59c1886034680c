//! The tables bit by bit, and what each operation promises.

use super::descriptor;
use super::model::{Tlb, assert_tlbs_are_current};
use super::*;

const KIB4: u64 = 1 << 12;
const MIB2: u64 = 1 << 21;
const GIB: u64 = 1 << 30;
const RAM: u64 = 0x4000_0000;

/// The tests' heap stands for physical memory; its addresses have at most 47 bits.
pub(super) struct HostMemory;

impl PhysicalAddress for HostMemory {
    fn physical_address(&self, address: usize) -> u64 {
        address as u64
    }
}

/// A Cortex-A72 has 44 bits of physical address; the tests' heap wants 48.
pub(super) fn geometry() -> Geometry {
    Geometry::from_id_registers(0x5, 0x20).expect("4 KiB granule")
}

fn empty() -> Stage2<HostMemory> {
    Stage2::new(geometry(), HostMemory)
}

fn entry_size(stage2: &Stage2<HostMemory>, guest: u64) -> Option<u64> {
    stage2.translate(guest).map(|found| found.entry_size)
}

#[test]
fn descriptors_have_the_manuals_bits() {
    let (normal, device) = (0b1111 << 2, 0b0001 << 2);
    let (inner, accessed, never) = (0b11 << 8, 1 << 10, 1 << 54);
    let (read, read_write) = (0b01 << 6, 0b11 << 6);
    let address = 0x1_4000_0000;
    assert_eq!(
        descriptor::leaf(1, address, Attributes::RAM),
        address | normal | read_write | inner | accessed | 0b01
    );
    assert_eq!(
        descriptor::leaf(2, address, Attributes::ROM),
        address | normal | read | inner | accessed | 0b01
    );
    assert_eq!(
        descriptor::leaf(3, address, Attributes::DEVICE),
        address | device | read_write | accessed | never | 0b11
    );
    assert_eq!(descriptor::table(0x8000_1000), 0x8000_1003);
    for attributes in [Attributes::RAM, Attributes::ROM, Attributes::DEVICE] {
        let leaf = descriptor::leaf(2, address, attributes);
        assert_eq!(descriptor::attributes(leaf), attributes);
        assert_eq!(descriptor::address(leaf), address);
    }
}

#[test]
fn vtcr_and_sizes_follow_the_id_registers() {
    let fixed = 1 << 31 | 0b11 << 12 | 1 << 10 | 1 << 8 | 1 << 6;
    #[rustfmt::skip] // read by column
    let cases = [
        // PARange, VMIDBits, VTCR_EL2,                            guest bits, physical bits
        (0,         0x00,     fixed | 32,                          32,         32),
        (1,         0x00,     fixed | 28 | 1 << 16,                36,         36),
        (2,         0x00,     fixed | 24 | 2 << 16,                40,         40),
        (4,         0x00,     fixed | 24 | 4 << 16,                40,         44),
        (5,         0x20,     fixed | 24 | 5 << 16 | 1 << 19,      40,         48),
        (6,         0x20,     fixed | 24 | 5 << 16 | 1 << 19,      40,         48),
    ];
    for (mmfr0, mmfr1, vtcr, guest_bits, physical_bits) in cases {
        let geometry = Geometry::from_id_registers(mmfr0, mmfr1).expect("4 KiB granule");
        assert_eq!(geometry.vtcr(), vtcr, "PARange {mmfr0}");
        assert_eq!(geometry.guest_size(), 1 << guest_bits);
        assert_eq!(geometry.physical_size(), 1 << physical_bits);
        assert_eq!(geometry.vmid_bits(), if mmfr1 == 0 { 8 } else { 16 });
    }
}

#[test]
fn a_machine_without_4_kib_pages_is_refused() {
    let (stage1_missing, stage2_missing, stage2_present) = (0xf << 28, 1 << 40, 2 << 40);
    assert_eq!(Geometry::from_id_registers(stage1_missing, 0), None);
    assert_eq!(Geometry::from_id_registers(stage2_missing, 0), None);
    assert!(Geometry::from_id_registers(stage1_missing | stage2_present, 0).is_some());
}

#[test]
fn cores_that_differ_meet_at_the_smaller_one() {
    let small = Geometry::from_id_registers(2, 0).expect("4 KiB granule");
    assert_eq!(geometry().intersection(small), small);
}

#[test]
fn vttbr_holds_the_vmid_above_a_root_of_two_tables() {
    let stage2 = empty();
    let vttbr = stage2.vttbr(0xbeef);
    assert_eq!(vttbr >> 48, 0xbeef);
    assert_eq!(vttbr % 0x2000, 0);
    assert_ne!(vttbr << 16, 0);
}

#[test]
fn entries_are_as_large_as_both_alignments_permit() {
    let mut stage2 = empty();
    stage2
        .map(RAM, RAM, 2 * GIB + MIB2 + KIB4, Attributes::RAM, &Tlb)
        .expect("free");
    assert_eq!(entry_size(&stage2, RAM), Some(GIB));
    assert_eq!(entry_size(&stage2, RAM + 2 * GIB - 1), Some(GIB));
    assert_eq!(entry_size(&stage2, RAM + 2 * GIB), Some(MIB2));
    assert_eq!(entry_size(&stage2, RAM + 2 * GIB + MIB2), Some(KIB4));
    assert_eq!(entry_size(&stage2, RAM + 2 * GIB + MIB2 + KIB4), None);
    assert_eq!(entry_size(&stage2, RAM - 1), None);

    let mut skewed = empty();
    skewed
        .map(RAM, RAM + MIB2, GIB, Attributes::RAM, &Tlb)
        .expect("free");
    assert_eq!(entry_size(&skewed, RAM), Some(MIB2));
    skewed
        .map(0, KIB4, MIB2, Attributes::RAM, &Tlb)
        .expect("free");
    assert_eq!(entry_size(&skewed, 0), Some(KIB4));
}

#[test]
fn the_second_root_table_and_the_last_byte_translate() {
    let mut stage2 = empty();
    let last = (1 << 40) - KIB4;
    stage2
        .map(last, 0x8000_0000, KIB4, Attributes::ROM, &Tlb)
        .expect("free");
    let found = stage2.translate((1 << 40) - 1).expect("mapped");
    assert_eq!(found.address, 0x8000_0fff);
    assert_eq!(found.attributes, Attributes::ROM);
    for beyond in [1 << 40, u64::MAX] {
        assert_eq!(stage2.translate(beyond), None);
    }
}

#[test]
fn bad_ranges_are_refused_and_change_nothing() {
    let mut stage2 = empty();
    let mut map = |guest, host, size| stage2.map(guest, host, size, Attributes::RAM, &Tlb);
    assert_eq!(map(1, 0, KIB4), Err(Stage2Error::Misaligned));
    assert_eq!(map(0, 0x800, KIB4), Err(Stage2Error::Misaligned));
    assert_eq!(map(0, 0, 0x800), Err(Stage2Error::Misaligned));
    assert_eq!(map(0, 0, 0), Err(Stage2Error::OutOfRange));
    assert_eq!(map((1 << 40) - KIB4, 0, MIB2), Err(Stage2Error::OutOfRange));
    assert_eq!(map(u64::MAX - 0xfff, 0, KIB4), Err(Stage2Error::OutOfRange));
    assert_eq!(map(0, 1 << 48, KIB4), Err(Stage2Error::OutOfRange));
    assert_eq!(map(0, u64::MAX - 0xfff, KIB4), Err(Stage2Error::OutOfRange));
    assert_eq!(map(RAM, RAM, MIB2), Ok(()));
    assert_eq!(
        map(RAM + MIB2 - KIB4, 0, MIB2),
        Err(Stage2Error::AlreadyMapped)
    );
    assert_eq!(map(0, 0, 4 * GIB), Err(Stage2Error::AlreadyMapped));
    let protect = stage2.protect(RAM, 2 * MIB2, Attributes::ROM, &Tlb);
    assert_eq!(protect, Err(Stage2Error::NotMapped));
    assert_eq!(entry_size(&stage2, RAM), Some(MIB2));
    assert_eq!(entry_size(&stage2, RAM + MIB2), None);
}

#[test]
fn protecting_a_page_splits_its_gigabyte_and_changes_nothing_else() {
    let mut stage2 = empty();
    stage2
        .map(RAM, 2 * GIB, GIB, Attributes::RAM, &Tlb)
        .expect("free");
    let page = RAM + 5 * MIB2 + 7 * KIB4;
    stage2
        .protect(page, KIB4, Attributes::ROM, &Tlb)
        .expect("mapped");
    assert_tlbs_are_current();
    let expect = |guest: u64, attributes, size| {
        let found = stage2.translate(guest).expect("mapped");
        assert_eq!(found.address, guest - RAM + 2 * GIB);
        assert_eq!((found.attributes, found.entry_size), (attributes, size));
    };
    expect(page, Attributes::ROM, KIB4);
    expect(page - 1, Attributes::RAM, KIB4);
    expect(page + KIB4, Attributes::RAM, KIB4);
    expect(RAM + 4 * MIB2, Attributes::RAM, MIB2);
    expect(RAM + GIB - 1, Attributes::RAM, MIB2);
}

#[test]
fn unmapping_returns_the_tables_that_became_empty() {
    let mut stage2 = empty();
    stage2
        .map(RAM, RAM, 2 * KIB4, Attributes::RAM, &Tlb)
        .expect("free");
    let first = stage2.unmap(RAM, KIB4, &Tlb).expect("in range");
    assert!(first.is_empty());
    let second = stage2.unmap(RAM, MIB2, &Tlb).expect("in range");
    assert_eq!(second.len(), 2, "a level 3 table and its level 2 table");
    assert_tlbs_are_current();
    assert!(stage2.is_empty());
}

/// Counts what it is asked to invalidate.
struct Recorder(core::cell::RefCell<Vec<(u64, u64)>>);

impl TlbMaintenance for Recorder {
    fn publish(&self) {
        Tlb.publish();
    }
    fn invalidate(&self, range: Range<u64>) {
        self.0.borrow_mut().push((range.start, range.end));
        Tlb.invalidate(range);
    }
}

#[test]
fn only_what_was_mapped_is_invalidated() {
    let tlb = Recorder(Vec::new().into());
    let mut stage2 = empty();
    stage2
        .map(RAM, RAM, GIB, Attributes::RAM, &tlb)
        .expect("free");
    drop(stage2.unmap(0, RAM, &tlb));
    assert!(tlb.0.borrow().is_empty(), "nothing was there");
    drop(stage2.unmap(0, 1 << 40, &tlb));
    assert_eq!(tlb.0.take(), Vec::from([(RAM, RAM + GIB)]));
}
