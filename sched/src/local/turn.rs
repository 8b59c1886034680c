//! How the turn of the loaded vCPU starts, is charged, and ends.

use super::{LocalScheduler, Machine, poll::learn_from_wait};
use crate::{Ready, Slice, TraceEvent, Vcpu, accounting::vcpu, halt_poll::Stage};

impl<V: Vcpu> LocalScheduler<V> {
    pub(super) fn charge(&mut self, now: u64) {
        if self.current.charged_at == now || cfg!(mutant = "charge_nobody") {
            return;
        }
        if let Some(vcpu) = self.loaded.as_ref().filter(|_| !self.current.is_waiting) {
            let ticks = now.saturating_sub(self.current.charged_at);
            self.policy.charge(vcpu.handle().id(), ticks, now);
        }
        self.current.charged_at = now;
    }

    /// The loaded vCPU starts a slice.
    pub(super) fn start_slice(&mut self, slice: Slice, now: u64) {
        let end = slice.duration.map(|ticks| now.saturating_add(ticks.get()));
        self.current.slice = slice;
        self.current.end = end;
        self.current.charged_at = now;
    }

    /// The loaded vCPU runs again, or waits, with its registers loaded. Before it runs, its policy is asked.
    pub(super) fn set_waiting(
        &mut self,
        is_waiting: bool,
        machine: &mut impl Machine<V>,
        now: u64,
    ) {
        if self.current.is_waiting == is_waiting {
            return;
        }
        let Some(loaded) = &mut self.loaded else {
            return;
        };
        machine.wait(loaded, is_waiting);
        let id = loaded.handle().id();
        if !is_waiting {
            learn_from_wait(loaded.handle(), self.current.polling, now);
        }
        let is_blocked = is_waiting && !cfg!(mutant = "wait_is_run_time");
        let phase = if is_blocked { vcpu::BLOCKED } else { vcpu::RUN };
        loaded.handle().account.enter(phase, now);
        if is_waiting {
            self.stop_turn(now);
            self.current.is_waiting = true;
            self.current.polling = Stage::Before;
            return self.trace(now, TraceEvent::WaitLoaded(id));
        }
        self.current.is_waiting = false;
        let slice = if self.ready.is_empty() {
            self.policy.resume(id, now)
        } else {
            self.policy.enqueue(id, Ready::Woken, now);
            None
        };
        self.is_ranked = slice.is_none();
        self.start_slice(slice.unwrap_or(Slice::UNLIMITED), now);
    }

    /// The loaded vCPU blocks or goes elsewhere: its policy forgets it, unless it has already because it waits.
    pub(super) fn stop_turn(&mut self, now: u64) {
        self.charge(now);
        if let Some(vcpu) = self.loaded.as_ref().filter(|_| !self.current.is_waiting) {
            let id = vcpu.handle().id();
            let is_ranked = core::mem::take(&mut self.is_ranked);
            if is_ranked && !cfg!(mutant = "leave_while_ranked") {
                self.policy.withdraw(id, now);
            } else {
                self.policy.leave(id, now);
            }
        }
    }
}
