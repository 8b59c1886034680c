//! How pools come and go, and how pCPUs and vCPUs move between them, while vCPUs run.
//!
//! Whoever asks may be on any pCPU, on no exit path. A refusal says what could not be kept, and nothing has changed then. A
//! pool that gets or loses a pCPU follows its policy anew ([`Policy::renew`]): what that had learned of its vCPUs is forgotten.

use super::{PoolChangeError, Scheduler, regime::Plan};
use crate::{PcpuId, PcpuSet, Policy, PoolId, Vcpu, VcpuHandle};
use alloc::{boxed::Box, sync::Arc, vec, vec::Vec};

impl<V: Vcpu> Scheduler<V> {
    /// A new pool called `name`, with `pcpus`, which the pools that have them lose; `policy` says who runs next there.
    ///
    /// # Errors
    /// There are enough pools, the name is taken, a pool would have no pCPU left, or could not keep what it has promised.
    pub fn create_pool(
        &self,
        name: &str,
        pcpus: PcpuSet,
        policy: Box<dyn Policy>,
    ) -> Result<PoolId, PoolChangeError> {
        self.with_regime(|regime| {
            let pool = regime.free_pool(name)?;
            if pcpus.is_empty() {
                return Err(PoolChangeError::NoPcpu);
            }
            let mut owners = Vec::new();
            for pcpu in pcpus.iter() {
                let owner = self.owner(pcpu)?;
                if !owners.contains(&owner) {
                    owners.push(owner);
                }
            }
            let policy: Arc<dyn Policy> = policy.into();
            let mut plans = Vec::new();
            for owner in owners {
                plans.push(regime.plan(owner, self.without(owner, pcpus)?)?);
            }
            let policy_of_plan = Arc::clone(&policy);
            plans.push(Plan {
                pool,
                pcpus,
                policy: policy_of_plan,
            });
            self.partition(pool).set_id(pool);
            self.reform(regime, plans)?;
            regime.add(pool, name, policy);
            Ok(pool)
        })
    }

    /// `pool` is no more, and `heir` gets its pCPUs.
    ///
    /// # Errors
    /// It still has vCPUs, or it is the first one, which is there for all that name no other.
    pub fn remove_pool(&self, pool: PoolId, heir: PoolId) -> Result<(), PoolChangeError> {
        self.with_regime(|regime| {
            regime.policy(pool)?;
            if pool == PoolId::FIRST {
                return Err(PoolChangeError::First);
            }
            if pool == heir {
                return Err(PoolChangeError::NoPool(heir));
            }
            let count = self.entitlements().members(pool).count();
            if count > 0 {
                return Err(PoolChangeError::HasVcpus { pool, count });
            }
            let pcpus = self.partition(pool).pcpus();
            let all = self.partition(heir).pcpus().union(pcpus);
            let plan = regime.plan(heir, all)?;
            self.partition(pool).set_pcpus(PcpuSet::EMPTY);
            self.reform(regime, vec![plan])
                .inspect_err(|_| self.partition(pool).set_pcpus(pcpus))?;
            regime.remove(pool);
            Ok(())
        })
    }

    /// `policy` says who runs next in `pool` from now on: each pCPU asks it as soon as it has looked up, which it is told to.
    ///
    /// # Errors
    /// It cannot keep what some vCPU shall get, or there is no such pool.
    pub fn set_policy(&self, pool: PoolId, policy: Box<dyn Policy>) -> Result<(), PoolChangeError> {
        self.with_regime(|regime| {
            regime.policy(pool)?;
            let plan = Plan {
                pool,
                pcpus: self.partition(pool).pcpus(),
                policy: policy.into(),
            };
            self.reform(regime, vec![plan])
        })
    }

    /// `pcpu` belongs to pool `to` from now on. Its vCPUs go to those pCPUs that stay.
    ///
    /// # Errors
    /// It is its pool's last one, or the only place of a vCPU; or one of the two pools could not keep what it has promised.
    pub fn move_pcpu(&self, pcpu: PcpuId, to: PoolId) -> Result<(), PoolChangeError> {
        self.with_regime(|regime| {
            let from = self.owner(pcpu)?;
            regime.policy(to)?;
            if from == to {
                return Ok(());
            }
            let only = PcpuSet::only(pcpu);
            let more = self.partition(to).pcpus().union(only);
            let plans = vec![
                regime.plan(from, self.without(from, only)?)?,
                regime.plan(to, more)?,
            ];
            self.reform(regime, plans)
        })
    }

    /// `vcpus` belong to pool `to` from now on, all of them or none: a VM with all that it has. One that is named twice moves once.
    /// What the pool's policy has to know of them beside their entitlements begins anew.
    ///
    /// # Errors
    /// The pool cannot keep what one of them shall get, or that one may run on none of its pCPUs.
    pub fn move_vcpus(
        &self,
        vcpus: &[Arc<VcpuHandle<V>>],
        to: PoolId,
    ) -> Result<(), PoolChangeError> {
        let moved = self.with_regime(|regime| {
            let entitlements = self.entitlements();
            let plan = Plan {
                pool: to,
                pcpus: self.partition(to).pcpus(),
                policy: Arc::clone(regime.policy(to)?),
            };
            let mut admitted: Vec<(&Arc<VcpuHandle<V>>, _)> = Vec::new();
            let leaves = |handle: &&Arc<VcpuHandle<V>>| {
                !handle.is_gone() && entitlements.pool(handle.id()) != to
            };
            for handle in vcpus.iter().filter(leaves) {
                let id = handle.id();
                if admitted.iter().any(|(other, _)| other.id() == id) {
                    continue;
                }
                // It may have been here before.
                plan.policy.release(id);
                match self.place_in(&plan, id, entitlements.asked(id)) {
                    Ok(place) => admitted.push((handle, place)),
                    Err(error) => {
                        let undone = admitted.iter().map(|(handle, _)| handle.id());
                        undone.for_each(|id| plan.policy.release(id));
                        return Err(error);
                    }
                }
            }
            for &(handle, (allowed, home)) in &admitted {
                let id = handle.id();
                regime.policy(entitlements.pool(id))?.release(id);
                entitlements.set_pool(id, to, entitlements.asked(id));
                entitlements.set_place(id, allowed, home);
            }
            Ok(admitted)
        })?;
        if !cfg!(mutant = "moved_vcpus_stay") {
            moved
                .iter()
                .for_each(|(handle, _)| handle.request_migrate());
        }
        Ok(())
    }

    /// Takes `pcpu` out of its pool and out of service, as [`Self::drain`] does: nobody is sent there any more, and it answers
    /// [`crate::Decision::Drained`] once it has given everything away. The answer is the pool that had it.
    ///
    /// # Errors
    /// It is its pool's last one, or the only place of a vCPU, or its pool could not keep what it has promised without it.
    pub fn unplug(&self, pcpu: PcpuId) -> Result<PoolId, PoolChangeError> {
        self.with_regime(|regime| {
            let pool = self.owner(pcpu)?;
            let rest = self.without(pool, PcpuSet::only(pcpu))?;
            let plans = vec![regime.plan(pool, rest)?];
            self.reform(regime, plans)?;
            self.drain(pcpu);
            Ok(pool)
        })
    }

    /// Puts an unplugged `pcpu` into `pool` and into service.
    ///
    /// # Errors
    /// It is not unplugged, or it is closed; or there is no such pool.
    pub fn plug(&self, pcpu: PcpuId, pool: PoolId) -> Result<(), PoolChangeError> {
        self.with_regime(|regime| {
            match self.owner(pcpu) {
                Ok(owner) => return Err(PoolChangeError::Plugged(pcpu, owner)),
                Err(PoolChangeError::Unplugged(_)) => {}
                Err(error) => return Err(error),
            }
            regime.policy(pool)?;
            let more = self.partition(pool).pcpus().union(PcpuSet::only(pcpu));
            let plugged = self.while_open(pcpu, || {
                let plans = vec![regime.plan(pool, more)?];
                self.reform(regime, plans)?;
                self.put_into_service(pcpu);
                Ok(())
            });
            plugged.unwrap_or(Err(PoolChangeError::Closed(pcpu)))
        })
    }

    fn owner(&self, pcpu: PcpuId) -> Result<PoolId, PoolChangeError> {
        if !self.pcpus().contains(pcpu) {
            return Err(PoolChangeError::AbsentPcpu(pcpu));
        }
        self.pool_of(pcpu).ok_or(PoolChangeError::Unplugged(pcpu))
    }

    /// What `pool` has besides `pcpus`.
    fn without(&self, pool: PoolId, pcpus: PcpuSet) -> Result<PcpuSet, PoolChangeError> {
        let rest = self.partition(pool).pcpus().difference(pcpus);
        if rest.is_empty() {
            let pcpus = self.partition(pool).pcpus();
            return Err(PoolChangeError::NoPcpuLeft { pool, pcpus });
        }
        Ok(rest)
    }
}
