//! A guest that reads a part of what is typed for it.

use trapline_demos::guest::{console, cpu, machine, mmio};

use crate::support;

/// UARTFR: nothing has been received. [DDI0183: UARTFR]
const RECEIVE_EMPTY: u32 = 1 << 4;

/// Reads `bytes=` of what is typed, without the UART's FIFOs, and then waits for an interrupt that does not come.
pub fn stop_reading() {
    support::note(format_args!("reading"));
    for _ in 0..machine::parameters().number("bytes", 0) {
        while mmio::read32(console::FLAGS) & RECEIVE_EMPTY != 0 {
            cpu::relax();
        }
        mmio::read32(console::DATA);
    }
    cpu::mask_interrupts();
    loop {
        cpu::wait_for_interrupt();
    }
}
