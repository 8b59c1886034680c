//! A driver for one virtio device: a modern transport and one split queue. [VIRTIO: Virtio Over MMIO, Split Virtqueues]
//!
//! The queue is in static memory of atomics, which the device reads and writes by physical addresses. Requests are chains of
//! buffers, each in its own slot of four descriptors.

use core::sync::atomic::{
    AtomicU16, AtomicU32, AtomicU64,
    Ordering::{Relaxed, SeqCst},
    fence,
};

use super::{boot, mmio};

/// Where the first transport is; they are [`STRIDE`] apart.
const BASE: usize = 0xa00_0000;
const STRIDE: usize = 0x200;
/// The first transport's interrupt; each has the next one.
const FIRST_INTID: u32 = 48;

/// `DeviceID` of a disk.
pub const DISK: u32 = 2;
/// `DeviceID` of random numbers.
pub const RANDOM_NUMBERS: u32 = 4;

mod register {
    pub const MAGIC: usize = 0x000;
    pub const VERSION: usize = 0x004;
    pub const DEVICE_ID: usize = 0x008;
    pub const FEATURES: usize = 0x010;
    pub const FEATURES_SELECT: usize = 0x014;
    pub const DRIVER_FEATURES: usize = 0x020;
    pub const DRIVER_FEATURES_SELECT: usize = 0x024;
    pub const QUEUE_SELECT: usize = 0x030;
    pub const QUEUE_LENGTH_MOST: usize = 0x034;
    pub const QUEUE_LENGTH: usize = 0x038;
    pub const QUEUE_READY: usize = 0x044;
    pub const QUEUE_NOTIFY: usize = 0x050;
    pub const INTERRUPT_STATUS: usize = 0x060;
    pub const INTERRUPT_ACKNOWLEDGE: usize = 0x064;
    pub const STATUS: usize = 0x070;
    pub const QUEUE_DESCRIPTORS: usize = 0x080;
    pub const QUEUE_DRIVER: usize = 0x090;
    pub const QUEUE_DEVICE: usize = 0x0a0;
}

const MAGIC: u32 = 0x7472_6976;
const MODERN: u32 = 2;
/// Bits of Status, in the order in which they are set.
const ACKNOWLEDGE: u32 = 1;
const DRIVER: u32 = 2;
const FEATURES_OK: u32 = 8;
const DRIVER_OK: u32 = 4;
/// VIRTIO_F_VERSION_1, in the upper half of the features.
const VERSION_1: u32 = 1;

/// How many requests can be under way.
pub const SLOTS: usize = 4;
const PER_SLOT: usize = 4;
const LENGTH: usize = SLOTS * PER_SLOT;

#[repr(C, align(16))]
struct Descriptor {
    address: AtomicU64,
    length: AtomicU32,
    flags: AtomicU16,
    next: AtomicU16,
}

const NEXT: u16 = 1;
const WRITTEN_BY_DEVICE: u16 = 2;

#[repr(C, align(4))]
struct Available {
    flags: AtomicU16,
    index: AtomicU16,
    ring: [AtomicU16; LENGTH],
}

#[repr(C, align(4))]
struct Used {
    flags: AtomicU16,
    index: AtomicU16,
    ring: [(AtomicU32, AtomicU32); LENGTH],
}

static DESCRIPTORS: [Descriptor; LENGTH] = [const {
    Descriptor {
        address: AtomicU64::new(0),
        length: AtomicU32::new(0),
        flags: AtomicU16::new(0),
        next: AtomicU16::new(0),
    }
}; LENGTH];
static AVAILABLE: Available = Available {
    flags: AtomicU16::new(0),
    index: AtomicU16::new(0),
    ring: [const { AtomicU16::new(0) }; LENGTH],
};
static USED: Used = Used {
    flags: AtomicU16::new(0),
    index: AtomicU16::new(0),
    ring: [const { (AtomicU32::new(0), AtomicU32::new(0)) }; LENGTH],
};
/// How far the driver has looked at what the device has used.
static SEEN: AtomicU16 = AtomicU16::new(0);

/// A part of a request: the program's own memory, which the device reads, or writes.
#[derive(Clone, Copy, Debug)]
pub struct Buffer {
    /// The first byte's address, as the program sees it.
    pub address: usize,
    /// How many bytes.
    pub length: u32,
    /// The device writes it.
    pub is_written: bool,
}

/// The device behind one transport. A program has one, because there is one queue.
#[derive(Clone, Copy, Debug)]
pub struct Device(usize);

impl Device {
    /// What is behind transport `number`, if that is a `kind`.
    pub fn find(number: usize, kind: u32) -> Option<Self> {
        let device = Self(BASE + number * STRIDE);
        let is_modern =
            device.read(register::MAGIC) == MAGIC && device.read(register::VERSION) == MODERN;
        (is_modern && device.read(register::DEVICE_ID) == kind).then_some(device)
    }

    /// The transport's interrupt.
    pub const fn intid(self) -> u32 {
        FIRST_INTID + ((self.0 - BASE) / STRIDE) as u32
    }

    /// `Status`.
    pub fn status(self) -> u32 {
        self.read(register::STATUS)
    }

    /// Resets the device and sets it up with the queue empty; false if it does not want what this driver can.
    pub fn start(self) -> bool {
        self.write(register::STATUS, 0);
        while self.status() != 0 {}
        self.write(register::STATUS, ACKNOWLEDGE | DRIVER);
        self.write(register::FEATURES_SELECT, 1);
        let is_offered = self.read(register::FEATURES) & VERSION_1 != 0;
        for (half, features) in [0, VERSION_1].into_iter().enumerate() {
            self.write(register::DRIVER_FEATURES_SELECT, half as u32);
            self.write(register::DRIVER_FEATURES, features);
        }
        self.write(register::STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
        let is_agreed = self.status() & FEATURES_OK != 0;
        self.write(register::QUEUE_SELECT, 0);
        if !is_offered || !is_agreed || self.read(register::QUEUE_LENGTH_MOST) < LENGTH as u32 {
            return false;
        }
        for index in [&AVAILABLE.index, &USED.index, &SEEN] {
            index.store(0, Relaxed);
        }
        self.write(register::QUEUE_LENGTH, LENGTH as u32);
        for (register, address) in [
            (register::QUEUE_DESCRIPTORS, (&raw const DESCRIPTORS).addr()),
            (register::QUEUE_DRIVER, (&raw const AVAILABLE).addr()),
            (register::QUEUE_DEVICE, (&raw const USED).addr()),
        ] {
            let address = boot::physical_address(address);
            self.write(register, address as u32);
            self.write(register + 4, (address >> 32) as u32);
        }
        fence(SeqCst);
        self.write(register::QUEUE_READY, 1);
        self.write(
            register::STATUS,
            ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK,
        );
        true
    }

    /// Gives the device a request of one to four `buffers` in `slot`, in which none is under way.
    pub fn submit(self, slot: usize, buffers: &[Buffer]) {
        let first = slot * PER_SLOT;
        for (place, buffer) in buffers.iter().enumerate() {
            let descriptor = &DESCRIPTORS[first + place];
            let is_last = place + 1 == buffers.len();
            let flags = if is_last { 0 } else { NEXT };
            let written = if buffer.is_written {
                WRITTEN_BY_DEVICE
            } else {
                0
            };
            descriptor
                .address
                .store(boot::physical_address(buffer.address), Relaxed);
            descriptor.length.store(buffer.length, Relaxed);
            descriptor.flags.store(flags | written, Relaxed);
            descriptor.next.store((first + place + 1) as u16, Relaxed);
        }
        let index = AVAILABLE.index.load(Relaxed);
        AVAILABLE.ring[usize::from(index) % LENGTH].store(first as u16, Relaxed);
        fence(SeqCst);
        AVAILABLE.index.store(index.wrapping_add(1), Relaxed);
        fence(SeqCst);
        self.write(register::QUEUE_NOTIFY, 0);
    }

    /// The slot of a request that the device is through with, each once.
    pub fn take_used(self) -> Option<usize> {
        let seen = SEEN.load(Relaxed);
        if USED.index.load(Relaxed) == seen {
            return None;
        }
        fence(SeqCst);
        let (first, _) = &USED.ring[usize::from(seen) % LENGTH];
        SEEN.store(seen.wrapping_add(1), Relaxed);
        Some(first.load(Relaxed) as usize / PER_SLOT)
    }

    /// Takes the interrupt's reasons away, and says which they were.
    pub fn acknowledge(self) -> u32 {
        let reasons = self.read(register::INTERRUPT_STATUS);
        self.write(register::INTERRUPT_ACKNOWLEDGE, reasons);
        reasons
    }

    /// The interrupt has reasons.
    pub fn is_interrupting(self) -> bool {
        self.read(register::INTERRUPT_STATUS) != 0
    }

    fn read(self, register: usize) -> u32 {
        mmio::read32(self.0 + register)
    }

    fn write(self, register: usize, value: u32) {
        mmio::write32(self.0 + register, value);
    }
}
