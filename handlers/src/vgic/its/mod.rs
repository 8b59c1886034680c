//! The interrupt translation service: which LPI a device's event is, and which vCPU gets it.
//!
//! ```text
//!   guest: commands in memory, GITS_CWRITER --> commands --> tables <-- signal: a device's write of GITS_TRANSLATER
//!                                                   |                       |
//!                                                   '-----> records of the LPIs
//! ```
//! The tables are in the hypervisor's memory, which is allocated with the VM; the memory that the guest gives in GITS_BASER
//! only bounds them. A device's event takes no lock. Commands are executed by the vCPU that writes GITS_CWRITER, a few for
//! each exit, one vCPU at a time; a command that makes no sense is skipped, as the architecture permits. [IHI0069: The ITS]

mod commands;
mod registers;
mod tables;

use alloc::sync::Arc;

use super::{
    SharedCpu, Version, Vgic, VgicError,
    lpi::{LPI_COUNT, Lpis},
    registers::Place,
    walk::Walk,
};
use crate::{memory::GuestMemory, sync::Mutex};
use registers::{Queue, ROWS};
use tables::{Event, Tables};

/// The bytes of the ITS: its control frame and its translation frame.
pub const ITS_SIZE: u64 = 0x2_0000;

/// A VM's ITS.
pub(super) struct Its {
    base: u64,
    tables: Tables,
    queue: Mutex<Queue>,
}

impl Its {
    pub(super) fn new(base: u64) -> Self {
        Self {
            base,
            tables: Tables::new(),
            queue: Mutex::new(Queue::default()),
        }
    }

    pub(super) fn reset(&self) {
        *self.queue.lock() = Queue::default();
        self.tables.clear();
    }
}

impl Vgic {
    /// Gives a new interrupt controller LPIs and an ITS at `its_base`, whose tables the guest has in `memory`. It allocates
    /// all that they will ever use.
    ///
    /// # Errors
    /// It is a GICv2. The ITS's frames are not aligned to 64 KiB, or overlap the others or leave the address space.
    pub fn with_its(
        mut self,
        its_base: u64,
        memory: Arc<dyn GuestMemory>,
    ) -> Result<Self, VgicError> {
        if let Version::V2 { .. } = self.version {
            return Err(VgicError::NoLpis);
        }
        let end = its_base.checked_add(ITS_SIZE).ok_or(VgicError::Frames)?;
        let is_apart = |frame: &core::ops::RangeInclusive<u64>| {
            end <= *frame.start() || its_base > *frame.end()
        };
        if !its_base.is_multiple_of(0x1_0000) || !self.frames().iter().all(is_apart) {
            return Err(VgicError::Frames);
        }
        let lpis = Lpis::new(self.vcpu_count(), its_base, memory);
        self.cpus.iter_mut().for_each(SharedCpu::expect_lpis);
        self.distributor_type = super::distributor::with_lpis(self.distributor_type);
        self.regrouping = Walk::over(self.interrupt_count() + LPI_COUNT);
        self.lpis = Some(lpis.into());
        Ok(self)
    }

    /// Where the guest sees the ITS: what its handler claims.
    pub fn its_frames(&self) -> Option<core::ops::RangeInclusive<u64>> {
        let base = self.lpis.as_ref()?.its.base;
        Some(base..=base + (ITS_SIZE - 1))
    }

    /// A device's message: `event` of `device`, as a write of GITS_TRANSLATER. One that the guest has mapped to nothing is
    /// dropped. Any pCPU may call it at any time; it neither waits nor allocates.
    pub fn signal(&self, device: u32, event: u32) {
        let Some(lpis) = &self.lpis else {
            return;
        };
        // Each time that it is not raised, a command has changed its translation meanwhile.
        while let Some(Event { intid, .. }) = lpis.its.tables.event(device, event)
            && let Some(record) = self.lpi_record(intid)
        {
            // Whoever changes a translation does so before the record; so what is translated after a look at the record is
            // out of date only if the record has changed.
            let translation = record.load().translation();
            let vcpu = match lpis.its.tables.event(device, event) {
                Some(event) if event.intid == intid => lpis.its.tables.vcpu_of(event.collection),
                _ => continue,
            };
            if self.raise_lpi(intid, vcpu, translation) {
                return;
            }
        }
    }

    /// Where in the ITS `address` is.
    pub(super) fn its_place(&self, address: u64) -> Option<Place> {
        let offset = address.checked_sub(self.lpis.as_ref()?.its.base)?;
        (offset < ITS_SIZE).then_some(Place {
            rows: ROWS,
            vcpu: None,
            offset,
        })
    }
}
