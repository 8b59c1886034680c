//! What EL2 itself can reach, and how: stage 1 of EL2, identity-mapped, writable or executable but never both.
//!
//! ```text
//! code RX | constants R | data RW | stacks RW, guard pages unmapped | heap RW | device tree R | GIC, UART device
//! ```
//! Guest RAM is not mapped unless somebody asks (`Ram::map`). Stage 2, which is the guest's, is elsewhere
//! (`trapline-vcpu`). [DDI0487: The AArch64 Virtual Memory System Architecture]

use super::{relax::Lock, stacks::Stacks, symbols};
use crate::dt::{MAX_PCPUS, Machine};
use aarch64_cpu::asm::barrier;
use aarch64_paging::{
    descriptor::{Descriptor, El23Attributes as Attributes},
    idmap::IdMap,
    paging::{El2, MemoryRegion},
};
use core::{
    arch::{asm, naked_asm},
    ops::Range,
};

/// With 39 bits of address, tables begin at level 1: 512 GiB, enough for what `virt` has.
const ROOT_LEVEL: usize = 1;
const LIMIT: u64 = 1 << 39;
const PAGE_SIZE: u64 = 4096;

/// The RAM that the boot tables map.
pub(super) const BOOT_RAM: Range<u64> = 0x4000_0000..0x8000_0000;

/// Attribute 0 is normal memory, write-back; attribute 1 is Device-nGnRE. [DDI0487: MAIR_EL2]
const MAIR: u64 = 0x04ff;

/// RES1 bits 31 and 23; inner shareable, write-back walks; 4 KiB pages; T0SZ. PS is added at run time.
/// [DDI0487: TCR_EL2]
const TCR: u64 =
    1 << 31 | 1 << 23 | 0b11 << 12 | 0b01 << 10 | 0b01 << 8 | (64 - LIMIT.ilog2() as u64);

/// RES1 bits, with the MMU and caches off. [DDI0487: SCTLR_EL2]
const SCTLR_OFF: u64 = 0x30c5_0830;
/// M, C, I, and SA: the boot tables know no W^X.
pub(super) const SCTLR_BOOT: u64 = SCTLR_OFF | 1 | 1 << 2 | 1 << 3 | 1 << 12;
/// And WXN: whatever is writable is never executed, even if a table says so.
pub(super) const SCTLR: u64 = SCTLR_BOOT | 1 << 19;

/// A level-1 table.
#[repr(C, align(4096))]
pub(super) struct Table([u64; 512]);

/// The first GiB is devices, the second is RAM; used until [`initialize`].
pub(super) static BOOT_TABLES: Table = {
    const BLOCK: u64 = 0b01;
    const ACCESSED: u64 = 1 << 10;
    const INNER_SHAREABLE: u64 = 0b11 << 8;
    const EXECUTE_NEVER: u64 = 1 << 54;
    const DEVICE: u64 = 1 << 2;
    let mut table = [0; 512];
    table[0] = BLOCK | ACCESSED | DEVICE | EXECUTE_NEVER;
    table[1] = BOOT_RAM.start | BLOCK | ACCESSED | INNER_SHAREABLE;
    Table(table)
};

/// Switches the MMU and the caches on with the tables at x0 and SCTLR_EL2 = x1, whatever was on before.
///
/// The MMU is off in between, because two sets of tables that map an address differently must never be live at once.
///
/// # Safety
/// The tables map this code, the caller's, and what it goes on to use, each to its own address. It changes x2 and
/// x3, and uses no stack.
#[unsafe(naked)]
#[unsafe(link_section = ".text.boot")]
pub(super) unsafe extern "C" fn enable(tables: u64, sctlr: u64) {
    naked_asm!(
        "ldr x2, ={off}",
        "dsb sy",
        "msr sctlr_el2, x2",
        "isb",
        "ldr x2, ={mair}",
        "msr mair_el2, x2",
        "ldr x2, ={tcr}",
        "mrs x3, id_aa64mmfr0_el1",
        "and x3, x3, #0xf",             // PARange
        "cmp x3, #5",                   // 48 bits: more needs larger descriptors
        "b.ls 2f",
        "mov x3, #5",
        "2: orr x2, x2, x3, lsl #16",   // PS
        "msr tcr_el2, x2",
        "msr ttbr0_el2, x0",
        "tlbi alle2",
        "ic iallu",
        "dsb nsh",
        "isb",
        "msr sctlr_el2, x1",
        "isb",
        "ret",
        off = const SCTLR_OFF,
        mair = const MAIR,
        tcr = const TCR,
    )
}

/// What may be done with a mapped range of RAM; none may be executed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Access {
    /// Reads.
    ReadOnly,
    /// Reads and writes.
    ReadWrite,
}

/// The bits that every mapping has. USER_RES1 is AP[1], which is RES1 with one privilege level.
const VALID: Attributes = Attributes::VALID
    .union(Attributes::ACCESSED)
    .union(Attributes::USER_RES1);
const NORMAL: Attributes = VALID
    .union(Attributes::ATTRIBUTE_INDEX_0)
    .union(Attributes::INNER_SHAREABLE);
const CODE: Attributes = NORMAL.union(Attributes::READ_ONLY);
const READ_ONLY: Attributes = CODE.union(Attributes::XN);
const READ_WRITE: Attributes = NORMAL.union(Attributes::XN);
const DEVICE: Attributes = VALID
    .union(Attributes::ATTRIBUTE_INDEX_1)
    .union(Attributes::XN);

/// The tables in use, and what they map for good.
struct Tables {
    map: IdMap<El2>,
    memory: Range<u64>,
    image: Range<u64>,
    device_tree: Range<u64>,
    /// How much RAM is mapped that is not mapped for good, in bytes.
    lent: u64,
}

static TABLES: Lock<Option<Tables>> = Lock::new(None);

/// Builds the W^X tables and switches this pCPU to them. The boot pCPU calls it once.
pub(super) fn initialize(machine: &Machine<'_>, device_tree: &Range<u64>) {
    let mut map = IdMap::new(ROOT_LEVEL, El2);
    let mut add = |range: &Range<u64>, attributes| {
        map.map_range(&region(range), attributes)
            .expect("the image and the devices lie below 512 GiB, each in its own pages");
    };
    add(&symbols::text(), CODE);
    add(&symbols::rodata(), READ_ONLY);
    add(&symbols::data(), READ_WRITE);
    add(&symbols::stacks(), READ_WRITE);
    add(&symbols::heap(), READ_WRITE);
    for stacks in (0..MAX_PCPUS as u16).filter_map(Stacks::of) {
        add(&stacks.guard(), Attributes::empty());
    }
    add(device_tree, READ_ONLY);
    for device in machine.gic.regions().chain([&machine.uart]) {
        add(device, DEVICE);
    }
    let root = map.root_address().0 as u64;
    map.mark_active();
    *TABLES.lock() = Some(Tables {
        map,
        memory: machine.memory.clone(),
        image: symbols::image(),
        device_tree: device_tree.clone(),
        lent: 0,
    });
    barrier::dsb(barrier::SY);
    // SAFETY: the tables map everything that this pCPU uses from here on: the whole image, the heap (with the tables
    // themselves), the device tree and the devices. They live in a static and are never dropped.
    unsafe { enable(root, SCTLR) };
}

/// The root of the tables, for a pCPU that starts.
pub(super) fn root() -> u64 {
    let tables = TABLES.lock();
    let tables = tables.as_ref().expect("the boot pCPU has built the tables");
    tables.map.root_address().0 as u64
}

/// Why a range was not mapped or unmapped.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum MapRamError {
    /// It is empty, not made of whole 4 KiB pages, or not all RAM.
    Range,
    /// A part of it belongs to the hypervisor or holds the host's device tree, or is mapped already.
    Taken,
}

/// Maps RAM that is nobody else's and not mapped yet, on all pCPUs: each address to itself, cacheable, never executable.
///
/// It may allocate tables: not for exit paths.
pub(super) fn map_ram(range: &Range<u64>, access: Access) -> Result<(), MapRamError> {
    let attributes = match access {
        Access::ReadOnly => READ_ONLY,
        Access::ReadWrite => READ_WRITE,
    };
    change(range, |Tables { map, lent, .. }| {
        let mut refuse_mapped = |_: &MemoryRegion, entry: &Descriptor<Attributes>, _: usize| {
            if entry.is_valid() { Err(()) } else { Ok(()) }
        };
        map.walk_range(&region(range), &mut refuse_mapped)
            .map_err(|_| MapRamError::Taken)?;
        map.map_range(&region(range), attributes)
            .map_err(|_| MapRamError::Range)?;
        *lent += range.end - range.start;
        Ok(())
    })?;
    // A pCPU that has not seen the write yet would fault, so it is complete everywhere before this returns.
    barrier::dsb(barrier::ISHST);
    barrier::isb(barrier::SY);
    Ok(())
}

/// Maps the registers of a device on all pCPUs, each address to itself, for good. It does nothing if they are mapped.
///
/// It may allocate tables: not for exit paths.
///
/// # Errors
/// `Range`: it is not whole pages, or is RAM.
pub(super) fn map_device(range: &Range<u64>) -> Result<(), MapRamError> {
    let is_whole = range.start.is_multiple_of(PAGE_SIZE) && range.end.is_multiple_of(PAGE_SIZE);
    let mut tables = TABLES.lock();
    let Tables { map, memory, .. } = tables.as_mut().ok_or(MapRamError::Range)?;
    let is_ram = range.start < memory.end && memory.start < range.end;
    if range.is_empty() || !is_whole || is_ram {
        return Err(MapRamError::Range);
    }
    map.map_range(&region(range), DEVICE)
        .map_err(|_| MapRamError::Range)?;
    barrier::dsb(barrier::ISHST);
    barrier::isb(barrier::SY);
    Ok(())
}

/// How much RAM is mapped beside the hypervisor's own, in bytes.
pub fn mapped_ram() -> u64 {
    TABLES.lock().as_ref().map_or(0, |tables| tables.lent)
}

/// Takes back what [`map_ram`] gave: no pCPU reaches the range when this returns.
pub(super) fn unmap_ram(range: &Range<u64>) -> Result<(), MapRamError> {
    change(range, |Tables { map, lent, .. }| {
        map.map_range(&region(range), Attributes::empty())
            .map_err(|_| MapRamError::Range)?;
        *lent -= range.end - range.start;
        Ok(())
    })?;
    // SAFETY: dropping cached translations changes no memory, and no Rust value lives in the range, because
    // `change` refuses whatever is the hypervisor's own.
    unsafe {
        asm!(
            "dsb ishst",
            "tlbi alle2is",
            "dsb ish",
            "isb",
            options(nostack, preserves_flags)
        );
    }
    Ok(())
}

/// Applies `change` to the tables, unless `range` is not whole pages of RAM or touches what is mapped for good.
fn change(
    range: &Range<u64>,
    change: impl FnOnce(&mut Tables) -> Result<(), MapRamError>,
) -> Result<(), MapRamError> {
    let is_whole = range.start.is_multiple_of(PAGE_SIZE) && range.end.is_multiple_of(PAGE_SIZE);
    let mut tables = TABLES.lock();
    let tables = tables.as_mut().ok_or(MapRamError::Range)?;
    let is_ram = tables.memory.start <= range.start && range.end <= tables.memory.end;
    if range.is_empty() || !is_whole || !is_ram {
        return Err(MapRamError::Range);
    }
    let overlaps = |taken: &Range<u64>| range.start < taken.end && taken.start < range.end;
    if overlaps(&tables.image) || overlaps(&tables.device_tree) {
        return Err(MapRamError::Taken);
    }
    change(tables)
}

fn region(range: &Range<u64>) -> MemoryRegion {
    MemoryRegion::new(range.start as usize, range.end as usize)
}
