//! How boxes come to a pCPU and leave it: mail, parking, requests to move, handing over to an idle pCPU, draining.
//!
//! Functions that take a `Box<V>` take it unbound; those that take a `Machine` unbind first.

use super::{LocalScheduler, Machine};
use crate::{
    BlockReason, PcpuId, PcpuSet, Ready, TraceEvent, Vcpu, VcpuId,
    accounting::vcpu,
    attention::About,
    cell::Mail,
    state::{Leave, Park, State},
    sync::{Ordering, fence},
};
use alloc::{boxed::Box, sync::Arc};

/// A box that could not be parked.
enum Unparked<V> {
    /// Nothing blocks it any more; it is queued here.
    Runnable(Box<V>),
    /// It is still loaded, as far as others know: somebody waits for its interrupt state.
    SyncFirst(Box<V>),
}

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
    fn admit(&mut self, vcpu: Box<V>, why: Ready, now: u64) {
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
                self.policy.enqueue(vcpu.handle().id(), why, now);
                self.has_news = true;
                return self.make_ready(vcpu);
            }
        }
    }

    fn make_ready(&mut self, vcpu: Box<V>) {
        self.cell.add_reach(vcpu.handle().affinity());
        self.ready.insert(vcpu);
    }

    /// Where a request or a drained pCPU sends the vCPU, if elsewhere.
    fn requested_pcpu(&self, vcpu: &V, state: State) -> Option<PcpuId> {
        let handle = vcpu.handle();
        let is_asked = state.has_migrate() && handle.take_migrate_request();
        let is_draining = self.pool.is_draining(self.id);
        let must_leave = is_draining && self.pool.may_run_elsewhere(handle.affinity(), self.id);
        if is_asked || must_leave {
            handle.next_pcpu(self.id)
        } else {
            None
        }
    }

    /// Parks a box that is queued and counted here; gives it back if nothing blocks it any more.
    pub(super) fn park_queued(&mut self, vcpu: Box<V>, now: u64) -> Option<Box<V>> {
        match self.park(vcpu, None, now) {
            Ok(()) => {
                self.uncount();
                None
            }
            Err(Unparked::Runnable(vcpu) | Unparked::SyncFirst(vcpu)) => Some(vcpu),
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
            Leave::Queued => self.pool.post(
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

    /// Box into the slot, then one transition: whoever clears the last reason after it owns the box.
    fn park(&mut self, vcpu: Box<V>, deadline: Option<u64>, now: u64) -> Result<(), Unparked<V>> {
        let handle = Arc::clone(vcpu.handle());
        let deadline = deadline.filter(|_| handle.state.load().is_blocked_by(BlockReason::Waiting));
        if let Some(deadline) = deadline {
            self.deadlines.set(&handle, deadline);
        }
        handle.account.enter(vcpu::BLOCKED, now);
        assert!(
            handle.slot.push(vcpu).is_ok(),
            "rule: the slot of a vCPU whose box is elsewhere is empty"
        );
        let outcome = handle.state.update(|state| state.park());
        if let Park::Parked { stopped, paused } = outcome {
            self.trace(now, TraceEvent::Park(handle.id()));
            if stopped {
                self.pool.host().stopped(handle.id());
            } else if paused {
                self.pool.host().paused(handle.id());
            }
            return Ok(());
        }
        self.deadlines.remove(handle.id());
        handle.account.enter(vcpu::READY, now);
        let vcpu = handle
            .slot
            .pop()
            .expect("rule: a box that was not parked stays with its owner");
        Err(if outcome == Park::Runnable {
            Unparked::Runnable(vcpu)
        } else {
            Unparked::SyncFirst(vcpu)
        })
    }

    /// Unbinds and parks the loaded vCPU, which something blocks; if nothing does any more, it becomes ready here.
    pub(super) fn park_loaded(&mut self, machine: &mut impl Machine<V>, now: u64) {
        self.stop_turn(now);
        let Some(mut vcpu) = self.loaded.take() else {
            return;
        };
        loop {
            let deadline = if cfg!(mutant = "park_before_unbind") {
                None
            } else {
                machine.unbind(&mut vcpu)
            };
            match self.park(vcpu, deadline, now) {
                Ok(()) => return,
                Err(Unparked::Runnable(vcpu)) => {
                    self.count();
                    return self.admit(vcpu, Ready::Woken, now);
                }
                Err(Unparked::SyncFirst(unbound)) => vcpu = self.fold_again(unbound, machine),
            }
        }
    }

    /// Somebody asked for the interrupt state after it had been folded, and before the word said so. `Machine::sync` works
    /// on a bound vCPU only, and this is too rare for a second kind.
    fn fold_again(&self, mut vcpu: Box<V>, machine: &mut impl Machine<V>) -> Box<V> {
        machine.bind(&mut vcpu, false);
        self.obey_sync(&mut vcpu, machine);
        vcpu
    }

    /// Folds the bound vCPU's interrupt state if somebody waits for it.
    pub(super) fn obey_sync(&self, vcpu: &mut V, machine: &mut impl Machine<V>) {
        if vcpu.handle().state.update(|state| state.without_sync()) {
            machine.sync(vcpu);
            self.trace(self.pool.host().now(), TraceEvent::Sync(vcpu.handle().id()));
        }
    }

    /// Unbinds the loaded vCPU and queues it at `to`; the caller puts the box there, and has told the policy.
    fn unload_to(&mut self, to: PcpuId, machine: &mut impl Machine<V>, now: u64) -> Option<Box<V>> {
        let mut vcpu = self.loaded.take()?;
        loop {
            machine.unbind(&mut vcpu);
            match vcpu.handle().state.update(|state| state.route(to)) {
                Leave::Queued => break,
                Leave::SyncFirst => vcpu = self.fold_again(vcpu, machine),
            }
        }
        vcpu.handle().account.enter(vcpu::READY, now);
        Some(vcpu)
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
            self.pool.post(
                to,
                Mail {
                    vcpu,
                    why: Ready::Woken,
                },
            );
        }
    }

    /// The loaded vCPU becomes ready here anew, in no particular need of another pCPU.
    pub(super) fn unload_to_ready(&mut self, machine: &mut impl Machine<V>, now: u64) {
        self.stop_turn(now);
        if let Some(vcpu) = self.unload_to(self.id, machine, now) {
            self.count();
            self.admit(vcpu, Ready::Woken, now);
        }
    }

    /// The loaded vCPU becomes ready here, and the policy has it already.
    pub(super) fn unload_ranked(&mut self, machine: &mut impl Machine<V>, now: u64) {
        let Some(vcpu) = self.unload_to(self.id, machine, now) else {
            return;
        };
        self.count();
        let state = vcpu.handle().state.load();
        if state.is_blocked() || state.has_migrate() {
            self.policy.withdraw(vcpu.handle().id(), now);
            self.admit(vcpu, Ready::Woken, now);
        } else {
            self.make_ready(vcpu);
        }
    }

    /// Parks and moves the ready vCPUs that somebody paused, stopped or moved.
    pub(super) fn obey_requests(&mut self, now: u64) {
        while let Some(id) = self.ready.find(|vcpu| {
            let state = vcpu.handle().state.load();
            state.is_blocked() || state.has_migrate()
        }) {
            self.readmit(id, now);
            self.must_balance = true;
        }
    }

    fn readmit(&mut self, id: VcpuId, now: u64) {
        self.watch_anew(id);
        self.policy.withdraw(id, now);
        if let Some(vcpu) = self.ready.remove(id) {
            self.admit(vcpu, Ready::Woken, now);
        }
    }

    /// Others wait here and a pCPU idles: gives it one that may run there. If this pCPU was asked for work, it gives some or
    /// passes the question on.
    pub(super) fn share(&mut self, was_asked: bool, now: u64) {
        if self.ready.is_empty() && !was_asked {
            return self.cell.set_reach(PcpuSet::EMPTY);
        }
        fence(Ordering::SeqCst);
        while !self.ready.is_empty() && !self.pool.idle_pcpus().is_empty() {
            match self.surrender(now) {
                Some((id, to)) => self.hand_over(id, to, now),
                None => break,
            }
        }
        if !self.pool.idle_pcpus().is_empty() {
            self.pass_on();
        }
    }

    /// Lets the policy name a ready vCPU for which an idle pCPU can be claimed; the claim must be used.
    fn surrender(&mut self, now: u64) -> Option<(VcpuId, PcpuId)> {
        let (ready, pool) = (&self.ready, &self.pool);
        let mut accepted = None;
        let surrendered = self.policy.surrender(&mut |id| {
            if accepted.is_none() {
                let affinity = ready
                    .get(id)
                    .map_or(PcpuSet::EMPTY, |vcpu| vcpu.handle().affinity());
                accepted = pool.claim_idle_in(affinity, None).map(|pcpu| (id, pcpu));
            }
            accepted.is_some_and(|(first, _)| first == id)
        });
        let accepted_id = accepted.map(|(id, _)| id);
        if surrendered != accepted_id {
            // The policy is corrected: what was claimed for is given, what was not stays.
            self.cell.bad_picks.increment();
            if let Some(accepted) = accepted_id {
                self.policy.withdraw(accepted, now);
            }
            self.keep(surrendered, now);
        }
        accepted
    }

    /// The policy has taken out a vCPU that may not leave.
    fn keep(&mut self, vcpu: Option<VcpuId>, now: u64) {
        if let Some(kept) = vcpu.filter(|&kept| self.ready.get(kept).is_some()) {
            self.policy.enqueue(kept, Ready::Woken, now);
        }
    }

    /// Gives other pCPUs what the policy would rather have there, each at most one, so that two that disagree do not keep each
    /// other busy; then lets it ask another one to do the same.
    pub(super) fn balance(&mut self, was_asked: bool, now: u64) {
        if !(core::mem::take(&mut self.must_balance) || was_asked) {
            return;
        }
        let mut done = PcpuSet::only(self.id);
        while !self.ready.is_empty()
            && let Some(to) = self.push(done, now)
        {
            done.insert(to);
        }
        let giver = self.policy.pull(now).filter(|&giver| giver != self.id);
        if let Some(giver) = giver.filter(|&giver| self.pool.pcpus().contains(giver)) {
            self.pool.nudge(giver, About::Work);
        }
    }

    /// Lets the policy name a ready vCPU and a pCPU that is not in `done`, and hands it over.
    #[inline(never)]
    fn push(&mut self, done: PcpuSet, now: u64) -> Option<PcpuId> {
        let (ready, pool) = (&self.ready, &self.pool);
        let may_go = |id, to| {
            let vcpu = ready.get(id).filter(|_| !done.contains(to));
            vcpu.is_some_and(|vcpu: &V| pool.may_run(vcpu.handle().affinity(), to))
        };
        let (id, to) = self.policy.push(now, &mut |id, to| may_go(id, to))?;
        if !may_go(id, to) {
            self.cell.bad_picks.increment();
            self.keep(Some(id), now);
            return None;
        }
        self.hand_over(id, to, now);
        Some(to)
    }

    /// Nobody here may run on a pCPU that idles: says so exactly, and lets the next one look.
    #[inline(never)]
    fn pass_on(&self) {
        let mut reach = PcpuSet::EMPTY;
        self.ready
            .for_each(|vcpu| reach = reach.union(vcpu.handle().affinity()));
        self.cell.set_reach(reach);
        let unreached = self.pool.idle_pcpus().difference(reach);
        unreached
            .iter()
            .for_each(|idler| self.pool.ask_for_work(idler));
    }

    fn hand_over(&mut self, id: VcpuId, to: PcpuId, now: u64) {
        let Some(vcpu) = self.ready.remove(id) else {
            return;
        };
        self.uncount();
        vcpu.handle().migrations.queued.increment();
        self.cell.handed_over.increment();
        self.trace(now, TraceEvent::HandOver(id, to));
        match vcpu.handle().state.update(|state| state.route(to)) {
            Leave::Queued => self.pool.post(
                to,
                Mail {
                    vcpu,
                    why: Ready::MigratedIn,
                },
            ),
            Leave::SyncFirst => {
                unreachable!("rule: only a loaded vCPU has interrupt state to fold")
            }
        }
    }

    /// The pCPU is drained: everything that may run elsewhere goes there. A vCPU with a deadline here is woken early, which
    /// a guest must expect, and waits again elsewhere.
    #[inline(never)]
    pub(super) fn evacuate(&mut self, machine: &mut impl Machine<V>, now: u64) {
        self.yielding = None;
        self.watched = None;
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
        while self.pool.is_draining(self.id)
            && let Some(id) = self.ready.find(|vcpu| {
                self.pool
                    .may_run_elsewhere(vcpu.handle().affinity(), self.id)
            })
        {
            self.readmit(id, now);
        }
    }

    /// One more box waits here.
    fn count(&self) {
        self.cell.waiting.fetch_add(1, Ordering::SeqCst);
    }

    /// A box that waited here does not any more.
    pub(super) fn uncount(&self) {
        self.cell.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}
