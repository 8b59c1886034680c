//! Where does memory for Rust values come from, and who took some when it must not?
//!
//! One heap for all pCPUs, behind a lock: nothing on an exit path may touch it. [`NoAllocGuard`] marks those
//! paths, and the counters prove it.

use super::{pcpu, relax::Lock, symbols};
use crate::dt::MAX_PCPUS;
use core::{
    alloc::{GlobalAlloc, Layout},
    marker::PhantomData,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};
use talc::{TalcLock, source::Manual};

struct CountingHeap(TalcLock<Lock<()>, Manual>);

#[global_allocator]
static HEAP: CountingHeap = CountingHeap(TalcLock::new(Manual));

// SAFETY: every call goes to `TalcLock`, which keeps the contract; counting touches no memory of the heap.
unsafe impl GlobalAlloc for CountingHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let heap = &pcpu::current().heap;
        count(&heap.allocations, 1);
        count(&heap.bytes_taken, layout.size() as u64);
        if heap.is_on_exit_path.load(Relaxed) {
            count(&heap.allocations_on_exit_path, 1);
        }
        // SAFETY: the caller keeps the contract of `GlobalAlloc::alloc`.
        unsafe { self.0.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        let heap = &pcpu::current().heap;
        count(&heap.frees, 1);
        count(&heap.bytes_given_back, layout.size() as u64);
        if heap.is_on_exit_path.load(Relaxed) {
            count(&heap.frees_on_exit_path, 1);
        }
        // SAFETY: the caller keeps the contract of `GlobalAlloc::dealloc`.
        unsafe { self.0.dealloc(pointer, layout) }
    }
}

/// Only the pCPU itself counts, so a load and a store do.
fn count(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(by), Relaxed);
}

/// Gives the linker script's heap region to the allocator. Called once, before the first allocation.
pub(super) fn initialize() {
    let region = symbols::heap();
    let size = (region.end - region.start) as usize;
    // SAFETY: the linker script reserves the region for the heap alone; it is RAM, mapped read-write.
    let claimed = unsafe { HEAP.0.lock().claim(region.start as *mut u8, size) };
    assert!(
        claimed.is_some(),
        "the heap region holds the allocator's own tables"
    );
}

/// How often one pCPU has used the heap since boot.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct HeapCounts {
    /// Allocations, reallocations included.
    pub allocations: u64,
    /// Frees, reallocations included.
    pub frees: u64,
    /// Allocations while a [`NoAllocGuard`] lived there.
    pub allocations_on_exit_path: u64,
    /// Frees while a [`NoAllocGuard`] lived there.
    pub frees_on_exit_path: u64,
}

/// The counts of pCPU `id`; zeros for one that does not exist.
pub fn counts(id: u16) -> HeapCounts {
    let Some(pcpu) = pcpu::get(id) else {
        return HeapCounts::default();
    };
    HeapCounts {
        allocations: pcpu.heap.allocations.load(Relaxed),
        frees: pcpu.heap.frees.load(Relaxed),
        allocations_on_exit_path: pcpu.heap.allocations_on_exit_path.load(Relaxed),
        frees_on_exit_path: pcpu.heap.frees_on_exit_path.load(Relaxed),
    }
}

/// How many bytes of the heap are in use, as they were asked for: what the allocator adds to each is not in it. Exact while no
/// other pCPU uses the heap.
pub fn bytes_in_use() -> u64 {
    let pcpus = (0..MAX_PCPUS as u16).filter_map(pcpu::get);
    pcpus.fold(0, |sum, pcpu| {
        let (taken, given_back) = (&pcpu.heap.bytes_taken, &pcpu.heap.bytes_given_back);
        sum.wrapping_add(taken.load(Relaxed))
            .wrapping_sub(given_back.load(Relaxed))
    })
}

/// While it lives, allocations and frees of the pCPU that made it count as made on an exit path. Guards may
/// nest. It stays on its pCPU.
pub struct NoAllocGuard {
    was_on_exit_path: bool,
    not_send: PhantomData<*const ()>,
}

impl NoAllocGuard {
    /// The exit path begins.
    #[inline]
    #[must_use]
    pub fn new() -> Self {
        let flag = &pcpu::current().heap.is_on_exit_path;
        let was_on_exit_path = flag.load(Relaxed);
        flag.store(true, Relaxed);
        Self {
            was_on_exit_path,
            not_send: PhantomData,
        }
    }
}

impl Default for NoAllocGuard {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for NoAllocGuard {
    #[inline]
    fn drop(&mut self) {
        let flag = &pcpu::current().heap.is_on_exit_path;
        flag.store(self.was_on_exit_path, Relaxed);
    }
}
