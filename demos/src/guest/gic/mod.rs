//! The interrupt controller as a guest uses it, a GICv3 or a GICv2: one security state, everything in group 1 unless it is
//! moved. [IHI0069, IHI0048]
//!
//! Which one it is, the device tree says. What is in system registers, or otherwise differs, is in [`v3`] and in `v2`.

mod v2;
pub mod v3;

use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use super::{MAX_CPUS, cpu, mmio};
pub use v2::{CPU_INTERFACE, route_to, send_sgi_filtered, source};
pub use v3::{REDISTRIBUTORS, SGI_FRAME, refuse_any};

/// The distributor of QEMU's `virt`.
pub const DISTRIBUTOR: usize = 0x0800_0000;
/// Offsets in the distributor, and in the SGI frame as far as it has them; each register has one bit or field for each interrupt.
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
    /// GICD_ITARGETSR, of GICv2.
    pub const ITARGETSR: usize = 0x800;
    /// I*_ICFGR.
    pub const ICFGR: usize = 0xc00;
    /// GICD_SGIR, of GICv2.
    pub const SGIR: usize = 0xf00;
    /// GICD_CPENDSGIR, of GICv2.
    pub const CPENDSGIR: usize = 0xf10;
    /// GICD_SPENDSGIR, of GICv2.
    pub const SPENDSGIR: usize = 0xf20;
    /// GICD_IROUTER, of GICv3.
    pub const IROUTER: usize = 0x6000;
}

/// What an acknowledge returns when nothing can be taken.
pub const SPURIOUS: u32 = 1023;
/// The priority that [`enable_cpu`] gives to every SGI and PPI.
pub const DEFAULT_PRIORITY: u8 = 0xa0;

static IS_V2: AtomicBool = AtomicBool::new(false);
static FRAMES: [AtomicUsize; MAX_CPUS] = [const { AtomicUsize::new(0) }; MAX_CPUS];

/// The machine has a GICv2, or a GICv3; the boot CPU says so once.
pub(super) fn set_version(is_v2: bool) {
    IS_V2.store(is_v2, Relaxed);
}

/// The machine has a GICv2.
#[inline(always)]
pub fn is_v2() -> bool {
    IS_V2.load(Relaxed)
}

/// Defines what each version does in its own way.
macro_rules! by_version {
    ($($(#[$doc:meta])* fn $name:ident($($argument:ident: $type:ty),*) $(-> $result:ty)?;)+) => {
        $(
            $(#[$doc])*
            pub fn $name($($argument: $type),*) $(-> $result)? {
                if is_v2() {
                    v2::$name($($argument),*)
                } else {
                    v3::$name($($argument),*)
                }
            }
        )+
    };
}

by_version! {
    /// Turns the distributor on: group 1. The boot CPU does it once.
    fn enable_distributor();
    /// The part of [`enable_cpu`] that is the CPU interface's: EOI both drops and deactivates, no binary point, no mask.
    fn enable_interface();
    /// Sends SGI `intid` to the CPU at `index`; what was stored before is visible to its handler.
    fn send_sgi(intid: u32, index: usize);
    /// Sends SGI `intid` to all CPUs but this one.
    fn send_sgi_to_all_others(intid: u32);
    /// Acknowledges the most urgent interrupt in group 1; [`SPURIOUS`] if there is none. With GICv2, also one in group 0.
    fn acknowledge() -> u32;
    /// Ends `intid`: drops the priority, and deactivates it unless EOImode is 1.
    fn end(intid: u32);
    /// Deactivates `intid`, after [`end`] under EOImode 1.
    fn deactivate(intid: u32);
    /// EOImode 1: [`end`] drops the priority only.
    fn set_split_end(is_split: bool);
    /// Only interrupts with a priority below this number are taken.
    fn set_priority_mask(mask: u8);
    /// The priority mask.
    fn priority_mask() -> u8;
    /// Group 1 is on at this CPU's interface.
    fn is_group_on() -> bool;
    /// The priority of the interrupt being handled, 0xff when idle.
    fn running_priority() -> u8;
    /// The most urgent interrupt that is pending, without acknowledging it.
    fn highest_pending() -> u32;
    /// Turns group 0 on or off, in the distributor and at this CPU, whose FIQ it is; group 1 stays on.
    fn set_group0(is_on: bool);
    /// Acknowledges the most urgent interrupt in group 0; [`SPURIOUS`] if there is none.
    fn acknowledge_group0() -> u32;
    /// Ends `intid`, which is in group 0.
    fn end_group0(intid: u32);
    /// The most urgent interrupt of group 0 that is pending, without acknowledging it.
    fn highest_pending_group0() -> u32;
    /// Group 0's interrupts preempt by the bits of their priority above bit `point`.
    fn set_binary_point0(point: u8);
    /// Sends SGI `intid` in group 0 to the CPU at `index`.
    fn send_sgi_group0(intid: u32, index: usize);
    /// Routes the SPI `intid` to any CPU that takes part.
    fn route_to_any(intid: u32);
}

/// Turns this CPU's interface on: group 1, every priority, all SGIs and PPIs of [`DEFAULT_PRIORITY`] with only the SGIs
/// enabled.
pub fn enable_cpu() {
    let frame = frame_of_this_cpu();
    FRAMES[cpu::index()].store(frame, Relaxed);
    if !is_v2() {
        v3::wake();
    }
    mmio::write32(frame + offset::ICENABLER, 0xffff_0000);
    mmio::write32(frame + offset::IGROUPR, !0);
    for intid in 0..32 {
        mmio::write8(frame + offset::IPRIORITYR + intid, DEFAULT_PRIORITY);
    }
    mmio::write32(frame + offset::ISENABLER, 0xffff);
    enable_interface();
}

/// The frame with the SGIs and PPIs of the CPU at `index`, which has called [`enable_cpu`]. With GICv2 that is the distributor,
/// which shows each CPU its own.
pub fn frame(index: usize) -> usize {
    FRAMES[index].load(Relaxed)
}

/// The same for this CPU, also before that.
pub fn frame_of_this_cpu() -> usize {
    if is_v2() {
        DISTRIBUTOR
    } else {
        v3::redistributor_of_this_cpu() + SGI_FRAME
    }
}

/// Where the bits of `intid` are: in the frame with this CPU's SGIs or in the distributor.
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
    if !is_v2() {
        v3::await_disable(intid);
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
    if is_v2() {
        route_to(intid, 1 << index);
    } else {
        v3::route(intid, index);
    }
}

/// Makes the SPI `intid` edge triggered, or level sensitive.
pub fn set_edge_triggered(intid: u32, is_edge: bool) {
    let register = DISTRIBUTOR + offset::ICFGR + (intid / 16) as usize * 4;
    let mask = 2 << (intid % 16 * 2);
    let others = mmio::read32(register) & !mask;
    mmio::write32(register, if is_edge { others | mask } else { others });
}

/// Puts `intid` into group 0 or 1.
pub fn set_group(intid: u32, is_group1: bool) {
    let (register, mask) = bit(offset::IGROUPR, intid);
    let others = mmio::read32(register) & !mask;
    mmio::write32(register, if is_group1 { others | mask } else { others });
}
