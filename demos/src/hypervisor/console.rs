//! The guest's console on the machine's one serial line.
//!
//! What the guest writes goes out at once. What is typed waits in a ring until the guest's PL011 takes it; when the ring is
//! full the platform stops listening, so nothing typed is lost.

use crossbeam_queue::ArrayQueue;
use spin::Once;
use trapline_handlers::pl011::SerialPort;
use trapline_platform::uart::{self, ConsoleInput};

use super::MACHINE;

/// How many typed bytes wait for the guest.
const TYPED_BYTES: usize = 256;

static TYPED: Once<ArrayQueue<u8>> = Once::new();

/// The guest's end of the line.
pub(super) struct Console;

impl SerialPort for Console {
    fn write(&self, byte: u8) {
        uart::send_console(&[byte]);
    }

    fn read(&self) -> Option<u8> {
        let byte = TYPED.get()?.pop();
        uart::console_ready();
        byte
    }
}

impl ConsoleInput for Console {
    fn room(&self) -> usize {
        TYPED.get().map_or(0, |ring| ring.capacity() - ring.len())
    }

    fn push(&self, byte: u8) {
        let Some(ring) = TYPED.get() else { return };
        // The platform pushes only while there is room, and only one pCPU takes its interrupt.
        let _ = ring.push(byte);
        if let Some(machine) = MACHINE.get() {
            machine.guest.uart.poll_input();
        }
    }
}

/// Starts to take what is typed.
pub(super) fn listen() {
    TYPED.call_once(|| ArrayQueue::new(TYPED_BYTES));
    uart::set_console_input(&Console);
}
