//! Which physical interrupt is due on this pCPU, and how is it ended: the host's GICv2 or GICv3.
//!
//! EOImode is 1: [`end`] only drops the priority, and the interrupt stays active until it is deactivated, by
//! [`deactivate`] or by a guest whose list register names it. What runs on the exit path is one or two registers, with
//! no lock. [IHI0048; IHI0069: GICv3 and GICv4]
//!
//! ```text
//!   initialize (device tree) ---> is it a GICv2?
//!   end, deactivate, ... ---------'--- v2: memory      '--- v3: system registers
//! ```
//! Where both have a register at the same offset, or the value to send says which it is, nobody has to ask.

mod v2;
mod v3;

use super::pcpu::{self, Pcpu};
use crate::dt::{Gic, HYPERVISOR_TIMER_INTID, Machine};
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
pub(super) use {v2::V2, v3::V3};

/// The SGI that makes a pCPU look at its inbox and requests.
pub const KICK: u32 = 0;
/// The SGI that stops a pCPU for good, because another one panicked.
pub(super) const STOP: u32 = 1;
/// The SGI that makes a pCPU return from its step, because the embedder has something for it to do.
pub const ATTENTION: u32 = 2;
/// The virtual CPU interface wants attention. [BSA: PPI assignments]
pub const MAINTENANCE: u32 = 25;
/// CNTHP, which belongs to EL2.
pub const HYPERVISOR_TIMER: u32 = HYPERVISOR_TIMER_INTID;
/// CNTV, which belongs to the bound guest.
pub const VIRTUAL_TIMER: u32 = 27;
/// CNTP, which belongs to the bound guest.
pub const PHYSICAL_TIMER: u32 = 30;
/// What [`acknowledge`] answers when nothing is due has this INTID, or one above.
pub const SPURIOUS: u32 = 1020;

/// The private interrupts that this platform uses.
const PRIVATE: [u32; 7] = [
    KICK,
    STOP,
    ATTENTION,
    MAINTENANCE,
    HYPERVISOR_TIMER,
    VIRTUAL_TIMER,
    PHYSICAL_TIMER,
];
/// The first INTID that is shared by all pCPUs.
const SHARED_START: u32 = 32;
/// Where the first of the registers that make interrupts active, and of those that enable them, lie in a frame with private
/// interrupts. [IHI0048, IHI0069: GICD_ISACTIVER0, GICR_ISACTIVER0]
const ISACTIVER0: u64 = 0x0300;
const ISENABLER0: u64 = 0x0100;
/// Where the distributor's GICD_ICPENDR and GICD_ICFGR lie. [IHI0048, IHI0069: Distributor register map]
const ICPENDR: u64 = 0x0280;
const ICFGR: u64 = 0x0c00;

static IS_V2: AtomicBool = AtomicBool::new(false);

/// An interrupt that was taken and is active: its INTID and, for an SGI of GICv2, who sent it. The controller wants both back.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Taken(u32);

impl Taken {
    /// The interrupt with this INTID, which is no SGI of another pCPU.
    pub const fn of(intid: u32) -> Self {
        Self(intid)
    }

    /// Its INTID.
    pub const fn intid(self) -> u32 {
        self.0 & 0x3ff
    }
}

/// What a version does on the paths of exits.
pub(super) trait Controller {
    /// As [`acknowledge`].
    fn acknowledge() -> Taken;
    /// As [`end`].
    fn end(interrupt: Taken);
    /// As [`deactivate`].
    fn deactivate(interrupt: Taken);
}

/// The machine has a GICv2.
#[inline(always)]
pub(super) fn is_v2() -> bool {
    IS_V2.load(Relaxed)
}

/// Sets the distributor up, and what is this pCPU's. The boot pCPU calls it once.
pub(super) fn initialize(machine: &'static Machine<'static>) {
    match &machine.gic {
        Gic::V2(gic) => {
            IS_V2.store(true, Relaxed);
            v2::initialize(gic);
        }
        Gic::V3(gic) => v3::initialize(gic, machine.mpidrs()),
    }
    initialize_pcpu();
}

/// Sets up what is this pCPU's: SGIs and PPIs enabled, EOImode 1, all priorities pass.
pub(super) fn initialize_pcpu() {
    if is_v2() {
        v2::initialize_pcpu();
    } else {
        v3::initialize_pcpu();
    }
    accept_shared(pcpu::this_pcpu());
}

/// No interrupt comes to this pCPU any more, until [`initialize_pcpu`].
pub(super) fn sleep() {
    if is_v2() {
        v2::sleep();
    } else {
        v3::sleep();
    }
}

/// Shared interrupts that are routed to the pCPU that calls go to pCPU `to`, another one that is on, and none is routed here until
/// [`accept_shared`].
///
/// # Errors
/// With a GICv2, the shared interrupt with this INTID is active and was taken here, so it must stay for now. Others may have gone.
pub fn hand_over_shared(to: u16) -> Result<(), u32> {
    let from = pcpu::current();
    from.takes_shared.store(false, Relaxed);
    let Some(to) = pcpu::get(to) else {
        return Ok(());
    };
    if is_v2() {
        v2::hand_over_shared(from, to)
    } else {
        v3::hand_over_shared(from, to);
        Ok(())
    }
}

/// From now on shared interrupts may be routed to pCPU `id`, which is on.
pub fn accept_shared(id: u16) {
    if let Some(pcpu) = pcpu::get(id) {
        pcpu.takes_shared.store(true, Relaxed);
    }
}

/// The pCPU to which a shared interrupt goes that is wanted at `to`: one that is about to leave, or has left, gets none. The caller
/// holds the lock under which routes change, and so does [`hand_over_shared`] for each of them.
fn receiver(to: u16) -> Option<&'static Pcpu> {
    pcpu::first_from(to, |pcpu| pcpu.takes_shared.load(Relaxed))
}

/// Where the hypervisor's side of a GICv2's virtual CPU interface is; `None` with a GICv3, where it is in system registers.
pub fn control_interface() -> Option<u64> {
    is_v2().then(v2::control_interface)
}

/// Lets shared interrupt `intid` (32 to 1019, level-sensitive) reach the pCPU that calls.
pub fn enable_shared(intid: u32) {
    configure_shared(intid, true, false, Some(pcpu::this_pcpu()));
}

/// Enables shared interrupt `intid` or disables it, makes it edge-triggered or level-sensitive, and routes it to pCPU `to` if it is given,
/// or to another one if that is off or leaves.
pub(super) fn configure_shared(intid: u32, is_enabled: bool, is_edge: bool, to: Option<u16>) {
    if is_v2() {
        v2::configure_shared(intid, is_enabled, is_edge, to);
    } else {
        v3::configure_shared(intid, is_enabled, is_edge, to);
    }
}

/// Shared interrupt `intid` is not pending any more, unless it is level-sensitive and its line is high.
pub(super) fn clear_pending_shared(intid: u32) {
    if is_v2() {
        v2::clear_pending_shared(intid);
    } else {
        v3::clear_pending_shared(intid);
    }
}

/// The register at `offset` of this pCPU's private interrupts.
#[inline(always)]
fn private_register(offset: u64) -> *mut u32 {
    (pcpu::current().private_frame.load(Relaxed) + offset) as *mut u32
}

/// Lets private interrupt `intid` (below 32) reach this pCPU: one of a host with interrupts of its own.
pub fn enable_private(intid: u32) {
    // SAFETY: `initialize_pcpu` stored where the registers of this pCPU's private interrupts are, mapped as device memory;
    // bits written as 0 change nothing, so nobody else's interrupt is touched.
    unsafe { private_register(ISENABLER0).write_volatile(1 << (intid & 31)) };
}

/// Private interrupt `intid` (below 32) is active on this pCPU.
#[inline(always)]
pub fn is_active(intid: u32) -> bool {
    // SAFETY: as in `enable_private`; reading ISACTIVER has no side effect.
    let active = unsafe { private_register(ISACTIVER0).read_volatile() };
    active & 1 << (intid & 31) != 0
}

/// Sends SGI `intid` ([`ATTENTION`] or 3 to 15: the platform has the others) to pCPU `id`, which exists and has enabled it. Otherwise as
/// [`kick`].
pub fn send(intid: u32, id: u16) {
    if let Some(pcpu) = pcpu::get(id) {
        let shift = if is_v2() { 0 } else { v3::SGI_SHIFT };
        send_sgi(pcpu.kick.load(Relaxed) | u64::from(intid & 15) << shift);
    }
}

const _: () = assert!(KICK == 0, "`send` adds its INTID to that of the kick");

/// Kicks pCPU `id` (an existing one), which may be this one. What the caller wrote before is visible to the target when
/// it acknowledges the kick.
#[inline(always)]
pub fn kick(id: u16) {
    if let Some(pcpu) = pcpu::get(id) {
        send_sgi(pcpu.kick.load(Relaxed));
    }
}

/// Sends the SGI that stops all other pCPUs.
pub(super) fn stop_others() {
    send_sgi(if is_v2() {
        v2::to_all_others(STOP)
    } else {
        v3::to_all_others(STOP)
    });
}

/// Precomputed values and a plain register write: a kick is on the path of every wake-up.
#[inline(always)]
fn send_sgi(value: u64) {
    if value & v2::BY_MEMORY == 0 {
        v3::send_sgi(value);
    } else {
        v2::send_sgi(value);
    }
}

/// Takes the most urgent interrupt that is due here, which is active from then on; [`SPURIOUS`] or above if none is.
pub fn acknowledge() -> Taken {
    if is_v2() {
        V2::acknowledge()
    } else {
        V3::acknowledge()
    }
}

/// The INTID of the interrupt that [`acknowledge`] would take, which stays pending; a more urgent one may come between the two.
pub fn highest_pending() -> u32 {
    if is_v2() {
        v2::highest_pending()
    } else {
        v3::highest_pending()
    }
}

/// Drops the priority of `interrupt`, which stays active.
pub fn end(interrupt: Taken) {
    if is_v2() {
        V2::end(interrupt);
    } else {
        V3::end(interrupt);
    }
}

/// Deactivates `interrupt`, after [`end`], on the pCPU that acknowledged it: it may fire again.
#[inline(always)]
pub fn deactivate(interrupt: Taken) {
    if is_v2() {
        V2::deactivate(interrupt);
    } else {
        V3::deactivate(interrupt);
    }
}
