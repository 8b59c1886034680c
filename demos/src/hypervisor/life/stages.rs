//! What is to be done in each stage of a guest's life, a piece at a time, and which stage comes next.

use alloc::{sync::Arc, vec::Vec};
use core::{
    mem,
    sync::atomic::Ordering::{Acquire, Release},
};

use trapline_demos::config::OnReset;
use trapline_handlers::{Request, Requests, vm::VmEnd};
use trapline_platform::{engine, timer};
use trapline_sched::{PcpuId, PcpuSet};

use super::{Life, Next, Outcome, Pause, Slot, Stage};
use crate::hypervisor::{
    Machine, Refusal,
    guest::{Guest, RetiredVcpus},
    memory::{GuestRam, Loaded},
};

impl Slot {
    /// Does a piece of what there is to do, `asked` included, for whoever has claimed the agenda; true if more is left that
    /// nobody need be waited for.
    pub(in crate::hypervisor) fn work(&self, machine: &Machine, asked: Requests) -> bool {
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
