//! What a pCPU runs on: its stack, with a page below that is never mapped, and the stack on which it reports a fatal
//! exception.
//!
//! ```text
//! | guard page, unmapped | stack | emergency stack |
//! ```
//! The boot pCPU's lie in the image; those of the other pCPUs that the machine has come from the heap, and stay.

use super::{pcpu, symbols};
use alloc::boxed::Box;
use core::{
    mem::{MaybeUninit, offset_of},
    ops::Range,
    sync::atomic::Ordering::Relaxed,
};

const PAGE_SIZE: usize = 4 << 10;

/// One pCPU's memory. An emergency stack that overflows runs into the stack that has failed already.
#[repr(C, align(4096))]
struct Block {
    guard: [u8; PAGE_SIZE],
    stack: [u8; 64 << 10],
    emergency: [u8; 16 << 10],
}

/// The size of one pCPU's memory, in bytes. The linker script reserves it for the boot pCPU.
const SIZE: u64 = size_of::<Block>() as u64;

/// Where the stack ends, from the start of a pCPU's memory, in bytes: where the boot pCPU begins to grow down.
pub(super) const STACK_END: usize = offset_of!(Block, emergency);

/// Where one pCPU's stacks lie.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stacks {
    base: u64,
}

impl Stacks {
    /// Those of pCPU `id`; `None` while it has none.
    pub(super) fn of(id: u16) -> Option<Self> {
        let base = pcpu::get(id)?.stacks.load(Relaxed);
        (base != 0).then_some(Self { base })
    }

    /// The unmapped page below the stack.
    pub(super) fn guard(self) -> Range<u64> {
        self.base..self.base + offset_of!(Block, stack) as u64
    }

    /// The stack.
    pub(super) fn stack(self) -> Range<u64> {
        self.guard().end..self.base + STACK_END as u64
    }

    /// The stack for fatal exceptions.
    pub(super) fn emergency(self) -> Range<u64> {
        self.stack().end..self.base + SIZE
    }
}

/// Tells the boot pCPU where its stacks are. It calls it once, before anything can fail.
pub(super) fn initialize() {
    let image = symbols::stacks();
    assert!(
        image.end - image.start == SIZE,
        "the linker script reserves the boot pCPU's stacks"
    );
    give(0, image.start);
}

/// Gives stacks to the other pCPUs of a machine that has `count`. The boot pCPU calls it once, before it builds the tables.
pub(super) fn allocate(count: usize) {
    for id in 1..count as u16 {
        let block: &'static mut MaybeUninit<Block> = Box::leak(Box::new_uninit());
        give(id, block as *mut MaybeUninit<Block> as u64);
    }
}

fn give(id: u16, base: u64) {
    let pcpu = pcpu::get(id).expect("the machine has at most MAX_PCPUS pCPUs");
    let stacks = Stacks { base };
    pcpu.stacks.store(base, Relaxed);
    pcpu.emergency_stack_top
        .store(stacks.emergency().end, Relaxed);
}
