//! The pools of a run: which pCPUs each has, which guests, and whether its policy can keep what they shall get.

use trapline_sched::{PcpuSet, PoolId, VcpuId, policies};

use super::{GuestRequest, Place, Request, all_pcpus, check_name};
use crate::{
    config::{PolicyConfig, PoolPlan},
    host::{Failure, failure::Result},
};

/// What the pool of all other pCPUs is called, and that of all if there is no other.
const REST: &str = "rest";
const ALL: &str = "all";

/// A pool of pCPUs, as asked for.
#[derive(Clone, Debug)]
pub struct PoolRequest {
    /// Its name, which guests give.
    pub name: String,
    /// A list of pCPUs.
    pub pcpus: String,
    /// Who runs next there.
    pub policy: PolicyConfig,
    /// Where all this was given.
    pub place: Place,
}

/// The pools of a request, and where each was given.
pub(super) struct Pools<'a> {
    pools: Vec<(PoolPlan, &'a Place)>,
    /// By guest: its pool's place among them.
    of_guests: Vec<usize>,
}

impl Pools<'_> {
    fn guests(&self, pool: usize) -> impl Iterator<Item = usize> {
        let guests = self.of_guests.iter().enumerate();
        guests.filter_map(move |(guest, &own)| (own == pool).then_some(guest))
    }
}

impl Request {
    /// The pools, as the hypervisor is told of them, and for each guest the number of its own.
    ///
    /// # Errors
    /// They make no sense.
    pub fn pool_plans(&self) -> Result<(Vec<PoolPlan>, Vec<u16>)> {
        let Pools { pools, of_guests } = self.pools()?;
        let plans = pools.into_iter().map(|(plan, _)| plan).collect();
        let numbers = of_guests.into_iter().map(|pool| pool as u16).collect();
        Ok((plans, numbers))
    }

    /// Each pCPU is in one pool: in the one that names it, or in the first one with all others, if there are any.
    pub(super) fn pools(&self) -> Result<Pools<'_>> {
        let mut rest = all_pcpus(self.pcpus);
        let mut pools: Vec<(PoolPlan, &Place)> = Vec::new();
        for pool in &self.pools {
            let pcpus = self.pcpus_of(pool)?;
            let refuse = |what: String, key, remedy: &str| {
                Err(Failure::input(what, pool.place.of(key), remedy))
            };
            let taken = |(other, _): &&(PoolPlan, &Place)| {
                !PcpuSet::from_bits(other.pcpus)
                    .intersection(pcpus)
                    .is_empty()
            };
            if let Some((other, _)) = pools.iter().find(taken) {
                let shared = PcpuSet::from_bits(other.pcpus).intersection(pcpus);
                let what = format!("`{}` has pCPU {shared} already", other.name);
                return refuse(what, "pcpus", "give each pCPU to one pool");
            }
            check_name(&pool.name, "name", &pool.place)?;
            let is_taken = pools.iter().any(|(other, _)| other.name == pool.name);
            let is_number = PoolId::all().any(|id| id.to_string() == pool.name);
            if is_taken || is_number || pool.name == REST {
                let what = format!("`{}` is no name for this pool", pool.name.escape_debug());
                let remedy = format!(
                    "give each pool one of its own (`{REST}` is the one of all other pCPUs, `pool0` the first)"
                );
                return refuse(what, "name", &remedy);
            }
            rest = rest.difference(pcpus);
            let plan = PoolPlan {
                name: pool.name.clone(),
                pcpus: pcpus.bits(),
                policy: pool.policy.clone(),
            };
            pools.push((plan, &pool.place));
        }
        let rest_name = if pools.is_empty() { ALL } else { REST };
        if !rest.is_empty() {
            let plan = PoolPlan {
                name: rest_name.into(),
                pcpus: rest.bits(),
                policy: self.policy.clone(),
            };
            pools.insert(0, (plan, &self.place));
        }
        if pools.len() > PoolId::LIMIT {
            let what = format!("there are {} pools", pools.len());
            let remedy = format!("give at most {}", PoolId::LIMIT);
            return Err(Failure::input(what, self.place.of("pool"), &remedy));
        }
        for (plan, place) in &pools {
            check_policy(&plan.policy, place)?;
        }
        let of_guest = |guest: &GuestRequest| {
            let name = guest.pool.as_deref().unwrap_or(rest_name);
            let found = pools.iter().position(|(plan, _)| plan.name == name);
            found.ok_or_else(|| {
                let known: Vec<&str> = pools.iter().map(|(plan, _)| plan.name.as_str()).collect();
                let what = match &guest.pool {
                    Some(name) => format!("there is no pool `{}`", name.escape_debug()),
                    None => "it has no pool, and every pCPU is in one".into(),
                };
                let remedy = format!("choose one of {}", known.join(", "));
                Failure::input(what, guest.place.of("pool"), &remedy)
            })
        };
        let of_guests = self.guests.iter().map(of_guest).collect::<Result<_>>()?;
        Ok(Pools { pools, of_guests })
    }

    fn pcpus_of(&self, pool: &PoolRequest) -> Result<PcpuSet> {
        let refuse = |what: String| {
            Err(Failure::input(
                what,
                pool.place.of("pcpus"),
                "give pCPUs like \"0-1,3\"",
            ))
        };
        let Ok(pcpus) = pool.pcpus.parse::<PcpuSet>() else {
            return refuse(format!(
                "`{}` is no list of pCPUs",
                pool.pcpus.escape_debug()
            ));
        };
        if pcpus.is_empty() || !pcpus.difference(all_pcpus(self.pcpus)).is_empty() {
            return refuse(format!("`{pcpus}` is not among the {} pCPUs", self.pcpus));
        }
        Ok(pcpus)
    }

    /// `affinities` has for each guest the pCPUs of each of its vCPUs.
    pub(super) fn check_scheduling(
        &self,
        pools: &Pools<'_>,
        affinities: &[Vec<u64>],
    ) -> Result<()> {
        self.check_affinities(pools, affinities)?;
        self.check_caps(pools)?;
        for (index, (plan, _)) in pools.pools.iter().enumerate() {
            if plan.policy.name == policies::Pinned::NAME {
                self.check_pins(&pools.guests(index).collect::<Vec<_>>(), affinities)?;
            }
        }
        self.check_windows(pools)?;
        for (index, (plan, place)) in pools.pools.iter().enumerate() {
            self.check_entitlements((plan, place), affinities, |guest| {
                pools.of_guests[guest] == index
            })?;
        }
        Ok(())
    }

    /// A guest that has an affinity names pCPUs of its pool.
    fn check_affinities(&self, pools: &Pools<'_>, affinities: &[Vec<u64>]) -> Result<()> {
        let guests = self.guests.iter().zip(affinities).zip(&pools.of_guests);
        for ((guest, affinities), &pool) in guests {
            let (plan, _) = &pools.pools[pool];
            let pcpus = PcpuSet::from_bits(plan.pcpus);
            let outside = |&set: &u64| PcpuSet::from_bits(set).difference(pcpus).first();
            let outside = affinities.iter().find_map(outside);
            let preferred = guest.soft_affinity()?;
            if !preferred.is_empty() && preferred.intersection(pcpus).is_empty() {
                let name = &plan.name;
                let what =
                    format!("it prefers pCPUs {preferred}, and its pool `{name}` has {pcpus}");
                let remedy = "give pCPUs of the pool, or leave it out";
                return Err(Failure::input(
                    what,
                    guest.place.of("soft_affinity"),
                    remedy,
                ));
            }
            if let Some(outside) = outside.filter(|_| !guest.affinity.is_empty()) {
                let what = format!(
                    "{outside} is not in its pool `{}`, which has pCPUs {pcpus}",
                    plan.name
                );
                let remedy = "give pCPUs of the pool, or leave it out for any of them";
                return Err(Failure::input(what, guest.place.of("affinity"), remedy));
            }
        }
        Ok(())
    }

    /// A guest's cap is not more than its pool has, under any policy: another one may take over.
    fn check_caps(&self, pools: &Pools<'_>) -> Result<()> {
        for (guest, &pool) in self.guests.iter().zip(&pools.of_guests) {
            let (plan, _) = &pools.pools[pool];
            let most = 100 * PcpuSet::from_bits(plan.pcpus).len();
            if let Some(cap) = guest.entitlement.cap.filter(|&cap| cap > most) {
                let what = format!(
                    "a cap of {cap} hundredths of a pCPU, and its pool `{}` has {most}",
                    plan.name
                );
                let remedy = "give at most what the pool has, or leave it out";
                return Err(Failure::input(what, guest.place.of("cap"), remedy));
            }
        }
        Ok(())
    }

    /// Windows are on pCPUs that are there, for the one policy that has them.
    fn check_windows(&self, pools: &Pools<'_>) -> Result<()> {
        let refuse =
            |what: String, remedy: &str| Err(Failure::input(what, self.place.of("window"), remedy));
        let windows = &self.policy.windows;
        let mut names = pools.pools.iter().map(|(plan, _)| &plan.policy.name);
        if !windows.is_empty() && !names.any(|name| name == policies::TableDriven::NAME) {
            let what = format!("policy `{}` has no windows", self.policy.name);
            return refuse(what, "leave them out, or take policy = \"table\"");
        }
        let named = windows.iter().fold(0, |union, window| union | window.pcpus);
        let absent = PcpuSet::from_bits(named).difference(all_pcpus(self.pcpus));
        if let Some(absent) = absent.first() {
            let what = format!(
                "a window is on {absent}, and there are {} pCPUs",
                self.pcpus
            );
            return refuse(what, "count pCPUs from 0");
        }
        Ok(())
    }

    /// Asks the policy itself whether it can keep what each vCPU of its pool shall get, with microseconds for ticks.
    fn check_entitlements(
        &self,
        (plan, place): (&PoolPlan, &Place),
        affinities: &[Vec<u64>],
        is_member: impl Fn(usize) -> bool,
    ) -> Result<()> {
        let max_vcpus = affinities.iter().map(Vec::len).sum::<usize>() as u16;
        let pcpus = PcpuSet::from_bits(plan.pcpus);
        let policy = plan.policy.policy(max_vcpus, pcpus, u64::from);
        let policy = policy.map_err(|error| {
            let remedy = "see docs/guide/scheduling.md (times are in microseconds)";
            Failure::input(error, place.of("policy"), remedy)
        })?;
        let mut ids = (0..).map(VcpuId::new);
        for (index, (guest, affinities)) in self.guests.iter().zip(affinities).enumerate() {
            let entitlement = guest.entitlement.entitlement(index as u16, u64::from);
            let entitlement = entitlement.ok_or_else(|| {
                let what = "a weight, budget or period is out of range";
                Failure::input(
                    what,
                    guest.place.of("weight"),
                    "see docs/guide/several-guests.md",
                )
            })?;
            let vcpus = affinities.iter().zip(&mut ids);
            for (&affinity, id) in vcpus.filter(|_| is_member(index)) {
                let affinity = PcpuSet::from_bits(affinity).intersection(pcpus);
                policy
                    .admit(id, &entitlement, affinity)
                    .map_err(|refusal| {
                        // Here a tick is a microsecond.
                        let refusal = refusal.in_us(|us| us);
                        let what = format!(
                            "policy `{}` refuses `{}`: {refusal}",
                            plan.policy.name, guest.name
                        );
                        let remedy = "ask for less, or give it more pCPUs";
                        Failure::input(
                            what,
                            guest.place.of(guest.entitlement.dearest_key()),
                            remedy,
                        )
                    })?;
            }
        }
        Ok(())
    }

    /// Under `pinned` a guest has its pCPUs to itself: none of `guests` may sit on another's.
    fn check_pins(&self, guests: &[usize], affinities: &[Vec<u64>]) -> Result<()> {
        if guests.len() <= 1 {
            return Ok(());
        }
        let union = |guest: usize| affinities[guest].iter().fold(0, |union, set| union | set);
        for (position, &index) in guests.iter().enumerate() {
            let guest = &self.guests[index];
            let refuse = |what: String| {
                let remedy = "policy `pinned` needs pCPUs for each guest alone: give each an affinity, or take round-robin";
                Err(Failure::input(what, guest.place.of("affinity"), remedy))
            };
            if guest.affinity.is_empty() {
                return refuse(format!("`{}` has no affinity", guest.name));
            }
            let mut before = guests[..position].iter();
            if let Some(&other) = before.find(|&&other| union(other) & union(index) != 0) {
                let shared = PcpuSet::from_bits(union(other) & union(index));
                let name = &self.guests[other].name;
                return refuse(format!(
                    "`{name}` and `{}` overlap on pCPU {shared}",
                    guest.name
                ));
            }
        }
        Ok(())
    }
}

impl GuestRequest {
    /// The pCPUs that it prefers; none if it does not say.
    ///
    /// # Errors
    /// What it says is no list of pCPUs.
    pub(crate) fn soft_affinity(&self) -> Result<PcpuSet> {
        let Some(list) = &self.soft_affinity else {
            return Ok(PcpuSet::EMPTY);
        };
        list.parse().map_err(|error| {
            let what = format!("`{}`: {error}", list.escape_debug());
            let remedy = "give a list of pCPUs like \"0-1,3\" for all vCPUs";
            Failure::input(what, self.place.of("soft_affinity"), remedy)
        })
    }
}

fn check_policy(policy: &PolicyConfig, place: &Place) -> Result<()> {
    if policies::NAMES.contains(&policy.name.as_str()) {
        return Ok(());
    }
    Err(Failure::input(
        format!("unknown policy `{}`", policy.name),
        place.of("policy"),
        &format!("choose one of {}", policies::NAMES.join(", ")),
    ))
}
