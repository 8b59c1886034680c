//! What must be true of the simulated machine: of what an event has touched after each, of everything every so many events.

use super::{
    agenda::NEVER,
    engine::Engine,
    guest::Handle,
    pcpu::{Pcpu, Station},
};
use crate::{
    BlockReason, Decision, PcpuId, PcpuSet, Place, Vcpu, VcpuId, accounting::vcpu::BLOCKED,
};
use core::sync::atomic::Ordering;

/// Policies of tests that break rules on purpose.
const BAD_POLICIES: [&str; 2] = ["hostile", "broken"];
/// An idle pCPU asks the one that has most, that one may let the next one look, and the box comes by mail: so many kicks
/// until it is there, each answered only when a switch is over.
const KICKS: u64 = 6;

impl Engine {
    /// What must be true of what the event that is over has touched, on `pcpu` above all.
    pub(super) fn check_event(&self, pcpu: Option<PcpuId>) {
        let unchecked = self.unchecked.get() + 1;
        if unchecked >= self.check_every {
            return self.check();
        }
        self.unchecked.set(unchecked);
        let mut touched = self.touched.borrow_mut();
        while let Some(vcpu) = touched.pop() {
            self.check_vcpu(self.handle(vcpu));
        }
        if let Some(pcpu) = pcpu {
            self.check_pcpu(self.station(pcpu));
        }
        self.check_promises();
    }

    /// What must be true whenever nobody is in the middle of something.
    pub(super) fn check(&self) {
        self.unchecked.set(0);
        self.touched.borrow_mut().clear();
        self.handles
            .iter()
            .for_each(|handle| self.check_vcpu(handle));
        self.handles
            .iter()
            .for_each(|handle| self.check_patience(handle));
        self.stations
            .iter()
            .for_each(|station| self.check_pcpu(station));
        self.check_promises();
    }

    fn check_promises(&self) {
        if !self.may_fail && self.world.has_failure() {
            let failures = self.world.policy_failures();
            let failure = failures.first().expect("rule: there is one");
            panic!(
                "{} {} was ready on {} for {} ticks and did not run; the policy {} promises at most {}",
                self.name(),
                failure.vcpu,
                failure.pcpu,
                failure.waited,
                failure.policy,
                failure.promised
            );
        }
    }

    fn check_vcpu(&self, handle: &Handle) {
        let (now, name, id) = (self.now(), self.name(), handle.id());
        let state = handle.state.load();
        let place = state.place();
        let bound_on = self.seat(id).bound_on.get();
        let is_there = match place {
            Place::Loaded(pcpu) => bound_on == Some(pcpu),
            _ => bound_on.is_none(),
        };
        assert!(
            is_there,
            "{name} {id} is {place:?} and bound on {bound_on:?}"
        );
        let times = handle.times(now);
        assert_eq!(
            times.total(),
            now,
            "{name} the times of {id} add up to its age"
        );
        let ran = handle.shared().ran.load(Ordering::Relaxed) + self.running_for(bound_on);
        assert_eq!(times.run, ran, "{name} {id} ran so long");
        let is_lost = !state.is_blocked() && matches!(place, Place::Parked(_));
        assert!(!is_lost, "{name} {id} is parked although nothing blocks it");
        let is_waiting = state.is_blocked_by(BlockReason::Waiting);
        let is_lost = is_waiting && handle.shared().has_unseen();
        assert!(
            !is_lost,
            "{name} {id} waits and nobody tells it about its interrupt"
        );
    }

    /// For how long the vCPU that is bound there has been running, by the machine's own clock.
    fn running_for(&self, bound_on: Option<PcpuId>) -> u64 {
        let Some(pcpu) = bound_on else { return 0 };
        let pcpu = self.station(pcpu).pcpu.borrow();
        match pcpu.decision {
            Decision::Run => self.now() - pcpu.running_since,
            Decision::Idle | Decision::Poll | Decision::Drained => 0,
        }
    }

    fn check_pcpu(&self, station: &Station) {
        let pcpu = &mut *station.pcpu.borrow_mut();
        let (name, id, now) = (self.name(), pcpu.id, self.now());
        let [busy, idle] = self.scheduler.cell(id).account.read(now);
        assert_eq!(
            busy + idle,
            now,
            "{name} the times of {id} add up to its age"
        );
        assert!(
            pcpu.sched.is_all_ranked() || BAD_POLICIES.contains(&pcpu.sched.policy_name()),
            "{name} the policy of {id} does not know who is ready there"
        );
        // One that polls looks by itself.
        let has_kick = self.world.kick_time(id) != NEVER || pcpu.decision == Decision::Poll;
        let is_running = pcpu.decision == Decision::Run;
        let loaded = pcpu.sched.loaded().map(|guest| &**guest.handle());
        let bound = station.bound.get();
        assert_eq!(
            loaded.map(|handle| handle.id()),
            bound,
            "{name} who is loaded on {id} is bound there"
        );
        let Some(handle) = loaded else {
            return;
        };
        let state = handle.state.load();
        let is_informed = has_kick || !state.needs_schedule();
        let vcpu = handle.id();
        assert!(
            is_running || has_kick || state.is_blocked(),
            "{name} {id} idles although {vcpu} can run"
        );
        if is_running {
            assert!(
                is_informed,
                "{name} {id} runs {vcpu} and nobody tells it to stop"
            );
            assert!(
                has_kick || handle.may_run_on(id),
                "{name} {vcpu} runs on {id}, which is outside its affinity or in another pool"
            );
            assert!(
                has_kick || !state.has_wake(),
                "{name} nobody tells {id} about an interrupt"
            );
            assert!(
                has_kick || !handle.shared().has_unseen(),
                "{name} {vcpu} runs and does not see its interrupt"
            );
        }
    }

    /// A vCPU is bound on `pcpu` after it was ready for `waited`: nobody who might have run it idled all that time, and its policy
    /// had not promised to be much quicker.
    pub(super) fn check_wait(&self, pcpu: &Pcpu, vcpu: VcpuId, waited: u64) {
        let allowed = self.longest_pull();
        // In the middle of a change some of the rules are others already.
        if waited <= allowed || self.is_changing.get() {
            return;
        }
        let (now, name, handle) = (self.now(), self.name(), self.handle(vcpu));
        let changed_at = self.seat(vcpu).changed_at.get().max(self.regime_at.get());
        let since = (now - waited).max(changed_at);
        if now - since <= allowed {
            return;
        }
        // A pCPU that idles may have promised more before somebody with a cap came to its pool.
        let idlers = match pcpu.sched.is_work_conserving() {
            true => *self.idlers.borrow(),
            false => PcpuSet::EMPTY,
        };
        for idler in idlers.iter().filter(|&idler| handle.can_run_on(idler)) {
            let both = now - since.max(self.station(idler).idle_since.get());
            assert!(
                both <= allowed,
                "{name} {idler} idled for {both} ticks while {vcpu} was ready and could run there"
            );
        }
        let promised = pcpu.sched.longest_wait(self.vcpu_count());
        let longest = promised.unwrap_or(NEVER).saturating_mul(2);
        assert!(
            self.may_fail || now - since <= longest.saturating_add(allowed),
            "{name} {vcpu} was ready for {waited} ticks and did not run; its policy promises half of {longest} at most"
        );
    }

    /// The same of one that is still ready and does not run; and one that waits for its timer does not miss it.
    fn check_patience(&self, handle: &Handle) {
        let (now, name, id) = (self.now(), self.name(), handle.id());
        let state = handle.state.load();
        if let Place::Queued(pcpu) = state.place()
            && let Some(since) = handle.ready_since().filter(|_| !state.is_blocked())
            && (!self.scheduler.is_draining(pcpu) || handle.must_leave(pcpu))
        {
            let pcpu = self.station(pcpu).pcpu.borrow();
            self.check_wait(&pcpu, id, now - since);
        }
        let is_waiting = state.is_blocked_by(BlockReason::Waiting);
        let (timer, blocked) = (handle.shared().timer(), handle.account.since(BLOCKED));
        let has_missed = timer.zip(blocked).is_some_and(|(timer, blocked)| {
            now > timer.max(blocked).saturating_add(self.longest_pull())
        });
        assert!(
            !(is_waiting && has_missed) || self.world.has_kick_under_way(),
            "{name} {id} waits although its timer has fired"
        );
    }

    /// In this time an idle pCPU has what waits elsewhere and may run there.
    fn longest_pull(&self) -> u64 {
        let rates = &self.rates;
        let answer = rates.switch + rates.interrupt + 1;
        KICKS * (self.world.longest_kick() + answer)
    }

    /// With no kick under way nobody will look: what should have been done has been. Where everything is checked each time.
    pub(super) fn check_before_time_passes(&self) {
        if self.world.has_kick_under_way() {
            return;
        }
        let name = self.name();
        for handle in &self.handles {
            let is_late = handle
                .shared()
                .timer()
                .is_some_and(|timer| timer <= self.now());
            let is_waiting = handle.state.load().is_blocked_by(BlockReason::Waiting);
            assert!(
                !(is_late && is_waiting),
                "{name} {} waits although its timer has fired",
                handle.id()
            );
        }
        let idlers = *self.idlers.borrow();
        let waiting = |handle: &&Handle| matches!(handle.place(), Place::Queued(_));
        for handle in self.handles.iter().filter(waiting) {
            let idler = idlers.iter().find(|&idler| handle.can_run_on(idler));
            if let Some(idler) = idler {
                panic!("{name} {idler} idles while {} waits", handle.id());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        PcpuId, VcpuId,
        policies::RoundRobin,
        sim::{Instruction::Compute, Script, Simulation},
    };
    use core::cell::Cell;

    const COUNT: u16 = 200;

    /// A machine that looks at what an event touches, and at nothing else for long, and vCPUs of which the last is in two places.
    fn broken() -> Simulation {
        let scripts = (0..COUNT).map(|_| Script::forever([Compute(10)]));
        let mut sim = Simulation::new(RoundRobin::with_slice(10), scripts);
        let engine = alloc::rc::Rc::get_mut(&mut sim.engine).expect("nobody else has it");
        engine.check_every = 1 << 40;
        engine.unchecked.set(0);
        engine.touched.borrow_mut().clear();
        let last = VcpuId::new(COUNT - 1);
        let bound_on: &Cell<_> = &engine.seat(last).bound_on;
        bound_on.set(PcpuId::new(0));
        sim
    }

    #[test]
    fn what_an_event_does_not_touch_is_not_looked_at() {
        let sim = broken();
        (0..COUNT - 1)
            .take(60)
            .for_each(|index| sim.engine.touch(VcpuId::new(index)));
        sim.engine.check_event(None);
        sim.engine.seat(VcpuId::new(COUNT - 1)).bound_on.set(None);
    }

    #[test]
    #[should_panic(expected = "vcpu199 is Queued")]
    fn however_many_an_event_touches_all_are_looked_at() {
        let sim = broken();
        (0..COUNT).for_each(|index| sim.engine.touch(VcpuId::new(index)));
        sim.engine.check_event(None);
    }
}
