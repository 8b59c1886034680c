//! The physical interrupt controller in software, as far as shared interrupts go that a guest is given.

use std::collections::BTreeMap;
use std::sync::Mutex;

use trapline_sched::PcpuId;

use super::interface::Interface;
use crate::vgic::{PhysicalInterrupts, PhysicalLine, PhysicalSetup};

/// What the distributor knows of a shared interrupt.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shared {
    pub line: bool,
    /// It is edge-triggered.
    pub is_edge: bool,
    /// An edge was not taken yet.
    pub latch: bool,
    pub is_enabled: bool,
    pub is_active: bool,
    pub pcpu: Option<PcpuId>,
    /// How often it was taken.
    pub taken: usize,
}

#[derive(Default)]
pub struct Board(Mutex<BTreeMap<u32, Shared>>);

impl Board {
    pub fn shared(&self, physical: u32) -> Shared {
        self.0
            .lock()
            .unwrap()
            .get(&physical)
            .copied()
            .unwrap_or_default()
    }

    fn change<T>(&self, physical: u32, change: impl FnOnce(&mut Shared) -> T) -> T {
        change(self.0.lock().unwrap().entry(physical).or_default())
    }

    pub fn set_line(&self, physical: u32, level: bool) {
        self.change(physical, |shared| {
            shared.latch |= shared.is_edge && level && !shared.line;
            shared.line = level;
        });
    }

    /// Some pCPU takes the interrupt, which is active from then on, if it is due.
    pub fn take(&self, physical: u32) -> bool {
        self.change(physical, |shared| {
            let is_pending = shared.latch || shared.line && !shared.is_edge;
            let is_due = is_pending && shared.is_enabled && !shared.is_active;
            shared.is_active |= is_due;
            shared.latch &= !is_due;
            shared.taken += usize::from(is_due);
            is_due
        })
    }

    /// What the guests' ends have deactivated is so, and what is due is taken. True if anything was.
    pub fn settle(&self, pcpus: &mut [Interface], lines: &[PhysicalLine]) -> bool {
        let mut did = false;
        for physical in pcpus
            .iter_mut()
            .flat_map(|pcpu| pcpu.physical_ends.drain(..))
        {
            self.deactivate(physical);
            did = true;
        }
        for line in lines {
            if self.take(line.physical()) {
                line.raise();
                did = true;
            }
        }
        did
    }
}

impl PhysicalInterrupts for Board {
    fn configure(&self, physical: u32, setup: PhysicalSetup) {
        self.change(physical, |shared| {
            shared.is_enabled = setup.is_enabled;
            shared.is_edge = setup.is_edge;
            shared.pcpu = setup.pcpu.or(shared.pcpu);
        });
    }

    fn clear_edge(&self, physical: u32) {
        self.change(physical, |shared| shared.latch = false);
    }

    fn deactivate(&self, physical: u32) {
        self.change(physical, |shared| {
            assert!(
                shared.is_active,
                "interrupt {physical} is deactivated once for each time that it was taken"
            );
            shared.is_active = false;
        });
    }
}
