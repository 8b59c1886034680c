//! What the scheduler does on a machine that exists only in memory, exactly and again: N pCPUs, M vCPUs, one thread.
//!
//! The code under test is the real one: a [`crate::LocalScheduler`] per pCPU is driven through the same calls as by a
//! hypervisor's loop, and guests, hardware and the clock are played. With a seed it also interleaves: at every call that the
//! scheduler makes to its [`crate::Host`] or [`crate::Machine`], another pCPU or an outsider may act first, and kicks arrive
//! late. Rules that must always hold are checked at every step.
//!
//! ```text
//!   earliest event (kick, timer, end of an instruction) --> its pCPU: exit, schedule, enter --> check --> next event
//! ```
//! [`Simulation`] is for tests: guests follow a [`Script`] and time is in ticks, so that a trace is exact. A [`Scenario`] is
//! for questions: guests are models of what vCPUs are used for ([`Workload`]), things take their time ([`Costs`]), and [`run`]
//! says who got how much and how soon, or which rule broke and what led to it.
//!
//! Elsewhere: all interleavings of single atomics (the loom models beside the protocols).

mod action;
mod agenda;
#[cfg(test)]
mod balance;
#[cfg(test)]
mod broken;
mod caps;
#[cfg(test)]
mod chance;
mod check;
#[cfg(test)]
mod credit;
#[cfg(test)]
mod deadline;
mod engine;
mod expect;
#[cfg(test)]
mod fair;
#[cfg(test)]
mod gang;
mod guest;
#[cfg(test)]
mod halt_poll;
mod hardware;
mod histogram;
mod history;
#[cfg(test)]
mod hostile;
mod journal;
mod ledger;
mod measure;
mod outcome;
mod outside;
mod pcpu;
mod play;
#[cfg(test)]
mod pooled;
#[cfg(test)]
mod pools;
#[cfg(test)]
mod priority;
#[cfg(test)]
mod regime;
#[cfg(test)]
mod reweigh;
#[cfg(test)]
mod scale;
pub mod scenario;
#[cfg(test)]
mod scenarios;
#[cfg(test)]
mod shares;
#[cfg(test)]
mod short;
pub mod speed;
mod stretches;
#[cfg(test)]
mod table;
#[cfg(test)]
mod tests;
mod workload;
mod world;
#[cfg(test)]
mod yields;

pub use action::{Action, ActionSpec, Refused, When};
pub use guest::{Instruction, Script};
pub use histogram::Histogram;
pub use outcome::{Failure, Outcome, PcpuWork, PoolOutcome, VmOutcome};
pub use outside::{Outside, Successor};
pub use scenario::{
    Costs, PolicySpec, PoolSpec, RunOptions, Scenario, Topology, VmSpec, failure_of_panic,
    rehearse, run, run_with,
};
pub use stretches::Stretch;
pub use workload::{Spread, Workload};

use crate::{
    Entitlement, PcpuId, PcpuSet, Policy, PolicyFailure, PoolChangeError, PoolId, VcpuId, VcpuTimes,
};
use alloc::{boxed::Box, format, rc::Rc, string::String, vec::Vec};
use engine::{Engine, GuestPlan, Plan};
use guest::Program;
use hardware::Rates;
use world::Unrest;
pub(crate) use world::intrude;

/// How long vCPUs take turns if the policy fails, in ticks.
const FALLBACK_SLICE: u64 = 10;
/// A kick takes up to so many ticks if there is a seed.
const KICK_TICKS: u64 = 4;

/// How the machine looks.
pub struct Setup {
    /// How many pCPUs.
    pub pcpus: u16,
    /// Who runs next.
    pub policy: Box<dyn Policy>,
    /// What each vCPU executes; vCPU n gets script n, and is on from the start.
    pub scripts: Vec<Script>,
    /// Where each vCPU may run; those without an entry may run anywhere.
    pub affinities: Vec<PcpuSet>,
    /// What each vCPU shall get; those without an entry get what [`Entitlement::default`] says.
    pub entitlements: Vec<Entitlement>,
    /// Interleave and delay kicks as this number says; `None`: one thing after the other, kicks at once.
    pub seed: Option<u64>,
}

/// A machine with its guests.
pub struct Simulation {
    engine: Rc<Engine>,
}

impl Simulation {
    /// One pCPU and no seed: what happens follows from the policy and the scripts alone.
    pub fn new(policy: impl Policy + 'static, scripts: impl IntoIterator<Item = Script>) -> Self {
        let scripts = scripts.into_iter().collect();
        Self::with_setup(Setup {
            pcpus: 1,
            policy: Box::new(policy),
            scripts,
            affinities: Vec::new(),
            entitlements: Vec::new(),
            seed: None,
        })
    }

    /// A machine as `setup` says, at time 0. All pCPUs share one cache.
    pub fn with_setup(setup: Setup) -> Self {
        Self::with_clusters(setup, u16::MAX)
    }

    /// The same, where `pcpus_per_cluster` pCPUs, at least one, share a cache.
    pub fn with_clusters(setup: Setup, pcpus_per_cluster: u16) -> Self {
        let Setup {
            pcpus,
            policy,
            scripts,
            affinities,
            entitlements,
            seed,
        } = setup;
        let count = scripts.len() as u16;
        let guest = |(index, script)| GuestPlan {
            program: Program::Script(script, 0),
            pool: 0,
            affinity: affinities
                .get(index)
                .copied()
                .unwrap_or(PcpuSet::all(pcpus)),
            preferred: PcpuSet::EMPTY,
            entitlement: entitlements.get(index).copied().unwrap_or_default(),
        };
        let engine = Engine::new(Plan {
            name: seed.map_or_else(String::new, |seed| format!("seed {seed}:")),
            pcpus,
            first_pool: "first".into(),
            policy,
            more_pools: Vec::new(),
            fallback_slice: FALLBACK_SLICE,
            guests: scripts.into_iter().enumerate().map(guest).collect(),
            vms: core::iter::once(0..count).collect(),
            rates: Rates {
                cluster: pcpus_per_cluster.max(1),
                ..Rates::TICKS
            },
            kick: (0, if seed.is_some() { KICK_TICKS } else { 0 }),
            seed,
            unrest: Unrest::None,
            check_every: 1,
            may_fail: true,
            records_stretches: true,
        });
        let vcpus = (0..count).map(VcpuId::new);
        vcpus.for_each(|vcpu| engine.power_on(vcpu));
        Self { engine }
    }

    /// Lets time pass until `end`, in ticks.
    pub fn run_until(&mut self, end: u64) {
        self.engine.run_until(end);
    }

    /// Somebody who is no pCPU of the machine acts now.
    pub fn act(&mut self, action: Outside) {
        self.engine.act(action);
    }

    /// Another policy takes over in the first pool.
    ///
    /// # Errors
    /// It cannot keep what some vCPU shall get.
    pub fn set_policy(&mut self, policy: Box<dyn Policy>) -> Result<(), PoolChangeError> {
        self.engine.scheduler().set_policy(PoolId::FIRST, policy)
    }

    /// How policies have failed so far.
    pub fn policy_failures(&self) -> Vec<PolicyFailure> {
        self.engine.world().policy_failures()
    }

    /// Each timer that is set from now on fires so many ticks too late, as on a machine that is busy itself.
    pub fn set_timer_delay(&mut self, ticks: u64) {
        self.engine.world().set_timer_delay(ticks);
    }

    /// A seeded machine: pauses, moves, interrupts and so on come by chance from now on, or no longer do.
    pub fn set_unrest(&mut self, is_on: bool) {
        self.engine.set_unrest(if is_on {
            Unrest::Operator
        } else {
            Unrest::None
        });
    }

    /// The handle of a vCPU of the machine.
    pub fn handle(&self, vcpu: VcpuId) -> &guest::Handle {
        self.engine.handle(vcpu)
    }

    /// Where the vCPU's time has gone.
    pub fn times(&self, vcpu: VcpuId) -> VcpuTimes {
        self.engine.handle(vcpu).times(self.engine.now())
    }

    /// What the pCPU has done.
    pub fn counters(&self, pcpu: PcpuId) -> Option<crate::PcpuCounters> {
        self.engine
            .scheduler()
            .pcpu_counters(pcpu, self.engine.now())
    }

    /// How often the timer of `pcpu` has been set.
    pub fn timer_sets(&self, pcpu: PcpuId) -> u64 {
        self.engine.world().timer_sets(pcpu)
    }

    /// The vCPU that was bound to `pcpu` last was told that it has it to itself.
    pub fn is_exclusive(&self, pcpu: PcpuId) -> bool {
        self.engine.station(pcpu).exclusive.get()
    }

    /// `pcpu` was told that others wait there for the one that runs.
    pub fn is_contended(&self, pcpu: PcpuId) -> bool {
        self.engine.station(pcpu).contended.get()
    }

    /// How often a paused vCPU was announced as parked.
    pub fn pauses(&self) -> u64 {
        self.engine
            .world()
            .pauses
            .load(core::sync::atomic::Ordering::Relaxed)
    }

    /// Who ran where, in the order in which they began; what goes on now is included.
    pub fn stretches(&self) -> Vec<Stretch> {
        self.engine.stretches()
    }

    /// The stretches, one line each: `0 vcpu1 for 10`, and with several pCPUs `0 pcpu0 vcpu1 for 10`.
    pub fn trace(&self) -> Vec<String> {
        let is_one = self.engine.scheduler().pcpus().len() == 1;
        let line = |Stretch {
                        start,
                        pcpu,
                        vcpu,
                        duration,
                    }| match is_one {
            true => format!("{start} {vcpu} for {duration}"),
            false => format!("{start} {pcpu} {vcpu} for {duration}"),
        };
        self.stretches().into_iter().map(line).collect()
    }

    /// Panics unless the trace is exactly `expected`.
    pub fn expect_trace<const N: usize>(&self, expected: [&str; N]) {
        let trace = self.trace();
        assert!(
            trace == expected,
            "the machine did\n  {}\nand not\n  {}",
            trace.join("\n  "),
            expected.join("\n  ")
        );
    }
}
