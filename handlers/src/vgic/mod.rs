//! The virtual GICv2 or GICv3 of a VM: which interrupt each vCPU takes next.
//!
//! Each interrupt is one atomic [`record`]; each vCPU has a set of interrupts to look at ([`due`]). Whoever changes an
//! interrupt changes its record, adds it to the set of the vCPU that is concerned, and wakes that vCPU. The owner of the
//! vCPU looks at what is due and fills its list registers ([`flush`]); no lock, and no vCPU touches what another one owns.
//!
//! ```text
//!   line, SGI, register write ---> record ---> due set of the vCPU ---> wake
//!                                                    |
//!   VgicCpu (its owner):  fold list registers, drain the due set, choose the most urgent, write list registers
//! ```
//! While there is room for everything, folding and writing again are one step for each list register ([`renew`]).
//! What any vCPU may take goes to one ([`one_of_n`]). A device that the guest drives itself interrupts it through [`physical`].
//! What is in another vCPU's list registers is seen by asking its owner to fold them ([`remote`]). The register front-ends
//! are tables ([`distributor`], [`redistributor`]; [`distributor_v2`]) behind [`frame`]s; a write that concerns too many interrupts for one exit goes on
//! in the next ([`walk`]). LPIs ([`lpi`]) come through the [`its`].
//!
//! Both versions have the same records and list registers. With GICv2, an SGI is pending once for each sender, and the CPU
//! interface is in memory, the hardware's but for a part ([`cpu_interface`]).

mod cpu;
mod cpu_interface;
mod deactivate;
mod distributor;
mod distributor_v2;
mod due;
mod flush;
mod frame;
mod its;
mod lines;
mod list_register;
mod lpi;
mod one_of_n;
mod physical;
mod record;
mod redistributor;
mod registers;
mod remote;
mod renew;
mod shortlist;
mod sysregs;
mod walk;

#[cfg(test)]
mod tests;

use alloc::{boxed::Box, sync::Arc, vec::Vec};

use hashbrown::HashMap;
use trapline_sched::PcpuId;

pub use cpu::VgicCpu;
pub use cpu_interface::{CPU_INTERFACE_MAPPED_SIZE, CPU_INTERFACE_SIZE};
pub use distributor::DISTRIBUTOR_SIZE;
pub use frame::Frame;
pub use its::ITS_SIZE;
pub use lines::{InterruptLine, LineError};
pub use physical::{PhysicalInterrupts, PhysicalLine, PhysicalSetup};
pub use redistributor::REDISTRIBUTOR_SIZE;
pub use sysregs::SystemRegisters;

use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use due::Due;
use lpi::Lpis;
use physical::Physical;
use record::{AtomicRecord, NOBODY, Record};
use walk::Walk;

/// INTIDs below this are private to each vCPU: 16 SGIs, then 16 PPIs.
const PRIVATE_COUNT: u32 = 32;
/// INTIDs below this are SGIs.
const SGI_COUNT: u32 = 16;
/// The most SPIs: INTIDs 32 to 1019, of which GICD_TYPER can say 992.
const MAX_SPIS: u32 = 988;
/// The most vCPUs of a VM.
const MAX_VCPUS: usize = 64;
/// The most vCPUs of a VM with a GICv2.
pub const MAX_VCPUS_V2: usize = 8;
/// The priority bits that the virtual CPU interface implements, which are the upper ones. [ICH_VTR_EL2.PRIbits]
const PRIORITY_MASK: u8 = 0xf8;

/// How the interrupt controller reaches the VM's vCPUs, by their index in the VM. None of it waits or allocates.
pub trait VcpuSignals: Send + Sync {
    /// Something is due for the vCPU: its owner calls [`Vgic::refresh`] before it enters the guest again. A wake is a
    /// read-modify-write that releases, so the owner that finds it sees what came before every wake that it stands for.
    fn wake(&self, vcpu: usize);
    /// Asks the vCPU's owner to call [`Vgic::synchronize`] soon; `false` if the vCPU is not bound.
    fn request_sync(&self, vcpu: usize) -> bool;
    /// Lets a vCPU go on that got [`Action::Suspend`](trapline_vcpu::Action::Suspend) from the interrupt controller.
    fn complete(&self, vcpu: usize);
    /// The pCPU where the vCPU is, or was last; `None` if that is not known. It may be another one when this returns.
    fn pcpu(&self, vcpu: usize) -> Option<PcpuId> {
        let _ = vcpu;
        None
    }
}

/// Which architecture the interrupt controller has, and where the guest sees what is its vCPUs'.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Version {
    /// GICv2. The hardware has one too, or looks like one.
    V2 {
        /// Where the guest sees its CPU interface: [`CPU_INTERFACE_SIZE`] bytes, the first [`CPU_INTERFACE_MAPPED_SIZE`] of which
        /// the embedder maps to the hardware's virtual CPU interface.
        cpu_interface_base: u64,
    },
    /// GICv3.
    V3 {
        /// Where the guest sees the redistributors: [`REDISTRIBUTOR_SIZE`] bytes for each vCPU, one after the other.
        redistributor_base: u64,
    },
}

/// What a VM's interrupt controller looks like to the guest.
#[derive(Clone, Debug)]
pub struct VgicConfig {
    /// Which one it is.
    pub version: Version,
    /// Each vCPU's affinity as in MPIDR_EL1: Aff3 in bits 39:32, Aff2 to Aff0 in bits 23:0. To GICv2 only their number matters.
    pub affinities: Vec<u64>,
    /// How many shared interrupts: a multiple of 32 up to 960, or 988, which is all there are.
    pub spi_count: u32,
    /// Where the guest sees the distributor: [`DISTRIBUTOR_SIZE`] bytes.
    pub distributor_base: u64,
}

/// Why a configuration is refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum VgicError {
    /// There are no vCPUs or more than 64, or 8 with GICv2.
    VcpuCount(usize),
    /// An affinity has bits beside Aff3 to Aff0, or two vCPUs have it.
    Affinity(u64),
    /// The number of shared interrupts cannot be told to a guest.
    SpiCount(u32),
    /// A frame is not aligned to 64 KiB, or the frames overlap or leave the address space.
    Frames,
    /// GICv2 has no LPIs.
    NoLpis,
}

/// What others see of a vCPU. A cache line pair of its own: each vCPU's senders write it.
#[repr(align(128))]
struct SharedCpu {
    due: Due,
    /// Bit n: vCPU n waits for the list registers to be folded. The vCPU's own bit: it is not bound, so they are.
    waiters: AtomicU64,
    /// The list registers have been folded since this value of [`Vgic::epoch`] was drawn.
    folded: AtomicU64,
    /// Whether it takes part in what may go to any vCPU: the bits of [`one_of_n`].
    participation: AtomicU32,
}

/// A VM's interrupt controller, shared by its vCPUs and its devices.
pub struct Vgic {
    private: Box<[AtomicRecord]>,
    shared: Box<[AtomicRecord]>,
    /// GICD_IROUTER or GICD_ITARGETSR as written, for the guest to read back; the target that it means is in the record.
    routes: Box<[AtomicU64]>,
    /// Bit n of word m: a device has claimed SPI 64 m + n.
    claims: Box<[AtomicU64]>,
    cpus: Box<[SharedCpu]>,
    lpis: Option<Box<Lpis>>,
    affinities: Box<[u64]>,
    /// The vCPU with each affinity. Guests may ask for any number of absent ones.
    by_affinity: HashMap<u64, u8>,
    /// GICD_CTLR.EnableGrp0 and EnableGrp1; and whether some interrupt may go to any vCPU.
    groups: AtomicU32,
    /// Which groups were turned on or off last, and whether their interrupts have been looked at since.
    regrouped: AtomicU32,
    regrouping: Walk,
    /// Where the search for a vCPU starts for an interrupt that may go to any.
    turn: AtomicU32,
    /// Drawn by those that wait for a fold.
    epoch: AtomicU64,
    distributor_base: u64,
    version: Version,
    /// GICD_TYPER.
    distributor_type: u32,
    signals: Arc<dyn VcpuSignals>,
    physical: Option<Physical>,
}

impl Vgic {
    /// The interrupt controller of a VM in its reset state. All memory that it will ever use is allocated here.
    pub fn new(config: VgicConfig, signals: Arc<dyn VcpuSignals>) -> Result<Self, VgicError> {
        check(&config)?;
        let vcpus = config.affinities.len();
        let spis = config.spi_count as usize;
        let private =
            (0..vcpus * PRIVATE_COUNT as usize).map(|_| AtomicRecord::new(Record::new(NOBODY)));
        let vgic = Self {
            private: private.collect(),
            shared: (0..spis)
                .map(|_| AtomicRecord::new(Record::new(NOBODY)))
                .collect(),
            routes: (0..spis).map(|_| AtomicU64::new(0)).collect(),
            claims: (0..spis.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
            cpus: (0..vcpus).map(SharedCpu::new).collect(),
            lpis: None,
            distributor_type: match config.version {
                Version::V2 { .. } => distributor_v2::distributor_type(config.spi_count, vcpus),
                Version::V3 { .. } => {
                    distributor::distributor_type(config.spi_count, &config.affinities)
                }
            },
            by_affinity: config.affinities.iter().copied().zip(0..).collect(),
            affinities: config.affinities.into_boxed_slice(),
            groups: AtomicU32::new(0),
            regrouped: AtomicU32::new(0),
            regrouping: Walk::over(vcpus as u32 * PRIVATE_COUNT + config.spi_count),
            turn: AtomicU32::new(0),
            epoch: AtomicU64::new(0),
            distributor_base: config.distributor_base,
            version: config.version,
            signals,
            physical: None,
        };
        vgic.reset();
        Ok(vgic)
    }

    /// Puts everything back to its reset state, input lines aside. No vCPU of the VM is bound, and [`Vgic::reset_cpu`] is
    /// called for each before it is bound again.
    pub fn reset(&self) {
        self.groups.store(0, Ordering::Release);
        self.regrouping.reset();
        for vcpu in 0..self.vcpu_count() {
            self.reset_private(vcpu, Record::clear_pending);
            if let Some(cpu) = self.cpus.get(vcpu) {
                let resting = one_of_n::resting(self.version);
                cpu.participation.store(resting, Ordering::Release);
            }
        }
        if let Some(lpis) = &self.lpis {
            lpis.reset();
        }
        let target = match self.version {
            Version::V2 { .. } if self.vcpu_count() > 1 => NOBODY,
            Version::V2 { .. } => 0,
            Version::V3 { .. } => self.vcpu_of_affinity(0),
        };
        for ((intid, record), route) in (PRIVATE_COUNT..).zip(&self.shared).zip(&self.routes) {
            let line = record.load().line();
            let (old, _) = record.update(|_| Record::new(target).set_line(line));
            route.store(0, Ordering::Release);
            self.reset_physical(intid, old);
        }
    }

    /// The reset configuration and state of `vcpu`'s private interrupts; those that stay pending after `first` stay so.
    fn reset_private(&self, vcpu: usize, first: impl Fn(Record) -> Record) {
        for intid in 0..PRIVATE_COUNT {
            if let Some(record) = self.record(Some(vcpu), intid) {
                let is_sgi = intid < SGI_COUNT;
                let is_always_enabled = is_sgi && matches!(self.version, Version::V2 { .. });
                let reset = Record::new(vcpu as u8)
                    .set_edge(is_sgi)
                    .set_enabled(is_always_enabled);
                record.update(|old| reset.keep_latch(first(old)));
            }
        }
    }

    /// Where the guest sees the distributor, and all redistributors or what of the CPU interface is not mapped: what their
    /// handlers claim.
    pub fn frames(&self) -> [core::ops::RangeInclusive<u64>; 2] {
        let frame = |base: u64, size: u64| base..=base + (size - 1);
        let others = match self.version {
            Version::V2 { cpu_interface_base } => frame(
                cpu_interface_base + CPU_INTERFACE_MAPPED_SIZE,
                CPU_INTERFACE_SIZE - CPU_INTERFACE_MAPPED_SIZE,
            ),
            Version::V3 { redistributor_base } => {
                let redistributors = self.vcpu_count() as u64 * REDISTRIBUTOR_SIZE;
                frame(redistributor_base, redistributors)
            }
        };
        [frame(self.distributor_base, DISTRIBUTOR_SIZE), others]
    }

    /// Which architecture it has.
    pub fn version(&self) -> Version {
        self.version
    }

    /// How many vCPUs the VM has.
    pub fn vcpu_count(&self) -> usize {
        self.cpus.len()
    }

    /// The record of `intid`; a private one is `vcpu`'s.
    fn record(&self, vcpu: Option<usize>, intid: u32) -> Option<&AtomicRecord> {
        if intid < PRIVATE_COUNT {
            self.private
                .get(vcpu? * PRIVATE_COUNT as usize + intid as usize)
        } else {
            let shared = self.shared.get((intid - PRIVATE_COUNT) as usize);
            shared.or_else(|| self.lpi_record(intid))
        }
    }

    /// Changes an interrupt and tells the vCPU that is concerned; the record as it became.
    fn change(
        &self,
        vcpu: Option<usize>,
        intid: u32,
        transition: impl Fn(Record) -> Record,
    ) -> Option<Record> {
        let (old, new) = self.record(vcpu, intid)?.update(transition);
        if old == new {
            return Some(new);
        }
        if new.is_orphan() || old.is_set_up_unlike(new) {
            self.follow_physical(intid, old, new);
        }
        if let Some(concerned) = old.attention(new) {
            self.tell(usize::from(concerned), intid, new);
        }
        Some(new)
    }

    /// `vcpu` has to look at `intid`, whose record has become `record`.
    fn tell(&self, vcpu: usize, intid: u32, record: Record) {
        let Some(cpu) = self.cpus.get(vcpu) else {
            return self.tell_one_of_n(vcpu, intid, record);
        };
        cpu.due.insert(intid);
        // Pairs with the fence of whoever writes GICD_CTLR: either it sees the record, or this sees the group on.
        fence(Ordering::SeqCst);
        let forwarded = self.groups() & 1 << u32::from(record.is_group1()) != 0;
        if forwarded || record.is_listed() {
            self.signals.wake(vcpu);
        }
    }

    /// GICD_CTLR.EnableGrp0 and EnableGrp1, in bits 0 and 1; and [`one_of_n::IN_USE`].
    fn groups(&self) -> u32 {
        self.groups.load(Ordering::Acquire)
    }

    /// The vCPU with this affinity, or [`NOBODY`].
    fn vcpu_of_affinity(&self, affinity: u64) -> u8 {
        // The usual numbering, 16 vCPUs to each value of Aff1, is found without a search.
        let guess = (affinity >> 8 & 0xff) * 16 + (affinity & 0xff);
        if self.affinities.get(guess as usize) == Some(&affinity) {
            return guess as u8;
        }
        self.by_affinity.get(&affinity).copied().unwrap_or(NOBODY)
    }
}

impl SharedCpu {
    fn new(vcpu: usize) -> Self {
        Self {
            due: Due::new(),
            waiters: AtomicU64::new(1 << vcpu),
            folded: AtomicU64::new(0),
            participation: AtomicU32::new(one_of_n::ASLEEP),
        }
    }

    fn expect_lpis(&mut self) {
        self.due = Due::with_lpis();
    }
}

fn check(config: &VgicConfig) -> Result<(), VgicError> {
    let vcpus = config.affinities.len();
    let (most_vcpus, others, size) = match config.version {
        Version::V2 { cpu_interface_base } => {
            (MAX_VCPUS_V2, cpu_interface_base, CPU_INTERFACE_SIZE)
        }
        Version::V3 { redistributor_base } => {
            let size = vcpus as u64 * REDISTRIBUTOR_SIZE;
            (MAX_VCPUS, redistributor_base, size)
        }
    };
    if vcpus == 0 || vcpus > most_vcpus {
        return Err(VgicError::VcpuCount(vcpus));
    }
    for (index, &affinity) in config.affinities.iter().enumerate() {
        if affinity & !sysregs::AFFINITY_MASK != 0
            || config.affinities.iter().take(index).any(|&a| a == affinity)
        {
            return Err(VgicError::Affinity(affinity));
        }
    }
    if config.spi_count > MAX_SPIS
        || (!config.spi_count.is_multiple_of(32) && config.spi_count != MAX_SPIS)
    {
        return Err(VgicError::SpiCount(config.spi_count));
    }
    let distributor = config.distributor_base;
    let ends = distributor
        .checked_add(DISTRIBUTOR_SIZE)
        .zip(others.checked_add(size));
    let Some((distributor_end, others_end)) = ends else {
        return Err(VgicError::Frames);
    };
    let apart = distributor_end <= others || others_end <= distributor;
    if !apart || !(distributor | others).is_multiple_of(DISTRIBUTOR_SIZE) {
        return Err(VgicError::Frames);
    }
    Ok(())
}
