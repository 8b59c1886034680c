//! Eight pins for keys and switches: Arm's PL061, with its interrupts. [DDI0190: PL061 r1p0]
//!
//! The embedder drives pins that the guest has made inputs, as a key does: [`Pl061::set_pin`], or [`Pl061::press`] for one that
//! is let go after a while. What the guest drives it can read back, and nobody else sees it.
//!
//! Locks: the device's state, for a few instructions, never while it drives the interrupt line.

#[cfg(all(test, not(loom)))]
mod tests;

use alloc::sync::{Arc, Weak};

use trapline_vcpu::{
    Action, Exit,
    exit::{Direction, MmioAccess},
};

use crate::{
    handler::{ExitHandler, GuestCpu},
    line::{self, Line},
    registry::Claim,
    sync::Mutex,
    timers::{Alarm, DeviceTimer, QueueFull, TimerQueue},
};

/// GPIODATA takes this much: bits 9:2 of the address select the pins that an access reaches.
const DATA_END: u64 = 0x400;
const DIR: u64 = 0x400;
const IS: u64 = 0x404;
const IBE: u64 = 0x408;
const IEV: u64 = 0x40c;
const IE: u64 = 0x410;
const RIS: u64 = 0x414;
const MIS: u64 = 0x418;
const IC: u64 = 0x41c;
const AFSEL: u64 = 0x420;
const PERIPHERAL_ID: u64 = 0xfe0;

/// GPIOPeriphID0 to 3 and GPIOPCellID0 to 3.
const IDENTIFICATION: [u8; 8] = [0x61, 0x10, 0x04, 0x00, 0x0d, 0xf0, 0x05, 0xb1];

/// A key is down for a tenth of a second: 1 / this many seconds. QEMU's power key is too.
const PRESS_FRACTION: u64 = 10;

/// One of the eight pins.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Pin(u8);

impl Pin {
    /// `None` past 7.
    pub const fn new(number: u8) -> Option<Self> {
        if number < 8 { Some(Self(number)) } else { None }
    }

    const fn bit(self) -> u8 {
        1 << self.0
    }
}

/// A PL061 at an address of the guest's.
pub struct Pl061 {
    base: u64,
    registers: Mutex<Registers>,
    timer: DeviceTimer,
    line: Arc<dyn Line>,
}

/// Each bit is a pin.
#[derive(Default)]
struct Registers {
    /// What comes from outside; pins that nobody drives are low.
    inputs: u8,
    outputs: u8,
    /// The pin is an output.
    direction: u8,
    /// Its interrupt follows the level, not edges.
    is_level: u8,
    /// Both edges count.
    both_edges: u8,
    /// High or rising counts, not low or falling.
    event: u8,
    unmasked: u8,
    /// Edges that were seen and not cleared.
    edges: u8,
    alternate: u8,
    /// Keys that are down, and until when, as a value of the host's counter.
    pressed: u8,
    release_at: u64,
    driven: bool,
}

impl Pl061 {
    /// How many bytes of addresses it takes.
    pub const SIZE: u64 = 0x1000;

    /// Pins that nobody drives, with registers from `base` on at their reset values. Keys are let go by a timer of `queue`.
    ///
    /// # Errors
    /// The queue has no room for the timer.
    pub fn new(
        base: u64,
        queue: &Arc<TimerQueue>,
        line: Arc<dyn Line>,
    ) -> Result<Arc<Self>, QueueFull> {
        let place = queue.reserve()?;
        Ok(Arc::new_cyclic(|device: &Weak<Self>| Self {
            base,
            registers: Mutex::new(Registers::default()),
            timer: place.timer_of(device.clone()),
            line,
        }))
    }

    /// The addresses that it answers.
    pub fn claims(&self) -> [Claim; 1] {
        [Claim::mmio(self.base, Self::SIZE)]
    }

    /// Drives `pin` from outside. The embedder calls it on any pCPU.
    pub fn set_pin(&self, pin: Pin, is_high: bool) {
        self.registers.lock().drive(pin.bit(), is_high);
        self.sync();
    }

    /// The key at `pin` is pressed: the pin is high for a tenth of a second from now on. The embedder calls it on any pCPU.
    pub fn press(&self, pin: Pin) {
        let release_at = self.timer.now() + self.timer.frequency() / PRESS_FRACTION;
        let mut registers = self.registers.lock();
        registers.drive(pin.bit(), true);
        registers.pressed |= pin.bit();
        registers.release_at = release_at;
        // With the lock held: of two presses the timer is the later one's.
        self.timer.arm(release_at);
        drop(registers);
        self.sync();
    }

    /// Drives the line to what the registers say.
    fn sync(&self) {
        let change = self.registers.lock().line_change();
        line::drive(&*self.line, change, || self.registers.lock().driven);
    }
}

impl Alarm for Pl061 {
    fn expired(&self, now: u64) {
        let mut registers = self.registers.lock();
        // A key that was pressed again meanwhile has armed the timer anew.
        if registers.release_at <= now {
            let keys = core::mem::take(&mut registers.pressed);
            registers.drive(keys, false);
        }
        drop(registers);
        self.sync();
    }
}

impl Registers {
    /// The pins as they are.
    fn pins(&self) -> u8 {
        self.outputs & self.direction | self.inputs & !self.direction
    }

    /// Those of `pins` are driven from outside.
    fn drive(&mut self, pins: u8, are_high: bool) {
        let before = self.inputs;
        self.inputs = if are_high {
            before | pins
        } else {
            before & !pins
        };
        // An edge is one of an input that looks for edges, in the direction that it looks for.
        let changed = (before ^ self.inputs) & !self.direction & !self.is_level;
        self.edges |= changed & (self.both_edges | !(self.inputs ^ self.event));
    }

    /// GPIORIS: edges stay until they are cleared, levels are what they are.
    fn raw(&self) -> u8 {
        self.edges | self.is_level & !(self.pins() ^ self.event)
    }

    fn read(&self, offset: u64) -> u8 {
        match offset {
            ..DATA_END => self.pins() & (offset >> 2) as u8,
            DIR => self.direction,
            IS => self.is_level,
            IBE => self.both_edges,
            IEV => self.event,
            IE => self.unmasked,
            RIS => self.raw(),
            MIS => self.raw() & self.unmasked,
            AFSEL => self.alternate,
            _ => {
                let index = offset.wrapping_sub(PERIPHERAL_ID) / 4;
                let byte = usize::try_from(index)
                    .ok()
                    .and_then(|i| IDENTIFICATION.get(i));
                byte.copied().unwrap_or(0)
            }
        }
    }

    fn write(&mut self, offset: u64, value: u8) {
        match offset {
            ..DATA_END => {
                let reached = (offset >> 2) as u8 & self.direction;
                self.outputs = self.outputs & !reached | value & reached;
            }
            DIR => self.direction = value,
            IS => self.is_level = value,
            IBE => self.both_edges = value,
            IEV => self.event = value,
            IE => self.unmasked = value,
            IC => self.edges &= !value,
            AFSEL => self.alternate = value,
            _ => {}
        }
    }

    /// The level that GPIOINTR must be driven to, if that has changed; from now on it is the one decided.
    fn line_change(&mut self) -> Option<bool> {
        let is_high = self.raw() & self.unmasked != 0;
        (core::mem::replace(&mut self.driven, is_high) != is_high).then_some(is_high)
    }
}

impl ExitHandler for Pl061 {
    fn name(&self) -> &str {
        "pl061"
    }

    fn handle(&self, _guest: &mut GuestCpu<'_>, exit: &Exit) -> Action {
        let Exit::Mmio(MmioAccess {
            address, direction, ..
        }) = *exit
        else {
            return Action::Decline;
        };
        // Registers are a word apart and hold one byte; the other bytes of a word hold nothing.
        let offset = address.wrapping_sub(self.base);
        let is_register = offset.is_multiple_of(4);
        match direction {
            Direction::Read if is_register => {
                return Action::FinishRead(self.registers.lock().read(offset).into());
            }
            Direction::Read => return Action::FinishRead(0),
            Direction::Write(value) if is_register => {
                self.registers.lock().write(offset, value as u8);
            }
            Direction::Write(_) => {}
        }
        self.sync();
        Action::Finish
    }
}
