//! The host's GICv3: CPU interfaces in system registers. [IHI0069: GICv3 and GICv4]

use super::{
    super::{
        pcpu::Pcpu,
        relax::{Lock, Once, relax},
    },
    Controller, ICFGR, ICPENDR, ISENABLER0, KICK, PRIVATE, SHARED_START, Taken, pcpu, receiver,
};
use crate::dt::{AFFINITY_MASK, GicV3};
use aarch64_cpu::registers::{MPIDR_EL1, Readable};
use arm_gic::{
    IntId, Trigger, UniqueMmioPointer,
    gicv3::{
        GicCpuInterface, GicDistributor, GicRedistributor, GicRedistributorIterator,
        registers::{Gicd, GicrSgi},
    },
};
use core::{arch::asm, ptr::NonNull, sync::atomic::Ordering::Relaxed};

const SGI_FRAME: u64 = 0x1_0000;
/// Where the distributor's GICD_IROUTER lies, and what routes to any pCPU. [IHI0069: GICD_IROUTER<n>]
const IROUTER: u64 = 0x6000;
const ANY_PCPU: u64 = 1 << 31;
/// Where a redistributor's GICR_WAKER lies, and its bits.
const WAKER: u64 = 0x0014;
const PROCESSOR_SLEEP: u32 = 1 << 1;
const CHILDREN_ASLEEP: u32 = 1 << 2;
/// ICC_SGI1R_EL1.INTID.
pub(super) const SGI_SHIFT: u32 = 24;

/// Held while the distributor is set up for an interrupt; keeps the one pointer to it unique.
static DISTRIBUTOR: Lock<Option<GicDistributor<'static>>> = Lock::new(None);
/// Where the redistributors are, and the pCPUs' affinities.
static MACHINE: Once<(&'static GicV3, &'static [u64])> = Once::new();

/// Sets the distributor up. `mpidrs` are the pCPUs' affinities.
pub(super) fn initialize(gic: &'static GicV3, mpidrs: &'static [u64]) {
    let registers =
        NonNull::new(gic.distributor.start as *mut Gicd).expect("address 0 is no distributor");
    // SAFETY:
    // 1. The device tree names a GICv3 distributor there, mapped as device memory.
    // 2. This is the only place that makes a pointer to it, and it is called once.
    let mut distributor = GicDistributor::new(unsafe { UniqueMmioPointer::new(registers) });
    distributor.configure_default_settings();
    *DISTRIBUTOR.lock() = Some(distributor);
    MACHINE.call_once(|| (gic, mpidrs));
    for (id, &mpidr) in mpidrs.iter().enumerate() {
        if let Some(pcpu) = pcpu::get(id as u16) {
            pcpu.kick.store(sgi(mpidr, KICK), Relaxed);
        }
    }
}

/// Sets up this pCPU's redistributor and CPU interface: SGIs and PPIs enabled, EOImode 1, all priorities pass.
pub(super) fn initialize_pcpu() {
    let (gic, _) = MACHINE.get().expect("the boot pCPU has set the GIC up");
    let mpidr = MPIDR_EL1.get() & AFFINITY_MASK;
    let frame = gic.redistributors().iter().find_map(|region| {
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
        .private_frame
        .store(frame + SGI_FRAME, Relaxed);
    let registers = NonNull::new(frame as *mut GicrSgi).expect("frames lie above the first");
    // SAFETY: it is this pCPU's own frame (see above), and the iterator's pointers are gone.
    let mut redistributor = GicRedistributor::new(unsafe { UniqueMmioPointer::new(registers) });

    GicCpuInterface::enable_system_register_el2(true);
    GicCpuInterface::enable_system_register_el1();
    // It may be awake already, because firmware woke it.
    let _ = redistributor.mark_core_awake();
    redistributor.configure_default_settings();
    for intid in PRIVATE {
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

/// As [`super::configure_shared`].
pub(super) fn configure_shared(intid: u32, is_enabled: bool, is_edge: bool, to: Option<u16>) {
    let trigger = if is_edge {
        Trigger::Edge
    } else {
        Trigger::Level
    };
    let mpidrs = MACHINE.get().map_or(&[][..], |(_, mpidrs)| mpidrs);
    let mut distributor = DISTRIBUTOR.lock();
    let to = to.and_then(receiver);
    let mpidr = to.and_then(|to| mpidrs.get(usize::from(to.id())));
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

/// As [`super::hand_over_shared`]. The active state of a shared interrupt is one for all pCPUs, so it may be active.
pub(super) fn hand_over_shared(from: &Pcpu, to: &Pcpu) {
    let (gic, mpidrs) = MACHINE.get().expect("the boot pCPU has set the GIC up");
    let [from, to] = [from, to].map(|pcpu| mpidrs[usize::from(pcpu.id())]);
    // Whoever held the lock before, and took this pCPU for one that stays, has written its route by now.
    let count = with_distributor(|distributor| distributor.typer().num_spis());
    for index in 0..count {
        let intid = SHARED_START + index;
        let router = (gic.distributor.start + IROUTER + u64::from(intid) * 8) as *const u64;
        // SAFETY: the device tree names a distributor there, mapped as device memory; reading it has no side effect.
        let route = || unsafe { router.read_volatile() } & (AFFINITY_MASK | ANY_PCPU);
        if route() != from {
            continue;
        }
        // The lock is held for one interrupt at a time.
        with_distributor(|distributor| {
            if route() == from {
                reroute(distributor, index, to);
            }
        });
    }
}

fn with_distributor<R>(visit: impl FnOnce(&mut GicDistributor<'static>) -> R) -> R {
    let mut distributor = DISTRIBUTOR.lock();
    visit(
        distributor
            .as_mut()
            .expect("the boot pCPU has set the GIC up"),
    )
}

/// Routes shared interrupt `index`, from 0, to the pCPU with this affinity. It is disabled in between, so that it is nowhere on its
/// way to the old one afterwards. What is pending stays so.
fn reroute(distributor: &mut GicDistributor<'static>, index: u32, to: u64) {
    let intid = SHARED_START + index;
    let enables = distributor_register(ISENABLER0, intid / 32);
    // SAFETY: the device tree names a distributor there, mapped as device memory; reading it has no side effect.
    let is_enabled = unsafe { enables.read_volatile() } & 1 << (intid % 32) != 0;
    let intid = IntId::spi(index);
    let mut moved = Ok(());
    if is_enabled {
        moved = distributor.enable_interrupt(intid, false);
        distributor.wait_for_pending_write();
    }
    moved = moved.and_then(|()| distributor.set_routing(intid, Some(to)));
    if is_enabled {
        moved = moved.and_then(|()| distributor.enable_interrupt(intid, true));
    }
    moved.expect("the distributor has so many shared interrupts");
}

/// As [`super::sleep`]. Firmware that keeps GICR_WAKER for itself puts the redistributor to sleep when the pCPU goes off.
/// [IHI0069: GICR_WAKER]
pub(super) fn sleep() {
    GicCpuInterface::enable_group1(false);
    let frame = pcpu::current().private_frame.load(Relaxed) - SGI_FRAME;
    let waker = (frame + WAKER) as *mut u32;
    // SAFETY:
    // 1. `initialize_pcpu` stored where this pCPU's own redistributor is, mapped as device memory.
    // 2. The barrier completes the end of the CPU interface before the redistributor is told.
    unsafe {
        asm!("isb", "dsb sy", options(nostack, preserves_flags));
        waker.write_volatile(waker.read_volatile() | PROCESSOR_SLEEP);
        let is_ours = waker.read_volatile() & PROCESSOR_SLEEP != 0;
        while is_ours && waker.read_volatile() & CHILDREN_ASLEEP == 0 {
            relax();
        }
    }
}

/// Shared interrupt `intid` is edge-triggered.
fn is_edge_triggered(intid: u32) -> bool {
    let register = distributor_register(ICFGR, intid / 16);
    // SAFETY: the device tree names a distributor there, mapped as device memory; reading ICFGR has no side effect.
    let triggers = unsafe { register.read_volatile() };
    triggers >> (intid % 16 * 2) & 0b10 != 0
}

/// As [`super::clear_pending_shared`].
pub(super) fn clear_pending_shared(intid: u32) {
    let register = distributor_register(ICPENDR, intid / 32);
    // SAFETY: the device tree names a distributor there, mapped as device memory; bits written as 0 change nothing, so nobody else's
    // interrupt is touched.
    unsafe { register.write_volatile(1 << (intid % 32)) };
}

/// The distributor's register `index` of those from `offset` on.
fn distributor_register(offset: u64, index: u32) -> *mut u32 {
    let (gic, _) = MACHINE.get().expect("the boot pCPU has set the GIC up");
    (gic.distributor.start + offset + u64::from(index) * 4) as *mut u32
}

/// The value that sends `intid` to all pCPUs but this one. [ICC_SGI1R_EL1.IRM]
pub(super) const fn to_all_others(intid: u32) -> u64 {
    1 << 40 | (intid as u64) << SGI_SHIFT
}

/// The value of ICC_SGI1R_EL1 that sends `intid` to the pCPU with affinity `mpidr`.
const fn sgi(mpidr: u64, intid: u32) -> u64 {
    let (aff0, aff1) = (mpidr & 0xff, mpidr >> 8 & 0xff);
    let (aff2, aff3) = (mpidr >> 16 & 0xff, mpidr >> 32 & 0xff);
    let range = aff0 >> 4;
    aff3 << 48
        | range << 44
        | aff2 << 32
        | (intid as u64) << SGI_SHIFT
        | aff1 << 16
        | 1 << (aff0 & 15)
}

/// Sends the SGI that `value` says, after everything that was written before.
#[inline(always)]
pub(super) fn send_sgi(value: u64) {
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

/// As [`super::highest_pending`].
pub(super) fn highest_pending() -> u32 {
    let intid: u64;
    // SAFETY: it changes nothing.
    unsafe {
        asm!("mrs {}, icc_hppir1_el1", out(reg) intid, options(nomem, nostack, preserves_flags));
    }
    intid as u32
}

/// The GICv3 of this machine.
pub struct V3;

impl Controller for V3 {
    #[inline(always)]
    fn acknowledge() -> Taken {
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
        Taken(intid as u32)
    }

    #[inline(always)]
    fn end(interrupt: Taken) {
        // SAFETY: it changes no memory.
        unsafe {
            asm!(
                "msr icc_eoir1_el1, {}",
                "isb",
                in(reg) u64::from(interrupt.0),
                options(nostack, preserves_flags),
            );
        }
    }

    #[inline(always)]
    fn deactivate(interrupt: Taken) {
        // SAFETY: it changes no memory.
        unsafe {
            asm!(
                "msr icc_dir_el1, {}",
                "isb",
                in(reg) u64::from(interrupt.0),
                options(nostack, preserves_flags),
            );
        }
    }
}
