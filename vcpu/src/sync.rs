//! What several pCPUs share: atomics and a lock. Under `cfg(loom)` they are loom's, so that models see every
//! interleaving.

pub(crate) use core::sync::atomic::Ordering;

#[cfg(not(loom))]
pub(crate) use core::sync::atomic::AtomicU64;
#[cfg(loom)]
pub(crate) use loom::sync::atomic::AtomicU64;

#[cfg(not(loom))]
struct Yield;

#[cfg(not(loom))]
impl spin::RelaxStrategy for Yield {
    fn relax() {
        crate::arch::relax();
    }
}

/// A lock for what is rare and short. EL2 runs with interrupts masked, so its holder is never interrupted.
#[cfg(not(loom))]
#[derive(Debug)]
pub(crate) struct Mutex<T>(spin::mutex::SpinMutex<T, Yield>);

#[cfg(not(loom))]
impl<T> Mutex<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(spin::mutex::SpinMutex::new(value))
    }

    pub(crate) fn lock(&self) -> impl core::ops::DerefMut<Target = T> {
        self.0.lock()
    }
}

#[cfg(loom)]
#[derive(Debug)]
pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

#[cfg(loom)]
impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(loom::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> impl core::ops::DerefMut<Target = T> {
        self.0
            .lock()
            .expect("no thread of a model panics with the lock held")
    }
}
