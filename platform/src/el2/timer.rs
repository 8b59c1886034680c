//! When is it: the host's counter, and the one timer that EL2 owns, CNTHP.
//!
//! CNTV and CNTP belong to the guest that is bound. Times are ticks of CNTPCT_EL0; counter and timers are
//! those of the pCPU that calls. [DDI0487: The Generic Timer]

use aarch64_cpu::{
    asm::barrier,
    registers::{CNTFRQ_EL0, CNTPCT_EL0, Readable},
};
use core::arch::asm;

/// CNTHP_CTL_EL2.ENABLE, with IMASK clear.
const ENABLE: u64 = 1;

/// The host's counter, in ticks since reset.
#[inline(always)]
pub fn now() -> u64 {
    // Without the ISB the counter could be read early, before what the caller did until now.
    barrier::isb(barrier::SY);
    CNTPCT_EL0.get()
}

/// Ticks of the counter per second.
#[inline]
pub fn frequency() -> u64 {
    CNTFRQ_EL0.get()
}

/// How many ticks of the counter `us` microseconds are.
pub fn ticks_of_us(us: u32) -> u64 {
    u64::from(us) * frequency() / 1_000_000
}

/// How many microseconds `ticks` of the counter are, rounded to the nearest.
pub fn us_of_ticks(ticks: u64) -> u64 {
    let frequency = u128::from(frequency()).max(1);
    let us = (u128::from(ticks) * 1_000_000 + frequency / 2) / frequency;
    u64::try_from(us).unwrap_or(u64::MAX)
}

/// Arms this pCPU's hypervisor timer for tick `deadline`, or disarms it. It fires at once if that is past.
#[inline(always)]
pub fn set(deadline: Option<u64>) {
    match deadline {
        Some(deadline) => arm(deadline),
        None => disarm(),
    }
}

/// Arms this pCPU's hypervisor timer for tick `deadline`; PPI 26 stays pending until it is armed later or disarmed.
#[inline(always)]
pub fn arm(deadline: u64) {
    // SAFETY: CNTHP belongs to this module (the fatal-exception path aside, which never returns); it affects no memory.
    unsafe {
        asm!(
            "msr cnthp_cval_el2, {deadline}",
            "msr cnthp_ctl_el2, {enable}",
            "isb",
            deadline = in(reg) deadline,
            enable = in(reg) ENABLE,
            options(nostack, preserves_flags),
        );
    }
}

/// Disarms this pCPU's hypervisor timer; its interrupt is no longer pending when this returns.
#[inline(always)]
pub fn disarm() {
    // SAFETY: as in `arm`.
    unsafe {
        asm!(
            "msr cnthp_ctl_el2, xzr",
            "isb",
            options(nostack, preserves_flags)
        )
    };
}
