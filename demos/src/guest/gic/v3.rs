//! The GICv3 as a guest uses it: one security state, affinity routing on, everything in group 1 unless it is moved. [IHI0069]

use core::{
    arch::asm,
    sync::atomic::{AtomicUsize, Ordering},
};

use aarch64_cpu::{
    asm::barrier,
    registers::{MPIDR_EL1, Readable},
};

use super::{MAX_CPUS, cpu, machine, mmio, sgi};

/// The distributor of QEMU's `virt`.
pub const DISTRIBUTOR: usize = 0x0800_0000;
/// The first redistributor of QEMU's `virt`; each has two frames of 64 KiB.
pub const REDISTRIBUTORS: usize = 0x080a_0000;
const REDISTRIBUTOR_BYTES: usize = 0x2_0000;
/// From a redistributor to its frame for SGIs and PPIs.
pub const SGI_FRAME: usize = 0x1_0000;

/// Offsets that the distributor and the SGI frame share; each register has one bit or field for each interrupt.
pub mod offset {
    /// GICD_CTLR.
    pub const CTLR: usize = 0;
    /// GICD_TYPER.
    pub const TYPER: usize = 4;
    /// GICD_SETSPI_NSR.
    pub const SETSPI: usize = 0x40;
    /// GICD_CLRSPI_NSR.
    pub const CLRSPI: usize = 0x48;
    /// I*_IGROUPR.
    pub const IGROUPR: usize = 0x80;
    /// I*_ISENABLER.
    pub const ISENABLER: usize = 0x100;
    /// I*_ICENABLER.
    pub const ICENABLER: usize = 0x180;
    /// I*_ISPENDR.
    pub const ISPENDR: usize = 0x200;
    /// I*_ICPENDR.
    pub const ICPENDR: usize = 0x280;
    /// I*_ISACTIVER.
    pub const ISACTIVER: usize = 0x300;
    /// I*_ICACTIVER.
    pub const ICACTIVER: usize = 0x380;
    /// I*_IPRIORITYR.
    pub const IPRIORITYR: usize = 0x400;
    /// I*_ICFGR.
    pub const ICFGR: usize = 0xc00;
    /// GICD_IROUTER.
    pub const IROUTER: usize = 0x6000;
}

/// What an acknowledge returns when nothing can be taken.
pub const SPURIOUS: u32 = 1023;
/// The priority that [`enable_cpu`] gives to every SGI and PPI.
pub const DEFAULT_PRIORITY: u8 = 0xa0;

const GICD_CTLR_ARE: u32 = 1 << 4;
const GICD_CTLR_GROUP1: u32 = 1 << 1;
const GICD_CTLR_RWP: u32 = 1 << 31;
const GICR_TYPER: usize = 8;
const GICR_TYPER_LAST: u64 = 1 << 4;
const GICR_WAKER: usize = 0x14;
const PROCESSOR_SLEEP: u32 = 1 << 1;
const CHILDREN_ASLEEP: u32 = 1 << 2;

static FRAMES: [AtomicUsize; MAX_CPUS] = [const { AtomicUsize::new(0) }; MAX_CPUS];

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

/// Turns this CPU's interface on: group 1, every priority, all SGIs and PPIs of [`DEFAULT_PRIORITY`] with only the SGIs
/// enabled.
pub fn enable_cpu() {
    let redistributor = redistributor_of_this_cpu();
    FRAMES[cpu::index()].store(redistributor + SGI_FRAME, Ordering::Relaxed);
    mmio::write32(
        redistributor + GICR_WAKER,
        mmio::read32(redistributor + GICR_WAKER) & !PROCESSOR_SLEEP,
    );
    while mmio::read32(redistributor + GICR_WAKER) & CHILDREN_ASLEEP != 0 {
        cpu::relax();
    }
    let frame = redistributor + SGI_FRAME;
    mmio::write32(frame + offset::ICENABLER, 0xffff_0000);
    mmio::write32(frame + offset::IGROUPR, !0);
    for intid in 0..32 {
        mmio::write8(frame + offset::IPRIORITYR + intid, DEFAULT_PRIORITY);
    }
    mmio::write32(frame + offset::ISENABLER, 0xffff);
    enable_interface();
}

/// The part of [`enable_cpu`] that is in system registers: EOI both drops and deactivates, no binary point, no mask.
pub fn enable_interface() {
    write_icc!("icc_sre_el1", 7);
    barrier::isb(barrier::SY);
    write_icc!("icc_ctlr_el1", 0);
    write_icc!("icc_bpr1_el1", 0);
    write_icc!("icc_pmr_el1", 0xff);
    write_icc!("icc_igrpen1_el1", 1);
    barrier::isb(barrier::SY);
}

/// The SGI frame of the CPU at `index`, which has called [`enable_cpu`].
pub fn frame(index: usize) -> usize {
    FRAMES[index].load(Ordering::Relaxed)
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

/// Where the bits of `intid` are: in this CPU's SGI frame or in the distributor.
fn bank(intid: u32) -> usize {
    if intid < 32 {
        frame(cpu::index())
    } else {
        DISTRIBUTOR
    }
}

/// The register with the bit of `intid` in the array of registers at `offset`, and that bit.
fn bit(offset: usize, intid: u32) -> (usize, u32) {
    (
        bank(intid) + offset + (intid / 32) as usize * 4,
        1 << (intid % 32),
    )
}

/// Writes 1 to the bit of `intid` in the array of registers at `offset`, for example [`offset::ISPENDR`].
pub fn write_bit(offset: usize, intid: u32) {
    let (register, mask) = bit(offset, intid);
    mmio::write32(register, mask);
}

/// The bit of `intid` in the array of registers at `offset`.
pub fn read_bit(offset: usize, intid: u32) -> bool {
    let (register, mask) = bit(offset, intid);
    mmio::read32(register) & mask != 0
}

/// Enables `intid`.
pub fn enable(intid: u32) {
    write_bit(offset::ISENABLER, intid);
}

/// Disables `intid`; returns once it cannot be taken any more.
pub fn disable(intid: u32) {
    write_bit(offset::ICENABLER, intid);
    let control = if intid < 32 {
        frame(cpu::index()) - SGI_FRAME
    } else {
        DISTRIBUTOR
    };
    // GICR_CTLR.RWP is bit 3, GICD_CTLR.RWP is bit 31.
    let pending = if intid < 32 { 1 << 3 } else { GICD_CTLR_RWP };
    while mmio::read32(control) & pending != 0 {
        cpu::relax();
    }
}

/// Gives `intid` this priority; the lower number wins.
pub fn set_priority(intid: u32, priority: u8) {
    mmio::write8(bank(intid) + offset::IPRIORITYR + intid as usize, priority);
}

/// Puts the SPI `intid` into group 1 and routes it to the CPU at `index`.
pub fn route(intid: u32, index: usize) {
    let (register, mask) = bit(offset::IGROUPR, intid);
    mmio::write32(register, mmio::read32(register) | mask);
    mmio::write64(
        DISTRIBUTOR + offset::IROUTER + intid as usize * 8,
        machine::mpidr(index),
    );
}

/// Makes the SPI `intid` edge triggered, or level sensitive.
pub fn set_edge_triggered(intid: u32, is_edge: bool) {
    let register = DISTRIBUTOR + offset::ICFGR + (intid / 16) as usize * 4;
    let mask = 2 << (intid % 16 * 2);
    let others = mmio::read32(register) & !mask;
    mmio::write32(register, if is_edge { others | mask } else { others });
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

/// Acknowledges the most urgent interrupt in group 1; [`SPURIOUS`] if there is none.
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

/// Puts `intid` into group 0 or 1.
pub fn set_group(intid: u32, is_group1: bool) {
    let (register, mask) = bit(offset::IGROUPR, intid);
    let others = mmio::read32(register) & !mask;
    mmio::write32(register, if is_group1 { others | mask } else { others });
}

/// Acknowledges the most urgent interrupt in group 0; [`SPURIOUS`] if there is none.
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

/// Routes the SPI `intid` to any CPU that takes part. [GICD_IROUTER.Interrupt_Routing_Mode]
pub fn route_to_any(intid: u32) {
    mmio::write64(DISTRIBUTOR + offset::IROUTER + intid as usize * 8, 1 << 31);
}

/// The CPU at `index` refuses, or no more, what may go to any CPU in group 1. [GICR_CTLR.DPG1NS]
pub fn refuse_any(index: usize, is_refused: bool) {
    mmio::write32(frame(index) - SGI_FRAME, u32::from(is_refused) << 25);
}
