//! How the loaded vCPU is unbound, and how a box is parked.

use super::{LocalScheduler, Machine};
use crate::{
    BlockReason, PcpuId, Ready, TraceEvent, Vcpu, accounting::vcpu, handle::Unparked, state::Leave,
};
use alloc::{boxed::Box, sync::Arc};

impl<V: Vcpu> LocalScheduler<V> {
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

    /// See [`VcpuHandle::park`](crate::VcpuHandle::park). Until it is woken, or at `deadline` if it waits.
    fn park(&mut self, vcpu: Box<V>, deadline: Option<u64>, now: u64) -> Result<(), Unparked<V>> {
        let handle = Arc::clone(vcpu.handle());
        let deadline = deadline.filter(|_| handle.state.load().is_blocked_by(BlockReason::Waiting));
        let is_lost = |deadline| cfg!(mutant = "lose_past_deadline") && deadline <= now;
        if let Some(deadline) = deadline.filter(|&deadline| !is_lost(deadline)) {
            self.deadlines.set(&handle, deadline);
        }
        let parked = handle.park(vcpu, now, || self.trace(now, TraceEvent::Park(handle.id())));
        if parked.is_err() {
            self.deadlines.remove(handle.id());
        }
        parked
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
            self.trace(
                self.scheduler.host().now(),
                TraceEvent::Sync(vcpu.handle().id()),
            );
        }
    }

    /// Unbinds the loaded vCPU and queues it at `to`; the caller puts the box there, and has told the policy.
    pub(super) fn unload_to(
        &mut self,
        to: PcpuId,
        machine: &mut impl Machine<V>,
        now: u64,
    ) -> Option<Box<V>> {
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
}
