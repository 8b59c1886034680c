//! Many seeds of one scenario on several threads, with everything interleaved: until a rule breaks.

use std::{
    num::NonZero,
    ops::Range,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    thread,
};

use trapline_sched::sim::{Failure, RunOptions, Scenario, run};

/// What to hunt.
pub struct Hunt<'a> {
    /// What is run.
    pub scenario: &'a Scenario,
    /// With which seeds.
    pub seeds: Range<u64>,
    /// On so many threads.
    pub jobs: NonZero<usize>,
    /// Go on after a failure.
    pub keeps_going: bool,
    /// Not 0: the user wants no more.
    pub signal: &'a AtomicUsize,
}

/// What a hunt found.
#[derive(Debug, Default)]
pub struct Catch {
    /// How many seeds were run.
    pub done: u64,
    /// Those that broke a rule, the smallest seed first. Unless the hunt goes on it is one, and no smaller seed breaks any.
    pub failures: Vec<Failure>,
}

impl Hunt<'_> {
    /// Runs each seed; `progress` is called after each, on any thread.
    pub fn run(&self, progress: &(dyn Fn() + Sync)) -> Catch {
        let next = AtomicU64::new(self.seeds.start);
        // Seeds from here on are of no interest.
        let limit = AtomicU64::new(self.seeds.end);
        let found = Mutex::new(Catch::default());
        let options = RunOptions {
            interleave: true,
            record_stretches: false,
        };
        let work = || {
            while self.signal.load(Relaxed) == 0 {
                let seed = next.fetch_add(1, Relaxed);
                if seed >= limit.load(Relaxed) {
                    break;
                }
                let result = run(self.scenario, seed, &options);
                let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                found.done += 1;
                if let Err(failure) = result {
                    found.failures.push(failure);
                    if !self.keeps_going {
                        limit.fetch_min(seed, Relaxed);
                    }
                }
                drop(found);
                progress();
            }
        };
        thread::scope(|scope| {
            for _ in 0..self.jobs.get() {
                scope.spawn(work);
            }
        });
        let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
        found.failures.sort_by_key(|failure| failure.seed);
        if !self.keeps_going {
            found.failures.truncate(1);
        }
        found
    }
}
