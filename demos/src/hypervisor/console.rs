//! The guests' consoles on the machine's one serial line.
//!
//! What a guest writes goes out at once. What is typed for it waits in a ring until its PL011 takes it; when the ring is full
//! the platform stops listening, so nothing typed is lost. What is typed for a guest that is off is dropped.

use alloc::sync::Arc;

use crossbeam_queue::ArrayQueue;
use trapline_handlers::pl011::{Pl011, SerialPort};
use trapline_platform::{
    relax::Lock,
    uart::{self, ConsoleInput},
};

use super::{MACHINE, control};

/// How many typed bytes wait for a guest. A guest that does not read keeps what is typed for others and the commands waiting
/// once its ring is full, so it is not small.
const TYPED_BYTES: usize = 4096;

/// One guest's end of the line, for as long as the machine runs.
pub(super) struct Console {
    number: u8,
    typed: ArrayQueue<u8>,
    /// The guest's serial port while it lives. The lock is held while the port takes what was typed.
    port: Lock<Option<Arc<Pl011>>>,
}

impl Console {
    /// Console `number` of the line.
    pub(super) fn new(number: u8) -> Arc<Self> {
        Arc::new(Self {
            number,
            typed: ArrayQueue::new(TYPED_BYTES),
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
        while self.typed.pop().is_some() {}
        uart::console_ready();
    }

    fn room(&self) -> usize {
        self.typed.capacity() - self.typed.len()
    }

    fn push(&self, byte: u8) {
        if let Some(port) = &*self.port.lock() {
            // The platform pushes only while there is room, and only one pCPU takes its interrupt.
            let _ = self.typed.push(byte);
            port.poll_input();
        }
    }
}

impl SerialPort for Console {
    fn write(&self, byte: u8) {
        uart::send_console(self.number, &[byte]);
    }

    fn read(&self) -> Option<u8> {
        let byte = self.typed.pop();
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
