//! What a scheduling policy decides: which ready vCPU runs next on a pCPU, and for how long.
//!
//! A policy ranks, and nothing else. It never sees a box, a running or a blocked vCPU, and the core checks what it
//! returns: a vCPU that is not ready is ignored and counted, and if the policy names none although some are ready the core
//! takes one itself. So a bad policy is unfair, never unsound.

use crate::{PcpuId, VcpuId};
use alloc::boxed::Box;

/// Why a vCPU became ready.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ready {
    /// Nothing blocks it any more.
    Woken,
    /// Others waited, and its slice was over.
    Preempted,
    /// It let others run.
    Yielded,
    /// It has budget again.
    Replenished,
    /// It comes from another pCPU, where it was ready already.
    MigratedIn,
}

/// For how long a vCPU runs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Slice {
    /// In ticks of the host's counter; over only if another vCPU waits on the pCPU. `None`: as long as it likes.
    pub duration: Option<u64>,
    /// It may have the pCPU to itself, its WFI included, as long as no other vCPU is ready there.
    pub exclusive: bool,
}

impl Slice {
    /// Until it blocks.
    pub const UNLIMITED: Self = Self {
        duration: None,
        exclusive: false,
    };

    /// `ticks` at most while others wait.
    pub const fn of(ticks: u64) -> Self {
        Self {
            duration: Some(ticks),
            exclusive: false,
        }
    }
}

/// The vCPU to run now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Pick {
    /// Which.
    pub vcpu: VcpuId,
    /// For how long.
    pub slice: Slice,
}

/// What a policy promises.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Bounds {
    /// No pCPU idles while a vCPU that may run there is ready elsewhere for longer than a kick takes.
    pub work_conserving: bool,
    /// The longest a ready vCPU waits, in ticks, with as many ready vCPUs on its pCPU as were asked about. `None`: forever.
    pub longest_wait: Option<u64>,
}

/// The part of a policy that the pool shares.
pub trait Policy: Send + Sync {
    /// The name by which it is chosen.
    fn name(&self) -> &'static str;

    /// What it promises to each of `ready` vCPUs that are ready on one pCPU.
    fn bounds(&self, ready: usize) -> Bounds;

    /// The part for `pcpu`, with memory for `max_vcpus` reserved: nothing that is called later allocates.
    fn local(&self, pcpu: PcpuId, max_vcpus: u16) -> Box<dyn LocalPolicy>;
}

/// The part of a policy that ranks the ready vCPUs of one pCPU. Only that pCPU calls it, with interrupts masked.
pub trait LocalPolicy: Send {
    /// `vcpu` became ready here because of `why`. It was not ready here before.
    fn enqueue(&mut self, vcpu: VcpuId, why: Ready);

    /// Takes out the vCPU to run now; `None` if none is ready here.
    fn pick(&mut self) -> Option<Pick>;

    /// Takes out `vcpu` in particular, because it was named, blocked or moved; `None` if it is not ready here.
    fn take(&mut self, vcpu: VcpuId) -> Option<Slice>;

    /// Takes out the vCPU that it can best do without among those for which `allowed` is true. The first for which it
    /// was true is the one: `allowed` has reserved a pCPU for it.
    fn surrender(&mut self, allowed: &mut dyn FnMut(VcpuId) -> bool) -> Option<VcpuId>;

    /// `vcpu` ran for `ticks`, its exits included.
    fn charge(&mut self, vcpu: VcpuId, ticks: u64);

    /// How many are ready here.
    fn waiting(&self) -> usize;
}
