//! The guests' consoles on the machine's one serial line.
//!
//! What a guest writes goes out at once. What is typed for it waits in a ring until its PL011 takes it. The runner sends no more
//! than the ring has room for, and is told what of it has been taken; if somebody else sent more, the platform would stop listening, so
//! nothing typed is lost. What is typed for a guest that is off is dropped.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU16, Ordering::Relaxed};

use crossbeam_queue::ArrayQueue;
use trapline_demos::wire::{TYPED_ROOM, typed_payload};
use trapline_handlers::pl011::{Pl011, SerialPort};
use trapline_platform::{
    channel,
    relax::Lock,
    uart::{self, ConsoleInput},
    wire::Channel,
};

use super::{MACHINE, control};

/// One byte more than the runner fills, so that a full window leaves room: without any the platform would stop listening before it sees
/// that a command comes next, or what is typed for another guest.
const RING: usize = TYPED_ROOM + 1;

/// How much is taken before the runner is told: often enough that it does not wait, and not for each byte.
const TAKEN_PART: u16 = TYPED_ROOM as u16 / 4;

/// One guest's end of the line, for as long as the machine runs.
pub(super) struct Console {
    number: u8,
    typed: ArrayQueue<u8>,
    /// How much has been taken, or dropped, and the runner not been told.
    taken: AtomicU16,
    /// The guest's serial port while it lives. The lock is held while the port takes what was typed.
    port: Lock<Option<Arc<Pl011>>>,
}

impl Console {
    /// Console `number` of the line.
    pub(super) fn new(number: u8) -> Arc<Self> {
        Arc::new(Self {
            number,
            typed: ArrayQueue::new(RING),
            taken: AtomicU16::new(0),
            port: Lock::new(None),
        })
    }

    /// The guest has this serial port from now on.
    pub(super) fn connect(&self, port: Arc<Pl011>) {
        *self.port.lock() = Some(port);
    }

    /// The guest has ended: what is typed from now on is dropped, and so is what it has not read.
    pub(super) fn disconnect(&self) {
        *self.port.lock() = None;
        while self.typed.pop().is_some() {
            self.has_taken_one();
        }
        uart::console_ready();
    }

    /// One byte less waits. On any pCPU, perhaps in the middle of an exit.
    fn has_taken_one(&self) {
        // Whoever else counts meanwhile may come to the same, and then finds nothing left to tell.
        if self.taken.fetch_add(1, Relaxed) + 1 >= TAKEN_PART {
            let count = self.taken.swap(0, Relaxed);
            if count > 0 {
                channel::send(Channel::Typed, &typed_payload(self.number, count));
            }
        }
    }

    fn room(&self) -> usize {
        self.typed.capacity() - self.typed.len()
    }

    fn push(&self, byte: u8) {
        if let Some(port) = &*self.port.lock() {
            // The platform pushes only while there is room, and only one pCPU takes its interrupt.
            let _ = self.typed.push(byte);
            port.poll_input();
        } else {
            self.has_taken_one();
        }
    }
}

impl SerialPort for Console {
    fn write(&self, byte: u8) {
        uart::send_console(self.number, &[byte]);
    }

    fn read(&self) -> Option<u8> {
        let byte = self.typed.pop();
        if byte.is_some() {
            self.has_taken_one();
        }
        uart::console_ready();
        byte
    }
}

/// What the platform hands what was typed to.
struct Line;

impl ConsoleInput for Line {
    fn room(&self, console: u8) -> usize {
        // Nobody waits for what is typed to nobody.
        with(console, Console::room).unwrap_or(usize::MAX)
    }

    fn push(&self, console: u8, byte: u8) {
        with(console, |console| console.push(byte));
    }

    fn command(&self, byte: u8, is_last: bool) {
        if let Some(machine) = MACHINE.get() {
            machine.take_command(byte, is_last);
        }
    }
}

fn with<T>(console: u8, visit: impl FnOnce(&Console) -> T) -> Option<T> {
    let machine = MACHINE.get()?;
    machine
        .slots
        .get(usize::from(console))
        .map(|slot| visit(&slot.console))
}

/// Starts to take what is typed.
pub(super) fn listen() {
    uart::set_console_input(&Line);
    control::listen();
}
