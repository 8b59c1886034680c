//! What vCPUs shall get and where they may run: how that is admitted, changed, and given up.

use crate::{
    AffinityError, CreateError, Entitlement, PcpuId, PcpuSet, Policy, PoolId, Refusal, Scheduler,
    Vcpu, VcpuHandle, VcpuId,
};
use alloc::format;

impl<V: Vcpu> Scheduler<V> {
    /// A new vCPU has the number `vcpu`, and may run on what `check` says of `affinity`. The result is a pCPU where it may run.
    pub(crate) fn admit_new(
        &self,
        vcpu: VcpuId,
        pool: PoolId,
        (affinity, check): (PcpuSet, impl FnOnce() -> Result<PcpuSet, AffinityError>),
        entitlement: &Entitlement,
    ) -> Result<PcpuId, CreateError> {
        self.with_regime(|regime| {
            let policy = regime.policy(pool);
            let policy = policy.map_err(|_| CreateError::NoPool(pool))?;
            let allowed = check().map_err(CreateError::Affinity)?;
            // Another one may have had the number here, and left after its pool had let it go.
            policy.release(vcpu);
            let home = self.ask(&**policy, vcpu, entitlement, allowed);
            let home = home.map_err(CreateError::Entitlement)?;
            let entitlements = self.entitlements();
            entitlements.set(vcpu, entitlement);
            entitlements.set_pool(vcpu, pool, affinity);
            entitlements.set_place(vcpu, allowed, home);
            let first = allowed.first();
            Ok(first.expect("rule: a pool has the pCPUs of an affinity that was checked"))
        })
    }

    /// Asks `policy` whether it can keep `entitlement`, and where the vCPU belongs.
    pub(crate) fn ask(
        &self,
        policy: &dyn Policy,
        vcpu: VcpuId,
        entitlement: &Entitlement,
        affinity: PcpuSet,
    ) -> Result<Option<PcpuId>, Refusal> {
        let room = policy.room();
        if vcpu.index() >= room {
            let name = policy.name();
            let reason = format!("the policy {name} was made for {room} vCPUs, and this is {vcpu}");
            return Err(Refusal::Words(reason));
        }
        let admitted = policy.admit(vcpu, entitlement, affinity);
        let host = self.host();
        admitted.map_err(|refusal| match host.microseconds(0) {
            Some(_) => refusal.in_us(|ticks| host.microseconds(ticks).unwrap_or(ticks)),
            None => refusal,
        })
    }

    /// `vcpu` is gone; its number is used again.
    pub(crate) fn release(&self, vcpu: VcpuId) {
        self.with_regime(|regime| {
            let pool = self.entitlements().pool(vcpu);
            if let Ok(policy) = regime.policy(pool) {
                policy.release(vcpu);
            }
            self.entitlements().clear(vcpu);
        });
        self.free_id(vcpu);
    }
}

impl<V: Vcpu> VcpuHandle<V> {
    /// Where it may run from now on; it leaves a pCPU that is not in `set` at once. All pCPUs of the machine mean any of its
    /// pool, those that come later included. On no exit path.
    ///
    /// # Errors
    /// It could not run there, or would not get what it is entitled to; nothing has changed then.
    pub fn set_affinity(&self, set: PcpuSet) -> Result<(), AffinityError> {
        let (scheduler, id) = (self.scheduler(), self.id());
        let entitlements = scheduler.entitlements();
        let is_there = scheduler.with_regime(|regime| {
            // The number of one that was retired may be another one's by now.
            let own = entitlements.pool(id);
            let Some(policy) = regime.policy(own).ok().filter(|_| !self.is_gone()) else {
                return Ok(false);
            };
            let allowed = scheduler.check_affinity(set, own)?;
            let home = scheduler.ask(&**policy, id, &entitlements.get(id), allowed);
            let home = home.map_err(AffinityError::Entitlement)?;
            entitlements.set_pool(id, own, set);
            entitlements.set_place(id, allowed, home);
            Ok(true)
        })?;
        if is_there {
            self.request_migrate();
        }
        Ok(())
    }

    /// Where it runs from its next wake-up on rather than elsewhere, as long as it does not have to wait for that; an empty set
    /// means no preference. Its affinity and its pool go before. On no exit path.
    ///
    /// # Errors
    /// The machine does not have one of them.
    pub fn set_soft_affinity(&self, set: PcpuSet) -> Result<(), AffinityError> {
        let scheduler = self.scheduler();
        if let Some(absent) = set.difference(scheduler.pcpus()).first() {
            return Err(AffinityError::AbsentPcpu(absent));
        }
        scheduler.with_regime(|_| {
            if !self.is_gone() {
                scheduler.entitlements().prefer(self.id(), set);
            }
        });
        Ok(())
    }

    /// What it shall get from now on: the pCPU where it is chooses anew. On no exit path.
    ///
    /// # Errors
    /// The policy cannot keep it; nothing has changed then.
    pub fn set_entitlement(&self, entitlement: &Entitlement) -> Result<(), Refusal> {
        let (scheduler, id) = (self.scheduler(), self.id());
        let entitlements = scheduler.entitlements();
        let is_there = scheduler.with_regime(|regime| {
            let policy = regime.policy(entitlements.pool(id));
            let Some(policy) = policy.ok().filter(|_| !self.is_gone()) else {
                return Ok(false);
            };
            let allowed = entitlements.affinity(id);
            let home = scheduler.ask(&**policy, id, entitlement, allowed)?;
            entitlements.set(id, entitlement);
            entitlements.set_place(id, allowed, home);
            Ok(true)
        })?;
        // One that runs alone would keep what it has.
        if is_there {
            self.end_turn();
        }
        Ok(())
    }
}
