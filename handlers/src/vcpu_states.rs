//! How a guest sees which of its vCPUs run: a word for each, in pages that it can only read.
//!
//! ```text
//!   bound ----> 0, running      a pCPU runs it, or answers one of its exits
//!   unbound --> 1, preempted    it could run
//!           '-> 2, waiting      it could not; also while it waits with its registers loaded
//! ```
//! Whoever spins for a lock reads the holder's word: while that runs it spins on, else it lets others run. Only the pCPU that has the
//! vCPU writes, so one that has woken up is still shown as waiting until it is bound.

use alloc::sync::Arc;
use core::{
    mem::offset_of,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

use trapline_vcpu::dispatch::Activity;

use crate::shared_records::SharedRecords;

/// The word that the guest reads.
const fn word(activity: Activity) -> u32 {
    match activity {
        Activity::Running => 0,
        Activity::Preempted => 1,
        Activity::Waiting => 2,
    }
}

/// What the guest reads, little-endian.
#[repr(C)]
struct Record {
    activity: AtomicU32,
    reserved: [AtomicU32; 15],
}

const _: () = assert!(
    offset_of!(Record, activity) == 0,
    "guests read the word at the start of its record"
);

impl Default for Record {
    fn default() -> Self {
        Self {
            activity: AtomicU32::new(word(Activity::Waiting)),
            reserved: [const { AtomicU32::new(0) }; 15],
        }
    }
}

/// The states of one VM's vCPUs.
pub struct VcpuStates(SharedRecords<Record>);

impl VcpuStates {
    /// Words for `vcpu_count` vCPUs, all of which wait, which the guest finds from `base` on (a multiple of the page size).
    pub fn new(base: u64, vcpu_count: usize) -> Arc<Self> {
        Arc::new(Self(SharedRecords::new(base, vcpu_count)))
    }

    /// The pages that the embedder maps into the guest's address space, normal memory that the guest may only read: for each
    /// the intermediate physical address and the address in the hypervisor's memory. They live as long as this does.
    pub fn pages(&self) -> impl Iterator<Item = (u64, usize)> {
        self.0.pages()
    }

    /// vCPU `index` is like this from now on. Its owner calls it.
    #[inline]
    pub(crate) fn publish(&self, index: usize, activity: Activity) {
        if let Some(record) = self.0.get(index) {
            record.activity.store(word(activity), Relaxed);
        }
    }

    /// What the guest reads of vCPU `index`.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn activity(&self, index: usize) -> u32 {
        let record = self.0.get(index).expect("a vCPU of the VM");
        record.activity.load(Relaxed)
    }

    pub(crate) fn address(&self, index: usize) -> u64 {
        self.0.address(index)
    }
}
