//! One table and the tables below it, and how a range of them changes.

use alloc::{boxed::Box, collections::BTreeMap, vec::Vec};
use core::{
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
};

use super::descriptor::{self, Attributes, EMPTY, VALID};
use super::geometry::{ENTRIES, LEAF_LEVEL, Piece, ROOT_ENTRIES, entry_size, index, pieces};
use super::{PhysicalAddress, TlbMaintenance, Translation};

#[repr(C, align(8192))]
struct RootTable([AtomicU64; ROOT_ENTRIES]);

#[repr(C, align(4096))]
struct Table([AtomicU64; ENTRIES]);

enum Storage {
    Root(Box<RootTable>),
    Table(Box<Table>),
}

const _: () = assert!(size_of::<RootTable>() == align_of::<RootTable>());
const _: () = assert!(size_of::<Table>() == align_of::<Table>());

/// A table with what it owns. An entry that has a child here is a table entry; any other is a leaf or empty.
pub(super) struct Node {
    storage: Storage,
    children: BTreeMap<u16, Node>,
}

/// Where a range is mapped to.
pub(super) struct Target {
    /// Added to an intermediate address, it gives the physical one, modulo 2^64.
    pub(super) offset: u64,
    pub(super) attributes: Attributes,
}

/// A change that makes entries invalid: what is to be invalidated, and freed after that.
pub(super) struct Edit<'a, P, T: TlbMaintenance> {
    physical: &'a P,
    tlb: &'a T,
    stale: Option<Range<u64>>,
    retired: Vec<Node>,
}

impl<'a, P: PhysicalAddress, T: TlbMaintenance> Edit<'a, P, T> {
    pub(super) fn new(physical: &'a P, tlb: &'a T) -> Self {
        Self {
            physical,
            tlb,
            stale: None,
            retired: Vec::new(),
        }
    }

    /// Makes the TLBs drop what was made invalid; the tables that were unlinked can be freed after that.
    pub(super) fn finish(self) -> Vec<Node> {
        if let Some(range) = self.stale {
            self.tlb.invalidate(range);
        }
        self.retired
    }

    fn add_stale(&mut self, span: &Range<u64>) {
        let stale = self.stale.get_or_insert(span.clone());
        *stale = stale.start.min(span.start)..stale.end.max(span.end);
    }
}

impl Node {
    /// A root that maps nothing.
    pub(super) fn root() -> Self {
        let table = RootTable([const { AtomicU64::new(EMPTY) }; ROOT_ENTRIES]);
        Self::with(Storage::Root(Box::new(table)))
    }

    fn table() -> Self {
        let table = Table([const { AtomicU64::new(EMPTY) }; ENTRIES]);
        Self::with(Storage::Table(Box::new(table)))
    }

    fn with(storage: Storage) -> Self {
        Self {
            storage,
            children: BTreeMap::new(),
        }
    }

    /// Where the walker finds this table.
    pub(super) fn physical_address(&self, physical: &impl PhysicalAddress) -> u64 {
        physical.physical_address(self.entries().as_ptr().expose_provenance())
    }

    pub(super) fn is_free(&self, level: u32, range: Range<u64>) -> bool {
        pieces(level, range).all(|piece| match self.children.get(&piece.index) {
            Some(child) => child.is_free(level + 1, piece.range),
            None => self.entry(piece.index) == EMPTY,
        })
    }

    pub(super) fn is_mapped(&self, level: u32, range: Range<u64>) -> bool {
        pieces(level, range).all(|piece| match self.children.get(&piece.index) {
            Some(child) => child.is_mapped(level + 1, piece.range),
            None => self.entry(piece.index) != EMPTY,
        })
    }

    pub(super) fn translate(&self, level: u32, guest: u64) -> Option<Translation> {
        let index = index(level, guest);
        if let Some(child) = self.children.get(&index) {
            return child.translate(level + 1, guest);
        }
        let entry = self.entry(index);
        let entry_size = entry_size(level);
        descriptor::is_valid(entry).then(|| Translation {
            address: descriptor::address(entry) | guest & (entry_size - 1),
            attributes: descriptor::attributes(entry),
            entry_size,
        })
    }

    /// Maps `range`, which is free.
    pub(super) fn map(
        &mut self,
        level: u32,
        range: Range<u64>,
        target: &Target,
        physical: &impl PhysicalAddress,
    ) {
        for piece in pieces(level, range) {
            let address = piece.range.start.wrapping_add(target.offset);
            if piece.is_whole() && address.is_multiple_of(entry_size(level)) {
                self.set(&piece, descriptor::leaf(level, address, target.attributes));
            } else if let Some(child) = self.children.get_mut(&piece.index) {
                child.map(level + 1, piece.range, target, physical);
            } else {
                let mut child = Self::table();
                child.map(level + 1, piece.range.clone(), target, physical);
                self.link(&piece, child, physical);
            }
        }
    }

    /// Makes all of `range` empty; the TLBs are told at the end of `edit`.
    pub(super) fn unmap<P: PhysicalAddress, T: TlbMaintenance>(
        &mut self,
        level: u32,
        range: Range<u64>,
        edit: &mut Edit<'_, P, T>,
    ) {
        for piece in pieces(level, range) {
            if self.entry(piece.index) == EMPTY {
                continue;
            }
            if !piece.is_whole() {
                let child = self.table_below(level, &piece, edit);
                child.unmap(level + 1, piece.range.clone(), edit);
                if !child.is_empty() {
                    continue;
                }
            }
            self.set(&piece, EMPTY);
            edit.add_stale(&piece.span);
            edit.retired.extend(self.children.remove(&piece.index));
        }
    }

    /// Makes the leaves of `range` invalid without forgetting them; the TLBs are told at the end of `edit`.
    pub(super) fn hide<P: PhysicalAddress, T: TlbMaintenance>(
        &mut self,
        level: u32,
        range: Range<u64>,
        edit: &mut Edit<'_, P, T>,
    ) {
        for piece in pieces(level, range) {
            if piece.is_whole() && !self.children.contains_key(&piece.index) {
                self.set(&piece, self.entry(piece.index) & !VALID);
                edit.add_stale(&piece.span);
            } else {
                let child = self.table_below(level, &piece, edit);
                child.hide(level + 1, piece.range, edit);
            }
        }
    }

    /// Makes the hidden leaves of `range` valid again, with new attributes.
    pub(super) fn show(&mut self, level: u32, range: Range<u64>, attributes: Attributes) {
        for piece in pieces(level, range) {
            if let Some(child) = self.children.get_mut(&piece.index) {
                child.show(level + 1, piece.range, attributes);
            } else {
                let address = descriptor::address(self.entry(piece.index));
                self.set(&piece, descriptor::leaf(level, address, attributes));
            }
        }
    }

    /// The table below `piece`; a block there is split first, by break-before-make.
    fn table_below<P: PhysicalAddress, T: TlbMaintenance>(
        &mut self,
        level: u32,
        piece: &Piece,
        edit: &mut Edit<'_, P, T>,
    ) -> &mut Self {
        if !self.children.contains_key(&piece.index) {
            let block = self.entry(piece.index);
            let child = Self::parts_of(level, block);
            self.set(piece, EMPTY);
            edit.tlb.invalidate(piece.span.clone());
            self.link(piece, child, edit.physical);
        }
        self.children
            .get_mut(&piece.index)
            .expect("a part of an entry is in the table below it")
    }

    /// A table that maps what the leaf `block` of `level` maps.
    fn parts_of(level: u32, block: u64) -> Self {
        let child = Self::table();
        let attributes = descriptor::attributes(block);
        let mut address = descriptor::address(block);
        for entry in child.entries() {
            entry.store(
                descriptor::leaf(level + 1, address, attributes),
                Ordering::Relaxed,
            );
            address += entry_size(level + 1);
        }
        child
    }

    fn link(&mut self, piece: &Piece, child: Self, physical: &impl PhysicalAddress) {
        self.set(piece, descriptor::table(child.physical_address(physical)));
        self.children.insert(piece.index, child);
    }

    /// No entry is in use.
    pub(super) fn is_empty(&self) -> bool {
        self.entries()
            .iter()
            .all(|entry| entry.load(Ordering::Relaxed) == EMPTY)
    }

    fn entries(&self) -> &[AtomicU64] {
        match &self.storage {
            Storage::Root(root) => &root.0,
            Storage::Table(table) => &table.0,
        }
    }

    fn entry(&self, index: u16) -> u64 {
        self.entries()[usize::from(index)].load(Ordering::Relaxed)
    }

    /// The one place that changes an entry which the hardware may be reading.
    ///
    /// Release: a walker that sees a table entry also sees the table's own entries, which were written before.
    fn set(&self, piece: &Piece, value: u64) {
        #[cfg(test)]
        super::model::journal_write(piece.span.clone(), self.entry(piece.index), value);
        self.entries()[usize::from(piece.index)].store(value, Ordering::Release);
    }
}

// A page is never split: ranges are multiples of it.
const _: () = assert!(entry_size(LEAF_LEVEL) == super::geometry::PAGE_SIZE);
