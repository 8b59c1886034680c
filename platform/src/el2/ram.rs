//! RAM that the hypervisor reaches on a guest's behalf, or that holds what the guest is started with.

use super::mmu::{self, Access, MapRamError};
use core::{arch::asm, ops::Range};

/// A range of physical RAM that EL2 maps and that only this value reaches on EL2's side.
///
/// A guest may read and write the same bytes at any time, so they are only ever copied: no reference into them exists.
#[derive(Debug)]
pub struct Ram {
    range: Range<u64>,
}

/// A part of what was to be copied lies outside the RAM.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct OutOfRange;

impl Ram {
    /// Maps `range`, whole 4 KiB pages of RAM that nothing else uses (see `BootInfo::is_free`). Not for exit paths.
    ///
    /// # Errors
    /// The range is no such RAM, or is mapped already.
    pub fn map(range: Range<u64>, access: Access) -> Result<Self, MapRamError> {
        mmu::map_ram(&range, access)?;
        Ok(Self { range })
    }

    /// The physical addresses.
    pub fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    /// Copies all of `bytes` from `offset` bytes into the RAM.
    ///
    /// # Errors
    /// Nothing is copied unless all of it lies inside.
    pub fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<(), OutOfRange> {
        let source = self.address(offset, bytes.len())?;
        // SAFETY: `address` checked that the whole source is mapped RAM, which no Rust value shares; a guest that writes
        // it meanwhile can only change which bytes are read. `bytes` is a Rust value, so it lies elsewhere.
        unsafe {
            core::ptr::copy_nonoverlapping(source as *const u8, bytes.as_mut_ptr(), bytes.len())
        }
        Ok(())
    }

    /// Copies all of `bytes` to `offset` bytes into the RAM, which was mapped [`Access::ReadWrite`].
    ///
    /// # Errors
    /// Nothing is copied unless all of it lies inside.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), OutOfRange> {
        let destination = self.address(offset, bytes.len())?;
        // SAFETY: as in `read`; nobody holds a reference into the RAM, so writing it breaks no Rust value.
        unsafe {
            core::ptr::copy_nonoverlapping(bytes.as_ptr(), destination as *mut u8, bytes.len())
        }
        Ok(())
    }

    /// Copies `length` bytes from `source_offset` in `source` to `offset` here, and writes them back to memory, where a
    /// guest with its caches off reads them.
    ///
    /// # Errors
    /// Nothing is copied unless both sides lie inside.
    pub fn copy_from(
        &self,
        offset: u64,
        source: &Ram,
        source_offset: u64,
        length: u64,
    ) -> Result<(), OutOfRange> {
        let bytes = usize::try_from(length).map_err(|_| OutOfRange)?;
        let from = source.address(source_offset, bytes)?;
        let to = self.address(offset, bytes)?;
        // SAFETY: both sides were checked to be mapped RAM; `map` refuses a range twice, so two `Ram`s never overlap, and
        // within one the copy is told so by `ptr::copy`.
        unsafe { core::ptr::copy(from as *const u8, to as *mut u8, bytes) }
        self.clean_and_invalidate(offset..offset + length);
        Ok(())
    }

    /// Makes these bytes zero, in memory too, where a guest with its caches off reads them; what lies outside the RAM is left
    /// out. What is zero already is only read, so RAM that no guest has used costs the machine's host nothing. The RAM was
    /// mapped [`Access::ReadWrite`], and no guest runs in it.
    pub fn scrub(&self, offsets: Range<u64>) {
        const WORD: usize = size_of::<u64>();
        // What a guest wrote past the caches is not in the lines that EL2 has read before: those would say that it is zero.
        self.clean_and_invalidate(offsets.clone());
        let size = self.range.end - self.range.start;
        let start = (self.range.start + offsets.start.min(size)) as usize;
        let end = (self.range.start + offsets.end.min(size)) as usize;
        let mut is_dirty = false;
        for address in (start & !(WORD - 1)..end).step_by(WORD) {
            let word = address as *mut u64;
            // SAFETY: the range is mapped RAM, of whole pages, so aligned words at its ends lie inside; nobody holds a
            // reference into it, so writing it breaks no Rust value.
            unsafe {
                if word.read_volatile() != 0 {
                    word.write_volatile(0);
                    is_dirty = true;
                }
            }
        }
        if is_dirty {
            self.clean_and_invalidate(offsets);
        }
    }

    /// Writes what caches hold of these offsets back to memory and drops it from them, on all pCPUs; what lies outside the
    /// RAM is left out. [DDI0487: DC CIVAC, to the point of coherency]
    pub fn clean_and_invalidate(&self, offsets: Range<u64>) {
        let size = self.range.end - self.range.start;
        let line = cache_line_bytes();
        let start = self.range.start + offsets.start.min(size);
        let end = self.range.start + offsets.end.min(size);
        let mut address = start & !(line - 1);
        while address < end {
            // SAFETY: cleaning writes back what was written already, so memory keeps its value; the address is mapped.
            unsafe { asm!("dc civac, {}", in(reg) address, options(nostack, preserves_flags)) }
            address += line;
        }
        // SAFETY: a barrier.
        unsafe { asm!("dsb sy", options(nostack, preserves_flags)) }
    }

    fn address(&self, offset: u64, length: usize) -> Result<usize, OutOfRange> {
        let size = self.range.end - self.range.start;
        let end = offset.checked_add(length as u64).ok_or(OutOfRange)?;
        if end > size {
            return Err(OutOfRange);
        }
        Ok((self.range.start + offset) as usize)
    }
}

impl Drop for Ram {
    /// EL2 reaches the range no longer. Not for exit paths.
    fn drop(&mut self) {
        mmu::unmap_ram(&self.range).expect("what was mapped can be unmapped");
    }
}

/// The smallest data cache line of any cache, in bytes. [DDI0487: CTR_EL0.DminLine]
fn cache_line_bytes() -> u64 {
    let cache_type: u64;
    // SAFETY: an ID register is only read.
    unsafe {
        asm!("mrs {}, ctr_el0", out(reg) cache_type, options(nomem, nostack, preserves_flags))
    }
    const WORD_BYTES: u64 = 4;
    WORD_BYTES << (cache_type >> 16 & 0xf)
}
