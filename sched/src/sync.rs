//! Which atomics and queues the protocols are written with: the real ones, or loom's when a model explores them.
//!
//! crossbeam-queue has no loom support, so the models get a queue under a loom mutex: the protocols rely only on a push
//! happening before the pop that returns its value, which both give. Counters that no decision reads stay
//! `core::sync::atomic` in both worlds.

pub(crate) use core::sync::atomic::Ordering;

#[cfg(not(any(loom, test, feature = "sim")))]
pub(crate) use core::sync::atomic::fence;
#[cfg(not(loom))]
pub(crate) use core::sync::atomic::{AtomicU32, AtomicU64};
#[cfg(not(loom))]
pub(crate) use crossbeam_queue::ArrayQueue;
#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, fence};
#[cfg(loom)]
pub(crate) use model::ArrayQueue;

/// The real one. In the simulator others may act there: it stands between what is published and what is looked at afterwards.
#[cfg(all(not(loom), any(test, feature = "sim")))]
pub(crate) fn fence(order: Ordering) {
    core::sync::atomic::fence(order);
    crate::sim::intrude();
}

#[cfg(loom)]
mod model {
    use alloc::collections::VecDeque;
    use loom::sync::Mutex;

    /// `crossbeam_queue::ArrayQueue`, as far as this crate uses it.
    pub(crate) struct ArrayQueue<T> {
        items: Mutex<VecDeque<T>>,
        capacity: usize,
    }

    impl<T> ArrayQueue<T> {
        pub(crate) fn new(capacity: usize) -> Self {
            Self {
                items: Mutex::new(VecDeque::with_capacity(capacity)),
                capacity,
            }
        }

        pub(crate) fn push(&self, item: T) -> Result<(), T> {
            let mut items = self
                .items
                .lock()
                .expect("no model panics with the queue locked");
            if items.len() == self.capacity {
                return Err(item);
            }
            items.push_back(item);
            Ok(())
        }

        pub(crate) fn len(&self) -> usize {
            let items = self.items.lock();
            items.expect("no model panics with the queue locked").len()
        }

        pub(crate) fn pop(&self) -> Option<T> {
            self.items
                .lock()
                .expect("no model panics with the queue locked")
                .pop_front()
        }
    }
}
