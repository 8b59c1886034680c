//! As many exits and interrupts as a CPU can make.

use core::{arch::asm, sync::atomic::Ordering::Relaxed};

use trapline_demos::guest::{
    cpu, gic, machine,
    power::{self, Conduit},
    timer::Timer,
};

use crate::DONE;

/// Every interrupt that this guest has is ended and nothing else: the timer's level stays.
pub fn interrupt(_: &mut trapline_demos::guest::exceptions::Frame) {
    let intid = gic::acknowledge();
    if intid != gic::SPURIOUS {
        gic::end(intid);
    }
    DONE.fetch_add(1, Relaxed);
}

/// The boot CPU interrupts all others without end.
pub fn boot_cpu() {
    let end = crate::deadline();
    while cpu::now() < end {
        (1..machine::cpu_count()).for_each(|index| gic::send_sgi(1, index));
    }
}

/// A storm of its own for each of the others.
pub fn others() {
    cpu::unmask_interrupts();
    match cpu::index() % 7 {
        0 => for_ever(|| {
            power::call_registers(Conduit::Hvc, power::VERSION, [0; 3]);
        }),
        1 => for_ever(|| gic::send_sgi(2, cpu::index())),
        2 => {
            gic::enable(Timer::Virtual.intid());
            Timer::Virtual.arm(0);
            for_ever(cpu::relax)
        }
        3 => {
            // Pending and masked, so that no wait lasts.
            cpu::mask_interrupts();
            gic::send_sgi(2, cpu::index());
            for_ever(cpu::wait_for_interrupt)
        }
        // SAFETY: a hint.
        4 => for_ever(|| unsafe { asm!("wfe", options(nomem, nostack)) }),
        5 => {
            // No exit at all, and nothing that the guest could take.
            cpu::mask_interrupts();
            cpu::mask_fast_interrupts();
            for_ever(|| ())
        }
        _ => for_ever(|| {
            gic::write_bit(gic::offset::ISPENDR, 100);
            gic::write_bit(gic::offset::ICPENDR, 100);
        }),
    }
}

fn for_ever(work: impl Fn()) -> ! {
    loop {
        work();
        DONE.fetch_add(1, Relaxed);
    }
}
