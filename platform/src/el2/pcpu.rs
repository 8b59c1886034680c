//! Which pCPU is this, and what does it alone own?
//!
//! The per-pCPU area (`percpu`, TPIDR_EL2) holds one pointer, to a [`Pcpu`]; the records are plain statics,
//! so other pCPUs may read them too. The pointer is set before the first Rust code runs on a pCPU.

use crate::dt::MAX_PCPUS;
use core::{
    arch::global_asm,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Acquire},
};

/// What belongs to one pCPU. Atomics, because others may read; only the pCPU itself writes, except at boot.
pub struct Pcpu {
    id: u16,
    /// Where its stacks begin; 0 while it has none.
    pub(super) stacks: AtomicU64,
    /// The top of the stack on which this pCPU reports a fatal exception.
    pub(super) emergency_stack_top: AtomicU64,
    /// The value that sends the kick here: see `gic`.
    pub(super) kick: AtomicU64,
    /// The address of the frame with the registers of its private interrupts.
    pub(super) private_frame: AtomicU64,
    pub(super) heap: HeapUse,
    /// It has been started and is not off, and runs unless `stopped_at` says otherwise.
    pub(super) is_started: AtomicBool,
    /// Shared interrupts may be routed here.
    pub(super) takes_shared: AtomicBool,
    /// Its stack pointer while it is off, with the registers that it goes on with; 0 while it runs, or never ran.
    pub(super) left_at: AtomicU64,
    /// Where it stood when it was stopped because another pCPU failed: its frame pointer, or 0 while it runs.
    pub(super) stopped_at: AtomicU64,
}

/// How this pCPU used the heap.
#[derive(Default)]
pub(super) struct HeapUse {
    pub(super) allocations: AtomicU64,
    pub(super) frees: AtomicU64,
    pub(super) bytes_taken: AtomicU64,
    pub(super) bytes_given_back: AtomicU64,
    /// A `NoAllocGuard` lives on this pCPU.
    pub(super) is_on_exit_path: AtomicBool,
    pub(super) allocations_on_exit_path: AtomicU64,
    pub(super) frees_on_exit_path: AtomicU64,
}

impl Pcpu {
    const fn new(id: u16) -> Self {
        Self {
            id,
            stacks: AtomicU64::new(0),
            emergency_stack_top: AtomicU64::new(0),
            kick: AtomicU64::new(0),
            private_frame: AtomicU64::new(0),
            heap: HeapUse {
                allocations: AtomicU64::new(0),
                frees: AtomicU64::new(0),
                bytes_taken: AtomicU64::new(0),
                bytes_given_back: AtomicU64::new(0),
                is_on_exit_path: AtomicBool::new(false),
                allocations_on_exit_path: AtomicU64::new(0),
                frees_on_exit_path: AtomicU64::new(0),
            },
            is_started: AtomicBool::new(id == 0),
            takes_shared: AtomicBool::new(false),
            left_at: AtomicU64::new(0),
            stopped_at: AtomicU64::new(0),
        }
    }

    /// The pCPU's number: its place in the host's device tree, 0 to 63.
    #[inline(always)]
    pub fn id(&self) -> u16 {
        self.id
    }
}

static PCPUS: [Pcpu; MAX_PCPUS] = {
    let mut pcpus = [const { Pcpu::new(0) }; MAX_PCPUS];
    let mut id = 1;
    while id < MAX_PCPUS {
        pcpus[id] = Pcpu::new(id as u16);
        id += 1;
    }
    pcpus
};

/// The record of the pCPU that runs here. The boot pCPU's area lies in the image, ready for use.
#[percpu::def_percpu]
pub(super) static CURRENT: &'static Pcpu = &PCPUS[0];

// The same under a name that the vectors can use: its value is the offset in an area.
global_asm!(
    ".global trapline_current_pcpu",
    ".set trapline_current_pcpu, {}",
    sym __PERCPU_CURRENT,
);

/// The pCPU that executes this call.
#[inline(always)]
pub fn current() -> &'static Pcpu {
    // SAFETY:
    // 1. TPIDR_EL2 is the base of this pCPU's area from its first instructions in Rust on (see `boot`).
    // 2. Nothing moves this code to another pCPU, and nobody writes the pointer after the pCPU has started.
    unsafe { *CURRENT.current_ptr() }
}

/// The number of the pCPU that executes this call, 0 to 63.
#[inline(always)]
pub fn this_pcpu() -> u16 {
    current().id
}

/// The records of the pCPUs that are on.
pub(super) fn started() -> impl Iterator<Item = &'static Pcpu> {
    PCPUS.iter().filter(|pcpu| pcpu.is_started.load(Acquire))
}

/// The pCPU with number `id` or the first after it, by number and around the end, for which `has` is true.
pub(super) fn first_from(id: u16, has: impl Fn(&Pcpu) -> bool) -> Option<&'static Pcpu> {
    let (before, from) = PCPUS.split_at(usize::from(id).min(MAX_PCPUS));
    from.iter().chain(before).find(|pcpu| has(pcpu))
}

/// The record of pCPU `id`; `None` past the last that this platform could drive.
#[inline]
pub fn get(id: u16) -> Option<&'static Pcpu> {
    PCPUS.get(usize::from(id))
}

/// Gives every pCPU its area. The boot pCPU calls it once, first of all.
pub(super) fn initialize() {
    let areas = percpu::init_in_place().expect("the linker script aligns the per-pCPU areas");
    assert!(
        areas >= MAX_PCPUS,
        "the linker script reserves an area for each pCPU"
    );
    for pcpu in &PCPUS {
        // SAFETY:
        // 1. `percpu` has reserved an area for each pCPU (asserted above).
        // 2. No other pCPU runs yet.
        unsafe { *CURRENT.remote_ref_mut_raw(usize::from(pcpu.id)) = pcpu };
    }
}

/// The base of pCPU `id`'s area, for its TPIDR_EL2.
pub(super) fn area(id: u16) -> u64 {
    percpu::percpu_area_base(usize::from(id)) as u64
}
