//! Which physical memory a guest reaches, and how: the stage 2 translation of one VM.
//!
//! Rules kept here:
//! - A live entry never changes into another live one: it is made invalid, the TLBs drop it, then the new one is
//!   written. A guest that touches the range in between exits with a translation fault; whoever answers that fault finds
//!   the address with [`Stage2::translate`] and retries the access. [DDI0487: break-before-make]
//! - A table that is unlinked stays allocated in [`RetiredTables`] until the caller drops it.
//! - Every table has at least one entry in use.
//!
//! ```text
//! level 1: 1 GiB each, 1024 entries (2 tables in a row)  ->  level 2: 2 MiB each  ->  level 3: 4 KiB each
//! ```
//! The tables are owned by a tree of Rust values, so nothing here follows an address out of a descriptor.
//! Elsewhere: VMIDs (`vmid`), the TLB instructions (`arch`, as [`TlbMaintenance`]), who locks the tables of a running VM
//! (the VM; faults only read).

mod descriptor;
mod geometry;
mod node;

use alloc::vec::Vec;
use core::ops::Range;

pub use descriptor::{Attributes, Memory};
pub use geometry::Geometry;

use geometry::{PAGE_SIZE, ROOT_LEVEL};
use node::{Edit, Node, Target};

/// Where the hypervisor's own memory is, as the table walker of the MMU sees it.
pub trait PhysicalAddress {
    /// The physical address of the byte at `address` of the hypervisor's memory.
    fn physical_address(&self, address: usize) -> u64;
}

/// What the TLBs of all pCPUs are told about one VM. Called on the pCPU that changes the tables, with them locked.
pub trait TlbMaintenance {
    /// Returns once the table walkers of all pCPUs see every entry written before. [DDI0487: DSB ISHST]
    fn publish(&self);

    /// Returns once no TLB of any pCPU holds anything that depends on the entries for `range`, intermediate physical
    /// addresses of this VM: neither stage 2 nor combined entries, nor those of table walks. It publishes first.
    ///
    /// `range` can be as large as the guest's memory: past some size, dropping all of the VM's entries is cheaper.
    /// [DDI0487: TLBI IPAS2E1IS, TLBI VMALLE1IS, TLBI VMALLS12E1IS]
    fn invalidate(&self, range: Range<u64>);
}

/// Which rule a change of the tables would break. Nothing has changed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stage2Error {
    /// An address or a size is not a multiple of 4 KiB.
    Misaligned,
    /// The range is empty, wraps, or does not fit into the intermediate or the physical address space.
    OutOfRange,
    /// Part of the range is mapped already.
    AlreadyMapped,
    /// Part of the range is not mapped.
    NotMapped,
}

/// Tables that no entry refers to any more.
///
/// Drop them once every pCPU that may still walk them has dropped the VM's VMID; [`TlbMaintenance::invalidate`] has
/// returned by then, so a broadcast invalidation suffices.
#[derive(Default)]
#[must_use = "dropping the tables frees them: first every pCPU must have dropped the VM's translations"]
pub struct RetiredTables(Vec<Node>);

impl RetiredTables {
    /// How many tables are to be freed, those below them not counted.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// No table became unused.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Where an intermediate physical address leads.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Translation {
    /// The physical address.
    pub address: u64,
    /// What the guest may do there.
    pub attributes: Attributes,
    /// The size in bytes of the entry that maps it: 1 GiB, 2 MiB or 4 KiB.
    pub entry_size: u64,
}

/// The stage 2 tables of one VM.
///
/// Dropping it frees all tables: first every pCPU must have dropped the VM's VMID and its VTTBR_EL2.
pub struct Stage2<P> {
    root: Node,
    geometry: Geometry,
    physical: P,
}

impl<P: PhysicalAddress> Stage2<P> {
    /// Tables that map nothing. `geometry` is what all pCPUs of the machine can do.
    pub fn new(geometry: Geometry, physical: P) -> Self {
        Self {
            root: Node::root(),
            geometry,
            physical,
        }
    }

    /// The value of VTTBR_EL2 while a vCPU of this VM is bound. [DDI0487: VTTBR_EL2]
    pub fn vttbr(&self, vmid: u16) -> u64 {
        u64::from(vmid) << 48 | self.root.physical_address(&self.physical)
    }

    /// What the tables look like; [`Geometry::vtcr`] goes with [`Stage2::vttbr`].
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Maps `size` bytes from intermediate address `guest` to physical address `host`, by the largest entries that the
    /// alignment of both permits.
    pub fn map(
        &mut self,
        guest: u64,
        host: u64,
        size: u64,
        attributes: Attributes,
        tlb: &impl TlbMaintenance,
    ) -> Result<(), Stage2Error> {
        let range = self.checked(guest, size)?;
        check_alignment(host)?;
        let host_end = host.checked_add(size).ok_or(Stage2Error::OutOfRange)?;
        if host_end > self.geometry.physical_size() {
            return Err(Stage2Error::OutOfRange);
        }
        if !self.root.is_free(ROOT_LEVEL, range.clone()) {
            return Err(Stage2Error::AlreadyMapped);
        }
        let target = Target {
            offset: host.wrapping_sub(guest),
            attributes,
        };
        self.root.map(ROOT_LEVEL, range, &target, &self.physical);
        tlb.publish();
        Ok(())
    }

    /// Leaves nothing mapped in `size` bytes from `guest`; parts may be unmapped already.
    pub fn unmap(
        &mut self,
        guest: u64,
        size: u64,
        tlb: &impl TlbMaintenance,
    ) -> Result<RetiredTables, Stage2Error> {
        let range = self.checked(guest, size)?;
        let mut edit = Edit::new(&self.physical, tlb);
        self.root.unmap(ROOT_LEVEL, range, &mut edit);
        Ok(RetiredTables(edit.finish()))
    }

    /// Gives all of `size` bytes from `guest` new attributes; the whole range must be mapped.
    pub fn protect(
        &mut self,
        guest: u64,
        size: u64,
        attributes: Attributes,
        tlb: &impl TlbMaintenance,
    ) -> Result<(), Stage2Error> {
        let range = self.checked(guest, size)?;
        if !self.root.is_mapped(ROOT_LEVEL, range.clone()) {
            return Err(Stage2Error::NotMapped);
        }
        let mut edit = Edit::new(&self.physical, tlb);
        self.root.hide(ROOT_LEVEL, range.clone(), &mut edit);
        let retired = edit.finish();
        debug_assert!(retired.is_empty(), "changing attributes unlinks no table");
        self.root.show(ROOT_LEVEL, range, attributes);
        tlb.publish();
        Ok(())
    }

    /// Where `guest` leads; `None` if it is not mapped. Any value is fine: faults ask with what the guest used.
    pub fn translate(&self, guest: u64) -> Option<Translation> {
        if guest >= self.geometry.guest_size() {
            return None;
        }
        self.root.translate(ROOT_LEVEL, guest)
    }

    /// Nothing is mapped.
    pub fn is_empty(&self) -> bool {
        self.root.is_empty()
    }

    fn checked(&self, guest: u64, size: u64) -> Result<Range<u64>, Stage2Error> {
        check_alignment(guest | size)?;
        let end = guest.checked_add(size).ok_or(Stage2Error::OutOfRange)?;
        if size == 0 || end > self.geometry.guest_size() {
            return Err(Stage2Error::OutOfRange);
        }
        Ok(guest..end)
    }
}

fn check_alignment(value: u64) -> Result<(), Stage2Error> {
    if value.is_multiple_of(PAGE_SIZE) {
        Ok(())
    } else {
        Err(Stage2Error::Misaligned)
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
