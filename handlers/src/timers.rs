//! When an emulated device's time has come: deadlines on the host's counter, set in the middle of an exit and kept by the
//! embedder's loop.
//!
//! A device holds a [`DeviceTimer`] as it holds its interrupt line. The embedder makes one [`TimerQueue`] for the machine and
//! drives it from one pCPU between two steps: it calls [`TimerQueue::run`] when [`TimerHost::attend`] asked for it, and again at
//! the time that the last call returned.
//!
//! ```text
//!  device --arm(deadline)--> its slot --(earlier than all others)--> TimerHost::attend --> the embedder's loop
//!    ^                                                                                          |
//!    '------- Alarm::expired(now) <-------- TimerQueue::run -> when to call it again <----------'
//! ```
//! Rule kept here: who makes a slot earlier than what [`TimerQueue::run`] returned last asks for another call. Both sides
//! agree through one word, `next`, which `run` raises before it looks at the slots and `arm` lowers after it has written one.
//! Nothing but the creation of a queue allocates. While some timer is armed the embedder's loop comes every few seconds, so a
//! guest that arms its device for ever earlier times far ahead does not call for it each time.

#[cfg(test)]
pub(crate) mod tests;

use alloc::{
    boxed::Box,
    sync::{Arc, Weak},
};
use core::fmt;

use crate::sync::{
    Mutex,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
};

/// A deadline that does not come: a counter of host ticks does not get there.
const NEVER: u64 = u64::MAX;

/// How many alarms one call of [`TimerQueue::run`] sends: what is left over waits for the guest that the pCPU runs.
const MOST_ALARMS: usize = 16;

/// How long at most there is no call of [`TimerQueue::run`] while some timer is armed.
const LONGEST_SECONDS: u64 = 10;

/// The clock behind a queue, and the way to whoever drives it. Any pCPU calls it, in the middle of an exit.
pub trait TimerHost: Send + Sync {
    /// The host's counter, in ticks.
    fn now(&self) -> u64;
    /// Ticks in a second: not 0, and always the same.
    fn frequency(&self) -> u64;
    /// The queue has got an earlier deadline: [`TimerQueue::run`] must be called soon. It neither waits nor calls the queue.
    fn attend(&self);
}

/// A device that asked to be told.
pub trait Alarm: Send + Sync {
    /// The deadline of the device's timer has passed; it is `now`. Called by [`TimerQueue::run`] with no lock held, at most once
    /// for each time that the timer was armed, and perhaps just after it was armed anew or disarmed by another pCPU: the device
    /// looks at what it waits for. It neither waits nor allocates.
    fn expired(&self, now: u64);
}

/// The timers of a machine's devices.
pub struct TimerQueue {
    host: Arc<dyn TimerHost>,
    slots: Box<[Slot]>,
    /// No slot is earlier, unless its device is about to say so.
    next: AtomicU64,
    /// Where the next call begins to look, so that all slots have their turn.
    first: AtomicUsize,
}

struct Slot {
    is_taken: AtomicBool,
    deadline: AtomicU64,
    alarm: Mutex<Option<Weak<dyn Alarm>>>,
}

/// The queue has as many timers as it was made for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct QueueFull;

impl fmt::Display for QueueFull {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the timer queue has no room for another timer")
    }
}

impl core::error::Error for QueueFull {}

impl TimerQueue {
    /// A queue of at most `capacity` timers. Each call of [`TimerQueue::run`] looks at them all.
    pub fn new(host: Arc<dyn TimerHost>, capacity: usize) -> Arc<Self> {
        let slot = || Slot {
            is_taken: AtomicBool::new(false),
            deadline: AtomicU64::new(NEVER),
            alarm: Mutex::new(None),
        };
        Arc::new(Self {
            host,
            slots: core::iter::repeat_with(slot).take(capacity).collect(),
            next: AtomicU64::new(NEVER),
            first: AtomicUsize::new(0),
        })
    }

    /// Room for one timer. Not on an exit path: it looks at each slot.
    ///
    /// # Errors
    /// There are as many timers as there may be.
    pub fn reserve(self: &Arc<Self>) -> Result<TimerPlace, QueueFull> {
        let take = |slot: &Slot| !slot.is_taken.swap(true, Ordering::AcqRel);
        let slot = self.slots.iter().position(take).ok_or(QueueFull)?;
        Ok(TimerPlace {
            queue: Arc::clone(self),
            slot,
        })
    }

    /// Tells the devices whose deadlines have passed, a bounded number of them. Returns when to be called again, in ticks of
    /// the host's counter, which may be past already; `None`: not before [`TimerHost::attend`] asks for it. One pCPU at a time
    /// calls it, between two steps and not in the middle of an exit.
    pub fn run(&self) -> Option<u64> {
        // Raised first: who arms a timer from here on finds that it is the earliest, and asks for another call.
        if !cfg!(mutant = "timer_queue_raises_late") {
            self.next.swap(NEVER, Ordering::AcqRel);
        }
        let now = self.host.now();
        let first = self.first.load(Ordering::Relaxed);
        let (mut earliest, mut alarms) = (NEVER, 0);
        for offset in 0..self.slots.len() {
            let index = (first + offset) % self.slots.len();
            let slot = &self.slots[index];
            let deadline = slot.deadline.load(Ordering::Acquire);
            if deadline > now || alarms == MOST_ALARMS {
                earliest = earliest.min(deadline);
                continue;
            }
            // If it has changed meanwhile, whoever did that asks for another call.
            let is_due = slot.deadline.compare_exchange(
                deadline,
                NEVER,
                Ordering::AcqRel,
                Ordering::Relaxed,
            );
            if is_due.is_err() {
                continue;
            }
            alarms += 1;
            self.first.store(index + 1, Ordering::Relaxed);
            let device = slot.alarm.lock().as_ref().and_then(Weak::upgrade);
            if let Some(device) = device {
                device.expired(now);
            }
        }
        if cfg!(mutant = "timer_queue_raises_late") {
            self.next.swap(NEVER, Ordering::AcqRel);
        }
        let visit = match earliest {
            NEVER => NEVER,
            earliest => earliest.min(now.saturating_add(LONGEST_SECONDS * self.host.frequency())),
        };
        let announced = self.next.fetch_min(visit, Ordering::AcqRel);
        let next = visit.min(announced);
        (next != NEVER).then_some(next)
    }
}

/// Room for one timer, for a device that is being made. Dropping it makes room for another.
pub struct TimerPlace {
    queue: Arc<TimerQueue>,
    slot: usize,
}

impl TimerPlace {
    /// The timer, disarmed; it tells `device`, which holds it.
    pub fn timer_of(self, device: Weak<dyn Alarm>) -> DeviceTimer {
        *self.slot().alarm.lock() = Some(device);
        DeviceTimer(self)
    }

    fn slot(&self) -> &Slot {
        &self.queue.slots[self.slot]
    }
}

impl Drop for TimerPlace {
    fn drop(&mut self) {
        let slot = self.slot();
        slot.deadline.store(NEVER, Ordering::Release);
        *slot.alarm.lock() = None;
        slot.is_taken.store(false, Ordering::Release);
    }
}

/// One device's timer. Dropping it makes room for another.
pub struct DeviceTimer(TimerPlace);

impl DeviceTimer {
    /// The host's counter, in ticks.
    pub fn now(&self) -> u64 {
        self.0.queue.host.now()
    }

    /// Ticks in a second; not 0.
    pub fn frequency(&self) -> u64 {
        self.0.queue.host.frequency()
    }

    /// Has the device told at `deadline`, a value of the host's counter, or soon if that has passed; what it was armed for
    /// before is forgotten. Any pCPU may call it at any time, the device's lock held or not: it neither waits nor calls back.
    pub fn arm(&self, deadline: u64) {
        self.0.slot().deadline.store(deadline, Ordering::Release);
        let queue = &self.0.queue;
        if queue.next.fetch_min(deadline, Ordering::AcqRel) > deadline {
            queue.host.attend();
        }
    }

    /// The device need not be told any more, though it still may be: see [`Alarm::expired`].
    pub fn disarm(&self) {
        self.0.slot().deadline.store(NEVER, Ordering::Release);
    }
}
