//! How a guest sees which of its vCPUs run: a word for each, in pages that it can only read.
//!
//! ```text
//!   bound ----> 0, running      a pCPU runs it, or answers one of its exits
//!   unbound --> 1, preempted    it could run
//!           '-> 2, waiting      it could not; also while it waits with its registers loaded
//! ```
//! Whoever spins for a lock reads the holder's word: while that runs it spins on, else it lets others run. Only the pCPU that has the
//! vCPU writes, so one that has woken up is still shown as waiting until it is bound.

use alloc::{boxed::Box, sync::Arc};
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use trapline_vcpu::dispatch::Activity;

const RECORDS_PER_PAGE: usize = 64;
const RECORD_SIZE: usize = 64;

/// The word that the guest reads.
const fn word(activity: Activity) -> u32 {
    match activity {
        Activity::Running => 0,
        Activity::Preempted => 1,
        Activity::Waiting => 2,
    }
}

/// What the guest reads, little-endian; a cache line for each vCPU, since each is written on another pCPU.
#[repr(C)]
struct Record {
    activity: AtomicU32,
    reserved: [AtomicU32; 15],
}

#[repr(C, align(4096))]
struct Page([Record; RECORDS_PER_PAGE]);

const _: () =
    assert!(size_of::<Record>() == RECORD_SIZE && size_of::<Page>() == VcpuStates::PAGE_SIZE);

impl Default for Record {
    fn default() -> Self {
        Self {
            activity: AtomicU32::new(word(Activity::Waiting)),
            reserved: [const { AtomicU32::new(0) }; 15],
        }
    }
}

/// The states of one VM's vCPUs.
pub struct VcpuStates {
    base: u64,
    pages: Box<[Page]>,
}

impl VcpuStates {
    /// How large the pages are that [`VcpuStates::pages`] names, in bytes.
    pub const PAGE_SIZE: usize = 4096;

    /// Words for `vcpu_count` vCPUs, all of which wait, which the guest finds from `base` on (a multiple of the page size).
    pub fn new(base: u64, vcpu_count: usize) -> Arc<Self> {
        let page = || Page(core::array::from_fn(|_| Record::default()));
        let count = vcpu_count.div_ceil(RECORDS_PER_PAGE);
        Arc::new(Self {
            base,
            pages: core::iter::repeat_with(page).take(count).collect(),
        })
    }

    /// The pages that the embedder maps into the guest's address space, normal memory that the guest may only read: for each
    /// the intermediate physical address and the address in the hypervisor's memory. They live as long as this does.
    pub fn pages(&self) -> impl Iterator<Item = (u64, usize)> {
        let addresses = (self.base..).step_by(Self::PAGE_SIZE);
        addresses.zip(
            self.pages
                .iter()
                .map(|page| core::ptr::from_ref(page) as usize),
        )
    }

    /// vCPU `index` is like this from now on. Its owner calls it.
    #[inline]
    pub(crate) fn publish(&self, index: usize, activity: Activity) {
        if let Some(record) = self.record(index) {
            record.activity.store(word(activity), Relaxed);
        }
    }

    /// What the guest reads of vCPU `index`.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn activity(&self, index: usize) -> u32 {
        let record = self.record(index).expect("a vCPU of the VM");
        record.activity.load(Relaxed)
    }

    fn record(&self, index: usize) -> Option<&Record> {
        let Page(records) = self.pages.get(index / RECORDS_PER_PAGE)?;
        records.get(index % RECORDS_PER_PAGE)
    }

    pub(crate) fn address(&self, index: usize) -> u64 {
        self.base + (index * RECORD_SIZE) as u64
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn each_vcpu_has_a_cache_line_of_its_own() {
        let states = VcpuStates::new(0x1000, 65);
        let pages: Vec<_> = states.pages().map(|(guest, _)| guest).collect();
        assert_eq!(pages, [0x1000, 0x2000]);
        assert_eq!(
            [0, 1, 64].map(|index| states.address(index)),
            [0x1000, 0x1040, 0x2000]
        );
        let page = states.pages().nth(1).unwrap().1;
        let record = &states.pages[1].0[0];
        assert_eq!(core::ptr::from_ref(record) as usize, page);
        assert_eq!(core::mem::offset_of!(Record, activity), 0);
    }
}
