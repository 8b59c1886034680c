//! How `schedule` ends: the timer is set, and a pCPU that has nothing to do says so.

use super::{Decision, LocalScheduler, Machine};
use crate::{TraceEvent, Vcpu, accounting::pcpu};

/// Later than any time.
const NEVER: u64 = u64::MAX;

impl<V: Vcpu> LocalScheduler<V> {
    /// The slice timer runs only while others wait, or the slice is strict.
    pub(super) fn arm(&mut self, machine: &mut impl Machine<V>) {
        let end = self
            .current
            .end
            .filter(|_| self.is_running() && !cfg!(mutant = "slice_never_ends"))
            .filter(|_| self.current.slice.is_strict || !self.ready.is_empty());
        if end.is_some() != self.is_armed {
            self.is_armed = end.is_some();
            if self.is_armed {
                self.cell.attention.arm();
            } else {
                self.cell.attention.disarm();
            }
        }
        let times = [
            end,
            self.deadlines
                .first()
                .filter(|_| !cfg!(mutant = "oversleep")),
            self.resume_at,
            self.next_watch(),
        ];
        let first = times.map(|time| time.unwrap_or(NEVER)).into_iter().min();
        let timer = first.filter(|&first| first != NEVER);
        if timer != self.timer {
            machine.set_timer(timer);
            self.timer = timer;
        }
    }

    pub(super) fn conclude(&mut self, is_drained: bool, now: u64) -> Decision {
        let is_running = self.is_running();
        if is_running != self.is_busy {
            self.is_busy = is_running;
            let phase = if is_running { pcpu::BUSY } else { pcpu::IDLE };
            self.cell.account.enter(phase, now);
        }
        if is_running {
            return Decision::Run;
        }
        if is_drained {
            self.trace(now, TraceEvent::Drained);
            return Decision::Drained;
        }
        self.trace(now, TraceEvent::Idle);
        self.is_idle = true;
        let decision = self.start_polling(now);
        // Whoever has something for this pCPU since it last looked kicks it. Whoever made a vCPU wait elsewhere before it
        // could see this pCPU idle does not: those are asked.
        if !(cfg!(mutant = "poll_unseen") && decision == Decision::Poll) {
            self.scheduler.publish_idle(self.pool_id, self.id);
        }
        if !cfg!(mutant = "idle_without_recheck") {
            self.scheduler.ask_for_work(self.pool_id, self.id);
        }
        decision
    }
}
