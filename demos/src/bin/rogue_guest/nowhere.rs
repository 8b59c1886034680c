//! CPUs that lose the ground: nothing that they do next can succeed, and each exception leads to the next.

use core::{arch::asm, sync::atomic::Ordering::Relaxed};

use aarch64_cpu::registers::{Readable, SCTLR_EL1, TTBR0_EL1, VBAR_EL1, Writeable};
use trapline_demos::guest::{
    cpu, gic, machine,
    power::{self, Conduit},
};

use crate::DONE;

/// Beyond all memory, inside of what the flat map covers.
const NOWHERE: u64 = 0x30_0000_0000;

/// Each CPU in its own way.
pub fn get_lost() {
    DONE.fetch_add(1, Relaxed);
    let index = cpu::index();
    match index % 8 {
        // Vectors, tables and code where there is no memory, and where there is a device.
        1 => {
            VBAR_EL1.set(NOWHERE);
            jump(NOWHERE);
        }
        2 => {
            TTBR0_EL1.set(NOWHERE);
            flush();
        }
        3 => {
            TTBR0_EL1.set(gic::DISTRIBUTOR as u64);
            flush();
        }
        4 => {
            VBAR_EL1.set(gic::DISTRIBUTOR as u64);
            SCTLR_EL1.set(SCTLR_EL1.get() & !1);
            flush();
            jump(gic::DISTRIBUTOR as u64);
        }
        5 => lose_the_stack(),
        // A CPU that starts where nothing is, again and again: its neighbour is turned on once this one is off.
        6 => {
            let lost = machine::mpidr(index + 1);
            for entry in [NOWHERE, 0, gic::DISTRIBUTOR as u64, 3, u64::MAX] {
                power::call_registers(Conduit::of_machine(), power::CPU_ON, [lost, entry, 0]);
            }
        }
        7 => power::stop_this_cpu(),
        _ => jump(u64::MAX << 48),
    }
}

fn flush() {
    // SAFETY: what is left is what this test is about; nothing returns from here that Rust would count on.
    unsafe {
        asm!(
            "dsb ish",
            "tlbi vmalle1",
            "dsb ish",
            "isb",
            options(nostack)
        )
    };
}

fn jump(address: u64) -> ! {
    // SAFETY: as in `flush`.
    unsafe { asm!("br {}", in(reg) address, options(noreturn)) };
}

/// The vectors store on the stack: their first instruction fails, and so does the next exception's.
fn lose_the_stack() -> ! {
    // SAFETY: as in `flush`.
    unsafe { asm!("mov sp, {}", "svc #0", in(reg) NOWHERE, options(noreturn)) };
}
