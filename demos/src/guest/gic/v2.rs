//! GICv2: CPU interfaces in memory, and SGIs that are pending once for each sender. [IHI0048]

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use aarch64_cpu::asm::barrier;

use super::{
    super::{MAX_CPUS, cpu, machine, mmio},
    DISTRIBUTOR, offset,
};

/// The CPU interface of QEMU's `virt`, of whichever CPU looks.
pub const CPU_INTERFACE: usize = 0x0801_0000;

const CTLR: usize = CPU_INTERFACE;
const PMR: usize = CPU_INTERFACE + 0x04;
const BPR: usize = CPU_INTERFACE + 0x08;
const IAR: usize = CPU_INTERFACE + 0x0c;
const EOIR: usize = CPU_INTERFACE + 0x10;
const RPR: usize = CPU_INTERFACE + 0x14;
const HPPIR: usize = CPU_INTERFACE + 0x18;
/// The binary point of group 1.
const ABPR: usize = CPU_INTERFACE + 0x1c;
const DIR: usize = CPU_INTERFACE + 0x1000;

/// Of GICD_CTLR and GICC_CTLR.
const GROUP0: u32 = 1 << 0;
const GROUP1: u32 = 1 << 1;
/// An acknowledge takes interrupts of either group. QEMU without two security states has no other way for group 1.
/// [QEMU: gic_get_current_pending_irq]
const ACKNOWLEDGE_EITHER: u32 = 1 << 2;
/// Group 0 comes as FIQs.
const FAST: u32 = 1 << 3;
const SPLIT_END: u32 = 1 << 9;
const INTID: u32 = 0x3ff;

/// What each CPU acknowledged last of each SGI: the sender above the INTID.
static SGIS: [[AtomicU32; 16]; MAX_CPUS] = [const { [const { AtomicU32::new(0) }; 16] }; MAX_CPUS];

pub(super) fn enable_distributor() {
    mmio::write32(DISTRIBUTOR + offset::CTLR, GROUP1);
}

pub(super) fn enable_interface() {
    mmio::write32(ABPR, 0);
    mmio::write32(PMR, 0xff);
    mmio::write32(CTLR, GROUP1 | ACKNOWLEDGE_EITHER | FAST);
}

/// Routes the SPI `intid` to any of the CPUs whose bits are in `targets`. [GICD_ITARGETSR]
pub fn route_to(intid: u32, targets: u8) {
    mmio::write8(DISTRIBUTOR + offset::ITARGETSR + intid as usize, targets);
}

/// To all CPUs, which a machine with GICv2 numbers from 0.
pub(super) fn route_to_any(intid: u32) {
    route_to(intid, u8::MAX >> (8 - machine::cpu_count()));
}

/// Writes GICD_SGIR: `filter` is 0 for the CPUs in `targets`, 1 for all others, 2 for this one.
pub fn send_sgi_filtered(intid: u32, filter: u32, targets: u8) {
    barrier::dsb(barrier::ISHST);
    let value = filter << 24 | u32::from(targets) << 16 | intid;
    mmio::write32(DISTRIBUTOR + offset::SGIR, value);
}

pub(super) fn send_sgi(intid: u32, index: usize) {
    send_sgi_filtered(intid, 0, 1 << index);
}

/// An SGI is of the group that its target has it in.
pub(super) fn send_sgi_group0(intid: u32, index: usize) {
    send_sgi(intid, index);
}

pub(super) fn send_sgi_to_all_others(intid: u32) {
    send_sgi_filtered(intid, 1, 0);
}

pub(super) fn acknowledge() -> u32 {
    let value = mmio::read32(IAR);
    barrier::dsb(barrier::SY);
    let intid = value & INTID;
    if let Some(sgi) = SGIS[cpu::index()].get(intid as usize) {
        sgi.store(value, Relaxed);
    }
    intid
}

pub(super) fn acknowledge_group0() -> u32 {
    acknowledge()
}

/// What says which interrupt it is: for an SGI, also who sent it.
fn whole(intid: u32) -> u32 {
    let sgi = SGIS[cpu::index()].get(intid as usize);
    sgi.map_or(intid, |value| value.load(Relaxed))
}

/// The CPU that sent the SGI `intid`, which this one has acknowledged last.
pub fn source(intid: u32) -> usize {
    (whole(intid) >> 10) as usize
}

pub(super) fn end(intid: u32) {
    mmio::write32(EOIR, whole(intid));
}

pub(super) fn end_group0(intid: u32) {
    end(intid);
}

pub(super) fn deactivate(intid: u32) {
    mmio::write32(DIR, whole(intid));
}

/// Sets the bits in `mask` of this CPU's GICC_CTLR, or clears them.
fn set_control(mask: u32, is_set: bool) {
    let others = mmio::read32(CTLR) & !mask;
    mmio::write32(CTLR, if is_set { others | mask } else { others });
}

pub(super) fn set_split_end(is_split: bool) {
    set_control(SPLIT_END, is_split);
}

pub(super) fn set_priority_mask(mask: u8) {
    mmio::write32(PMR, mask.into());
}

pub(super) fn priority_mask() -> u8 {
    mmio::read32(PMR) as u8
}

pub(super) fn is_group_on() -> bool {
    mmio::read32(CTLR) & GROUP1 != 0
}

pub(super) fn running_priority() -> u8 {
    mmio::read32(RPR) as u8
}

pub(super) fn highest_pending() -> u32 {
    mmio::read32(HPPIR) & INTID
}

pub(super) fn highest_pending_group0() -> u32 {
    highest_pending()
}

pub(super) fn set_group0(is_on: bool) {
    let groups = if is_on { GROUP0 | GROUP1 } else { GROUP1 };
    mmio::write32(DISTRIBUTOR + offset::CTLR, groups);
    set_control(GROUP0, is_on);
}

pub(super) fn set_binary_point0(point: u8) {
    mmio::write32(BPR, point.into());
}
