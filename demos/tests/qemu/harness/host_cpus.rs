//! Which run has which part of the host: a deadline supposes that nobody else uses the CPUs that the run keeps busy.

use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

/// All CPUs of the host, given out first come, first served.
pub struct HostCpus {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// How many are given out.
    taken: usize,
    /// How many runs have come, and how many of them have been served.
    come: u64,
    served: u64,
}

/// CPUs that one run has until this is dropped.
pub struct Share<'a> {
    of: &'a HostCpus,
    cpus: usize,
}

impl HostCpus {
    pub const fn new() -> Self {
        Self {
            state: Mutex::new(State {
                taken: 0,
                come: 0,
                served: 0,
            }),
            changed: Condvar::new(),
        }
    }

    /// Waits for `wanted` CPUs, or for all if the host has fewer. Who comes later waits behind, however little it wants, so
    /// nobody waits for ever.
    pub fn take(&self, wanted: usize) -> Share<'_> {
        let all = thread::available_parallelism().map_or(1, usize::from);
        let cpus = wanted.clamp(1, all);
        let mut state = self.lock();
        let turn = state.come;
        state.come += 1;
        let must_wait = |state: &mut State| state.served != turn || state.taken + cpus > all;
        state = self
            .changed
            .wait_while(state, must_wait)
            .unwrap_or_else(PoisonError::into_inner);
        state.served += 1;
        state.taken += cpus;
        self.changed.notify_all();
        Share { of: self, cpus }
    }

    /// A test that failed has left nothing behind.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        self.of.lock().taken -= self.cpus;
        self.of.changed.notify_all();
    }
}
