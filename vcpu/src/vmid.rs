//! Which VMID a VM has now, and what a pCPU must forget before it uses it.
//!
//! VMIDs are few (255 or 65,535), VMs come and go. A VM gets a VMID when it is first bound and keeps it for a
//! *generation*. When none is left a new generation begins: every VM needs a VMID again, and each pCPU forgets all guest
//! translations before it uses one of the new generation. A VM that is loaded somewhere at that moment keeps its number,
//! so that nobody stops.
//!
//! Rules kept here:
//! - VMs that are loaded at the same time have different VMIDs, and a VM has the same VMID wherever it is loaded.
//! - A pCPU's TLB never holds translations of two VMs under one VMID.
//!
//! ```text
//! bind: same generation, and this pCPU was not rolled over -> one compare-exchange
//!       else -> the lock: take a free VMID, or begin a generation: active -> reserved, all pCPUs must flush
//! ```
//! Elsewhere: the TLB instructions (`arch`). The idea is that of the ASID allocators of ARM Linux.

mod last_ran;

use alloc::{boxed::Box, vec};

pub use last_ran::LastRan;

use crate::sync::{AtomicU64, Mutex, Ordering};

/// A generation is counted above the VMID, in the same word.
const GENERATION: u64 = 1 << 16;
/// "None": no generation is 0, and VMID 0 is never a guest's.
const NONE: u64 = 0;

/// The VMID of one VM, which all its vCPUs share.
#[derive(Debug, Default)]
pub struct VmVmid(AtomicU64);

impl VmVmid {
    /// The VMID under which TLBs may hold translations of this VM; `None` if it never had one.
    ///
    /// Ask after the changed tables are published: a VM that gets its VMID later walks the changed tables.
    pub fn current(&self) -> Option<u16> {
        let held = self.0.load(Ordering::Acquire);
        (held != NONE).then(|| vmid_of(held))
    }
}

/// What a pCPU does to load a VM.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use]
pub struct Assigned {
    /// The VMID for VTTBR_EL2.
    pub vmid: u16,
    /// Forget the guest translations of all VMIDs on this pCPU, after the write of VTTBR_EL2 and before the guest runs.
    /// [DDI0487: TLBI ALLE1]
    pub flush: bool,
}

/// Gives out the VMIDs of one machine. Shared by all its pCPUs.
#[derive(Debug)]
pub struct VmidAllocator {
    /// Only changed under the lock.
    generation: AtomicU64,
    /// For each pCPU what it has loaded; `NONE` after a roll-over, until it has seen it.
    active: Box<[AtomicU64]>,
    slow: Mutex<Slow>,
}

#[derive(Debug)]
struct Slow {
    used: Used,
    /// For each pCPU what it had loaded at the last roll-over. Nobody else gets that VMID.
    reserved: Box<[u64]>,
    /// For each pCPU: it holds translations of an earlier generation.
    must_flush: Box<[bool]>,
}

impl VmidAllocator {
    /// Serves pCPUs 0 to `pcpus - 1`. `bits` is the width of a VMID on all of them.
    ///
    /// # Panics
    /// If not every pCPU can keep one VMID over a roll-over with one left to give.
    pub fn new(bits: u32, pcpus: usize) -> Self {
        let limit = 1usize << bits.min(16);
        assert!(limit > pcpus + 1, "there must be more VMIDs than pCPUs");
        Self {
            generation: AtomicU64::new(GENERATION),
            active: (0..pcpus).map(|_| AtomicU64::new(NONE)).collect(),
            slow: Mutex::new(Slow {
                used: Used::new(limit),
                reserved: vec![NONE; pcpus].into(),
                // What the TLBs hold at the start is not known.
                must_flush: vec![true; pcpus].into(),
            }),
        }
    }

    /// The VMID of `vm` for the pCPU numbered `pcpu`, which calls this when it loads a vCPU of `vm`. From then on the VMID
    /// counts as loaded there, until the next call for that pCPU.
    ///
    /// # Panics
    /// If there is no such pCPU.
    pub fn vmid_for(&self, pcpu: usize, vm: &VmVmid) -> Assigned {
        let held = vm.0.load(Ordering::Relaxed);
        let active = &self.active[pcpu];
        // Relaxed is enough: a roll-over swaps `active` after it has changed the generation, so either it finds `held`
        // there and reserves it, or the exchange fails.
        if generation_of(held) == self.generation.load(Ordering::Relaxed) {
            let loaded = active.load(Ordering::Relaxed);
            let exchange =
                |from| active.compare_exchange(from, held, Ordering::Relaxed, Ordering::Relaxed);
            if loaded != NONE && exchange(loaded).is_ok() {
                return Assigned {
                    vmid: vmid_of(held),
                    flush: false,
                };
            }
        }
        self.assign(pcpu, vm)
    }

    #[cold]
    fn assign(&self, pcpu: usize, vm: &VmVmid) -> Assigned {
        let mut slow = self.slow.lock();
        let mut held = vm.0.load(Ordering::Relaxed);
        if generation_of(held) != self.generation.load(Ordering::Relaxed) {
            held = self.renew(&mut slow, held);
            vm.0.store(held, Ordering::Release);
        }
        self.active[pcpu].store(held, Ordering::Relaxed);
        Assigned {
            vmid: vmid_of(held),
            flush: core::mem::take(&mut slow.must_flush[pcpu]),
        }
    }

    /// What a VM that holds `old` of an earlier generation, or nothing, holds in this one.
    fn renew(&self, slow: &mut Slow, old: u64) -> u64 {
        let generation = self.generation.load(Ordering::Relaxed);
        if old != NONE {
            let same = generation | u64::from(vmid_of(old));
            if slow.renew_reserved(old, same) || slow.used.take(vmid_of(old)) {
                return same;
            }
        }
        if let Some(vmid) = slow.used.take_any() {
            return generation | u64::from(vmid);
        }
        let generation = self.roll_over(slow);
        let vmid = slow.used.take_any();
        generation | u64::from(vmid.expect("there are more VMIDs than pCPUs"))
    }

    /// Begins a generation in which only what is loaded now is taken.
    fn roll_over(&self, slow: &mut Slow) -> u64 {
        let generation = self.generation.load(Ordering::Relaxed) + GENERATION;
        self.generation.store(generation, Ordering::Relaxed);
        slow.used.clear();
        for (active, reserved) in self.active.iter().zip(&mut slow.reserved) {
            // `NONE` if the pCPU has not come here since the last roll-over: what it had then is loaded still.
            let loaded = active.swap(NONE, Ordering::Relaxed);
            if loaded != NONE {
                *reserved = loaded;
            }
            slow.used.take(vmid_of(*reserved));
        }
        if !cfg!(mutant = "vmid_no_rollover_flush") {
            slow.must_flush.fill(true);
        }
        generation
    }
}

impl Slow {
    /// `old` is loaded somewhere since an earlier generation: it becomes `new` there. `false` if it is not.
    fn renew_reserved(&mut self, old: u64, new: u64) -> bool {
        let mut is_reserved = false;
        for reserved in self.reserved.iter_mut().filter(|held| **held == old) {
            *reserved = new;
            is_reserved = true;
        }
        is_reserved
    }
}

const fn generation_of(held: u64) -> u64 {
    held & !(GENERATION - 1)
}

const fn vmid_of(held: u64) -> u16 {
    (held & (GENERATION - 1)) as u16
}

/// Which VMIDs of this generation are taken: VMID n is bit n % 64 of word n / 64.
#[derive(Debug)]
struct Used {
    words: Box<[u64]>,
    limit: usize,
    /// All words before this one are full: nothing is given back within a generation.
    first: usize,
}

impl Used {
    fn new(limit: usize) -> Self {
        let mut used = Self {
            words: vec![0; limit.div_ceil(64)].into(),
            limit,
            first: 0,
        };
        used.clear();
        used
    }

    /// Only VMID 0 and those that do not exist are taken.
    fn clear(&mut self) {
        self.words.fill(0);
        self.first = 0;
        self.words[0] = 1;
        if self.limit < 64 {
            self.words[0] |= !0 << self.limit;
        }
    }

    /// `false` if somebody has it already.
    fn take(&mut self, vmid: u16) -> bool {
        let (word, bit) = (usize::from(vmid / 64), 1 << (vmid % 64));
        let is_free = self.words[word] & bit == 0;
        self.words[word] |= bit;
        is_free
    }

    fn take_any(&mut self) -> Option<u16> {
        let has_free = |word: &u64| *word != u64::MAX;
        let offset = self.words[self.first..].iter().position(has_free)?;
        self.first += offset;
        let word = &mut self.words[self.first];
        let bit = word.trailing_ones();
        *word |= 1 << bit;
        Some((self.first * 64) as u16 + bit as u16)
    }
}

#[cfg(test)]
mod tests;
