//! What a simulated guest is: a program, an interrupt count, a timer.

use super::{
    agenda::NEVER,
    workload::{self, Model},
};
use crate::{PcpuId, Vcpu, VcpuHandle, VcpuId};
use alloc::{collections::BTreeSet, sync::Arc, vec::Vec};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

/// The handle of a simulated vCPU.
pub type Handle = Arc<VcpuHandle<Guest>>;

/// What a guest executes. Each takes as long as an exit, one tick if nothing else is said; `Compute` takes as many ticks as it
/// says, and what has to do with the lock takes one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Instruction {
    /// Be busy for so many ticks, at least one.
    Compute(u64),
    /// WFI.
    Wait,
    /// Set the timer so many ticks ahead, and WFI.
    WaitFor(u64),
    /// Set the timer to this time, and WFI.
    WaitUntil(u64),
    /// Send an interrupt.
    Interrupt(VcpuId),
    /// Send an interrupt to all others of its VM.
    InterruptAll,
    /// Send an interrupt to this one, or all others of its VM, and spin until each has taken its one.
    Shootdown(Option<VcpuId>),
    /// Take the lock of its VM, and spin until it has it; after `patience` yield to whoever has it, again and again.
    Acquire {
        /// In ticks; `None`: only spin.
        patience: Option<u64>,
    },
    /// Let go of the lock of its VM.
    Release,
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
    instructions: Vec<Instruction>,
    repeats: bool,
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

    fn at(&self, index: usize) -> Instruction {
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

/// Where a vCPU's instructions come from.
pub(super) enum Program {
    /// A script, and the number of its next instruction.
    Script(Script, usize),
    Model(Model),
}

impl Program {
    fn next(&mut self, now: u64, ran: u64, shared: &workload::Shared) -> Instruction {
        match self {
            Self::Script(script, next) => {
                *next += 1;
                script.at(*next - 1)
            }
            Self::Model(model) => model.next(now, ran, shared),
        }
    }

    fn reset(&mut self) {
        match self {
            Self::Script(_, next) => *next = 0,
            Self::Model(model) => model.reset(),
        }
    }
}

/// What a guest does until its `left` is 0.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Doing {
    /// It is about to be asked.
    Nothing,
    Instruction(Instruction),
    SpinForLock {
        patience: Option<u64>,
    },
    /// The exit by which it lets whoever has the lock run.
    YieldToHolder {
        patience: Option<u64>,
    },
    SpinForAnswers,
}

/// The box that the scheduler moves.
pub struct Guest {
    handle: Handle,
    program: Program,
    pub(super) doing: Doing,
    /// Ticks that this still takes.
    pub(super) left: u64,
    /// Ticks that its next work takes longer, because it is new to the caches of its pCPU.
    pub(super) cold: u64,
    /// Where it was bound last.
    pub(super) last: Option<PcpuId>,
    /// How long it had been ready by the time it was bound last.
    pub(super) ready_ticks: u64,
    /// It has waited for an interrupt, and has not executed since.
    pub(super) waits: bool,
}

impl Guest {
    pub(super) fn new(handle: Handle, program: Program) -> Self {
        Self {
            handle,
            program,
            doing: Doing::Nothing,
            left: 0,
            cold: 0,
            last: None,
            ready_ticks: 0,
            waits: false,
        }
    }

    pub(super) fn reset(&mut self) {
        self.program.reset();
        (self.doing, self.left) = (Doing::Nothing, 0);
        self.set_timer(None);
    }

    /// Its next instruction.
    pub(super) fn fetch(&mut self, now: u64, shared: &workload::Shared) -> Instruction {
        let ran = self.handle.shared().ran.load(Ordering::Relaxed);
        self.program.next(now, ran, shared)
    }

    /// It has executed for `ticks`.
    pub(super) fn execute(&mut self, ticks: u64) {
        if self.left != NEVER {
            self.left -= ticks.min(self.left);
        }
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

    /// The timer's output is high: it becomes an interrupt. The result is when that was due.
    pub(super) fn sample_timer(&mut self, now: u64) -> Option<u64> {
        let fired = self.timer().filter(|&timer| timer <= now)?;
        self.set_timer(None);
        let due = &self.handle.shared().due;
        due.store(due.load(Ordering::Relaxed) + 1, Ordering::Release);
        Some(fired)
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
    /// Since when it could have gone on, if it waits or has not yet; else `NEVER`.
    pub(super) woken_at: AtomicU64,
    /// Who waits for its interrupt state.
    inspectors: Mutex<BTreeSet<VcpuId>>,
    /// Somebody may.
    pub(super) is_inspected: AtomicBool,
    /// How many of its own inspections others have answered.
    pub(super) answers: AtomicU64,
    /// How often CPU_ON was called for it, counted between claim and commit.
    pub(super) power_ons: AtomicU64,
    /// How often it has been reset.
    pub(super) resets: AtomicU64,
    /// Ticks in which the machine itself saw it run, until it stopped last.
    pub(super) ran: AtomicU64,
}

impl Shared {
    pub(super) fn new() -> Self {
        Self {
            timer: AtomicU64::new(NEVER),
            woken_at: AtomicU64::new(NEVER),
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
