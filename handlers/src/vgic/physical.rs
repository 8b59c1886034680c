//! Interrupts of physical devices that the guest drives itself.
//!
//! The host takes such an interrupt, drops its priority and leaves it active, and calls [`PhysicalLine::raise`]. The guest gets
//! it in a list register that names the physical one, so the guest's end of it deactivates that without an exit. While it is
//! active it cannot come again, so there is at most one to account for:
//!
//! ```text
//!  host takes it --raise--> RAISED --listed--> list register --guest's EOI--> inactive: it may come again
//!                  |          |  ^                  |    ^
//!              disabled       |  '---- folded ------|    | listed again
//!                  |          |   (not taken)       v    |
//!                  v          v                   HELD --'
//!              deactivated <--- disabled, cleared, deactivated by software, line released
//! ```
//! [`HELD`](super::record) is with the active state of the record. Whoever leaves it without one deactivates it
//! ([`Vgic::release_physical`]). Physical shared interrupts have one active state for all pCPUs, so it does not matter where any of this
//! happens. [IHI0069: ICC_DIR_EL1, SPIs]
//!
//! The physical interrupt is enabled while the guest's is, is edge-triggered if the guest's is, and is routed to the pCPU of the vCPU
//! that is its target. A level that falls before the guest takes it, while it is enabled, is delivered all the same.
//!
//! An edge that comes while the last one is active waits in the host's interrupt controller until that is deactivated, and one that
//! comes while it is disabled until it is enabled: neither is seen in the guest's GICD_ISPENDR, and GICD_ICPENDR takes it away. One
//! that was taken, and that the guest disables before it has it, stays pending in the record.

use alloc::{boxed::Box, sync::Arc};

use trapline_sched::PcpuId;

use super::{
    InterruptLine, LineError, PRIVATE_COUNT, Vgic, VgicCpu,
    record::{AtomicRecord, Record},
};
use crate::sync::atomic::{AtomicU32, Ordering, fence};

/// No physical interrupt.
const NONE: u32 = 0;

/// The host's interrupt controller, as far as shared interrupts go that guests are given. Any pCPU calls it, in the middle of
/// an exit: none of it waits or allocates. `physical` is an INTID that was given to a [`PhysicalLine`].
pub trait PhysicalInterrupts: Send + Sync {
    /// Sets the physical interrupt up. [IHI0069: GICD_ISENABLER<n>, GICD_ICENABLER<n>, GICD_ICFGR<n>, GICD_IROUTER<n>]
    fn configure(&self, physical: u32, setup: PhysicalSetup);
    /// Takes an edge away that was not taken yet. [IHI0069: GICD_ICPENDR<n>]
    fn clear_edge(&self, physical: u32);
    /// Deactivates the physical interrupt, which may come again. [IHI0069: GICD_ICACTIVER<n>, ICC_DIR_EL1]
    fn deactivate(&self, physical: u32);
}

/// Whether, how and where a physical interrupt comes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PhysicalSetup {
    /// It comes at all.
    pub is_enabled: bool,
    /// It is edge-triggered, not level-sensitive.
    pub is_edge: bool,
    /// It comes to this pCPU; `None`: where it came so far.
    pub pcpu: Option<PcpuId>,
}

impl PhysicalSetup {
    /// As it is before a guest has it.
    const RESET: Self = Self {
        is_enabled: false,
        is_edge: false,
        pcpu: None,
    };
}

/// The physical interrupts of one VM.
pub(super) struct Physical {
    host: Arc<dyn PhysicalInterrupts>,
    /// By SPI, the physical INTID or [`NONE`].
    intids: Box<[AtomicU32]>,
}

/// A shared interrupt of the guest that is a physical one. Its clones are the same; when the last one goes, the physical interrupt
/// is disabled and inactive. No vCPU of the VM is bound then.
#[derive(Clone)]
pub struct PhysicalLine(Arc<Claim>);

struct Claim {
    vgic: Arc<Vgic>,
    line: InterruptLine,
    physical: u32,
}

impl PhysicalLine {
    /// Makes `intid` of the guest the physical shared interrupt `physical` (both 32 or more), which is disabled until the guest
    /// enables its own.
    ///
    /// # Errors
    /// The VM does not have the interrupt, or was made without [`Vgic::with_physical_interrupts`]; or a device has it.
    pub fn claim(vgic: &Arc<Vgic>, intid: u32, physical: u32) -> Result<Self, LineError> {
        let line = InterruptLine::claim(vgic, intid)?;
        let place = vgic.physical.as_ref().and_then(|all| all.place(intid));
        let place = place.filter(|_| physical >= PRIVATE_COUNT);
        place
            .ok_or(LineError::NoSuchInterrupt(intid))?
            .store(physical, Ordering::Release);
        vgic.configure_physical(intid);
        Ok(Self(Arc::new(Claim {
            vgic: Arc::clone(vgic),
            line,
            physical,
        })))
    }

    /// The physical interrupt's INTID.
    pub fn physical(&self) -> u32 {
        self.0.physical
    }

    /// The host has taken the physical interrupt, which is active now: the guest gets it, or it is deactivated. On any pCPU.
    pub fn raise(&self) {
        self.0.vgic.raise_physical(self.0.line.intid());
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let intid = self.line.intid();
        let Some((host, physical)) = self.vgic.physical_of(intid) else {
            return;
        };
        if let Some(place) = self.vgic.physical.as_ref().and_then(|all| all.place(intid)) {
            place.store(NONE, Ordering::Release);
        }
        host.configure(physical, PhysicalSetup::RESET);
        host.clear_edge(physical);
        if let Some(record) = self.vgic.record(None, intid)
            && record.update(Record::without_physical).0.has_physical()
        {
            host.deactivate(physical);
        }
    }
}

impl Physical {
    pub(super) fn place(&self, intid: u32) -> Option<&AtomicU32> {
        self.intids.get(intid.checked_sub(PRIVATE_COUNT)? as usize)
    }
}

impl Vgic {
    /// The same with physical interrupts, which come from `host`: [`PhysicalLine`] says which.
    pub fn with_physical_interrupts(mut self, host: Arc<dyn PhysicalInterrupts>) -> Self {
        let intids = self.shared.iter().map(|_| AtomicU32::new(NONE)).collect();
        self.physical = Some(Physical { host, intids });
        self
    }

    /// The physical interrupt behind the guest's `intid`.
    pub(super) fn physical_intid(&self, intid: u32) -> Option<u32> {
        let physical = self.physical.as_ref()?.place(intid)?;
        Some(physical.load(Ordering::Acquire)).filter(|&physical| physical != NONE)
    }

    fn physical_of(&self, intid: u32) -> Option<(&dyn PhysicalInterrupts, u32)> {
        let host = &*self.physical.as_ref()?.host;
        Some((host, self.physical_intid(intid)?))
    }

    /// The physical interrupt behind `intid` is active: what [`PhysicalLine::raise`] does.
    pub(super) fn raise_physical(&self, intid: u32) {
        let raised = self.change(None, intid, Record::raise_physical);
        let is_kept = raised.is_some_and(Record::has_physical);
        if !is_kept && let Some((host, physical)) = self.physical_of(intid) {
            host.deactivate(physical);
        }
    }

    /// `intid`'s record became `new`: the physical interrupt, if there is one, goes with it.
    #[cold]
    pub(super) fn follow_physical(&self, intid: u32, old: Record, new: Record) {
        // Disabled first: what is deactivated with its line high comes again.
        if old.is_set_up_unlike(new) {
            self.configure_physical(intid);
        }
        if new.is_orphan() {
            self.release_physical(intid);
        }
    }

    /// Deactivates the physical interrupt behind `intid` if it is active for nobody.
    #[cold]
    pub(super) fn release_physical(&self, intid: u32) {
        let record = self.record(None, intid);
        let Some((old, new)) = record.map(|record| record.update(Record::released)) else {
            return;
        };
        if old != new
            && let Some((host, physical)) = self.physical_of(intid)
        {
            host.deactivate(physical);
        }
    }

    /// Enables and routes the physical interrupt behind `intid` as its record says. Whoever did so last has seen since that the
    /// record still says it, so of several at once the last one is right.
    fn configure_physical(&self, intid: u32) {
        let Some((host, physical)) = self.physical_of(intid) else {
            return;
        };
        let Some(record) = self.record(None, intid) else {
            return;
        };
        let mut wanted = self.wanted(record);
        loop {
            // With the other fence: of two that configure, whoever comes last sees the record that the other one was for.
            fence(Ordering::SeqCst);
            host.configure(physical, wanted);
            fence(Ordering::SeqCst);
            let current = self.wanted(record);
            if current == wanted || cfg!(mutant = "vgic_physical_unchecked") {
                return;
            }
            wanted = current;
        }
    }

    fn wanted(&self, record: &AtomicRecord) -> PhysicalSetup {
        let record = record.load();
        let target = usize::from(record.target());
        let pcpu = (target < self.vcpu_count()).then(|| self.signals.pcpu(target));
        PhysicalSetup {
            is_enabled: record.is_enabled(),
            is_edge: record.is_edge(),
            pcpu: pcpu.flatten(),
        }
    }

    /// Takes away the edges of physical interrupts that were not taken yet, for those of 32 interrupts whose bit is set.
    pub(super) fn clear_physical_edges(&self, index: u32, mut set: u32) {
        while self.physical.is_some() && set != 0 {
            if let Some((host, physical)) = self.physical_of(index * 32 + set.trailing_zeros()) {
                host.clear_edge(physical);
            }
            set &= set - 1;
        }
    }

    /// The vCPU is being bound: the physical interrupts of which it is the target come to its pCPU from now on.
    pub(super) fn route_physical(&self, cpu: &VgicCpu) {
        if let Some(physical) = &self.physical {
            self.route_all_physical(physical, cpu);
        }
    }

    #[cold]
    fn route_all_physical(&self, physical: &Physical, cpu: &VgicCpu) {
        let intids = (PRIVATE_COUNT..).zip(&physical.intids);
        for ((intid, physical), record) in intids.zip(&self.shared) {
            if physical.load(Ordering::Acquire) != NONE && record.load().target() == cpu.me() {
                self.configure_physical(intid);
            }
        }
    }

    /// Everything is reset, and `old` is what the record of `intid` was. No vCPU is bound.
    pub(super) fn reset_physical(&self, intid: u32, old: Record) {
        let Some((host, physical)) = self.physical_of(intid) else {
            return;
        };
        self.configure_physical(intid);
        host.clear_edge(physical);
        if old.has_physical() {
            host.deactivate(physical);
        }
    }
}
