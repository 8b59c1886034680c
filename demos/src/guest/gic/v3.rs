//! GICv3: affinity routing on, CPU interfaces in system registers. [IHI0069]

use core::arch::asm;

use aarch64_cpu::{
    asm::barrier,
    registers::{MPIDR_EL1, Readable},
};

use super::{
    super::{cpu, machine, mmio, sgi},
    DISTRIBUTOR, offset,
};

/// The first redistributor of QEMU's `virt`; each has two frames of 64 KiB.
pub const REDISTRIBUTORS: usize = 0x080a_0000;
const REDISTRIBUTOR_BYTES: usize = 0x2_0000;
/// From a redistributor to its frame for SGIs and PPIs.
pub const SGI_FRAME: usize = 0x1_0000;

const GICD_CTLR_ARE: u32 = 1 << 4;
const GICD_CTLR_GROUP1: u32 = 1 << 1;
const GICD_CTLR_RWP: u32 = 1 << 31;
const GICR_TYPER: usize = 8;
const GICR_TYPER_LAST: u64 = 1 << 4;
const GICR_WAKER: usize = 0x14;
const PROCESSOR_SLEEP: u32 = 1 << 1;
const CHILDREN_ASLEEP: u32 = 1 << 2;

/// Writes an ICC register by name.
macro_rules! write_icc {
    ($register:literal, $value:expr) => {{
        let value: u64 = $value;
        // SAFETY: the CPU interface registers decide which interrupts are taken; handlers are sound at any time.
        unsafe { asm!(concat!("msr ", $register, ", {}"), in(reg) value, options(nostack, preserves_flags)) };
    }};
}

/// Reads an ICC register by name.
macro_rules! read_icc {
    ($register:literal) => {{
        let value: u64;
        // SAFETY: reading acknowledges at most an interrupt, which the program then handles.
        unsafe { asm!(concat!("mrs {}, ", $register), out(reg) value, options(nostack, preserves_flags)) };
        value
    }};
}

/// Turns the distributor on: affinity routing, group 1. The boot CPU does it once.
pub fn enable_distributor() {
    mmio::write32(DISTRIBUTOR + offset::CTLR, GICD_CTLR_ARE);
    mmio::write32(DISTRIBUTOR + offset::CTLR, GICD_CTLR_ARE | GICD_CTLR_GROUP1);
    while mmio::read32(DISTRIBUTOR + offset::CTLR) & GICD_CTLR_RWP != 0 {
        cpu::relax();
    }
}

/// Wakes this CPU's redistributor.
pub(super) fn wake() {
    let redistributor = redistributor_of_this_cpu();
    mmio::write32(
        redistributor + GICR_WAKER,
        mmio::read32(redistributor + GICR_WAKER) & !PROCESSOR_SLEEP,
    );
    while mmio::read32(redistributor + GICR_WAKER) & CHILDREN_ASLEEP != 0 {
        cpu::relax();
    }
}

/// Turns the CPU interface on: EOI both drops and deactivates, no binary point, no mask.
pub fn enable_interface() {
    write_icc!("icc_sre_el1", 7);
    barrier::isb(barrier::SY);
    write_icc!("icc_ctlr_el1", 0);
    write_icc!("icc_bpr1_el1", 0);
    write_icc!("icc_pmr_el1", 0xff);
    write_icc!("icc_igrpen1_el1", 1);
    barrier::isb(barrier::SY);
}

/// The redistributor of this CPU: the one whose type register has its affinity.
pub fn redistributor_of_this_cpu() -> usize {
    let mpidr = MPIDR_EL1.get();
    let affinity = (mpidr >> 8 & 0xff00_0000) | mpidr & 0xff_ffff;
    let mut redistributor = REDISTRIBUTORS;
    loop {
        let kind = mmio::read64(redistributor + GICR_TYPER);
        if kind >> 32 == affinity {
            return redistributor;
        }
        assert!(
            kind & GICR_TYPER_LAST == 0,
            "no redistributor has the affinity {affinity:#x}"
        );
        redistributor += REDISTRIBUTOR_BYTES;
    }
}

/// Sends SGI `intid` to the CPU at `index`; what was stored before is visible to its handler.
#[inline(always)]
pub fn send_sgi(intid: u32, index: usize) {
    send_sgi_register(sgi::to_one(intid, machine::mpidr(index)));
}

/// Writes ICC_SGI1R_EL1; `value` comes from [`sgi`].
#[inline(always)]
pub fn send_sgi_register(value: u64) {
    barrier::dsb(barrier::ISHST);
    write_icc!("icc_sgi1r_el1", value);
    barrier::isb(barrier::SY);
}

/// Sends SGI `intid` to all CPUs but this one.
pub fn send_sgi_to_all_others(intid: u32) {
    send_sgi_register(sgi::to_all_others(intid));
}

/// Acknowledges the most urgent interrupt in group 1; `SPURIOUS` if there is none.
#[inline(always)]
pub fn acknowledge() -> u32 {
    let intid = read_icc!("icc_iar1_el1") as u32;
    barrier::dsb(barrier::SY);
    intid
}

/// Ends `intid`: drops the priority, and deactivates it unless EOImode is 1.
#[inline(always)]
pub fn end(intid: u32) {
    write_icc!("icc_eoir1_el1", u64::from(intid));
    barrier::isb(barrier::SY);
}

/// Deactivates `intid`, after [`end`] under EOImode 1.
pub fn deactivate(intid: u32) {
    write_icc!("icc_dir_el1", u64::from(intid));
    barrier::isb(barrier::SY);
}

/// EOImode 1: [`end`] drops the priority only.
pub fn set_split_end(is_split: bool) {
    write_icc!("icc_ctlr_el1", u64::from(is_split) << 1);
    barrier::isb(barrier::SY);
}

/// Only interrupts with a priority below this number are taken.
pub fn set_priority_mask(mask: u8) {
    write_icc!("icc_pmr_el1", u64::from(mask));
    barrier::isb(barrier::SY);
}

/// The priority mask.
pub fn priority_mask() -> u8 {
    read_icc!("icc_pmr_el1") as u8
}

/// Group 1 is on at this CPU's interface.
pub fn is_group_on() -> bool {
    read_icc!("icc_igrpen1_el1") & 1 != 0
}

/// The priority of the interrupt being handled, 0xff when idle.
pub fn running_priority() -> u8 {
    read_icc!("icc_rpr_el1") as u8
}

/// The most urgent interrupt that is pending, without acknowledging it.
pub fn highest_pending() -> u32 {
    read_icc!("icc_hppir1_el1") as u32
}

/// Turns group 0 on or off, in the distributor and at this CPU, whose FIQ it is; group 1 stays on.
pub fn set_group0(is_on: bool) {
    let group0 = u32::from(is_on);
    mmio::write32(
        DISTRIBUTOR + offset::CTLR,
        GICD_CTLR_ARE | GICD_CTLR_GROUP1 | group0,
    );
    while mmio::read32(DISTRIBUTOR + offset::CTLR) & GICD_CTLR_RWP != 0 {
        cpu::relax();
    }
    write_icc!("icc_igrpen0_el1", u64::from(is_on));
    barrier::isb(barrier::SY);
}

/// Acknowledges the most urgent interrupt in group 0; `SPURIOUS` if there is none.
pub fn acknowledge_group0() -> u32 {
    let intid = read_icc!("icc_iar0_el1") as u32;
    barrier::dsb(barrier::SY);
    intid
}

/// Ends `intid`, which is in group 0.
pub fn end_group0(intid: u32) {
    write_icc!("icc_eoir0_el1", u64::from(intid));
    barrier::isb(barrier::SY);
}

/// The most urgent interrupt of group 0 that is pending, without acknowledging it.
pub fn highest_pending_group0() -> u32 {
    read_icc!("icc_hppir0_el1") as u32
}

/// Group 0's interrupts preempt by the bits of their priority above bit `point`.
pub fn set_binary_point0(point: u8) {
    write_icc!("icc_bpr0_el1", u64::from(point));
    barrier::isb(barrier::SY);
}

/// Sends SGI `intid` in group 0 to the CPU at `index`.
pub fn send_sgi_group0(intid: u32, index: usize) {
    barrier::dsb(barrier::ISHST);
    write_icc!("icc_sgi0r_el1", sgi::to_one(intid, machine::mpidr(index)));
    barrier::isb(barrier::SY);
}

/// Disabling `intid` has taken effect when this returns. [GICR_CTLR.RWP, GICD_CTLR.RWP]
pub(super) fn await_disable(intid: u32) {
    let (control, pending) = if intid < 32 {
        (super::frame(cpu::index()) - SGI_FRAME, 1 << 3)
    } else {
        (DISTRIBUTOR, GICD_CTLR_RWP)
    };
    while mmio::read32(control) & pending != 0 {
        cpu::relax();
    }
}

/// Routes the SPI `intid` to the CPU at `index`.
pub(super) fn route(intid: u32, index: usize) {
    mmio::write64(
        DISTRIBUTOR + offset::IROUTER + intid as usize * 8,
        machine::mpidr(index),
    );
}

/// Routes the SPI `intid` to any CPU that takes part. [GICD_IROUTER.Interrupt_Routing_Mode]
pub fn route_to_any(intid: u32) {
    mmio::write64(DISTRIBUTOR + offset::IROUTER + intid as usize * 8, 1 << 31);
}

/// The CPU at `index` refuses, or no more, what may go to any CPU in group 1. [GICR_CTLR.DPG1NS]
pub fn refuse_any(index: usize, is_refused: bool) {
    mmio::write32(super::frame(index) - SGI_FRAME, u32::from(is_refused) << 25);
}
