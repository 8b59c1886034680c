//! A guest's place in the machine, and its lives there: it starts, pauses, ends and starts again while other guests run.
//!
//! ```text
//!   Off --Start--> Loading --> On --end, Stop, Reset--> Ending --> LettingGo --> Scrubbing --> Off, or Loading again
//!                             '-- Pause, Resume --'     vCPUs      pCPUs forget  RAM zero
//!                                                       park       VM and vCPUs, and unmapped
//!                                                                  devices stop
//! ```
//! What a step waits for is noticed in the guest's [`Agenda`] (a vCPU has parked, a pCPU has let go), so nobody waits. All of
//! it happens between steps of whichever pCPU has the time, off every exit path, a bounded piece at a time.

mod stages;
mod waiting;

use alloc::{string::String, sync::Arc, vec::Vec};
use core::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{AcqRel, Acquire},
};

use trapline_demos::config::GuestConfig;
use trapline_handlers::{Agenda, Request, Requests, manager::Settings, vm::VmEnd};
use trapline_platform::relax::Lock;
use trapline_sched::{PcpuId, PcpuSet, VcpuHandle};

use super::{
    Machine, Refusal,
    console::Console,
    devices::{self, Lasting},
    guest::{Guest, GuestVcpu, RetiredVcpus},
    memory::{GuestRam, Loaded},
    report::Totals,
};
use waiting::Waiting;

/// One guest's place.
pub(super) struct Slot {
    pub(super) index: usize,
    pub(super) config: GuestConfig,
    pub(super) console: Arc<Console>,
    pub(super) agenda: Agenda,
    pub(super) lasting: Lasting,
    /// The pCPUs that have not yet let go of the guest that ends here: bit n for pCPU n.
    holders: AtomicU64,
    /// The guest is off or on its way there, and does not start again by itself.
    is_over: AtomicBool,
    /// Locked for a piece of work.
    life: Lock<Life>,
}

/// Where the guest is in its life.
pub(super) struct Life {
    stage: Stage,
    /// What was asked for and not done yet.
    asked: Requests,
    /// How the last life ended.
    pub(super) outcome: Outcome,
    /// What was counted in earlier lives.
    pub(super) totals: Totals,
    /// What its vCPUs get in this life and the next ones.
    settings: Settings,
    /// How many lives have begun.
    begun: u32,
    /// How often one could not begin.
    refused: u32,
    /// Who waits for what was asked for.
    waiting: Vec<Waiting>,
}

enum Stage {
    Off,
    Loading(Arc<GuestRam>, Loaded),
    On(Guest, Pause),
    Ending(Guest, Next),
    LettingGo(Guest, RetiredVcpus, Next),
    Scrubbing(Arc<GuestRam>, u64, Next),
}

#[derive(Clone, Copy)]
enum Pause {
    No,
    /// Some vCPUs may still be on their way.
    Begins,
    /// The guest's virtual time stands still since then.
    Since(u64),
}

/// What follows the end of a life.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Next {
    Off,
    Start,
}

/// How a guest's last life ended.
#[derive(Clone)]
pub(super) enum Outcome {
    NeverStarted,
    Ended(VmEnd),
    /// Somebody outside wanted it.
    Stopped,
    /// It could not be started.
    Refused(String),
}

impl Slot {
    /// The place of guest `index`, that of `config`, which is off and begins each life with `settings`.
    pub(super) fn new(index: usize, config: GuestConfig, settings: Settings) -> Self {
        Self {
            index,
            console: Console::new(index as u8),
            agenda: Agenda::new(),
            lasting: Lasting::new(&config),
            holders: AtomicU64::new(0),
            is_over: AtomicBool::new(!config.starts),
            life: Lock::new(Life {
                stage: Stage::Off,
                asked: Requests::default(),
                outcome: Outcome::NeverStarted,
                totals: Totals::default(),
                settings,
                begun: 0,
                refused: 0,
                waiting: Vec::new(),
            }),
            config,
        }
    }

    /// Builds the guest at once, before any pCPU runs guests.
    pub(super) fn build(&self, machine: &Machine) -> Result<(), Refusal> {
        let ram = GuestRam::map(&self.config)?;
        let mut loaded = Loaded::default();
        while !ram.load(&self.config.images, &machine.staging, &mut loaded)? {}
        let life = &mut *self.life.lock();
        let guest = self.assemble(machine, &life.settings, Arc::new(ram))?;
        life.stage = Stage::On(guest, Pause::No);
        life.begun = 1;
        Ok(())
    }

    /// Turns the guest on that was built, if nobody has ended it already.
    pub(super) fn start(&self) {
        if let Stage::On(guest, _) = &self.life.lock().stage {
            guest.start();
        }
    }

    /// The guest is off for good, unless somebody asks for a start; its vCPUs are parked.
    pub(super) fn is_over(&self) -> bool {
        self.is_over.load(Acquire)
    }

    /// Shows how the guest is, while no piece of work is done on it; `None` if one is and `may_wait` is false.
    pub(super) fn look<T>(
        &self,
        may_wait: bool,
        visit: impl FnOnce(&Life, Option<&Guest>) -> T,
    ) -> Option<T> {
        let life = if may_wait {
            self.life.lock()
        } else {
            self.life.try_lock()?
        };
        Some(visit(&life, life.stage.guest()))
    }

    /// Shows what its vCPUs get, with those of them that there are.
    pub(super) fn with_settings<R>(
        &self,
        visit: impl FnOnce(&mut Settings, &[Arc<VcpuHandle<GuestVcpu>>]) -> R,
    ) -> R {
        let Life {
            stage, settings, ..
        } = &mut *self.life.lock();
        visit(settings, stage.guest().map_or(&[], |guest| &guest.handles))
    }

    /// What the guest does now, in a word.
    pub(super) fn word(&self) -> &'static str {
        self.life.lock().word()
    }

    /// pCPU `id` has let go of everything that has ended, if this guest waits for it.
    pub(super) fn is_held_by(&self, id: PcpuId) -> bool {
        PcpuSet::from_bits(self.holders.load(Acquire)).contains(id)
    }

    /// pCPU `id` has let go of the guest; true if it was the last one.
    pub(super) fn let_go(&self, id: PcpuId) -> bool {
        let mine = PcpuSet::only(id).bits();
        self.holders.fetch_and(!mine, AcqRel) == mine
    }

    fn assemble(
        &self,
        machine: &Machine,
        settings: &Settings,
        ram: Arc<GuestRam>,
    ) -> Result<Guest, Refusal> {
        let (config, console) = (&self.config, &self.console);
        let guest = Guest::new(machine, (self.index, config), settings, console, ram)?;
        let (lasting, passed) = (&self.lasting, &self.config.devices);
        if let Err(refusal) = devices::add(&guest, lasting, passed, machine.boot_time) {
            self.console.disconnect();
            let vcpus = guest.retire();
            guest.dismantle(vcpus);
            return Err(refusal);
        }
        (machine.customize)(&guest);
        Ok(guest)
    }
}

impl Stage {
    fn guest(&self) -> Option<&Guest> {
        match self {
            Self::On(guest, _) | Self::Ending(guest, _) | Self::LettingGo(guest, ..) => Some(guest),
            Self::Off | Self::Loading(..) | Self::Scrubbing(..) => None,
        }
    }
}

impl Life {
    /// What the guest does now, in a word or two.
    pub(super) fn word(&self) -> &'static str {
        match &self.stage {
            Stage::Off => "off",
            Stage::Loading(..) => "starting",
            Stage::On(_, Pause::No) => "on",
            Stage::On(..) => "paused",
            Stage::Ending(..) | Stage::LettingGo(..) | Stage::Scrubbing(..) => "ending",
        }
    }

    fn take(&mut self, request: Request) -> bool {
        let has = self.asked.has(request);
        self.asked = self.asked.without(request);
        has
    }
}
