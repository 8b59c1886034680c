//! What must be true of the simulated machine whenever nobody is in the middle of something.

use super::{
    engine::{Engine, Pcpu},
    world::NEVER,
};
use crate::{BlockReason, Decision, Place, Vcpu};
use core::sync::atomic::Ordering;

/// Policies of tests that break rules on purpose.
const BAD_POLICIES: [&str; 2] = ["hostile", "broken"];

impl Engine {
    /// What must be true whenever nobody is in the middle of something.
    pub(super) fn check(&self) {
        let (now, name) = (self.now(), self.name());
        let bound = self.bound.borrow();
        for handle in &self.handles {
            let (id, snapshot) = (handle.id(), handle.snapshot(now));
            let places = bound.iter().filter(|&&bound| bound == Some(id)).count();
            let expected = usize::from(matches!(snapshot.place, Place::Loaded(_)));
            assert_eq!(
                places, expected,
                "{name} {id} is {:?} and bound {places} times",
                snapshot.place
            );
            assert_eq!(
                snapshot.times.total(),
                now,
                "{name} the times of {id} add up to its age"
            );
            assert_eq!(
                snapshot.times.run,
                handle.shared().ran.load(Ordering::Relaxed),
                "{name} {id} ran so long"
            );
            let is_lost = snapshot.is_runnable && matches!(snapshot.place, Place::Parked(_));
            assert!(!is_lost, "{name} {id} is parked although nothing blocks it");
            let is_waiting = handle.state.load().is_blocked_by(BlockReason::Waiting);
            let is_lost = is_waiting && handle.shared().has_unseen();
            assert!(
                !is_lost,
                "{name} {id} waits and nobody tells it about its interrupt"
            );
        }
        for slot in &self.pcpus {
            self.check_pcpu(
                slot.borrow_mut()
                    .as_mut()
                    .expect("rule: checked between events"),
            );
        }
    }

    fn check_pcpu(&self, pcpu: &mut Pcpu) {
        let (name, id) = (self.name(), pcpu.id);
        let times = self
            .pool
            .pcpu_counters(id, self.now())
            .expect("rule: it is of the pool")
            .times;
        assert_eq!(
            times.busy + times.idle,
            self.now(),
            "{name} the times of {id} add up to its age"
        );
        assert!(
            pcpu.sched.is_all_ranked() || BAD_POLICIES.contains(&pcpu.sched.policy_name()),
            "{name} the policy of {id} does not know who is ready there"
        );
        let has_kick = self.world.kick_time(id) != NEVER;
        let is_running = pcpu.decision == Decision::Run;
        let Some(guest) = pcpu.sched.loaded() else {
            return;
        };
        let handle = guest.handle();
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
                has_kick || handle.affinity().contains(id),
                "{name} {vcpu} runs outside its affinity"
            );
            assert!(
                has_kick || self.pool.pool_of(id) == Some(handle.pool_id()),
                "{name} {vcpu} runs on {id}, which is in another pool"
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

    /// With no kick under way nobody will look: what should have been done has been.
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
        for slot in &self.pcpus {
            let slot = slot.borrow();
            let Some(pcpu) = slot.as_ref().filter(|pcpu| pcpu.decision == Decision::Idle) else {
                continue;
            };
            if !pcpu.sched.is_work_conserving() {
                continue;
            }
            for handle in &self.handles {
                let waits =
                    matches!(handle.place(), Place::Queued(_)) && handle.can_run_on(pcpu.id);
                assert!(
                    !waits,
                    "{name} {} idles while {} waits",
                    pcpu.id,
                    handle.id()
                );
            }
        }
    }
}
