//! A serial port that stock guests know: Arm's PL011, with its FIFOs and interrupts. [DDI0183: PL011 r1p5]
//!
//! What the guest writes goes to the [`SerialPort`] at once, so the transmit FIFO is always empty. What comes in is taken
//! from the port only while the receive FIFO has room; the rest waits there. The baud rate and the modem lines are
//! registers and nothing else.
//!
//! Locks: the device's state, for a few instructions, never while it calls the port or the interrupt line. Whoever changes
//! the state calls [`Pl011::sync`] afterwards, the one place that drives the line.

mod registers;
#[cfg(all(test, not(loom)))]
mod tests;

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, Ordering};

use trapline_vcpu::{
    Action, Exit,
    exit::{Direction, MmioAccess},
};

use self::registers::{Effect, Registers};
use crate::{
    handler::{ExitHandler, GuestCpu},
    line::{self, Line},
    registry::Claim,
    sync::Mutex,
};

/// Where the other end of the serial line is. Called on any pCPU, in the middle of an exit: it neither waits nor allocates.
pub trait SerialPort: Send + Sync {
    /// Sends one byte.
    fn write(&self, byte: u8);
    /// Takes the next byte that came in, if there is one. [`Pl011::poll_input`] calls it, on one pCPU at a time.
    fn read(&self) -> Option<u8>;
}

/// A PL011 at an address of the guest's.
pub struct Pl011 {
    base: u64,
    registers: Mutex<Registers>,
    port: Arc<dyn SerialPort>,
    line: Arc<dyn Line>,
    /// How many calls of [`Pl011::poll_input`] have come since the last one that found nobody at it.
    polls: AtomicU32,
}

impl Pl011 {
    /// How many bytes of addresses it takes.
    pub const SIZE: u64 = 0x1000;

    /// A port whose registers start at `base`, at its reset values.
    pub fn new(base: u64, port: Arc<dyn SerialPort>, line: Arc<dyn Line>) -> Self {
        Self {
            base,
            registers: Mutex::new(Registers::default()),
            port,
            line,
            polls: AtomicU32::new(0),
        }
    }

    /// The addresses that it answers.
    pub fn claims(&self) -> [Claim; 1] {
        [Claim::mmio(self.base, Self::SIZE)]
    }

    /// Takes what input there is room for. The embedder calls it, on any pCPU, when the port has got some.
    pub fn poll_input(&self) {
        // Bytes must not overtake each other, so one caller at a time moves them, and looks again for whoever came
        // meanwhile.
        if self.polls.fetch_add(1, Ordering::AcqRel) != 0 {
            return;
        }
        loop {
            let seen = self.polls.load(Ordering::Acquire);
            while self.registers.lock().has_room() {
                let Some(byte) = self.port.read() else { break };
                self.registers.lock().receive(byte);
            }
            if self
                .polls
                .compare_exchange(seen, 0, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
            {
                break;
            }
        }
        self.sync();
    }

    /// Drives the line to what the registers say.
    fn sync(&self) {
        let change = self.registers.lock().line_change();
        line::drive(&*self.line, change, || self.registers.lock().driven());
    }

    fn read(&self, offset: u64) -> u32 {
        let (value, took_input) = self.registers.lock().read(offset);
        // Any other read changes nothing.
        if took_input {
            self.poll_input();
            self.sync();
        }
        value
    }

    fn write(&self, offset: u64, value: u32) {
        let effect = self.registers.lock().write(offset, value);
        match effect {
            Effect::None => {}
            Effect::Send(byte) => self.port.write(byte),
            Effect::Room => self.poll_input(),
        }
        self.sync();
    }
}

impl ExitHandler for Pl011 {
    fn name(&self) -> &str {
        "pl011"
    }

    fn handle(&self, _guest: &mut GuestCpu<'_>, exit: &Exit) -> Action {
        let Exit::Mmio(MmioAccess {
            address, direction, ..
        }) = *exit
        else {
            return Action::Decline;
        };
        // Registers are 32 bits wide and a word apart; narrower accesses reach the low bytes, as on the bus that the
        // device is made for. The other bytes of a word hold nothing.
        let offset = address.wrapping_sub(self.base);
        let is_register = offset.is_multiple_of(4);
        match direction {
            Direction::Read if is_register => Action::FinishRead(self.read(offset).into()),
            Direction::Read => Action::FinishRead(0),
            Direction::Write(value) => {
                if is_register {
                    self.write(offset, value as u32);
                }
                Action::Finish
            }
        }
    }
}
