//! What several pCPUs share: atomics, a lock, a counted pointer. Under `cfg(loom)` they are loom's, so that models see
//! every interleaving.

#[cfg(not(loom))]
pub(crate) use core::sync::atomic;
#[cfg(loom)]
pub(crate) use loom::sync::atomic;

#[cfg(not(loom))]
pub(crate) use alloc::sync::Arc;
#[cfg(loom)]
pub(crate) use loom::sync::Arc;

/// A lock for a few instructions. Exits run with physical interrupts masked, so whoever takes it outside an exit holds
/// up an exit for no longer than that.
#[cfg(not(loom))]
#[derive(Default)]
pub(crate) struct Mutex<T>(spin::mutex::Mutex<T, Relax>);

/// [`spin`]'s own relaxation is an ISB, which costs milliseconds per hand-over under `-icount`.
pub(crate) struct Relax;

impl spin::RelaxStrategy for Relax {
    fn relax() {
        #[cfg(not(loom))]
        trapline_vcpu::arch::relax();
    }
}

#[cfg(not(loom))]
impl<T> Mutex<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(spin::mutex::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> impl core::ops::DerefMut<Target = T> + '_ {
        self.0.lock()
    }
}

#[cfg(loom)]
pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

#[cfg(loom)]
impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(loom::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> impl core::ops::DerefMut<Target = T> + '_ {
        self.0
            .lock()
            .expect("no thread of a model panics with the lock held")
    }
}

/// A value that is set once and read without a lock. Models do not cover it.
pub(crate) type Once<T> = spin::once::Once<T, Relax>;
