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

mod waiting;

use alloc::{string::String, sync::Arc, vec::Vec};
use core::{
    mem,
    sync::atomic::{
        AtomicBool, AtomicU64,
        Ordering::{AcqRel, Acquire, Release},
    },
};

use trapline_demos::config::{GuestConfig, OnReset};
use trapline_handlers::{Agenda, Request, Requests, manager::Settings, vm::VmEnd};
use trapline_platform::{engine, relax::Lock, timer};
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

    /// Does a piece of what there is to do, `asked` included, for whoever has claimed the agenda; true if more is left that
    /// nobody need be waited for.
    pub(super) fn work(&self, machine: &Machine, asked: Requests) -> bool {
        let life = &mut *self.life.lock();
        life.asked = mem::take(&mut life.asked).then(asked);
        let (stage, has_more) = match mem::replace(&mut life.stage, Stage::Off) {
            Stage::Off => self.when_off(life),
            Stage::Loading(ram, loaded) => self.load(machine, life, ram, loaded),
            Stage::On(guest, pause) => self.when_on(life, guest, pause),
            Stage::Ending(guest, next) => self.end(machine, life, guest, next),
            Stage::LettingGo(guest, vcpus, next) => self.dismantle(life, guest, vcpus, next),
            Stage::Scrubbing(ram, done, next) => self.scrub(life, ram, done, next),
        };
        life.stage = stage;
        life.answer_those_who_wait(&self.config.name);
        has_more
    }

    fn when_off(&self, life: &mut Life) -> (Stage, bool) {
        let is_start = life.take(Request::Start);
        // A stop before it is fulfilled.
        life.take(Request::Stop);
        if !is_start {
            self.refuse_others(life, "it is off");
            return (Stage::Off, false);
        }
        self.is_over.store(false, Release);
        match GuestRam::map(&self.config) {
            Ok(ram) => (Stage::Loading(Arc::new(ram), Loaded::default()), true),
            Err(refusal) => {
                self.refused(life, refusal);
                (Stage::Off, false)
            }
        }
    }

    fn load(
        &self,
        machine: &Machine,
        life: &mut Life,
        ram: Arc<GuestRam>,
        mut loaded: Loaded,
    ) -> (Stage, bool) {
        if life.take(Request::Stop) {
            life.outcome = Outcome::Stopped;
            let next = self.next(life, Next::Off);
            self.is_over.store(next == Next::Off, Release);
            return (Stage::Scrubbing(ram, 0, next), true);
        }
        let built = match ram.load(&self.config.images, &machine.staging, &mut loaded) {
            Ok(false) => return (Stage::Loading(ram, loaded), true),
            Ok(true) => self.assemble(machine, &life.settings, ram.clone()),
            Err(refusal) => Err(refusal),
        };
        match built {
            Ok(guest) => {
                guest.start();
                life.begun += 1;
                // What it starts for is done.
                life.take(Request::Start);
                life.take(Request::Reset);
                self.say("starts");
                (Stage::On(guest, Pause::No), true)
            }
            Err(refusal) => {
                self.refused(life, refusal);
                (Stage::Scrubbing(ram, 0, Next::Off), true)
            }
        }
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

    fn refused(&self, life: &mut Life, Refusal(why): Refusal) {
        log::error!("guest {} does not start: {why}", self.config.name);
        life.outcome = Outcome::Refused(why);
        life.refused += 1;
        life.asked = Requests::default();
        self.is_over.store(true, Release);
    }

    fn when_on(&self, life: &mut Life, guest: Guest, pause: Pause) -> (Stage, bool) {
        let end = guest.vm.end().cloned();
        let is_stop = life.take(Request::Stop);
        let is_reset = life.take(Request::Reset);
        // A start after a stop that came while it was on: it is on again at the end.
        let is_start = life.take(Request::Start);
        if end.is_some() || is_stop || is_reset {
            let is_own_reset =
                end == Some(VmEnd::Reset) && self.config.on_reset == OnReset::Restart;
            let next = if is_stop && !is_start {
                Next::Off
            } else if is_reset || is_start || is_own_reset {
                Next::Start
            } else {
                Next::Off
            };
            guest.vm.stop(VmEnd::Stopped("somebody outside wanted it"));
            if let Some(VmEnd::Crash(why) | VmEnd::Stopped(why)) = &end {
                log::warn!("guest {} ends: {why}", self.config.name);
            }
            life.outcome = end.map_or(Outcome::Stopped, Outcome::Ended);
            return (Stage::Ending(guest, next), true);
        }
        if is_start {
            self.say("is on already");
        }
        let (pause, has_more) = self.pause(life, &guest, pause);
        (Stage::On(guest, pause), has_more)
    }

    fn pause(&self, life: &mut Life, guest: &Guest, pause: Pause) -> (Pause, bool) {
        let (is_pause, is_resume) = (life.take(Request::Pause), life.take(Request::Resume));
        match pause {
            Pause::No if is_pause => {
                guest.vm.pause();
                (Pause::Begins, true)
            }
            Pause::Begins if is_resume => {
                guest.vm.resume();
                self.say("goes on");
                (Pause::No, false)
            }
            Pause::Begins if guest.vm.is_parked() => {
                self.say("is paused");
                (Pause::Since(timer::now()), false)
            }
            Pause::Since(then) if is_resume => {
                guest.resume_after(timer::now() - then);
                self.say("goes on");
                (Pause::No, false)
            }
            Pause::No if is_resume => {
                self.say("is not paused");
                (pause, false)
            }
            Pause::Since(_) if is_pause => {
                self.say("is paused already");
                (pause, false)
            }
            other => (other, false),
        }
    }

    fn end(&self, machine: &Machine, life: &mut Life, guest: Guest, next: Next) -> (Stage, bool) {
        let next = self.next(life, next);
        if !guest.vm.is_parked() {
            return (Stage::Ending(guest, next), false);
        }
        self.console.disconnect();
        let vcpus = guest.retire();
        machine.hotplug.with_holders(|holders| {
            let holders: Vec<PcpuId> = holders.collect();
            let bits = holders
                .iter()
                .fold(0, |bits, &pcpu| bits | PcpuSet::only(pcpu).bits());
            self.holders.store(bits, Release);
            for pcpu in holders {
                engine::call_attention(pcpu.index() as u16);
            }
        });
        // From here on the run may end.
        self.is_over.store(next == Next::Off, Release);
        (Stage::LettingGo(guest, vcpus, next), false)
    }

    fn dismantle(
        &self,
        life: &mut Life,
        guest: Guest,
        vcpus: RetiredVcpus,
        next: Next,
    ) -> (Stage, bool) {
        let next = self.next(life, next);
        if self.holders.load(Acquire) != 0 {
            return (Stage::LettingGo(guest, vcpus, next), false);
        }
        // What a device writes after this would be in memory that is scrubbed, or the next life's.
        if !guest.stop_devices() {
            return (Stage::LettingGo(guest, vcpus, next), true);
        }
        life.totals.add(&guest, timer::now());
        let ram = guest.dismantle(vcpus);
        (Stage::Scrubbing(ram, 0, next), true)
    }

    fn scrub(
        &self,
        life: &mut Life,
        ram: Arc<GuestRam>,
        mut done: u64,
        next: Next,
    ) -> (Stage, bool) {
        let next = self.next(life, next);
        if !ram.scrub(&mut done) {
            return (Stage::Scrubbing(ram, done, next), true);
        }
        drop(ram);
        if next == Next::Start {
            life.asked = life.asked.then(Requests::only(Request::Start));
        } else {
            self.say("is off");
        }
        (Stage::Off, next == Next::Start)
    }

    /// What follows the end that is under way, with what was asked for meanwhile.
    fn next(&self, life: &mut Life, next: Next) -> Next {
        let mut next = next;
        if life.take(Request::Stop) {
            next = Next::Off;
        }
        if life.take(Request::Start) | life.take(Request::Reset) {
            next = Next::Start;
        }
        if next == Next::Start {
            self.is_over.store(false, Release);
        }
        self.refuse_others(life, "it ends");
        next
    }

    fn refuse_others(&self, life: &mut Life, why: &str) {
        for request in Request::ALL {
            if life.take(request) {
                log::info!("guest {}: no {}: {why}", self.config.name, request.name());
            }
        }
    }

    fn say(&self, what: &str) {
        log::info!("guest {} {what}", self.config.name);
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
