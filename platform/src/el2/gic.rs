//! Which physical interrupt is due on this pCPU, and how is it ended: the host's GICv3.
//!
//! EOImode is 1: [`end`] only drops the priority, and the interrupt stays active until it is deactivated, by
//! [`deactivate`] or by a guest whose list register names it. What runs on the exit path is one or two system
//! registers, with no lock. [IHI0069: GICv3 and GICv4]

use super::{
    pcpu,
    relax::{Lock, Once},
};
use crate::dt::{AFFINITY_MASK, HYPERVISOR_TIMER_INTID, Machine};
use aarch64_cpu::registers::{MPIDR_EL1, Readable};
use arm_gic::{
    IntId, Trigger, UniqueMmioPointer,
    gicv3::{
        GicCpuInterface, GicDistributor, GicRedistributor, GicRedistributorIterator,
        registers::{Gicd, GicrSgi},
    },
};
use core::{arch::asm, ptr::NonNull, sync::atomic::Ordering::Relaxed};

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
/// What [`acknowledge`] answers when nothing is due: this and above.
pub const SPURIOUS: u32 = 1020;

/// The first INTID that is shared by all pCPUs.
const SHARED_START: u32 = 32;
/// Where the SGI frame's GICR_ISACTIVER0 lies. [IHI0069: Redistributor register map, SGI_base]
const ISACTIVER0: u64 = 0x0300;
/// Where the distributor's GICD_ICPENDR and GICD_ICFGR lie. [IHI0069: Distributor register map]
const ICPENDR: u64 = 0x0280;
const ICFGR: u64 = 0x0c00;
/// Where GICR_ISENABLER0 lies.
const ISENABLER0: u64 = 0x0100;
const SGI_FRAME: u64 = 0x1_0000;

/// Held while the distributor is set up for an interrupt; keeps the one pointer to it unique.
static DISTRIBUTOR: Lock<Option<GicDistributor<'static>>> = Lock::new(None);
/// Where the redistributors are.
static MACHINE: Once<&'static Machine<'static>> = Once::new();

/// Sets the distributor up, and what is this pCPU's. The boot pCPU calls it once.
pub(super) fn initialize(machine: &'static Machine<'static>) {
    let registers =
        NonNull::new(machine.distributor.start as *mut Gicd).expect("address 0 is no distributor");
    // SAFETY:
    // 1. The device tree names a GICv3 distributor there, mapped as device memory.
    // 2. This is the only place that makes a pointer to it, and it is called once.
    let mut distributor = GicDistributor::new(unsafe { UniqueMmioPointer::new(registers) });
    distributor.configure_default_settings();
    *DISTRIBUTOR.lock() = Some(distributor);
    MACHINE.call_once(|| machine);
    for (id, &mpidr) in machine.mpidrs().iter().enumerate() {
        if let Some(pcpu) = pcpu::get(id as u16) {
            pcpu.kick.store(sgi(mpidr, KICK), Relaxed);
        }
    }
    initialize_pcpu();
}

/// Sets up this pCPU's redistributor and CPU interface: SGIs and PPIs enabled, EOImode 1, all priorities pass.
pub(super) fn initialize_pcpu() {
    let machine = MACHINE.get().expect("the boot pCPU has set the GIC up");
    let mpidr = MPIDR_EL1.get() & AFFINITY_MASK;
    let frame = machine.redistributors().iter().find_map(|region| {
        let base = NonNull::new(region.start as *mut GicrSgi).expect("no region is at 0");
        // SAFETY:
        // 1. The device tree names the redistributors of a GICv3 there, mapped as device memory.
        // 2. Other pCPUs use only their own frames; what all read while they look for theirs is GICR_TYPER.
        let frames = unsafe { GicRedistributorIterator::new(base) };
        let mut frames = frames.expect("the redistributors are GICv3's, without virtual LPIs");
        let index = frames.position(|frame| frame.typer().core_mpidr() == mpidr)?;
        Some(region.start + (index * size_of::<GicrSgi>()) as u64)
    });
    let frame = frame.expect("each pCPU has a redistributor");
    pcpu::current()
        .redistributor
        .store(frame + SGI_FRAME, Relaxed);
    let registers = NonNull::new(frame as *mut GicrSgi).expect("frames lie above the first");
    // SAFETY: it is this pCPU's own frame (see above), and the iterator's pointers are gone.
    let mut redistributor = GicRedistributor::new(unsafe { UniqueMmioPointer::new(registers) });

    GicCpuInterface::enable_system_register_el2(true);
    GicCpuInterface::enable_system_register_el1();
    // It may be awake already, because firmware woke it.
    let _ = redistributor.mark_core_awake();
    redistributor.configure_default_settings();
    let private = [
        KICK,
        STOP,
        ATTENTION,
        MAINTENANCE,
        HYPERVISOR_TIMER,
        VIRTUAL_TIMER,
        PHYSICAL_TIMER,
    ];
    for intid in private {
        redistributor
            .enable_interrupt(private_intid(intid), true)
            .expect("the list holds SGIs and PPIs");
    }
    // EOImode 1: EOIR drops the priority only. [IHI0069: ICC_CTLR_EL1.EOImode]
    // SAFETY: it changes how later writes to EOIR act, which this module alone makes.
    unsafe { asm!("msr icc_ctlr_el1, {}", in(reg) 1u64 << 1, options(nostack, preserves_flags)) };
    GicCpuInterface::set_priority_mask(0xff);
    GicCpuInterface::enable_group1(true);
}

fn private_intid(intid: u32) -> IntId {
    if intid < IntId::SGI_COUNT {
        IntId::sgi(intid)
    } else {
        IntId::ppi(intid - IntId::SGI_COUNT)
    }
}

/// Lets shared interrupt `intid` (32 to 1019, level-sensitive) reach the pCPU that calls.
pub fn enable_shared(intid: u32) {
    let mpidr = MPIDR_EL1.get() & AFFINITY_MASK;
    let intid = IntId::spi(intid - SHARED_START);
    let mut distributor = DISTRIBUTOR.lock();
    let distributor = distributor
        .as_mut()
        .expect("the boot pCPU has set the GIC up");
    let routed = distributor.set_routing(intid, Some(mpidr));
    routed
        .and_then(|()| distributor.enable_interrupt(intid, true))
        .expect("the INTID is a shared interrupt");
}

/// Enables shared interrupt `intid` or disables it, makes it edge-triggered or level-sensitive, and routes it to pCPU `to` if it is given
/// and exists.
pub(super) fn configure_shared(intid: u32, is_enabled: bool, is_edge: bool, to: Option<u16>) {
    let trigger = if is_edge {
        Trigger::Edge
    } else {
        Trigger::Level
    };
    let mpidrs = MACHINE.get().map_or(&[][..], |machine| machine.mpidrs());
    let mpidr = to.and_then(|to| mpidrs.get(usize::from(to)));
    let mut distributor = DISTRIBUTOR.lock();
    let distributor = distributor
        .as_mut()
        .expect("the boot pCPU has set the GIC up");
    let is_other = is_edge_triggered(intid) != is_edge;
    let intid = IntId::spi(intid - SHARED_START);
    let triggered = if is_other {
        // What an enabled interrupt does whose trigger changes is unpredictable. [IHI0069: GICD_ICFGR<n>]
        let disabled = distributor.enable_interrupt(intid, false);
        distributor.wait_for_pending_write();
        disabled.and_then(|()| distributor.set_trigger(intid, trigger))
    } else {
        Ok(())
    };
    let routed = mpidr.map_or(Ok(()), |&mpidr| distributor.set_routing(intid, Some(mpidr)));
    triggered
        .and(routed)
        .and_then(|()| distributor.enable_interrupt(intid, is_enabled))
        .expect("the INTID is a shared interrupt");
}

/// Shared interrupt `intid` is edge-triggered.
fn is_edge_triggered(intid: u32) -> bool {
    let register = distributor_register(ICFGR, intid / 16);
    // SAFETY: the device tree names a distributor there, mapped as device memory; reading ICFGR has no side effect.
    let triggers = unsafe { register.read_volatile() };
    triggers >> (intid % 16 * 2) & 0b10 != 0
}

/// Shared interrupt `intid` is not pending any more, unless it is level-sensitive and its line is high.
pub(super) fn clear_pending_shared(intid: u32) {
    let register = distributor_register(ICPENDR, intid / 32);
    // SAFETY: the device tree names a distributor there, mapped as device memory; bits written as 0 change nothing, so nobody else's
    // interrupt is touched.
    unsafe { register.write_volatile(1 << (intid % 32)) };
}

/// The distributor's register `index` of those from `offset` on.
fn distributor_register(offset: u64, index: u32) -> *mut u32 {
    let machine = MACHINE.get().expect("the boot pCPU has set the GIC up");
    (machine.distributor.start + offset + u64::from(index) * 4) as *mut u32
}

/// Lets private interrupt `intid` (below 32) reach this pCPU: one of a host with interrupts of its own.
pub fn enable_private(intid: u32) {
    let register = (pcpu::current().redistributor.load(Relaxed) + ISENABLER0) as *mut u32;
    // SAFETY: `initialize_pcpu` stored the SGI frame of this pCPU's redistributor, mapped as device memory; bits written as
    // 0 change nothing, so nobody else's interrupt is touched.
    unsafe { register.write_volatile(1 << (intid & 31)) };
}

/// Sends SGI `intid` ([`ATTENTION`] or 3 to 15: the platform has the others) to pCPU `id`, which exists and has enabled it. Otherwise as
/// [`kick`].
pub fn send(intid: u32, id: u16) {
    if let Some(pcpu) = pcpu::get(id) {
        send_sgi(pcpu.kick.load(Relaxed) | u64::from(intid & 15) << 24);
    }
}

/// Kicks pCPU `id` (an existing one), which may be this one. What the caller wrote before is visible to the target when
/// it acknowledges the kick.
#[inline(always)]
pub fn kick(id: u16) {
    if let Some(pcpu) = pcpu::get(id) {
        send_sgi(pcpu.kick.load(Relaxed));
    }
}

/// Sends the SGI that stops all other pCPUs. [IHI0069: ICC_SGI1R_EL1.IRM]
pub(super) fn stop_others() {
    const ALL_BUT_ME: u64 = 1 << 40;
    send_sgi(u64::from(STOP) << 24 | ALL_BUT_ME);
}

const _: () = assert!(KICK == 0, "`send` adds its INTID to that of the kick");

/// The value of ICC_SGI1R_EL1 that sends `intid` to the pCPU with affinity `mpidr`.
const fn sgi(mpidr: u64, intid: u32) -> u64 {
    let (aff0, aff1) = (mpidr & 0xff, mpidr >> 8 & 0xff);
    let (aff2, aff3) = (mpidr >> 16 & 0xff, mpidr >> 32 & 0xff);
    let range = aff0 >> 4;
    aff3 << 48 | range << 44 | aff2 << 32 | (intid as u64) << 24 | aff1 << 16 | 1 << (aff0 & 15)
}

/// Precomputed values and a plain register write: a kick is on the path of every wake-up.
#[inline(always)]
fn send_sgi(value: u64) {
    // SAFETY: an SGI changes no memory. The barrier makes earlier writes visible first, and as the assembly may touch
    // memory for all the compiler knows, it does not move them past it.
    unsafe {
        asm!(
            "dsb ishst",
            "msr icc_sgi1r_el1, {}",
            "isb",
            in(reg) value,
            options(nostack, preserves_flags),
        );
    }
}

/// Takes the most urgent interrupt that is due here, which is active from then on; [`SPURIOUS`] or above if none is.
#[inline(always)]
pub fn acknowledge() -> u32 {
    let intid: u64;
    // SAFETY: acknowledging changes no memory; what it orders after itself is device and shared memory, hence the DSB.
    unsafe {
        asm!(
            "mrs {}, icc_iar1_el1",
            "dsb sy",
            out(reg) intid,
            options(nostack, preserves_flags),
        );
    }
    intid as u32
}

/// The interrupt that [`acknowledge`] would take, which stays pending; a more urgent one may come between the two.
#[inline(always)]
pub fn highest_pending() -> u32 {
    let intid: u64;
    // SAFETY: it changes nothing.
    unsafe {
        asm!("mrs {}, icc_hppir1_el1", out(reg) intid, options(nomem, nostack, preserves_flags));
    }
    intid as u32
}

/// Drops the priority of interrupt `intid`, which stays active.
#[inline(always)]
pub fn end(intid: u32) {
    // SAFETY: it changes no memory.
    unsafe {
        asm!(
            "msr icc_eoir1_el1, {}",
            "isb",
            in(reg) u64::from(intid),
            options(nostack, preserves_flags),
        );
    }
}

/// Deactivates interrupt `intid`, after [`end`], on the pCPU that acknowledged it: it may fire again.
#[inline(always)]
pub fn deactivate(intid: u32) {
    // SAFETY: it changes no memory.
    unsafe {
        asm!(
            "msr icc_dir_el1, {}",
            "isb",
            in(reg) u64::from(intid),
            options(nostack, preserves_flags),
        );
    }
}

/// Private interrupt `intid` (below 32) is active on this pCPU.
#[inline(always)]
pub fn is_active(intid: u32) -> bool {
    let register = (pcpu::current().redistributor.load(Relaxed) + ISACTIVER0) as *const u32;
    // SAFETY: `initialize_pcpu` stored the SGI frame of this pCPU's redistributor, mapped as device memory; reading
    // ISACTIVER has no side effect.
    let active = unsafe { register.read_volatile() };
    active & 1 << (intid & 31) != 0
}
