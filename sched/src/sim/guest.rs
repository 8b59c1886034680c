//! What a simulated guest is: a script of instructions, an interrupt count, a timer.

use super::world::NEVER;
use crate::{PcpuId, Vcpu, VcpuHandle, VcpuId};
use alloc::{collections::BTreeSet, sync::Arc, vec::Vec};
use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

/// The handle of a simulated vCPU.
pub type Handle = Arc<VcpuHandle<Guest>>;

/// What a guest executes. Each takes one tick, `Compute` as many as it says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Instruction {
    /// Be busy for so many ticks, at least one.
    Compute(u64),
    /// WFI.
    Wait,
    /// Set the timer so many ticks ahead, and WFI.
    WaitFor(u64),
    /// Send an interrupt.
    Interrupt(VcpuId),
    /// Let others run: this one, if it can.
    Yield(Option<VcpuId>),
    /// PSCI CPU_ON.
    PowerOn(VcpuId),
    /// PSCI CPU_OFF.
    PowerOff,
    /// Move to another pCPU.
    Migrate(PcpuId),
    /// Look at the interrupt state of another, wherever that is.
    Inspect(VcpuId),
}

/// What a vCPU executes from its reset on.
#[derive(Clone, Debug, Default)]
pub struct Script {
    pub(super) instructions: Vec<Instruction>,
    pub(super) repeats: bool,
}

impl Script {
    /// These once, then CPU_OFF.
    pub fn once(instructions: impl IntoIterator<Item = Instruction>) -> Self {
        Self {
            instructions: instructions.into_iter().collect(),
            repeats: false,
        }
    }

    /// These again and again.
    pub fn forever(instructions: impl IntoIterator<Item = Instruction>) -> Self {
        Self {
            instructions: instructions.into_iter().collect(),
            repeats: true,
        }
    }

    pub(super) fn at(&self, index: usize) -> Instruction {
        let count = self.instructions.len();
        let index = if self.repeats && count > 0 {
            index % count
        } else {
            index
        };
        self.instructions
            .get(index)
            .copied()
            .unwrap_or(Instruction::PowerOff)
    }
}

/// The box that the scheduler moves.
pub struct Guest {
    handle: Handle,
    pub(super) next: usize,
    /// Ticks that the instruction still takes.
    pub(super) left: u64,
}

impl Guest {
    pub(super) fn new(handle: Handle) -> Self {
        Self {
            handle,
            next: 0,
            left: 0,
        }
    }

    pub(super) fn reset(&mut self) {
        (self.next, self.left) = (0, 0);
        self.set_timer(None);
    }

    /// When its timer fires.
    pub(super) fn timer(&self) -> Option<u64> {
        self.handle.shared().timer()
    }

    pub(super) fn set_timer(&mut self, deadline: Option<u64>) {
        self.handle
            .shared()
            .timer
            .store(deadline.unwrap_or(NEVER), Ordering::Relaxed);
    }

    /// The interrupt state that was in memory goes into the list registers, and the guest takes it.
    pub(super) fn refresh(&mut self) {
        let shared = self.handle.shared();
        shared
            .seen
            .store(shared.due.load(Ordering::Acquire), Ordering::Relaxed);
    }

    /// The timer's output is high: it becomes an interrupt.
    pub(super) fn sample_timer(&mut self, now: u64) -> bool {
        let fired = self.timer().is_some_and(|timer| timer <= now);
        if fired {
            self.set_timer(None);
            self.handle.shared().due.fetch_add(1, Ordering::AcqRel);
        }
        fired
    }
}

impl Vcpu for Guest {
    type Shared = Shared;

    fn handle(&self) -> &Handle {
        &self.handle
    }
}

/// What others may touch, and what the checks look at.
#[derive(Default)]
pub struct Shared {
    /// How many interrupts were sent to it.
    pub(super) due: AtomicU64,
    /// How many it has seen; only its owner writes it.
    seen: AtomicU64,
    /// When its timer fires; only its owner writes it.
    timer: AtomicU64,
    /// Who waits for its interrupt state.
    inspectors: Mutex<BTreeSet<VcpuId>>,
    /// How many of its own inspections others have answered.
    pub(super) answers: AtomicU64,
    /// How often CPU_ON was called for it, counted between claim and commit.
    pub(super) power_ons: AtomicU64,
    /// How often it has been reset.
    pub(super) resets: AtomicU64,
    /// Ticks in which the machine itself saw it run.
    pub(super) ran: AtomicU64,
}

impl Shared {
    pub(super) fn new() -> Self {
        Self {
            timer: AtomicU64::new(NEVER),
            ..Self::default()
        }
    }

    pub(super) fn inspectors(&self) -> MutexGuard<'_, BTreeSet<VcpuId>> {
        self.inspectors.lock().expect("nobody panics with it")
    }

    pub(super) fn has_unseen(&self) -> bool {
        self.due.load(Ordering::Relaxed) != self.seen.load(Ordering::Relaxed)
    }

    pub(super) fn timer(&self) -> Option<u64> {
        Some(self.timer.load(Ordering::Relaxed)).filter(|&timer| timer != NEVER)
    }
}
