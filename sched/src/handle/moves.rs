//! Where a vCPU may run, where it is sent, and where it goes when it wakes up.

use super::{MigrateError, NO_DESTINATION, VcpuHandle};
use crate::{
    Entitlement, PcpuId, PcpuSet, Place, PoolId, Ready, Vcpu,
    accounting::vcpu,
    attention::About,
    cell::Mail,
    scheduler::Caller,
    state::{Ask, Leave},
    sync::Ordering,
};
use alloc::boxed::Box;

impl<V: Vcpu> VcpuHandle<V> {
    /// Moves it to `to`: now if it is loaded or ready, when it wakes up if it is blocked. The last of several calls wins;
    /// if its affinity forbids `to` by then, it goes where the affinity allows.
    pub fn migrate(&self, to: PcpuId) -> Result<(), MigrateError> {
        if !self.scheduler.pcpus().contains(to) {
            return Err(MigrateError::AbsentPcpu);
        }
        if !self.affinity().contains(to) {
            return Err(MigrateError::NotInAffinity);
        }
        if !self.may_run_on(to) {
            return Err(MigrateError::NotInPool);
        }
        self.destination.store(to.index() as u32, Ordering::Release);
        self.request_migrate();
        Ok(())
    }

    /// What it shall get; what all get for whom nothing is said, once it was retired.
    pub fn entitlement(&self) -> Entitlement {
        let entitlement = self.scheduler.entitlements().get(self.id);
        self.unless_gone(entitlement).unwrap_or_default()
    }

    /// The pool that it belongs to; the first one once it was retired.
    pub fn pool_id(&self) -> PoolId {
        let pool = self.entry.pool();
        self.unless_gone(pool).unwrap_or(PoolId::FIRST)
    }

    /// Where it may run, whatever pool it belongs to; nowhere once it was retired.
    pub fn affinity(&self) -> PcpuSet {
        let affinity = self.entry.asked();
        self.unless_gone(affinity).unwrap_or(PcpuSet::EMPTY)
    }

    /// Where it runs rather than elsewhere; empty: it has no preference, or was retired.
    pub fn soft_affinity(&self) -> PcpuSet {
        let preferred = self.entry.preferred();
        self.unless_gone(preferred).unwrap_or(PcpuSet::EMPTY)
    }

    /// What was read from its entry, unless another one has its number by now, and its entry. Whoever asks while somebody retires it
    /// may get either.
    fn unless_gone<T>(&self, read: T) -> Option<T> {
        (!self.is_gone()).then_some(read)
    }

    /// What of its affinity its pool has. Not of one that was retired.
    pub(crate) fn allowed(&self) -> PcpuSet {
        self.entry.reachable()
    }

    /// Its affinity and its pool let it run on `pcpu`.
    pub(crate) fn may_run_on(&self, pcpu: PcpuId) -> bool {
        self.entry.may_run_on(pcpu)
    }

    pub(crate) fn request_migrate(&self) {
        match self.state.update(|state| state.request_migrate()) {
            Ask::Parked | Ask::Gone => {}
            Ask::Tell(pcpu) => self.scheduler.request(pcpu),
        }
    }

    /// The caller's transition made it the owner of the parked box.
    pub(super) fn take_parked(&self) -> Box<V> {
        self.slot
            .pop()
            .expect("rule: the box of a parked vCPU is in its slot")
    }

    pub(super) fn unpark(&self, caller: Caller, last: PcpuId) {
        let vcpu = self.take_parked();
        self.account.enter(vcpu::READY, caller.now);
        let has_run = self.switches.read() > 0;
        let wanted = if self.take_migrate_request() {
            self.take_destination()
        } else {
            None
        };
        let to = wanted.unwrap_or_else(|| self.choose_pcpu(has_run.then_some(last)));
        if has_run && to != last {
            self.migrations.parked.increment();
        }
        match self.state.update(|state| state.route(to)) {
            Leave::Queued => {
                let why = Ready::Woken;
                self.scheduler.post_from(caller, to, Mail { vcpu, why });
            }
            Leave::SyncFirst => {
                unreachable!("rule: only a loaded vCPU has interrupt state to fold")
            }
        }
    }

    /// What it shall get has changed: the pCPU where it runs or is ready chooses anew. Whoever runs where a parked one was last goes on:
    /// who wakes it sees the change.
    pub(crate) fn end_turn(&self) {
        match self.state.update(|state| (state, state.place())) {
            Place::Loaded(pcpu) | Place::Queued(pcpu) => self.scheduler.nudge(pcpu, About::Turn),
            Place::Parked(_) | Place::Gone => {}
        }
    }

    /// Where it goes that was on `last`.
    fn choose_pcpu(&self, last: Option<PcpuId>) -> PcpuId {
        let home = self.entry.home();
        let home = home.filter(|&home| self.can_run_on(home));
        home.unwrap_or_else(|| self.scheduler.choose(self, last))
    }

    /// It may run on `pcpu`, and that is in service.
    pub(crate) fn can_run_on(&self, pcpu: PcpuId) -> bool {
        self.may_run_on(pcpu) && !self.scheduler.is_draining(pcpu)
    }

    /// It cannot go on where it is, on `here`, and can elsewhere.
    pub(crate) fn must_leave(&self, here: PcpuId) -> bool {
        if self.can_run_on(here) {
            return false;
        }
        let allowed = self.allowed();
        !allowed.contains(here) || self.scheduler.may_run_elsewhere(allowed, here)
    }

    /// Clears the request before its destination is read: a later request sets both again.
    pub(crate) fn take_migrate_request(&self) -> bool {
        self.state.load().has_migrate() && self.state.update(|state| state.without_migrate())
    }

    fn take_destination(&self) -> Option<PcpuId> {
        let destination = self.destination.swap(NO_DESTINATION, Ordering::AcqRel);
        PcpuId::new(destination as u16).filter(|&pcpu| self.can_run_on(pcpu))
    }

    /// That it was sent to `destination` does not count any more; where it has been sent since does.
    pub(super) fn forget_destination(&self, destination: u32) {
        // Another one is left as it is.
        let _ = self.destination.compare_exchange(
            destination,
            NO_DESTINATION,
            Ordering::AcqRel,
            Ordering::Relaxed,
        );
    }

    /// Where its owner on `here` sends it after a request; `None`: it stays, as it does if all others are drained too.
    pub(crate) fn next_pcpu(&self, here: PcpuId) -> Option<PcpuId> {
        let stays = !self.must_leave(here);
        let to = match self.take_destination() {
            Some(destination) => destination,
            None if stays => here,
            None => self.choose_pcpu(None),
        };
        (to != here).then_some(to)
    }
}
