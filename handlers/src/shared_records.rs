//! Records that the hypervisor writes and a VM's guest can only read: one of 64 bytes for each vCPU, in pages of their own.

use alloc::boxed::Box;

const RECORD_SIZE: usize = 64;
const RECORDS_PER_PAGE: usize = SHARED_PAGE_SIZE / RECORD_SIZE;

/// How large the pages are that a guest shares with the hypervisor, in bytes: what stage 2 maps.
pub const SHARED_PAGE_SIZE: usize = 4096;

#[repr(C, align(4096))]
struct Page<R>([R; RECORDS_PER_PAGE]);

/// A record `R` for each vCPU of a VM. `R` fills a cache line, since each is written on another pCPU, and has no padding, which
/// the guest would read.
pub(crate) struct SharedRecords<R> {
    base: u64,
    pages: Box<[Page<R>]>,
}

impl<R: Default> SharedRecords<R> {
    /// Default records for `vcpu_count` vCPUs, which the guest finds from `base` on (a multiple of the page size).
    pub fn new(base: u64, vcpu_count: usize) -> Self {
        const {
            assert!(size_of::<R>() == RECORD_SIZE && size_of::<Page<R>>() == SHARED_PAGE_SIZE);
        }
        let page = || Page(core::array::from_fn(|_| R::default()));
        let count = vcpu_count.div_ceil(RECORDS_PER_PAGE);
        Self {
            base,
            pages: core::iter::repeat_with(page).take(count).collect(),
        }
    }
}

impl<R> SharedRecords<R> {
    /// Each page's intermediate physical address and its address in the hypervisor's memory, where it lives as long as this does.
    pub fn pages(&self) -> impl Iterator<Item = (u64, usize)> {
        let addresses = (self.base..).step_by(SHARED_PAGE_SIZE);
        addresses.zip(
            self.pages
                .iter()
                .map(|page| core::ptr::from_ref(page) as usize),
        )
    }

    /// The record of vCPU `index`; `None` beyond the last page.
    #[inline]
    pub fn get(&self, index: usize) -> Option<&R> {
        let Page(records) = self.pages.get(index / RECORDS_PER_PAGE)?;
        Some(&records[index % RECORDS_PER_PAGE])
    }

    /// Where the guest finds the record of vCPU `index`.
    pub fn address(&self, index: usize) -> u64 {
        self.base + (index * RECORD_SIZE) as u64
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn records_fill_pages_in_order() {
        let records = SharedRecords::<[u64; 8]>::new(0x1000, 130);
        let pages: Vec<_> = records.pages().collect();
        let addresses: Vec<_> = pages.iter().map(|page| page.0).collect();
        assert_eq!(addresses, [0x1000, 0x2000, 0x3000]);
        assert!(pages.iter().all(|page| page.1.is_multiple_of(0x1000)));
        for index in 0..192 {
            let (guest, here) = pages[index / 64];
            let offset = records.address(index) - guest;
            let record = core::ptr::from_ref(records.get(index).unwrap()) as usize;
            assert_eq!(record, here + offset as usize);
            assert!(offset.is_multiple_of(64) && offset < 0x1000);
        }
        assert!(records.get(192).is_none());
    }
}
