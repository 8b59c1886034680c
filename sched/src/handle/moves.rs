//! Where a vCPU may run, where it is sent, and where it goes when it wakes up.

use super::{AffinityError, MigrateError, NO_DESTINATION, VcpuHandle};
use crate::{
    Entitlement, PcpuId, PcpuSet, Ready, Refusal, Vcpu,
    accounting::vcpu,
    attention::About,
    cell::Mail,
    state::{Ask, Leave},
    sync::Ordering,
};
use alloc::boxed::Box;

impl<V: Vcpu> VcpuHandle<V> {
    /// Moves it to `to`: now if it is loaded or ready, when it wakes up if it is blocked. The last of several calls wins;
    /// if its affinity forbids `to` by then, it goes where the affinity allows.
    pub fn migrate(&self, to: PcpuId) -> Result<(), MigrateError> {
        if !self.pool.pcpus().contains(to) {
            return Err(MigrateError::AbsentPcpu);
        }
        if !self.affinity().contains(to) {
            return Err(MigrateError::NotInAffinity);
        }
        self.destination.store(to.index() as u32, Ordering::Release);
        self.request_migrate();
        Ok(())
    }

    /// Where it may run from now on; it leaves a pCPU that is not in `set` at once. One caller at a time, on no exit path.
    ///
    /// # Errors
    /// It could not run there, or would not get what it is entitled to; nothing has changed then.
    pub fn set_affinity(&self, set: PcpuSet) -> Result<(), AffinityError> {
        self.pool.check_affinity(set)?;
        let admitted = self.admit(&self.entitlement(), set);
        admitted.map_err(AffinityError::Entitlement)?;
        self.affinity.store(set, Ordering::Release);
        self.request_migrate();
        Ok(())
    }

    /// What it shall get from now on: the pCPU where it is chooses anew. One caller at a time, on no exit path.
    ///
    /// # Errors
    /// The policy cannot keep it; nothing has changed then.
    pub fn set_entitlement(&self, entitlement: &Entitlement) -> Result<(), Refusal> {
        self.admit(entitlement, self.affinity())?;
        // One that runs alone would keep what it has.
        if !self.is_gone() {
            self.pool.nudge(self.last_pcpu(), About::Turn);
        }
        Ok(())
    }

    /// Asks the policy, unless the vCPU was retired: its number may be another one's by now.
    fn admit(&self, entitlement: &Entitlement, affinity: PcpuSet) -> Result<(), Refusal> {
        let is_there = || !self.is_gone();
        self.pool.admit(self.id, entitlement, affinity, is_there)
    }

    /// What it shall get.
    pub fn entitlement(&self) -> Entitlement {
        self.pool.entitlements().get(self.id)
    }

    /// Where it may run.
    pub fn affinity(&self) -> PcpuSet {
        self.affinity.load_nonempty(Ordering::Acquire)
    }

    fn request_migrate(&self) {
        match self.state.update(|state| state.request_migrate()) {
            Ask::Parked | Ask::Gone => {}
            Ask::Tell(pcpu) => self.pool.nudge(pcpu, About::Requests),
        }
    }

    /// The caller's transition made it the owner of the parked box.
    pub(super) fn take_parked(&self) -> Box<V> {
        self.slot
            .pop()
            .expect("rule: the box of a parked vCPU is in its slot")
    }

    pub(super) fn unpark(&self, last: PcpuId) {
        let vcpu = self.take_parked();
        self.account.enter(vcpu::READY, self.pool.host().now());
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

    /// Where it goes that was on `last`.
    fn choose_pcpu(&self, last: Option<PcpuId>) -> PcpuId {
        let affinity = self.affinity();
        let home = self.pool.entitlements().home(self.id);
        let home = home.filter(|&home| self.pool.may_run(affinity, home));
        home.unwrap_or_else(|| self.pool.choose(affinity, last))
    }

    /// Clears the request before its destination is read: a later request sets both again.
    pub(crate) fn take_migrate_request(&self) -> bool {
        self.state.load().has_migrate() && self.state.update(|state| state.without_migrate())
    }

    fn take_destination(&self) -> Option<PcpuId> {
        let destination = self.destination.swap(NO_DESTINATION, Ordering::AcqRel);
        PcpuId::new(destination as u16).filter(|&pcpu| self.pool.may_run(self.affinity(), pcpu))
    }

    /// Where its owner on `here` sends it after a request; `None`: it stays, as it does if all others are drained too.
    pub(crate) fn next_pcpu(&self, here: PcpuId) -> Option<PcpuId> {
        let affinity = self.affinity();
        let stays = self.pool.may_run(affinity, here)
            || affinity.contains(here) && !self.pool.may_run_elsewhere(affinity, here);
        let to = match self.take_destination() {
            Some(destination) => destination,
            None if stays => here,
            None => self.choose_pcpu(None),
        };
        (to != here).then_some(to)
    }
}
