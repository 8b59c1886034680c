//! The ITS's tables: devices, their events, collections. A table's entry is one atomic word.

use alloc::boxed::Box;

use super::super::{lpi::FIRST_LPI, record::NOBODY};
use crate::sync::atomic::{AtomicU8, AtomicU32, Ordering};

/// Bits of a DeviceID. [GITS_TYPER.Devbits]
pub(super) const DEVICE_BITS: u32 = if cfg!(loom) { 1 } else { 8 };
/// Bits of an EventID. [GITS_TYPER.ID_bits]
pub(super) const EVENT_BITS: u32 = if cfg!(loom) { 1 } else { 6 };
/// Bits of a collection's number. [GITS_TYPER.CIDbits]
pub(super) const COLLECTION_BITS: u32 = if cfg!(loom) { 1 } else { 7 };

pub(super) const DEVICES: u32 = 1 << DEVICE_BITS;
pub(super) const EVENTS: u32 = 1 << EVENT_BITS;
pub(super) const COLLECTIONS: u32 = 1 << COLLECTION_BITS;

/// An entry that says something.
const VALID: u32 = 1 << 31;
const COLLECTION_SHIFT: u32 = 16;

/// What an event is translated to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Event {
    pub(super) intid: u32,
    pub(super) collection: u32,
}

impl Event {
    const fn of(entry: u32) -> Option<Self> {
        if entry & VALID == 0 {
            return None;
        }
        Some(Self {
            intid: FIRST_LPI + (entry & 0xffff),
            collection: entry >> COLLECTION_SHIFT & (COLLECTIONS - 1),
        })
    }
}

pub(super) struct Tables {
    /// How many events each device has, up to [`EVENTS`]; 0 if it is not mapped.
    devices: Box<[AtomicU32]>,
    /// [`EVENTS`] for each device.
    events: Box<[AtomicU32]>,
    /// The vCPU of each collection, or [`NOBODY`].
    collections: Box<[AtomicU8]>,
}

impl Tables {
    pub(super) fn new() -> Self {
        let words = |count| (0..count).map(|_| AtomicU32::new(0)).collect();
        Self {
            devices: words(DEVICES),
            events: words(DEVICES * EVENTS),
            collections: (0..COLLECTIONS).map(|_| AtomicU8::new(NOBODY)).collect(),
        }
    }

    pub(super) fn clear(&self) {
        let words = self.devices.iter().chain(&self.events);
        words.for_each(|word| word.store(0, Ordering::Release));
        let collections = self.collections.iter();
        collections.for_each(|vcpu| vcpu.store(NOBODY, Ordering::Release));
    }

    /// Maps a device with that many events, none of them mapped; with 0 it is unmapped.
    pub(super) fn map_device(&self, device: u32, events: u32) {
        let Some(entry) = self.devices.get(device as usize) else {
            return;
        };
        entry.store(0, Ordering::Release);
        let first = (device * EVENTS) as usize;
        for event in self.events.iter().skip(first).take(EVENTS as usize) {
            event.store(0, Ordering::Release);
        }
        entry.store(events.min(EVENTS), Ordering::Release);
    }

    fn entry(&self, device: u32, event: u32) -> Option<&AtomicU32> {
        let events = self.devices.get(device as usize)?.load(Ordering::Acquire);
        if event >= events {
            return None;
        }
        self.events.get((device * EVENTS + event) as usize)
    }

    /// What an event of a device is, if both are mapped.
    pub(super) fn event(&self, device: u32, event: u32) -> Option<Event> {
        Event::of(self.entry(device, event)?.load(Ordering::Acquire))
    }

    /// Maps an event of a device, or unmaps it; false if there is no such event.
    pub(super) fn map_event(&self, device: u32, event: u32, to: Option<Event>) -> bool {
        let Some(entry) = self.entry(device, event) else {
            return false;
        };
        let value = to.map_or(0, |to| {
            VALID | to.collection << COLLECTION_SHIFT | (to.intid - FIRST_LPI)
        });
        entry.store(value, Ordering::Release);
        true
    }

    /// The events of a device, whether it is mapped or not, that are mapped.
    pub(super) fn events_of(&self, device: u32) -> impl Iterator<Item = Event> {
        self.events
            .iter()
            .skip((device * EVENTS) as usize)
            .take(EVENTS as usize)
            .filter_map(|entry| Event::of(entry.load(Ordering::Acquire)))
    }

    pub(super) fn map_collection(&self, collection: u32, vcpu: u8) {
        if let Some(entry) = self.collections.get(collection as usize) {
            entry.store(vcpu, Ordering::Release);
        }
    }

    /// The vCPU of a collection, or [`NOBODY`].
    pub(super) fn vcpu_of(&self, collection: u32) -> u8 {
        self.collections
            .get(collection as usize)
            .map_or(NOBODY, |vcpu| vcpu.load(Ordering::Acquire))
    }
}
