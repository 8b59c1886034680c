//! What others see of a vCPU that is ready and does not run, and what they can do about it.
//!
//! ```text
//!   preempted   in a queue since its turn ended; whoever waits for what it holds waits until its next turn
//!   yielded     in a queue since it let others run: it waits for something itself
//!   hurried     it was sent an interrupt, or somebody waits for it: one word of its pCPU names it, which looks there when it
//!               chooses anew
//! ```
//! Being hurried is a hint: the last one named counts, each is looked at once, and the policy says whether it may run before its
//! turn. So a storm of them costs the pCPU one look for each choice, and others nothing.

use crate::{PcpuId, Place, Vcpu, VcpuHandle};

impl<V: Vcpu> VcpuHandle<V> {
    /// The pCPU where it is ready and does not run; `None` if it runs or something blocks it. True when it was asked.
    #[inline]
    pub fn ready_on(&self) -> Option<PcpuId> {
        let state = self.state.load();
        match state.place() {
            Place::Queued(pcpu) if !state.is_blocked() => Some(pcpu),
            _ => None,
        }
    }

    /// As [`Self::ready_on`], unless it let others run itself.
    #[inline]
    pub fn preempted_on(&self) -> Option<PcpuId> {
        self.ready_on().filter(|_| !self.has_yielded.is_set())
    }

    /// Nothing blocks it.
    #[inline]
    pub fn is_runnable(&self) -> bool {
        !self.state.load().is_blocked()
    }

    /// Somebody waits for what it does next. If it is ready and does not run, it runs next on its pCPU, as far as the policy lets
    /// it; nobody is interrupted for that.
    #[inline]
    pub fn hurry(&self) {
        if let Some(pcpu) = self.ready_on() {
            self.hurry_on(pcpu);
        }
    }

    pub(crate) fn hurry_on(&self, pcpu: PcpuId) {
        self.scheduler().cell(pcpu).hurried.name(self.id());
    }
}

pub(crate) use words::{Flag, Named};

mod words {
    use crate::VcpuId;
    use core::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

    const NOBODY: u32 = u32::MAX;

    /// The vCPU that was named last. It stands for itself: nothing else is published by it.
    pub(crate) struct Named(AtomicU32);

    impl Default for Named {
        fn default() -> Self {
            Self(AtomicU32::new(NOBODY))
        }
    }

    impl Named {
        pub(crate) fn name(&self, vcpu: VcpuId) {
            self.0.store(u32::from(vcpu.raw()), Relaxed);
        }

        /// Once for each time that one was named.
        #[inline]
        pub(crate) fn take(&self) -> Option<VcpuId> {
            if self.0.load(Relaxed) == NOBODY {
                return None;
            }
            let named = self.0.swap(NOBODY, Relaxed);
            u16::try_from(named).ok().map(VcpuId::new)
        }
    }

    /// What the owner of a vCPU says about it.
    #[derive(Default)]
    pub(crate) struct Flag(AtomicBool);

    impl Flag {
        #[inline]
        pub(crate) fn is_set(&self) -> bool {
            self.0.load(Relaxed)
        }

        /// Only the owner calls it.
        #[inline]
        pub(crate) fn set(&self, is_set: bool) {
            if self.is_set() != is_set {
                self.0.store(is_set, Relaxed);
            }
        }
    }
}
