//! Which pools there are and whose policies they follow, and how that becomes another.
//!
//! ```text
//!   1  the new policy of each pool that changes admits every vCPU of it: anew, or where each belongs already, or those first that
//!      have reserved most; or nothing happens
//!   2  a pCPU that leaves its pool is taken out of where the vCPUs of that may run
//!   3  each pCPU of these pools: its part of the policy into `successor`, and a request to look
//!      (there: who may not stay goes, the new part takes over, who stays is introduced to it)
//!   4  a pCPU that comes to a pool is added to where the vCPUs of that may run
//! ```
//! So whoever sends a vCPU to a pCPU that comes can only do it after 3, and that pCPU looks for a successor before it lets in
//! what was sent: no policy is told of a vCPU that it has not admitted. What was sent to a pCPU before 2, and comes after it
//! has left, is sent on. For a moment some pCPUs of a pool follow the old policy and some the new one: each ranks only what is
//! on its own pCPU, so no vCPU is lost, and none waits for more than the kick. No exit path allocates or frees.

use super::{PoolChangeError, Scheduler, partition::Partition};
use crate::{
    PcpuId, PcpuSet, Policy, PoolId, Vcpu, VcpuId,
    cell::{AtWork, Cell},
    sync::Ordering,
};
use alloc::{
    string::{String, ToString},
    sync::Arc,
    vec::Vec,
};
use core::cmp::Reverse;

/// What one at a time changes: it is taken out and put back.
pub(crate) struct Regime {
    /// By pool number.
    pools: [Option<Rule>; PoolId::LIMIT],
    /// By number: the pool that has it, or the next one that gets it.
    ids: [PoolId; PoolId::LIMIT],
    /// The number of the newest policy.
    generation: u64,
}

struct Rule {
    name: String,
    policy: Arc<dyn Policy>,
}

/// What a pool becomes.
pub(crate) struct Plan {
    pub(crate) pool: PoolId,
    pub(crate) pcpus: PcpuSet,
    pub(crate) policy: Arc<dyn Policy>,
}

/// Where a vCPU may run, and where it belongs, if it belongs to one pCPU.
pub(super) type Placement = (PcpuSet, Option<PcpuId>);

/// A pool, for a table.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PoolInfo {
    /// Which.
    pub id: PoolId,
    /// What its owner calls it.
    pub name: String,
    /// The pCPUs that it has.
    pub pcpus: PcpuSet,
    /// The name of its policy.
    pub policy: &'static str,
    /// The policy has broken its promise, and round-robin is in its place.
    pub has_failed: bool,
    /// Those that belong to it.
    pub vcpus: Vec<VcpuId>,
}

impl Regime {
    /// The first pool alone.
    pub(super) fn new(name: String, policy: Arc<dyn Policy>) -> Self {
        let mut pools = [const { None }; PoolId::LIMIT];
        pools[PoolId::FIRST.index()] = Some(Rule { name, policy });
        let first = |index| PoolId::new(index).unwrap_or(PoolId::FIRST);
        Self {
            pools,
            ids: core::array::from_fn(first),
            generation: Partition::FIRST_GENERATION,
        }
    }

    fn rule(&self, pool: PoolId) -> Result<&Rule, PoolChangeError> {
        let is_there = self.ids[pool.index()] == pool || cfg!(mutant = "pool_numbers_are_pools");
        let rule = self.pools[pool.index()].as_ref().filter(|_| is_there);
        rule.ok_or(PoolChangeError::NoPool(pool))
    }

    pub(crate) fn policy(&self, pool: PoolId) -> Result<&Arc<dyn Policy>, PoolChangeError> {
        self.rule(pool).map(|rule| &rule.policy)
    }

    fn present(&self) -> impl Iterator<Item = (PoolId, &Rule)> {
        let pools = self.ids.iter().zip(&self.pools);
        pools.filter_map(|(&id, rule)| Some((id, rule.as_ref()?)))
    }

    /// What a new pool called `name` will be.
    pub(super) fn free_pool(&self, name: &str) -> Result<PoolId, PoolChangeError> {
        let is_number = PoolId::all().any(|id| id.to_string() == name);
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if name.is_empty() || is_number || !name.bytes().all(is_plain) {
            return Err(PoolChangeError::BadName(name.into()));
        }
        if let Some((pool, _)) = self.present().find(|(_, rule)| rule.name == name) {
            return Err(PoolChangeError::NameTaken(name.into(), pool));
        }
        let index = self.pools.iter().position(Option::is_none);
        let pool = index.map(|index| self.ids[index]);
        pool.ok_or(PoolChangeError::TooManyPools)
    }

    pub(super) fn add(&mut self, pool: PoolId, name: &str, policy: Arc<dyn Policy>) {
        let name = name.into();
        self.pools[pool.index()] = Some(Rule { name, policy });
    }

    pub(super) fn remove(&mut self, pool: PoolId) {
        self.pools[pool.index()] = None;
        self.ids[pool.index()] = pool.successor();
    }

    /// `pool` with other pCPUs, and its policy made anew for them.
    pub(super) fn plan(&self, pool: PoolId, pcpus: PcpuSet) -> Result<Plan, PoolChangeError> {
        let policy = self.policy(pool)?.renew(pcpus).into();
        Ok(Plan {
            pool,
            pcpus,
            policy,
        })
    }
}

impl<V: Vcpu> Scheduler<V> {
    /// Nobody else changes anything until `act` returns, which is soon.
    pub(crate) fn with_regime<R>(&self, act: impl FnOnce(&mut Regime) -> R) -> R {
        let mut regime = loop {
            match self.regime.pop() {
                Some(regime) => break regime,
                None => self.host().relax(),
            }
        };
        let result = act(&mut regime);
        assert!(
            self.regime.push(regime).is_ok(),
            "rule: who took the regime out puts it back"
        );
        result
    }

    /// The pools, by their numbers. Anybody calls it, on no exit path.
    pub fn pools(&self) -> Vec<PoolInfo> {
        self.with_regime(|regime| {
            let info = |(id, rule): (PoolId, &Rule)| {
                let partition = self.partition(id);
                PoolInfo {
                    id,
                    name: rule.name.clone(),
                    pcpus: partition.pcpus(),
                    policy: rule.policy.name(),
                    has_failed: partition.has_failed(partition.generation()),
                    vcpus: self.entitlements().members(id).collect(),
                }
            };
            regime.present().map(info).collect()
        })
    }

    /// The name of the policy that says who runs next in `pool`; `None` if there is no such pool.
    pub fn policy_name(&self, pool: PoolId) -> Option<&'static str> {
        self.with_regime(|regime| Some(regime.policy(pool).ok()?.name()))
    }

    /// All of `plans`, or none. The pools exist, and no pCPU is in two of them.
    ///
    /// # Errors
    /// A policy cannot keep what some vCPU shall get, or a vCPU would have nowhere to run; nothing has changed then.
    pub(super) fn reform(
        &self,
        regime: &mut Regime,
        plans: Vec<Plan>,
    ) -> Result<(), PoolChangeError> {
        let entitlements = self.entitlements();
        let (mut plans, mut places) = (plans, Vec::new());
        for plan in &mut plans {
            places.extend(self.place_members(regime, plan)?);
        }
        for &(vcpu, (allowed, home)) in &places {
            let stays = if cfg!(mutant = "send_before_told") {
                allowed
            } else {
                allowed.intersection(entitlements.affinity(vcpu))
            };
            entitlements.set_place(vcpu, stays, home);
        }
        let mut told = PcpuSet::EMPTY;
        for plan in plans {
            self.partition(plan.pool).set_pcpus(plan.pcpus);
            regime.generation += 1;
            let partition = self.partition(plan.pool);
            partition.set_generation(regime.generation);
            let pcpus = plan.pcpus.intersection(self.online());
            told = told.union(pcpus);
            for pcpu in pcpus.iter() {
                let cell = self.cell(pcpu);
                cell.succeed(self.at_work(plan.pool, &plan.policy, pcpu));
                self.request(pcpu);
            }
            if let Some(rule) = &mut regime.pools[plan.pool.index()] {
                rule.policy = plan.policy;
            }
        }
        for (vcpu, (allowed, home)) in places {
            entitlements.set_place(vcpu, allowed, home);
        }
        // Those that are ready may be able to go where they could not.
        let told = if cfg!(mutant = "offer_nobody") {
            PcpuSet::EMPTY
        } else {
            told
        };
        told.iter().for_each(|pcpu| self.request(pcpu));
        Ok(())
    }

    /// Where those of the pool of `plan` may run by it, and where each belongs. What fits depends on the order, so if the policy
    /// refuses one, another one that is made anew for the same pCPUs takes its place and is asked again: first to leave all
    /// where they belong, since what there is has fitted, then beginning with those that have reserved most, which have least choice.
    fn place_members(
        &self,
        regime: &Regime,
        plan: &mut Plan,
    ) -> Result<Vec<(VcpuId, Placement)>, PoolChangeError> {
        let entitlements = self.entitlements();
        let mut vcpus: Vec<VcpuId> = entitlements.members(plan.pool).collect();
        let refusal = match self.place_all(plan, &vcpus, |_| None) {
            Err(refusal @ PoolChangeError::Refused(_)) => refusal,
            outcome => return outcome,
        };
        // Where one policy wants them says nothing to another.
        let present = regime.policy(plan.pool).ok();
        let knows_homes = present.is_some_and(|policy| policy.name() == plan.policy.name());
        if knows_homes && !cfg!(mutant = "reform_forgets_homes") {
            plan.policy = plan.policy.renew(plan.pcpus).into();
            // Who has to go elsewhere takes the room that is left.
            let stays = |&vcpu: &VcpuId| {
                let home = entitlements.home(vcpu);
                home.is_some_and(|home| plan.pcpus.contains(home))
            };
            vcpus.sort_by_key(|vcpu| !stays(vcpu));
            if let Ok(placed) = self.place_all(plan, &vcpus, |vcpu| entitlements.home(vcpu)) {
                return Ok(placed);
            }
        }
        plan.policy = plan.policy.renew(plan.pcpus).into();
        vcpus.sort_by_key(|&vcpu| (Reverse(self.reserved_part(vcpu)), vcpu));
        self.place_all(plan, &vcpus, |_| None).map_err(|_| refusal)
    }

    /// Each of `vcpus`, in this order, at its `home` if it has one that is admitted, else anywhere.
    fn place_all(
        &self,
        plan: &Plan,
        vcpus: &[VcpuId],
        home: impl Fn(VcpuId) -> Option<PcpuId>,
    ) -> Result<Vec<(VcpuId, Placement)>, PoolChangeError> {
        let entitlements = self.entitlements();
        let place = |&vcpu: &VcpuId| {
            let asked = entitlements.asked(vcpu);
            let allowed = asked.intersection(plan.pcpus);
            let home = home(vcpu).filter(|&home| allowed.contains(home));
            let kept = home.and_then(|home| {
                let (only, entitlement) = (PcpuSet::only(home), entitlements.get(vcpu));
                self.ask(&*plan.policy, vcpu, &entitlement, only).ok()
            });
            let placement = match kept {
                Some(home) => (allowed, home),
                None => self.place_in(plan, vcpu, asked)?,
            };
            Ok((vcpu, placement))
        };
        vcpus.iter().map(place).collect()
    }

    /// What part of a pCPU is reserved for `vcpu`, of 2 to the 32nd.
    fn reserved_part(&self, vcpu: VcpuId) -> u64 {
        let reservation = self.entitlements().reservation(vcpu);
        reservation.map_or(0, |reservation| {
            let budget = u128::from(reservation.budget()) << 32;
            (budget / u128::from(reservation.period())) as u64
        })
    }

    /// Where `vcpu`, which may run on `asked`, may run by `plan`, and where it belongs.
    pub(super) fn place_in(
        &self,
        plan: &Plan,
        vcpu: VcpuId,
        asked: PcpuSet,
    ) -> Result<Placement, PoolChangeError> {
        let &Plan { pool, pcpus, .. } = plan;
        let allowed = asked.intersection(pcpus);
        if allowed.is_empty() {
            return Err(PoolChangeError::NoPlace {
                vcpu,
                affinity: asked,
                pool,
                pcpus,
            });
        }
        let entitlement = self.entitlements().get(vcpu);
        let home = self.ask(&*plan.policy, vcpu, &entitlement, allowed);
        Ok((allowed, home.map_err(PoolChangeError::Refused)?))
    }

    pub(crate) fn at_work(&self, pool: PoolId, policy: &Arc<dyn Policy>, pcpu: PcpuId) -> AtWork {
        let entitlements = self.shared_entitlements();
        let is_preemptive = policy.is_preemptive().into();
        let cell = self.cell(pcpu);
        cell.is_preemptive.store(is_preemptive, Ordering::Relaxed);
        AtWork {
            pool,
            policy: Arc::clone(policy),
            generation: self.partition(pool).generation(),
            local: policy.local(pcpu, entitlements),
            fallback: self.fallback().local(pcpu, entitlements),
        }
    }
}

impl<V> Cell<V> {
    /// `next` is to take over here. Only one changes policies at a time.
    fn succeed(&self, next: AtWork) {
        while self.retired.pop().is_some() {}
        // One that the pCPU has not taken yet never takes over.
        drop(self.successor.pop());
        assert!(
            self.successor.push(next).is_ok(),
            "rule: one policy at a time takes over"
        );
    }

    /// The pCPU has another policy now. Between two changes it takes over at most one, and one more while the second change is
    /// made; it passes over some that came while it took one over.
    pub(crate) fn retire(&self, before: AtWork) {
        assert!(
            self.retired.push(before).is_ok(),
            "rule: there is room for the policies that were replaced"
        );
    }
}
