//! Instructions that exit and come back at once: calls, emulated devices, trapped registers.

use core::arch::asm;

use trapline_demos::guest::{console, gic};

use crate::samples::report;

/// The ticks between two reads of the counter around these instructions; x9 holds the address of a device register.
macro_rules! ticks_of {
    ($address:expr $(, $line:literal)*) => {{
        let (start, end): (u64, u64);
        // SAFETY: the callers' lines read registers, call PSCI_VERSION, or write to the interrupt controller what it holds.
        unsafe {
            asm!(
                "isb",
                "mrs {start}, cntvct_el0",
                $($line,)*
                "mrs {end}, cntvct_el0",
                start = out(reg) start,
                end = out(reg) end,
                in("x9") $address,
                out("x0") _, out("x1") _, out("x2") _, out("x3") _,
                options(nostack),
            );
        }
        end - start
    }};
}

/// What the two reads of the counter cost by themselves.
pub fn counter_overhead() -> u64 {
    (0..16).map(|_| ticks_of!(0_usize)).min().unwrap_or(0)
}

/// Measures and reports all of them.
pub fn run() {
    let overhead = counter_overhead();
    let typer = gic::DISTRIBUTOR + gic::offset::TYPER;
    let enable = gic::DISTRIBUTOR + gic::offset::ISENABLER + 4;
    let priority = gic::DISTRIBUTOR + gic::offset::IPRIORITYR + 8 * 4;
    report("hvc_psci_version", 2, overhead, 1, || {
        ticks_of!(0_usize, "mov w0, #0x84000000", "hvc #0")
    });
    report("gicd_typer_read", 1, overhead, 1, || {
        ticks_of!(typer, "ldr w0, [x9]")
    });
    report("gicd_isenabler_write", 1, overhead, 1, || {
        ticks_of!(enable, "str wzr, [x9]")
    });
    report("gicd_ipriorityr_write", 1, overhead, 1, || {
        ticks_of!(priority, "str wzr, [x9]")
    });
    report("pl011_fr_read", 1, overhead, 1, || {
        ticks_of!(console::FLAGS, "ldr w0, [x9]")
    });
    report("id_register_read", 1, overhead, 1, || {
        ticks_of!(0_usize, "mrs x0, id_aa64pfr0_el1")
    });
    report("actlr_read", 1, overhead, 1, || {
        ticks_of!(0_usize, "mrs x0, actlr_el1")
    });
    report("cntp_ctl_read", 1, overhead, 1, || {
        ticks_of!(0_usize, "mrs x0, cntp_ctl_el0")
    });
}
