//! The host's GICv2: all of it is memory, of which each pCPU sees its own. [IHI0048]

use super::{
    super::{pcpu::Pcpu, relax::Lock},
    Controller, ICFGR, ICPENDR, ISACTIVER0, ISENABLER0, KICK, PRIVATE, SHARED_START, Taken, pcpu,
    receiver,
};
use crate::dt::GicV2;
use core::{
    arch::asm,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

/// In a value for [`send_sgi`]: it is for GICD_SGIR. No value of ICC_SGI1R_EL1 has this bit.
pub(super) const BY_MEMORY: u64 = 1 << 63;

/// Offsets in the distributor. TYPER says in bits 4:0 how many times 32 interrupts there are, private ones included, less one.
const TYPER: u64 = 0x0004;
const ICENABLER: u64 = 0x0180;
const ITARGETSR: u64 = 0x0800;
const SGIR: u64 = 0x0f00;
/// GICD_SGIR.CPUTargetList.
const TARGETS_SHIFT: u32 = 16;
/// Offsets in the CPU interface.
const CTLR: u64 = 0x0000;
const PMR: u64 = 0x0004;
const IAR: u64 = 0x000c;
const EOIR: u64 = 0x0010;
const HPPIR: u64 = 0x0018;
const DIR: u64 = 0x1000;
/// GICC_CTLR: the group that this side sees first is on, and EOIR drops the priority only.
const ENABLE: u32 = 1 << 0;
const SPLIT_ENDS: u32 = 1 << 9;

/// Where the parts are.
static DISTRIBUTOR: AtomicU64 = AtomicU64::new(0);
static CPU_INTERFACE: AtomicU64 = AtomicU64::new(0);
static CONTROL_INTERFACE: AtomicU64 = AtomicU64::new(0);
/// Held while a shared interrupt is set up.
static CONFIGURING: Lock<()> = Lock::new(());

/// Reads the register at `offset` of the part at `base`, which is one of the statics above.
#[inline(always)]
fn read(base: &AtomicU64, offset: u64) -> u32 {
    // SAFETY: `initialize` has stored the parts of the GICv2 that the device tree names, mapped as device memory; what is read
    // here takes an interrupt at most, whose handling is this module's.
    unsafe { ((base.load(Relaxed) + offset) as *const u32).read_volatile() }
}

/// Writes the register at `offset` of the part at `base`, which is one of the statics above.
#[inline(always)]
fn write(base: &AtomicU64, offset: u64, value: u32) {
    // SAFETY: as in `read`; the registers that are written here decide which interrupts come, and change no memory.
    unsafe { ((base.load(Relaxed) + offset) as *mut u32).write_volatile(value) }
}

/// Turns the distributor on.
pub(super) fn initialize(gic: &GicV2) {
    DISTRIBUTOR.store(gic.distributor.start, Relaxed);
    CPU_INTERFACE.store(gic.cpu_interface.start, Relaxed);
    CONTROL_INTERFACE.store(gic.control_interface.start, Relaxed);
    for id in 0..=u16::MAX {
        let Some(pcpu) = pcpu::get(id) else { break };
        // To nobody, until the pCPU has said which CPU interface is its own.
        pcpu.kick.store(BY_MEMORY | u64::from(KICK), Relaxed);
    }
    let (distributor, cpu_interface) = (gic.distributor.start, gic.cpu_interface.start);
    // SAFETY:
    // 1. The device tree names a GICv2's distributor and CPU interface there, mapped as device memory.
    // 2. The driver is gone at the end of this function, and nobody else has reached the registers before.
    let mut driver =
        unsafe { arm_gic::gicv2::GicV2::new(distributor as *mut _, cpu_interface as *mut _) };
    driver.setup();
}

/// Sets up this pCPU's private interrupts and its CPU interface.
pub(super) fn initialize_pcpu() {
    let pcpu = pcpu::current();
    pcpu.private_frame.store(DISTRIBUTOR.load(Relaxed), Relaxed);
    // The targets of a private interrupt are the CPU interface itself; a machine with a single one reads as zero.
    // [IHI0048: GICD_ITARGETSR<n>]
    let targets = (read(&DISTRIBUTOR, ITARGETSR) & 0xff).max(1);
    pcpu.kick.store(
        BY_MEMORY | u64::from(targets) << TARGETS_SHIFT | u64::from(KICK),
        Relaxed,
    );
    let private = PRIVATE.iter().fold(0, |bits, intid| bits | 1 << intid);
    write(&DISTRIBUTOR, ISENABLER0, private);
    write(&CPU_INTERFACE, PMR, 0xff);
    write(&CPU_INTERFACE, CTLR, ENABLE | SPLIT_ENDS);
}

/// Where GICH is.
pub(super) fn control_interface() -> u64 {
    CONTROL_INTERFACE.load(Relaxed)
}

/// As [`super::configure_shared`].
pub(super) fn configure_shared(intid: u32, is_enabled: bool, is_edge: bool, to: Option<u16>) {
    assert!(
        (SHARED_START..super::SPURIOUS).contains(&intid),
        "the INTID is a shared interrupt"
    );
    let _alone = CONFIGURING.lock();
    let (word, bit) = (u64::from(intid / 32) * 4, 1 << (intid % 32));
    let is_set = |first: u64| read(&DISTRIBUTOR, first + word) & bit != 0;
    let targets = (DISTRIBUTOR.load(Relaxed) + ITARGETSR + u64::from(intid)) as *mut u8;
    // Only while nobody can take it, and nobody has: QEMU knows that it is active where it was taken only, and would bring it to
    // another target once more. So it stays where it was enabled first, and whoever takes it there passes it on.
    // [QEMU: gic_get_best_irq]
    // SAFETY: as in `read`; the targets of each interrupt are a byte of their own.
    let is_nobodys = unsafe { targets.read_volatile() } == 0;
    let is_at_rest = is_nobodys || !is_set(ISENABLER0) && !is_set(ISACTIVER0);
    if is_at_rest && let Some(pcpu) = to.and_then(receiver) {
        // SAFETY: as in `write`, and for the same reason.
        unsafe { targets.write_volatile(target(pcpu)) };
    }
    set_edge_triggered(intid, is_edge);
    if !is_enabled {
        write(&DISTRIBUTOR, ICENABLER + word, bit);
    } else {
        enable(intid);
    }
}

/// What says in GICD_ITARGETSR that an interrupt is for `pcpu`.
fn target(pcpu: &Pcpu) -> u8 {
    (pcpu.kick.load(Relaxed) >> TARGETS_SHIFT) as u8
}

/// As [`super::hand_over_shared`], for the same reason as in [`configure_shared`].
pub(super) fn hand_over_shared(from: &Pcpu, to: &Pcpu) -> Result<(), u32> {
    let count = (read(&DISTRIBUTOR, TYPER) & 0x1f) * 32;
    (SHARED_START..SHARED_START + count).try_for_each(|intid| hand_over_one(intid, from, to))
}

fn hand_over_one(intid: u32, from: &Pcpu, to: &Pcpu) -> Result<(), u32> {
    let _alone = CONFIGURING.lock();
    let (word, bit) = (u64::from(intid / 32) * 4, 1 << (intid % 32));
    let targets = (DISTRIBUTOR.load(Relaxed) + ITARGETSR + u64::from(intid)) as *mut u8;
    // SAFETY: as in `read`; the targets of each interrupt are a byte of their own.
    if unsafe { targets.read_volatile() } != target(from) {
        return Ok(());
    }
    let is_enabled = read(&DISTRIBUTOR, ISENABLER0 + word) & bit != 0;
    write(&DISTRIBUTOR, ICENABLER + word, bit);
    let is_active = read(&DISTRIBUTOR, ISACTIVER0 + word) & bit != 0;
    if !is_active {
        // SAFETY: as in `write`, and for the same reason.
        unsafe { targets.write_volatile(target(to)) };
    }
    if is_enabled {
        enable(intid);
    }
    if is_active { Err(intid) } else { Ok(()) }
}

/// Enables shared interrupt `intid`.
fn enable(intid: u32) {
    let (word, bit) = (u64::from(intid / 32) * 4, 1 << (intid % 32));
    write(&DISTRIBUTOR, ISENABLER0 + word, bit);
    let triggers = read(&DISTRIBUTOR, ICFGR + u64::from(intid / 16) * 4);
    if triggers & 0b10 << (intid % 16 * 2) == 0 {
        // A level is pending by itself; QEMU latches it here, and would bring it once more when it is gone.
        // [QEMU: gic_dist_writeb]
        clear_pending_shared(intid);
    }
}

/// As [`super::sleep`].
pub(super) fn sleep() {
    write(&CPU_INTERFACE, CTLR, 0);
}

/// Makes shared interrupt `intid` edge-triggered or level-sensitive. The caller keeps others from doing so.
fn set_edge_triggered(intid: u32, is_edge: bool) {
    let (register, edge) = (ICFGR + u64::from(intid / 16) * 4, 0b10 << (intid % 16 * 2));
    let triggers = read(&DISTRIBUTOR, register);
    if (triggers & edge != 0) != is_edge {
        // What an enabled interrupt does whose trigger changes is unpredictable. [IHI0048: GICD_ICFGR<n>]
        let disable = ICENABLER + u64::from(intid / 32) * 4;
        write(&DISTRIBUTOR, disable, 1 << (intid % 32));
        write(&DISTRIBUTOR, register, triggers ^ edge);
    }
}

/// As [`super::clear_pending_shared`].
pub(super) fn clear_pending_shared(intid: u32) {
    let register = ICPENDR + u64::from(intid / 32) * 4;
    write(&DISTRIBUTOR, register, 1 << (intid % 32));
}

/// The value that sends `intid` to all pCPUs but this one. [GICD_SGIR.TargetListFilter]
pub(super) const fn to_all_others(intid: u32) -> u64 {
    BY_MEMORY | 1 << 24 | intid as u64
}

/// As [`super::v3::send_sgi`].
#[inline(never)]
pub(super) fn send_sgi(value: u64) {
    // SAFETY: a barrier, which makes earlier writes visible first.
    unsafe { asm!("dsb ishst", options(nostack, preserves_flags)) };
    write(&DISTRIBUTOR, SGIR, value as u32);
}

/// As [`super::highest_pending`].
pub(super) fn highest_pending() -> u32 {
    Taken(read(&CPU_INTERFACE, HPPIR)).intid()
}

/// The GICv2 of this machine.
pub struct V2;

impl Controller for V2 {
    #[inline(always)]
    fn acknowledge() -> Taken {
        let taken = read(&CPU_INTERFACE, IAR);
        // SAFETY: a barrier: what it orders after the acknowledge is device and shared memory.
        unsafe { asm!("dsb sy", options(nostack, preserves_flags)) };
        Taken(taken)
    }

    #[inline(always)]
    fn end(interrupt: Taken) {
        write(&CPU_INTERFACE, EOIR, interrupt.0);
    }

    #[inline(always)]
    fn deactivate(interrupt: Taken) {
        write(&CPU_INTERFACE, DIR, interrupt.0);
    }
}
