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
    walk::{CHUNK, Walk},
};
use crate::{
    memory::GuestMemory,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
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
// A chunk is one word of a pending table, as it is read and written.
const _: () = assert!(CHUNK == u64::BITS);

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
    turning: Walk,
}

const RESET: Record = Record::new(NOBODY).set_edge(true).set_group1(true);

impl Lpis {
    pub(super) fn new(vcpus: usize, its_base: u64, memory: Arc<dyn GuestMemory>) -> Self {
        let cpu = |_| LpiCpu {
            is_enabled: AtomicBool::new(false),
            properties: AtomicU64::new(0),
            pending: AtomicU64::new(0),
            turning: Walk::over(LPI_COUNT),
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
            cpu.turning.reset();
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

    /// Writes of it take effect before the guest goes on, so GICR_CTLR.RWP is never seen.
    pub(super) fn set_lpi_control(&mut self, value: u32) {
        let Some((vcpu, lpis, cpu)) = self.lpi_cpu() else {
            return;
        };
        let is_on = value & ENABLE_LPIS != 0;
        self.go_on(
            &cpu.turning,
            || lpis.is_enabled(vcpu) != is_on,
            || cpu.is_enabled.store(is_on, Ordering::Release),
            |bank, first| {
                if lpis.is_enabled(vcpu) {
                    bank.vgic.enable_lpis((vcpu, lpis, cpu), first);
                } else {
                    bank.vgic.disable_lpis(bank, (vcpu, lpis, cpu), first);
                }
            },
        );
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
