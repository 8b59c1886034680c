//! Lines on the PL011, whole ones, whichever CPU prints. [DDI0183: UARTDR, UARTFR]

use core::fmt::{self, Write};

use super::{cpu, lock::SpinLock, mmio};

/// The UART of QEMU's `virt`.
pub const UART: usize = 0x0900_0000;
/// The data register.
pub const DATA: usize = UART;
/// The flag register.
pub const FLAGS: usize = UART + 0x18;
const TRANSMIT_FULL: u32 = 1 << 5;

struct Uart;

impl Write for Uart {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            while mmio::read32(FLAGS) & TRANSMIT_FULL != 0 {
                cpu::relax();
            }
            mmio::write32(DATA, u32::from(byte));
        }
        Ok(())
    }
}

static CONSOLE: SpinLock<Uart> = SpinLock::new(Uart);

/// Prints one line. IRQs are masked meanwhile, so a handler may print as well.
pub fn line(arguments: fmt::Arguments<'_>) {
    cpu::with_interrupts_masked(|| {
        // A UART does not fail.
        let _ = writeln!(CONSOLE.lock(), "{arguments}");
    });
}

/// Prints one line whoever holds the console: the last words of a guest.
pub fn last_line(arguments: fmt::Arguments<'_>) {
    cpu::mask_interrupts();
    let _ = writeln!(Uart, "\n{arguments}");
}

/// Prints one line on the guest's console, like `std::println`.
#[macro_export]
macro_rules! guest_println {
    ($($argument:tt)*) => { $crate::guest::console::line(format_args!($($argument)*)) };
}
