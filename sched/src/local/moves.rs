//! How boxes come to a pCPU and leave it: mail, requests to move, draining.
//!
//! Functions that take a `Box<V>` take it unbound; those that take a `Machine` unbind first.

use super::{LocalScheduler, Machine};
use crate::{
    PcpuId, Ready, TraceEvent, Vcpu, VcpuId,
    cell::Mail,
    state::{Leave, State},
    sync::Ordering,
};
use alloc::boxed::Box;

impl<V: Vcpu> LocalScheduler<V> {
    /// A box from the inbox, already counted as waiting here.
    pub(super) fn receive(&mut self, mail: Mail<V>, now: u64) {
        if mail.why == Ready::MigratedIn {
            self.cell.pulled.increment();
        }
        let id = mail.vcpu.handle().id();
        self.admit(mail.vcpu, mail.why, now);
        self.must_balance |= self.ready.get(id).is_none();
    }

    /// A box that is queued here and counted as waiting: it becomes ready, unless something blocks or moves it.
    pub(super) fn admit(&mut self, vcpu: Box<V>, why: Ready, now: u64) {
        let mut vcpu = vcpu;
        loop {
            let state = vcpu.handle().state.load();
            if state.is_blocked() {
                match self.park_queued(vcpu, now) {
                    Some(runnable) => vcpu = runnable,
                    None => return,
                }
            } else if let Some(to) = self.requested_pcpu(&vcpu, state) {
                return self.forward_queued(vcpu, to, now);
            } else {
                // The policy compares it with the one that runs, as that is now.
                self.charge(now);
                if !cfg!(mutant = "newcomer_is_unranked") {
                    self.policy.enqueue(vcpu.handle().id(), why, now);
                }
                self.has_news = true;
                return self.make_ready(vcpu);
            }
        }
    }

    pub(super) fn make_ready(&mut self, vcpu: Box<V>) {
        self.cell.add_reach(&vcpu.handle().entry);
        self.ready.insert(vcpu);
    }

    /// Where a request or a drained pCPU sends the vCPU, if elsewhere.
    fn requested_pcpu(&self, vcpu: &V, state: State) -> Option<PcpuId> {
        let handle = vcpu.handle();
        let is_asked = state.has_migrate() && handle.take_migrate_request();
        if is_asked || handle.must_leave(self.id) {
            handle.next_pcpu(self.id)
        } else {
            None
        }
    }

    /// A move that was asked for, of a box that is queued and counted here: `None` if it stays.
    pub(super) fn obey_migrate(&mut self, vcpu: Box<V>, now: u64) -> Option<Box<V>> {
        match self.requested_pcpu(&vcpu, vcpu.handle().state.load()) {
            Some(to) => {
                self.forward_queued(vcpu, to, now);
                None
            }
            None => Some(vcpu),
        }
    }

    fn forward_queued(&mut self, vcpu: Box<V>, to: PcpuId, now: u64) {
        vcpu.handle().migrations.queued.increment();
        self.trace(now, TraceEvent::Migrate(vcpu.handle().id(), to));
        self.uncount();
        match vcpu.handle().state.update(|state| state.route(to)) {
            Leave::Queued => self.scheduler.post(
                to,
                Mail {
                    vcpu,
                    why: Ready::Woken,
                },
            ),
            Leave::SyncFirst => {
                unreachable!("rule: only a loaded vCPU has interrupt state to fold")
            }
        }
    }

    /// Moves the loaded vCPU to another pCPU, if it was asked to and that is elsewhere.
    pub(super) fn move_loaded(&mut self, machine: &mut impl Machine<V>, now: u64) {
        let Some(vcpu) = &self.loaded else { return };
        let handle = vcpu.handle();
        let Some(to) = self.requested_pcpu(vcpu, handle.state.load()) else {
            return;
        };
        handle.migrations.loaded.increment();
        self.trace(now, TraceEvent::Migrate(handle.id(), to));
        self.stop_turn(now);
        if let Some(vcpu) = self.unload_to(to, machine, now) {
            self.scheduler.post(
                to,
                Mail {
                    vcpu,
                    why: Ready::Woken,
                },
            );
        }
    }

    /// Parks and moves the ready vCPUs that somebody paused, stopped or moved. The others may have been given more pCPUs.
    pub(super) fn obey_requests(&mut self, now: u64) {
        while let Some(id) = self.ready.find(|vcpu| {
            let state = vcpu.handle().state.load();
            state.is_blocked() || state.has_migrate()
        }) {
            self.readmit(id, now);
            self.must_balance = true;
        }
        self.ready
            .for_each(|vcpu| self.cell.add_reach(&vcpu.handle().entry));
    }

    fn readmit(&mut self, id: VcpuId, now: u64) {
        self.watch_anew(id);
        self.policy.withdraw(id, now);
        if let Some(vcpu) = self.ready.remove(id) {
            self.admit(vcpu, Ready::Woken, now);
        }
    }

    /// The pCPU is drained: everything that may run elsewhere goes there. A vCPU with a deadline here is woken early, which
    /// a guest must expect, and waits again elsewhere.
    #[inline(never)]
    pub(super) fn evacuate(&mut self, machine: &mut impl Machine<V>, now: u64) {
        self.yielding = None;
        self.watched = None;
        // The policy is not asked here: a time that is past would make the timer fire for ever.
        self.resume_at = None;
        if self.loaded_state().is_some_and(State::is_blocked) {
            self.park_loaded(machine, now);
        } else if self.loaded.is_some() {
            self.move_loaded(machine, now);
            self.unload_to_ready(machine, now);
        }
        self.current.is_waiting = false;
        while let Some(handle) = self.deadlines.pop_due(u64::MAX) {
            handle.wake();
        }
        while self.scheduler.is_draining(self.id)
            && let Some(id) = self.ready.find(|vcpu| vcpu.handle().must_leave(self.id))
        {
            self.readmit(id, now);
        }
    }

    /// Whoever may not stay here leaves.
    pub(super) fn expel(&mut self, machine: &mut impl Machine<V>, now: u64) {
        if cfg!(mutant = "strangers_stay") {
            return;
        }
        let is_stranger = |vcpu: &V| !vcpu.handle().may_run_on(self.id);
        if let Some(loaded) = self.loaded.as_ref().filter(|vcpu| is_stranger(vcpu)) {
            if loaded.handle().state.load().is_blocked() {
                self.park_loaded(machine, now);
            } else {
                self.move_loaded(machine, now);
            }
            self.current.is_waiting = false;
        }
        let here = self.id;
        while let Some(id) = self.ready.find(|vcpu| !vcpu.handle().may_run_on(here)) {
            self.readmit(id, now);
        }
    }

    /// One more box waits here.
    pub(super) fn count(&self) {
        self.cell.waiting.fetch_add(1, Ordering::SeqCst);
    }

    /// A box that waited here does not any more.
    pub(super) fn uncount(&self) {
        self.cell.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}
