//! How bytes get in and out of the machine: the host's PL011.
//!
//! Sending polls under a lock. Receiving is driven by the interrupt, as far as the [`ConsoleInput`] has room; then the
//! interrupt is masked and the bytes wait in the UART and, behind it, in QEMU: the commands behind them too. [DDI0183: PrimeCell UART (PL011)]

use super::{
    gic,
    relax::{Lock, Once, relax},
};
use crate::wire::{self, Channel, Decoder, Received};
use arm_pl011_uart::{
    DataBits, Interrupts, LineConfig, PL011Registers, Parity, StopBits, Uart, UniqueMmioPointer,
};
use core::{
    ptr::NonNull,
    sync::atomic::{
        AtomicBool, AtomicU32,
        Ordering::{Relaxed, SeqCst},
    },
};

/// Where `virt` has its first PL011. A constant, because reports must get out before the device tree is read.
pub const BASE: u64 = 0x0900_0000;
/// The clock that `virt` gives the PL011, in Hz.
const CLOCK: u32 = 24_000_000;
const BAUD_RATE: u32 = 115_200;

struct Line {
    uart: Uart<'static>,
    decoder: Decoder,
    /// Whose the raw bytes are that go out.
    console: u8,
}

static LINE: Lock<Option<Line>> = Lock::new(None);

/// The receive interrupt is masked because the consumer had no room.
static IS_STALLED: AtomicBool = AtomicBool::new(false);

/// The UART's INTID; 0 until the device tree is read.
static INTID: AtomicU32 = AtomicU32::new(0);

static CONSUMER: Once<&'static dyn ConsoleInput> = Once::new();

/// Who gets what is typed. Called with interrupts masked, on the pCPU that took the UART's interrupt, and by one
/// pCPU at a time.
pub trait ConsoleInput: Sync {
    /// How many bytes [`Self::push`] would take now for `console`, which is below [`wire::CONSOLES`]. With none, nothing is read from
    /// the UART, whatever it is: a consumer whose sender keeps to a window has room for a byte more than that, so commands still come.
    fn room(&self, console: u8) -> usize;
    /// Takes one byte for `console`; called only while there is room.
    fn push(&self, console: u8, byte: u8);
    /// Takes one byte of a command for the embedder itself; `is_last` ends the command.
    fn command(&self, byte: u8, is_last: bool);
}

/// Sets the UART up for polled sending, with its interrupts masked. Called once, first of all.
pub(super) fn initialize() {
    let registers = NonNull::new(BASE as *mut PL011Registers).expect("the base is a constant");
    // SAFETY:
    // 1. `virt` has a PL011 there, and both the boot tables and the final ones map it as device memory.
    // 2. This is the only place that makes a pointer to it, and it is called once.
    let registers = unsafe { UniqueMmioPointer::new(registers) };
    let mut uart = Uart::new(registers);
    let config = LineConfig {
        data_bits: DataBits::Bits8,
        parity: Parity::None,
        stop_bits: StopBits::One,
    };
    uart.set_interrupt_masks(Interrupts::empty());
    uart.enable(config, BAUD_RATE, CLOCK)
        .expect("the divisor of two constants is valid");
    *LINE.lock() = Some(Line {
        uart,
        decoder: Decoder::new(),
        console: 0,
    });
}

impl Line {
    fn send(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            while self.uart.is_tx_fifo_full() {
                relax();
            }
            self.uart.write_word(byte);
        }
    }

    fn listen(&mut self, is_listening: bool) {
        self.uart.set_interrupt_masks(if is_listening {
            Interrupts::RXI | Interrupts::RTI
        } else {
            Interrupts::empty()
        });
    }

    /// What came next. A byte received with an error is dropped, as a terminal does.
    fn receive(&mut self) -> Option<Received> {
        while !self.uart.is_rx_fifo_empty() {
            if let Ok(Some(byte)) = self.uart.read_word()
                && let Some(received) = self.decoder.push(byte)
            {
                return Some(received);
            }
        }
        None
    }
}

/// Sends one frame; a payload that is too long is cut at [`wire::MAX_PAYLOAD`].
pub(super) fn send_frame(channel: Channel, payload: &[u8]) {
    let payload = &payload[..payload.len().min(wire::MAX_PAYLOAD)];
    if let Some(line) = LINE.lock().as_mut() {
        line.send(&wire::header(channel, payload.len() as u16));
        line.send(payload);
    }
}

/// Sends what a guest writes to `console`, byte for byte. Four bytes more if the last ones were another console's.
///
/// # Panics
/// If `console` is not below [`wire::CONSOLES`].
pub fn send_console(console: u8, bytes: &[u8]) {
    assert!(console < wire::CONSOLES, "the line has no such console");
    if let Some(line) = LINE.lock().as_mut() {
        if line.console != console {
            line.console = console;
            line.send(&wire::header(Channel::Console(console), 0));
        }
        for &byte in bytes {
            line.send(&[byte]);
            if byte == wire::ESCAPE {
                line.send(&[wire::ESCAPE]);
            }
        }
    }
}

/// Notes which interrupt the UART has. The boot pCPU calls it once.
pub(super) fn set_intid(intid: u32) {
    INTID.store(intid, Relaxed);
}

/// Names the one that gets what is typed; the first one stays. The pCPU that calls gets the UART's interrupt from now on,
/// and answers it with [`handle_interrupt`].
pub fn set_console_input(consumer: &'static dyn ConsoleInput) {
    CONSUMER.call_once(|| consumer);
    gic::enable_shared(INTID.load(Relaxed));
    listen(true);
}

/// Answers the UART's interrupt. The pCPU that took it calls this before it deactivates the interrupt.
pub fn handle_interrupt() {
    let Some(consumer) = CONSUMER.get() else {
        listen(false);
        return;
    };
    let mut console = selected();
    loop {
        if consumer.room(console) == 0 {
            listen(false);
            IS_STALLED.store(true, SeqCst);
            // Room that came before the store was not announced to us, so look again.
            if consumer.room(console) == 0 || !IS_STALLED.swap(false, SeqCst) {
                return;
            }
            listen(true);
        }
        // The lock is not held while the consumer runs: it may log.
        let received = LINE.lock().as_mut().and_then(Line::receive);
        match received {
            Some(Received::Console(console, byte)) => consumer.push(console, byte),
            Some(Received::Selected(next)) => console = next,
            Some(Received::Control(byte, is_last)) => consumer.command(byte, is_last),
            None => return,
        }
    }
}

/// The console that typed bytes are for now.
fn selected() -> u8 {
    LINE.lock()
        .as_ref()
        .map_or(0, |line| line.decoder.console())
}

/// The consumer has room again: what waits in the UART interrupts once more. Cheap when nothing waits; any pCPU
/// may call it.
#[inline]
pub fn console_ready() {
    if IS_STALLED.load(SeqCst) && IS_STALLED.swap(false, SeqCst) {
        listen(true);
    }
}

fn listen(is_listening: bool) {
    if let Some(line) = LINE.lock().as_mut() {
        line.listen(is_listening);
    }
}

/// Opens the line for a panic report, whoever holds its lock.
///
/// # Safety
/// No other pCPU uses the line any more, and the caller never returns to code that does.
pub(super) unsafe fn force_unlock() {
    // SAFETY: the caller promises that the lock's holder will not go on.
    unsafe { LINE.force_unlock() };
}
