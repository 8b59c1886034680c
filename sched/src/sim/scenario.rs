//! A machine, its guests, and what happens to them: described in a few values, and run.
//!
//! ```text
//!   Scenario + seed --run--> Outcome, or the Failure that broke a rule
//! ```
//! The same scenario, seed and build give the same events. Runs share nothing, so several threads can run one scenario with
//! different seeds. Times are in ns, which are the ticks of the simulated counter.

use super::{
    ActionSpec, Failure, Outcome, Outside, Workload,
    action::{Actions, Refused, checked},
    engine::{Engine, GuestPlan, Plan},
    expect,
    guest::Program,
    hardware::Rates,
    history, ledger,
    measure::{self, Baseline},
    workload::Model,
    world::Unrest,
};
use crate::{
    Entitlement, PcpuSet, Policy, PolicyError, PolicyOptions, PoolId, Reservation, VcpuId,
    policy_by_name,
};
use alloc::{boxed::Box, rc::Rc, string::String, vec::Vec};
use core::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Everything is checked every so many events for each vCPU and pCPU; what an event touches, after each.
const EVENTS_PER_CHECK: u64 = 4;
/// What the pool of all pCPUs is called.
const ALL: &str = "all";

/// What is simulated. Everything but the seed.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// How long, the warm-up included.
    pub duration: u64,
    /// Measured from here on, so that the start does not count.
    pub warm_up: u64,
    /// The pCPUs.
    pub topology: Topology,
    /// What things take.
    pub costs: Costs,
    /// Who runs next, and what the run is called by; of the pCPUs of all pools, if there are any, the pools say it themselves.
    pub policy: PolicySpec,
    /// The pools, which have each pCPU once; the first is the one that stays. None: one has all pCPUs and follows `policy`.
    pub pools: Vec<PoolSpec>,
    /// The guests. Their vCPUs are numbered in this order.
    pub vms: Vec<VmSpec>,
    /// What else happens.
    pub actions: Vec<ActionSpec>,
}

/// The pCPUs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Topology {
    /// How many, at least 1 and at most [`PcpuId::LIMIT`].
    pub pcpus: u16,
    /// So many share a cache, at least 1.
    pub pcpus_per_cluster: u16,
}

/// What things take, in ns.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Costs {
    /// Binding a vCPU. It counts as the vCPU's run time, as on a machine, and as the pCPU's overhead.
    pub switch: u64,
    /// An exit of a guest, or a physical interrupt while one executes.
    pub exit: u64,
    /// From the kick of a pCPU until it is interrupted.
    pub kick_delay: u64,
    /// From what a pCPU polls for until it sees that.
    pub notice: u64,
    /// By how much work takes longer after a move to a pCPU that shares a cache with the last one.
    pub migration_near: u64,
    /// The same for a move to any other pCPU.
    pub migration_far: u64,
}

/// A policy, made anew for each run.
#[derive(Clone, Debug)]
pub struct PolicySpec {
    /// Its name, as [`policy_by_name`] knows it.
    pub name: String,
    /// What it is told.
    pub options: PolicyOptions,
}

/// A pool of pCPUs.
#[derive(Clone, Debug)]
pub struct PoolSpec {
    /// What it is called: unlike the others, and no pool's number.
    pub name: String,
    /// Those that it has, which no other one has.
    pub pcpus: PcpuSet,
    /// Who runs next there.
    pub policy: PolicySpec,
}

/// A guest.
#[derive(Clone, Debug)]
pub struct VmSpec {
    /// What it is called.
    pub name: String,
    /// How many vCPUs it has, at least 1.
    pub vcpus: u16,
    /// The number of its pool in the scenario; 0 if that has none.
    pub pool: usize,
    /// Where they may run; `None`: anywhere in its pool.
    pub affinity: Option<PcpuSet>,
    /// Where they run rather than elsewhere, as long as that costs no waiting; empty: they have no preference.
    pub preferred: PcpuSet,
    /// What each of them shall get; the group is replaced by the number of the VM.
    pub entitlement: Entitlement,
    /// What each of them does.
    pub workload: Workload,
    /// When it is turned on.
    pub start: u64,
}

/// How a scenario is run.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct RunOptions {
    /// Others act in the middle of steps, devices interrupt for no reason, and kicks come late: to find what is wrong, not to
    /// measure.
    pub interleave: bool,
    /// Note who ran where.
    pub record_stretches: bool,
}

impl Costs {
    /// What comes to a job from outside: a wake-up, a move, and a few interrupts and switches.
    pub(super) const fn disturbance(self) -> u64 {
        10 * (self.switch + self.exit) + 2 * self.kick_delay + self.migration_far
    }
}

impl PolicySpec {
    pub(super) fn policy(&self) -> Result<Box<dyn Policy>, PolicyError> {
        policy_by_name(&self.name, self.options.clone())
    }
}

impl Scenario {
    /// How many vCPUs all VMs have.
    pub fn vcpus(&self) -> usize {
        self.vms.iter().map(|vm| usize::from(vm.vcpus)).sum()
    }

    /// The pools that there are at first; there is at least one.
    pub(super) fn pools(&self) -> Vec<PoolSpec> {
        if !self.pools.is_empty() {
            return self.pools.clone();
        }
        alloc::vec![PoolSpec {
            name: ALL.into(),
            pcpus: PcpuSet::all(self.topology.pcpus),
            policy: self.policy.clone(),
        }]
    }

    /// What the pool of VM `index` follows at first.
    pub(super) fn policy_of(&self, index: usize) -> &PolicySpec {
        let pool = self.pools.get(self.vms[index].pool);
        pool.map_or(&self.policy, |pool| &pool.policy)
    }

    /// The vCPUs of each VM.
    pub(super) fn ranges(&self) -> Vec<Range<u16>> {
        let mut next = 0;
        let ranges = self.vms.iter().map(|vm| {
            let first = next;
            next += vm.vcpus;
            first..next
        });
        ranges.collect()
    }

    /// What each vCPU of VM `index` shall get.
    pub(super) fn entitlement(&self, index: usize) -> Entitlement {
        Entitlement {
            group: crate::GroupId::new(index as u16),
            ..self.vms[index].entitlement
        }
    }

    fn guests(&self, seed: u64) -> Vec<GuestPlan> {
        let all = PcpuSet::all(self.topology.pcpus);
        let mut guests = Vec::with_capacity(self.vcpus());
        for (index, vm) in self.vms.iter().enumerate() {
            let budget = vm.entitlement.reservation.map_or(0, Reservation::budget);
            let margin = self.costs.disturbance();
            for _ in 0..vm.vcpus {
                let (vcpu, workload) = (VcpuId::new(guests.len() as u16), vm.workload.clone());
                guests.push(GuestPlan {
                    program: Program::Model(Model::new(workload, vcpu, seed, [budget, margin])),
                    pool: vm.pool,
                    affinity: vm.affinity.unwrap_or(all),
                    preferred: vm.preferred,
                    entitlement: self.entitlement(index),
                });
            }
        }
        guests
    }

    pub(super) fn engine(
        &self,
        policy: Box<dyn Policy>,
        seed: u64,
        options: &RunOptions,
    ) -> Rc<Engine> {
        let Costs {
            switch,
            exit,
            kick_delay,
            notice,
            migration_near,
            migration_far,
        } = self.costs;
        let mut pools = self.pools().into_iter();
        let first = pools.next().map_or(ALL.into(), |first| first.name);
        let more = pools.map(|pool| {
            let policy = pool.policy.policy();
            let policy =
                policy.unwrap_or_else(|error| panic!("policy `{}`: {error}", pool.policy.name));
            (pool.name, pool.pcpus, checked(policy, options.interleave))
        });
        let engine = Engine::new(Plan {
            name: String::new(),
            pcpus: self.topology.pcpus,
            first_pool: first,
            policy: checked(policy, options.interleave),
            more_pools: more.collect(),
            fallback_slice: self.policy.options.slice_ticks,
            guests: self.guests(seed),
            vms: self.ranges(),
            rates: Rates {
                exit: exit.max(1),
                interrupt: exit,
                switch,
                notice,
                near: migration_near,
                far: migration_far,
                cluster: self.topology.pcpus_per_cluster.max(1),
            },
            kick: (kick_delay, if options.interleave { kick_delay } else { 0 }),
            seed: options.interleave.then_some(seed),
            unrest: if options.interleave {
                Unrest::Interleave
            } else {
                Unrest::None
            },
            check_every: EVENTS_PER_CHECK * (self.vcpus() as u64 + u64::from(self.topology.pcpus)),
            may_fail: false,
            records_stretches: options.record_stretches,
        });
        engine.caps.tolerate(self.costs.disturbance());
        for (pool, id) in self.pools().iter().zip(PoolId::all()) {
            engine.caps.set_policy(id, &pool.policy);
        }
        engine.review_caps();
        for (vm, vcpus) in self.vms.iter().zip(self.ranges()) {
            // A boot turns on all others by itself.
            let first = match vm.workload {
                Workload::Boot { .. } => vcpus.start..vcpus.start + 1,
                _ => vcpus,
            };
            for vcpu in first.map(VcpuId::new) {
                engine.plan(vm.start, Outside::PowerOn(vcpu));
            }
        }
        engine
    }
}

/// Runs `scenario`.
///
/// # Errors
/// A rule broke, in the scheduler or in what is checked around it, or an action was refused. Where panics do not unwind, a
/// broken rule is a panic instead, and [`failure_of_panic`] says the same.
pub fn run(scenario: &Scenario, seed: u64, options: &RunOptions) -> Result<Outcome, Failure> {
    run_with(scenario, seed, options, || {
        let first = scenario.pools().swap_remove(0).policy;
        let policy = first.policy();
        policy.unwrap_or_else(|error| panic!("policy `{}`: {error}", first.name))
    })
}

/// Runs `scenario` with what `policy` makes instead of the policy of its first pool: one that is not in this crate.
///
/// # Errors
/// As for [`run`].
pub fn run_with(
    scenario: &Scenario,
    seed: u64,
    options: &RunOptions,
    policy: impl FnOnce() -> Box<dyn Policy>,
) -> Result<Outcome, Failure> {
    let _watched = history::Watch::start(seed);
    let result = catch_unwind(AssertUnwindSafe(|| {
        let engine = scenario.engine(policy(), seed, options);
        history::follow(&engine);
        play(&engine, scenario, seed, options)
    }));
    result.map_err(|panic| history::failure(history::message(&*panic)))
}

/// Whether what `scenario` does at given times can be done: all of it in its order, on a machine that does not run.
///
/// # Errors
/// The first thing that is refused.
pub fn rehearse(scenario: &Scenario) -> Result<(), Refused> {
    let first = scenario.pools().swap_remove(0).policy;
    let Ok(policy) = first.policy() else {
        // A run says why.
        return Ok(());
    };
    let engine = scenario.engine(policy, 0, &RunOptions::default());
    Actions::new(scenario, 0, false).rehearse(&engine)
}

/// What a panic with `message` on this thread says about the run that is going on here, for a panic hook; `None`: there is
/// none.
pub fn failure_of_panic(message: &str) -> Option<Failure> {
    history::is_watching().then(|| history::failure(message))
}

fn play(engine: &Rc<Engine>, scenario: &Scenario, seed: u64, options: &RunOptions) -> Outcome {
    let policy = engine
        .scheduler()
        .policy_name(PoolId::FIRST)
        .unwrap_or_default();
    let mut actions = Actions::new(scenario, seed, options.interleave);
    actions.run_until(engine, scenario.warm_up);
    let baseline = Baseline::take(engine);
    engine.begin_ledger();
    actions.run_until(engine, scenario.duration);
    engine.settle_ledger();
    let outcome = Outcome {
        seed,
        policy,
        events: engine.events(),
        virtual_time: scenario.duration - scenario.warm_up.min(scenario.duration),
        vms: measure::vms(engine, scenario, &baseline),
        pools: ledger::pools(engine),
        pcpus: measure::pcpus(engine, &baseline),
        actions: actions.done,
        refused: engine.journal.refused(),
        stretches: if options.record_stretches {
            engine.stretches()
        } else {
            Vec::new()
        },
    };
    expect::expect_fairness(scenario, &outcome);
    expect::expect_deadlines(scenario, &outcome, options.interleave);
    expect::expect_slack(scenario, &outcome);
    expect::expect_balance(scenario, &outcome);
    outcome
}
