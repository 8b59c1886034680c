//! How an immutable value that all pCPUs read on every exit is replaced while they read it.
//!
//! ```text
//!  writer: build the next value -> swap it in (lock) -> generation + 1 -> keep the old one until nobody holds it
//!  reader: one load of the generation per exit; only if it moved: take the new value (lock), let go of the old one
//! ```
//! A reader's [`Hold`] is a count on the value, and [`Published`] keeps a count of its own on every value that it has
//! retired. So a reader that lets go never is the last one: values are dropped by writers, off the exit path.

use alloc::vec::Vec;

use crate::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};

/// A value that writers replace and readers hold.
pub(crate) struct Published<T> {
    /// Moves with each value; readers compare it with that of the value they hold.
    generation: AtomicU64,
    current: Mutex<Arc<T>>,
    retired: Mutex<Vec<Arc<T>>>,
}

/// What a reader holds between two exits: a value, once it has looked, and which one.
pub(crate) struct Hold<T> {
    value: Option<Arc<T>>,
    generation: u64,
}

impl<T> Published<T> {
    pub(crate) fn new(value: T) -> Self {
        Self {
            generation: AtomicU64::new(0),
            current: Mutex::new(Arc::new(value)),
            retired: Mutex::new(Vec::new()),
        }
    }

    /// Replaces the value. One writer at a time: the caller sees to it.
    pub(crate) fn replace(&self, value: T) {
        let next = Arc::new(value);
        let old = {
            let mut current = self.current.lock();
            let old = core::mem::replace(&mut *current, next);
            // Under the lock, so that whoever finds the new generation also finds the new value there.
            self.generation.fetch_add(1, Ordering::Release);
            old
        };
        if !cfg!(mutant = "registry_drop_on_exit") {
            self.retired.lock().push(old);
        }
    }

    /// Drops the retired values that no reader holds any more.
    pub(crate) fn reap(&self) {
        // Nobody takes a count on a retired value, so one that is ours alone stays ours alone. It is dropped without the
        // lock: dropping it may run code that replaces the value again.
        let free = {
            let mut retired = self.retired.lock();
            let (free, held): (Vec<_>, Vec<_>) = retired
                .drain(..)
                .partition(|value| Arc::strong_count(value) == 1);
            *retired = held;
            free
        };
        drop(free);
    }

    /// How many retired values readers still hold.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn retired_count(&self) -> usize {
        self.retired.lock().len()
    }
}

impl<T> Hold<T> {
    pub(crate) const fn empty() -> Self {
        Self {
            value: None,
            generation: 0,
        }
    }

    /// The value as published now; one load if it is the one held.
    pub(crate) fn refresh(&mut self, published: &Published<T>) -> &T {
        let Self { value, generation } = self;
        if *generation != published.generation.load(Ordering::Acquire)
            && !cfg!(mutant = "registry_stale_generation")
        {
            *value = None;
        }
        value.get_or_insert_with(|| take(published, generation))
    }

    /// Lets go of the value, so that a writer can drop it.
    pub(crate) fn release(&mut self) {
        self.value = None;
    }
}

#[cold]
fn take<T>(published: &Published<T>, generation: &mut u64) -> Arc<T> {
    let current = published.current.lock();
    *generation = published.generation.load(Ordering::Relaxed);
    Arc::clone(&current)
}

#[cfg(all(test, loom))]
mod loom_models {
    use loom::thread;

    use super::*;
    use crate::sync::atomic::AtomicBool;

    /// Says that it was dropped, and fails if that happens twice or while a reader is at work.
    struct Handler {
        dropped: Arc<AtomicBool>,
    }

    impl Drop for Handler {
        fn drop(&mut self) {
            assert!(!self.dropped.swap(true, Ordering::SeqCst), "dropped once");
        }
    }

    /// Two readers look twice each while a writer swaps the value: none sees a dropped one, and once they let go, the
    /// writer finds it free.
    #[test]
    fn loom_registry_swap() {
        let mut builder = loom::model::Builder::new();
        // Unbounded, the model passes too, but takes minutes.
        builder.preemption_bound = Some(2);
        builder.check(|| {
            let dropped = Arc::new(AtomicBool::new(false));
            let published = Arc::new(Published::new(Some(Handler {
                dropped: Arc::clone(&dropped),
            })));
            let readers = [0, 1].map(|_| {
                let (published, dropped) = (Arc::clone(&published), Arc::clone(&dropped));
                thread::spawn(move || {
                    let mut hold = Hold::empty();
                    let held = hold.refresh(&published).is_some();
                    assert!(
                        !held || !dropped.load(Ordering::SeqCst),
                        "a held value is alive"
                    );
                    let _ = hold.refresh(&published);
                    hold.release();
                })
            });
            published.replace(None);
            published.reap();
            for reader in readers {
                reader.join().unwrap();
            }
            published.reap();
            assert!(dropped.load(Ordering::SeqCst), "nothing is left behind");
            assert!(
                Hold::empty().refresh(&published).is_none(),
                "the new value is what counts"
            );
        });
    }

    /// What a writer replaced before it raised a flag, a reader who saw the flag does not find any more.
    #[test]
    fn loom_registry_swap_is_seen() {
        loom::model(|| {
            let published = Arc::new(Published::new(1));
            let done = Arc::new(AtomicBool::new(false));
            let reader = {
                let (published, done) = (Arc::clone(&published), Arc::clone(&done));
                thread::spawn(move || {
                    let mut hold = Hold::empty();
                    let _ = hold.refresh(&published);
                    if done.load(Ordering::Acquire) {
                        assert_eq!(*hold.refresh(&published), 2);
                    }
                })
            };
            published.replace(2);
            done.store(true, Ordering::Release);
            reader.join().unwrap();
        });
    }
}
