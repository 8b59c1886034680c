//! Which run has which part of the host: a deadline supposes that nobody else uses the CPUs that the run keeps busy.

use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

/// All CPUs of the host.
pub struct HostCpus {
    /// How many are given out.
    taken: Mutex<usize>,
    returned: Condvar,
}

/// CPUs that one run has until this is dropped.
pub struct Share<'a> {
    of: &'a HostCpus,
    cpus: usize,
}

impl HostCpus {
    pub const fn new() -> Self {
        Self {
            taken: Mutex::new(0),
            returned: Condvar::new(),
        }
    }

    /// Waits for `wanted` CPUs, or for all if the host has fewer. Who wants few may go before those who want many: there are only so
    /// many tests that nobody waits for ever, and no CPU is kept free.
    pub fn take(&self, wanted: usize) -> Share<'_> {
        let all = thread::available_parallelism().map_or(1, usize::from);
        let cpus = wanted.clamp(1, all);
        let taken = self
            .returned
            .wait_while(self.lock(), |taken| *taken + cpus > all);
        *taken.unwrap_or_else(PoisonError::into_inner) += cpus;
        Share { of: self, cpus }
    }

    /// A test that failed has left nothing behind.
    fn lock(&self) -> MutexGuard<'_, usize> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        *self.of.lock() -= self.cpus;
        self.of.returned.notify_all();
    }
}
