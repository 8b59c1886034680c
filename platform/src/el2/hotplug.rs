//! How a pCPU goes off while the others run, and comes back where it was.
//!
//! ```text
//!   the pCPU itself: leave: GIC asleep, registers onto its stack, CPU_OFF . . . . resume: registers back, GIC awake: leave returns
//!   another one:                            is_off (AFFINITY_INFO), start (CPU_ON)
//! ```
//! What the pCPU has on its stack and in its area stays there meanwhile. [DEN0022: PSCI]

use super::{gic, pcpu, power, smp};
use core::{
    arch::naked_asm,
    sync::atomic::{
        AtomicU64,
        Ordering::{Acquire, Release},
    },
};
use smccc::psci::PSCI_CPU_OFF;
pub use smccc::psci::error::Error;

/// The pCPU that calls goes off; when this returns, [`start`] was called for it. Its timers are off, and its guest-facing
/// registers are UNKNOWN: its engine is disabled before, and enabled afterwards. No shared interrupt is routed here
/// ([`gic::hand_over_shared`]); an SGI that is sent here meanwhile is taken afterwards, or lost.
///
/// # Errors
/// Firmware refuses: the pCPU has never been off.
pub(super) fn leave() -> Result<(), Error> {
    let me = pcpu::current();
    gic::sleep();
    me.is_started.store(false, Release);
    let refusal = suspend(&me.left_at);
    me.left_at.store(0, Release);
    me.is_started.store(true, Release);
    gic::initialize_pcpu();
    match refusal {
        0 => Ok(()),
        refusal => Err(Error::from(refusal)),
    }
}

/// pCPU `id` executes nothing any more.
///
/// # Errors
/// What firmware says; `NotPresent`: the machine has no such pCPU.
pub fn is_off(id: u16) -> Result<bool, Error> {
    let mpidr = smp::mpidr(id).ok_or(Error::NotPresent)?;
    power::is_off(mpidr)
}

/// Starts pCPU `id`, which is off: it goes on as its engine's [`super::engine::leave`] returns, soon.
///
/// # Errors
/// What firmware says. `NotPresent`: the machine has no such pCPU, or it has not left; `AlreadyOn`: it is not off.
pub fn start(id: u16) -> Result<(), Error> {
    let left_at = || {
        let left_at = pcpu::get(id).map_or(0, |pcpu| pcpu.left_at.load(Acquire));
        (left_at != 0).then_some(left_at)
    };
    // SAFETY: the pCPU is off when `left_at` is asked, and nobody else starts it meanwhile: `suspend` has left there, on that pCPU's own
    // stack, what `resume` takes up.
    unsafe { smp::start(id, resume as *const () as u64, left_at) }
}

/// Puts the registers that a function keeps onto the stack, its address to `left_at`, and calls CPU_OFF. Returns 0 when the pCPU
/// has been started again, or firmware's refusal.
#[unsafe(naked)]
extern "C" fn suspend(left_at: &AtomicU64) -> i32 {
    naked_asm!(
        "stp x29, x30, [sp, #-96]!",
        "stp x19, x20, [sp, #16]",
        "stp x21, x22, [sp, #32]",
        "stp x23, x24, [sp, #48]",
        "stp x25, x26, [sp, #64]",
        "stp x27, x28, [sp, #80]",
        "mov x1, sp",
        "str x1, [x0]",
        "ldr w0, ={cpu_off}",
        // What this pCPU wrote is complete before it is gone; firmware writes its caches back. [DEN0022: CPU_OFF]
        "dsb sy",
        "isb",
        "smc #0",
        "b {restore}",
        cpu_off = const PSCI_CPU_OFF,
        restore = sym restore,
    )
}

/// A pCPU that was off goes on here, with the stack that it left.
///
/// # Safety
/// Only `secondary_start` branches to it, with the stack pointer that [`suspend`] stored.
#[unsafe(naked)]
unsafe extern "C" fn resume() -> ! {
    naked_asm!(
        "mov x0, xzr",
        "b {restore}",
        restore = sym restore,
    )
}

/// Returns from [`suspend`] with what is in x0.
///
/// # Safety
/// The stack pointer is where [`suspend`] stored it.
#[unsafe(naked)]
unsafe extern "C" fn restore() -> ! {
    naked_asm!(
        "ldp x19, x20, [sp, #16]",
        "ldp x21, x22, [sp, #32]",
        "ldp x23, x24, [sp, #48]",
        "ldp x25, x26, [sp, #64]",
        "ldp x27, x28, [sp, #80]",
        "ldp x29, x30, [sp], #96",
        "ret",
    )
}
