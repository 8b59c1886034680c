//! What one pCPU of the simulated machine does: interrupts, the guest's exit, the scheduler, and the next guest.

use super::{Stretch, agenda::NEVER, engine::Engine, guest::Guest, hardware::Hardware};
use crate::{Decision, LocalScheduler, Look, PcpuId, Vcpu, VcpuId};
use core::{
    cell::{Cell, RefCell},
    sync::atomic::Ordering,
};

pub(super) struct Pcpu {
    pub(super) id: PcpuId,
    pub(super) sched: LocalScheduler<Guest>,
    pub(super) decision: Decision,
    /// Since when the guest executes, if it does; still to come while the pCPU is busy with a switch.
    entered: u64,
    /// Since when the vCPU runs, as the scheduler counts.
    pub(super) running_since: u64,
    /// Its last stretch.
    pub(super) stretch: Option<usize>,
}

/// A pCPU, and what is noted about it.
pub(super) struct Station {
    /// Borrowed while the pCPU executes.
    pub(super) pcpu: RefCell<Pcpu>,
    pub(super) bound: Cell<Option<VcpuId>>,
    /// What `bind` or `set_exclusive` was told last.
    pub(super) exclusive: Cell<bool>,
    /// What `contend` was told last.
    pub(super) contended: Cell<bool>,
    is_off: Cell<bool>,
    /// What switches and interrupts have taken, in ticks.
    pub(super) overhead: Cell<u64>,
    /// Since when it is one of [`Engine::idlers`], if it is.
    pub(super) idle_since: Cell<u64>,
}

impl Station {
    /// One that idles.
    pub(super) fn new(id: PcpuId, sched: LocalScheduler<Guest>) -> Self {
        let pcpu = Pcpu {
            id,
            sched,
            decision: Decision::Idle,
            entered: 0,
            running_since: 0,
            stretch: None,
        };
        Self {
            pcpu: RefCell::new(pcpu),
            bound: Cell::new(None),
            exclusive: Cell::new(false),
            contended: Cell::new(false),
            is_off: Cell::new(false),
            overhead: Cell::new(0),
            idle_since: Cell::new(0),
        }
    }
}

impl Engine {
    /// The pCPU takes its interrupts, answers its guest's exit, and schedules.
    pub(super) fn execute(&self, id: PcpuId) {
        let station = self.station(id);
        if station.is_off.get() {
            return;
        }
        let Ok(mut pcpu) = station.pcpu.try_borrow_mut() else {
            return;
        };
        let pcpu = &mut *pcpu;
        let outer = self.world.enter(Some(id));
        self.world.unschedule(id);
        let now = self.now();
        let is_running = pcpu.decision == Decision::Run;
        if pcpu.decision == Decision::Poll && !self.stops_polling(pcpu, now) {
            self.world.enter(outer);
            return self.world.schedule(id, own_time(pcpu));
        }
        let is_kicked = self.world.take_kick(id);
        if is_kicked {
            pcpu.sched.kicked();
        }
        let has_fired = self.world.timer(id) <= now;
        if has_fired {
            pcpu.sched.timer_fired();
        }
        if is_running {
            self.note_run(pcpu, now);
        }
        let entered = pcpu.entered;
        let mut is_over = false;
        if let Some(guest) = pcpu.sched.loaded() {
            if is_running {
                guest.execute(now.saturating_sub(entered));
                is_over = guest.left == 0;
            }
            if let Some(due) = guest.sample_timer(now) {
                self.note_timer(guest, due);
                guest.handle().wake();
            }
        }
        if is_over {
            self.finish(pcpu);
        }
        let is_interrupted = is_running && (is_kicked || has_fired);
        let delay = if is_interrupted {
            self.rates.interrupt
        } else {
            0
        };
        self.resume(station, pcpu, delay);
        let is_off = pcpu.decision == Decision::Drained && self.turn_off(pcpu);
        self.world.enter(outer);
        if !is_off {
            self.world.schedule(id, own_time(pcpu));
        }
        self.tell_pollers();
    }

    /// One look of a pCPU that polls; true: it has more to do than wait.
    fn stops_polling(&self, pcpu: &mut Pcpu, now: u64) -> bool {
        let timer = pcpu.sched.loaded().and_then(|guest| guest.timer());
        let is_interrupted = [self.world.kick_time(pcpu.id), self.world.timer(pcpu.id)]
            .into_iter()
            .chain(timer)
            .any(|time| time <= now);
        let look = pcpu.sched.look(is_interrupted);
        if look == Look::Again {
            return false;
        }
        self.pollers.borrow_mut().remove(&pcpu.id);
        pcpu.decision = Decision::Idle;
        look == Look::Schedule || is_interrupted
    }

    /// Those that poll see what has been raised for them.
    #[inline]
    pub(super) fn tell_pollers(&self) {
        if !self.pollers.borrow().is_empty() {
            self.tell_each_poller();
        }
    }

    #[inline(never)]
    fn tell_each_poller(&self) {
        for &pcpu in self.pollers.borrow().iter() {
            if self.scheduler.cell(pcpu).attention.is_raised() {
                self.world.notice(pcpu, self.now() + self.rates.notice);
            }
        }
    }

    /// The pCPU is drained: if it was unplugged, and nothing is left to look at, it goes off.
    fn turn_off(&self, pcpu: &mut Pcpu) -> bool {
        let is_unplugged = self.scheduler.pool_of(pcpu.id).is_none();
        if !is_unplugged || pcpu.sched.close().is_err() {
            return false;
        }
        self.station(pcpu.id).is_off.set(true);
        self.world.turn_off(pcpu.id);
        true
    }

    /// If the pCPU is off it comes back, and does `plug` itself before it looks.
    pub(super) fn come_back<T>(&self, id: PcpuId, plug: impl FnOnce() -> T) -> T {
        let station = self.station(id);
        if !station.is_off.replace(false) {
            return plug();
        }
        let mut pcpu = station.pcpu.borrow_mut();
        self.world.turn_on(id);
        let outer = self.world.enter(Some(id));
        pcpu.sched.reopen();
        let plugged = plug();
        self.world.enter(outer);
        self.world.schedule(id, self.now());
        plugged
    }

    /// The loop around [`LocalScheduler::schedule`], up to the guest or the idle wait. The pCPU has been busy for `delay`.
    fn resume(&self, station: &Station, pcpu: &mut Pcpu, delay: u64) {
        let mut machine = Hardware {
            engine: self,
            station,
            pcpu: pcpu.id,
            delay,
            waited: None,
        };
        let (id, now) = (pcpu.id, self.now());
        if pcpu.decision != Decision::Run || pcpu.sched.needs_attention() {
            pcpu.decision = pcpu.sched.schedule(&mut machine);
            if let Some((vcpu, waited)) = machine.waited {
                self.check_wait(pcpu, vcpu, waited);
            }
            self.note_decision(station, pcpu);
        }
        let start = now + machine.delay;
        station.overhead.set(station.overhead.get() + machine.delay);
        self.world.set_busy_until(id, start);
        if pcpu.decision != Decision::Run {
            return;
        }
        let is_woken = pcpu.sched.take_wake();
        (pcpu.entered, pcpu.running_since) = (start, now);
        let guest = pcpu.sched.loaded().expect("rule: who runs is loaded");
        if is_woken {
            self.take_interrupts(guest);
        }
        let vcpu = guest.handle().id();
        let woken_at = &guest.handle().shared().woken_at;
        let since = woken_at.load(Ordering::Relaxed);
        if since != NEVER {
            woken_at.store(NEVER, Ordering::Relaxed);
        }
        if core::mem::take(&mut guest.waits) && since != NEVER {
            let mut wakeup = self.meter(vcpu).wakeup.borrow_mut();
            wakeup.record(start.saturating_sub(since));
        }
        self.prepare(guest);
        let bound = station.bound.get();
        assert_eq!(bound, Some(vcpu), "{} who runs is bound", self.name());
    }

    fn note_decision(&self, station: &Station, pcpu: &Pcpu) {
        let is_polling = pcpu.decision == Decision::Poll;
        if is_polling {
            self.pollers.borrow_mut().insert(pcpu.id);
        }
        let is_idle = is_polling || pcpu.decision == Decision::Idle;
        let is_idler = is_idle && pcpu.sched.is_work_conserving();
        let mut idlers = self.idlers.borrow_mut();
        if !is_idler {
            idlers.remove(pcpu.id);
        } else if !idlers.contains(pcpu.id) {
            idlers.insert(pcpu.id);
            station.idle_since.set(self.now());
        }
    }

    /// The vCPU that runs has run until now.
    fn note_run(&self, pcpu: &mut Pcpu, now: u64) {
        let Some(guest) = pcpu.sched.loaded() else {
            return;
        };
        let (vcpu, ran) = (guest.handle().id(), &guest.handle().shared().ran);
        let ticks = now - pcpu.running_since;
        ran.store(ran.load(Ordering::Relaxed) + ticks, Ordering::Relaxed);
        if self.records_stretches && ticks > 0 {
            let stretch = Stretch {
                start: pcpu.running_since,
                pcpu: pcpu.id,
                vcpu,
                duration: ticks,
            };
            self.note_stretch(&mut pcpu.stretch, stretch);
        }
    }
}

/// When the pCPU has something to do although nobody interrupts it.
fn own_time(pcpu: &mut Pcpu) -> u64 {
    let is_running = pcpu.decision == Decision::Run;
    let entered = pcpu.entered;
    let polls_until = pcpu.sched.polls_until().unwrap_or(NEVER);
    let Some(guest) = pcpu.sched.loaded() else {
        return NEVER;
    };
    let timer = guest.timer().unwrap_or(NEVER);
    match is_running {
        true => timer.min(entered.saturating_add(guest.left)),
        false => timer.min(polls_until),
    }
}
