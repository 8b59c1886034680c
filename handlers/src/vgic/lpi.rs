//! LPIs: interrupts that are messages alone, whose configuration and pending state the guest keeps in its memory.
//!
//! Each is a record like any other, edge-triggered and in group 1, and never active: the CPU interface forgets an LPI when
//! it is acknowledged. What the guest's tables say is read when it says so (EnableLPIs, INV, INVALL, MAPTI), into the
//! records; all memory is allocated with the VM. Who is sent which LPI is the [`its`](super::its)'s.
//! [IHI0069: LPIs, LPI Configuration tables, LPI Pending tables]

use alloc::{boxed::Box, sync::Arc};

use super::{
    PRIORITY_MASK, Vgic,
    its::Its,
    record::{AtomicRecord, NOBODY, Record},
    registers::{Bank, Masked},
};
use crate::{
    memory::GuestMemory,
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
};

/// The INTID of the first LPI.
pub(super) const FIRST_LPI: u32 = 8192;
/// How many bits LPIs' INTIDs have. [GICD_TYPER.IDbits]
pub(super) const LPI_BITS: u32 = 14;
/// How many LPIs there are.
pub(super) const LPI_COUNT: u32 = if cfg!(loom) {
    CHUNK
} else {
    (1 << LPI_BITS) - FIRST_LPI
};
/// LPIs that are looked at together: one word of a pending table, as it is read and written.
pub(super) const CHUNK: u32 = 64;
/// How many chunks of LPIs one exit turns on or off.
const CHUNKS: u32 = 16;

/// GICR_CTLR.EnableLPIs.
pub(super) const ENABLE_LPIS: u32 = 1 << 0;
/// GICR_CTLR.CES: EnableLPIs can be cleared.
const CAN_DISABLE: u32 = 1 << 1;
/// GICR_PROPBASER: IDbits, cacheability, shareability, address.
const PROPERTIES: u64 = 0x070f_ffff_ffff_ff9f;
/// GICR_PENDBASER: cacheability, shareability, address; PTZ reads as zero.
const PENDING: u64 = 0x070f_ffff_ffff_0f80;
/// GICR_PENDBASER.PTZ: the table is zero.
const PENDING_IS_ZERO: u64 = 1 << 62;

/// What a VM with LPIs has beside the rest.
pub(super) struct Lpis {
    pub(super) records: Box<[AtomicRecord]>,
    cpus: Box<[LpiCpu]>,
    pub(super) its: Its,
    pub(super) memory: Arc<dyn GuestMemory>,
}

/// The LPI registers of a redistributor.
struct LpiCpu {
    is_enabled: AtomicBool,
    properties: AtomicU64,
    /// With PTZ as it was written.
    pending: AtomicU64,
    turning: Turning,
    /// Bit n: vCPU n had listed what is being turned off.
    owners: AtomicU64,
}

/// How many LPIs have been looked at since the vCPU's LPIs were last turned on or off; one at a time looks.
struct Turning(AtomicU32);

impl Turning {
    const BUSY: u32 = 1 << 31;

    fn done() -> Self {
        Self(AtomicU32::new(LPI_COUNT))
    }

    /// Where to go on; `None`: somebody is at it.
    fn claim(&self) -> Option<u32> {
        let looked_at = self.0.fetch_or(Self::BUSY, Ordering::AcqRel);
        (looked_at & Self::BUSY == 0).then_some(looked_at)
    }

    fn release(&self, looked_at: u32) {
        self.0.store(looked_at, Ordering::Release);
    }
}

const RESET: Record = Record::new(NOBODY).set_edge(true).set_group1(true);

impl Lpis {
    pub(super) fn new(vcpus: usize, its_base: u64, memory: Arc<dyn GuestMemory>) -> Self {
        let cpu = |_| LpiCpu {
            is_enabled: AtomicBool::new(false),
            properties: AtomicU64::new(0),
            pending: AtomicU64::new(0),
            turning: Turning::done(),
            owners: AtomicU64::new(0),
        };
        Self {
            records: (0..LPI_COUNT).map(|_| AtomicRecord::new(RESET)).collect(),
            cpus: (0..vcpus).map(cpu).collect(),
            its: Its::new(its_base),
            memory,
        }
    }

    pub(super) fn reset(&self) {
        self.records.iter().for_each(|record| record.store(RESET));
        for cpu in &self.cpus {
            cpu.is_enabled.store(false, Ordering::Release);
            cpu.properties.store(0, Ordering::Release);
            cpu.pending.store(0, Ordering::Release);
            cpu.turning.release(LPI_COUNT);
            cpu.owners.store(0, Ordering::Release);
        }
        self.its.reset();
    }

    /// The guest takes LPIs on this vCPU.
    pub(super) fn is_enabled(&self, vcpu: usize) -> bool {
        self.cpus
            .get(vcpu)
            .is_some_and(|cpu| cpu.is_enabled.load(Ordering::Acquire))
    }

    /// What the guest's configuration table says of an LPI: whether it is enabled, and its priority. What is not in the
    /// table is disabled.
    fn configuration(&self, vcpu: usize, intid: u32) -> (bool, u8) {
        let base = self
            .cpus
            .get(vcpu)
            .map_or(0, |cpu| cpu.properties.load(Ordering::Acquire));
        let mut entry = [0];
        let is_inside = intid >> ((base & 0x1f) + 1).min(31) == 0;
        let address = (base & 0xf_ffff_ffff_f000) + u64::from(intid - FIRST_LPI);
        if !is_inside || self.memory.read(address, &mut entry).is_err() {
            return (false, 0);
        }
        (entry[0] & 1 != 0, entry[0] & PRIORITY_MASK)
    }
}

impl Vgic {
    /// The record of an LPI.
    #[cold]
    pub(super) fn lpi_record(&self, intid: u32) -> Option<&AtomicRecord> {
        let index = intid.checked_sub(FIRST_LPI)?;
        self.lpis.as_ref()?.records.get(index as usize)
    }

    /// Reads an LPI's configuration again, from the table of the vCPU that it goes to.
    pub(super) fn configure_lpi(&self, intid: u32) -> Option<Record> {
        let lpis = self.lpis.as_ref()?;
        let target = usize::from(self.lpi_record(intid)?.load().target());
        let (is_enabled, priority) = lpis.configuration(target, intid);
        self.change(None, intid, |record| {
            record.set_enabled(is_enabled).set_priority(priority)
        })
    }

    /// Makes an LPI pending at `vcpu`, if that takes LPIs. False: the LPI's `translation` was another one by then, and
    /// nothing has happened.
    pub(super) fn raise_lpi(&self, intid: u32, vcpu: u8, translation: u8) -> bool {
        let lpis = self.lpis.as_ref();
        if !lpis.is_some_and(|lpis| lpis.is_enabled(vcpu.into())) {
            return true;
        }
        let is_current = |record: Record| {
            record.translation() == translation || cfg!(mutant = "vgic_stale_message")
        };
        let raise = |record: Record| {
            if is_current(record) {
                record.set_target(vcpu).set_pending()
            } else {
                record
            }
        };
        self.change(None, intid, raise).is_some_and(is_current)
    }

    /// Reads a chunk of the pending table of a vCPU that begins to take LPIs, and what it already had.
    fn enable_lpis(&self, (vcpu, lpis, cpu): (usize, &Lpis, &LpiCpu), first: u32) {
        let base = cpu.pending.load(Ordering::Acquire);
        let mine = vcpu as u8;
        let mut bits = [0; 8];
        let address = pending_address(base, first);
        if base & PENDING_IS_ZERO != 0 || lpis.memory.read(address, &mut bits).is_err() {
            bits = [0; 8];
        }
        let bits = u64::from_le_bytes(bits);
        for index in first..first + CHUNK {
            let intid = FIRST_LPI + index;
            let target = self.lpi_record(intid).map(|record| record.load().target());
            let is_pending = bits >> (index - first) & 1 != 0;
            if target == Some(NOBODY) && is_pending {
                self.change(None, intid, |record| record.set_target(mine));
            } else if target != Some(mine) {
                continue;
            }
            self.configure_lpi(intid);
            if is_pending {
                self.change(None, intid, Record::set_pending);
            }
        }
    }

    /// The vCPU takes no LPIs any more: those of a chunk that are pending go to its table.
    fn disable_lpis(
        &self,
        bank: &mut Bank<'_>,
        (vcpu, lpis, cpu): (usize, &Lpis, &LpiCpu),
        first: u32,
    ) {
        let mut bits = 0u64;
        for index in first..first + CHUNK {
            let intid = FIRST_LPI + index;
            let record = self.lpi_record(intid).map(|record| record.load());
            let Some(record) = record.filter(|record| usize::from(record.target()) == vcpu) else {
                continue;
            };
            bits |= u64::from(record.is_pending()) << (index - first);
            bank.change(intid, |record| record.clear_pending().retranslated());
        }
        let base = cpu.pending.load(Ordering::Acquire);
        // A table outside of RAM keeps nothing.
        let _ = lpis
            .memory
            .write(pending_address(base, first), &bits.to_le_bytes());
    }
}

/// Where the pending bits of the LPIs from `index` on are.
fn pending_address(base: u64, index: u32) -> u64 {
    (base & 0xf_ffff_ffff_0000) + u64::from((FIRST_LPI + index) / 8)
}

impl<'a> Bank<'a> {
    fn lpi_cpu(&self) -> Option<(usize, &'a Lpis, &'a LpiCpu)> {
        let lpis = self.vgic.lpis.as_deref()?;
        let vcpu = self.vcpu?;
        Some((vcpu, lpis, lpis.cpus.get(vcpu)?))
    }

    /// GICR_CTLR, the part of it that is about LPIs.
    pub(super) fn lpi_control(&self) -> u32 {
        self.lpi_cpu().map_or(0, |(_, _, cpu)| {
            let is_enabled = cpu.is_enabled.load(Ordering::Acquire);
            CAN_DISABLE | if is_enabled { ENABLE_LPIS } else { 0 }
        })
    }

    /// Writes of it take effect before the guest goes on, so GICR_CTLR.RWP is never seen; but a few chunks of LPIs for each exit.
    pub(super) fn set_lpi_control(&mut self, value: u32) {
        let Some((vcpu, lpis, cpu)) = self.lpi_cpu() else {
            return;
        };
        let is_wanted = value & ENABLE_LPIS != 0;
        self.is_unfinished = true;
        let Some(mut looked_at) = cpu.turning.claim() else {
            return;
        };
        // What another vCPU has begun is ended first.
        if looked_at >= LPI_COUNT && lpis.is_enabled(vcpu) != is_wanted {
            cpu.is_enabled.store(is_wanted, Ordering::Release);
            looked_at = 0;
        }
        let is_enabled = lpis.is_enabled(vcpu);
        for _ in 0..CHUNKS {
            if looked_at >= LPI_COUNT {
                break;
            }
            if is_enabled {
                self.vgic.enable_lpis((vcpu, lpis, cpu), looked_at);
            } else {
                self.vgic.disable_lpis(self, (vcpu, lpis, cpu), looked_at);
            }
            looked_at += CHUNK;
        }
        cpu.turning.release(looked_at);
        cpu.owners.fetch_or(self.owners, Ordering::AcqRel);
        self.is_unfinished = looked_at < LPI_COUNT || is_enabled != is_wanted;
        if !self.is_unfinished {
            self.owners = cpu.owners.swap(0, Ordering::AcqRel);
        }
    }
}

/// GICR_PROPBASER.
pub(super) fn read_properties(bank: &mut Bank<'_>, _: u32) -> u64 {
    bank.lpi_cpu()
        .map_or(0, |(_, _, cpu)| cpu.properties.load(Ordering::Acquire))
}

/// The tables are fixed while they are used.
pub(super) fn write_properties(bank: &mut Bank<'_>, _: u32, value: Masked) {
    if let Some((vcpu, lpis, cpu)) = bank.lpi_cpu()
        && !lpis.is_enabled(vcpu)
    {
        let new = value.over(cpu.properties.load(Ordering::Acquire)) & PROPERTIES;
        cpu.properties.store(new, Ordering::Release);
    }
}

/// GICR_PENDBASER.
pub(super) fn read_pending(bank: &mut Bank<'_>, _: u32) -> u64 {
    bank.lpi_cpu().map_or(0, |(_, _, cpu)| {
        cpu.pending.load(Ordering::Acquire) & PENDING
    })
}

/// The tables are fixed while they are used.
pub(super) fn write_pending(bank: &mut Bank<'_>, _: u32, value: Masked) {
    if let Some((vcpu, lpis, cpu)) = bank.lpi_cpu()
        && !lpis.is_enabled(vcpu)
    {
        let new = value.over(cpu.pending.load(Ordering::Acquire)) & (PENDING | PENDING_IS_ZERO);
        cpu.pending.store(new, Ordering::Release);
    }
}
