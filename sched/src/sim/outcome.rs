//! What a run of a scenario gives: who got how much and how soon, or which rule broke.

use super::{Histogram, Stretch};
use crate::PcpuSet;
use alloc::{string::String, vec::Vec};
use core::{
    iter::Sum,
    ops::{Add, Sub},
};

/// What happened. Times are in ns.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The seed of the run.
    pub seed: u64,
    /// The name of the policy with which it began.
    pub policy: &'static str,
    /// Picks, wakes, blocks and migrations, the warm-up included.
    pub events: u64,
    /// How long was measured: the duration less the warm-up.
    pub virtual_time: u64,
    /// In the order of the scenario.
    pub vms: Vec<VmOutcome>,
    /// Those that there are at the end, in their order, and then those that are gone.
    pub pools: Vec<PoolOutcome>,
    /// By number.
    pub pcpus: Vec<PcpuWork>,
    /// How many actions from outside there were, the warm-up included.
    pub actions: u64,
    /// How many of them were refused, as happens by chance, and changed nothing.
    pub refused: u64,
    /// Who ran where, the warm-up included; empty unless it was to be recorded.
    pub stretches: Vec<Stretch>,
}

/// What a VM got while it was measured.
#[derive(Clone, Debug, PartialEq)]
pub struct VmOutcome {
    /// Its name in the scenario.
    pub name: String,
    /// How many vCPUs it has.
    pub vcpus: u16,
    /// The pool that it belongs to at the end.
    pub pool: String,
    /// For how long its vCPUs ran, all together.
    pub run: u64,
    /// For how long they were ready and did not run.
    pub ready: u64,
    /// For how long something blocked them.
    pub blocked: u64,
    /// What part of the time of all pCPUs it ran, 0.0 to 1.0.
    pub share: f64,
    /// What part it is entitled to, among those that want to run; `None`: the policy knows no shares.
    pub entitled: Option<f64>,
    /// From an interrupt that ends a wait to the first instruction after it.
    pub wakeup: Histogram,
    /// The longest that one of its vCPUs was ready before it ran.
    pub worst_wait: u64,
    /// How often they changed their pCPU.
    pub migrations: u64,
    /// How often to one that does not share a cache with the last.
    pub far_migrations: u64,
    /// How often they were bound.
    pub switches: u64,
    /// How often they let others run.
    pub yields: u64,
    /// How many periods have ended with their work done, in time or not.
    pub deadlines: u64,
    /// In how many of them it was not done in time.
    pub misses: u64,
    /// Of these, in how many it took more than what it has reserved less what switches and interrupts take at the worst, by its own
    /// work or by more of those.
    pub excused: u64,
    /// How often its workload came round: jobs, lock rounds, shootdowns, storms, or 1 for a boot.
    pub rounds: u64,
    /// When the last vCPU was up, counted from the start of the scenario; `None`: it was not, or nobody boots.
    pub finished_at: Option<u64>,
}

/// What a pool was at the end, and what its pCPUs did while it was measured and they belonged to it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PoolOutcome {
    /// What it is called.
    pub name: String,
    /// The name of its policy; empty if it is gone.
    pub policy: String,
    /// The pCPUs that it has; none if it is gone.
    pub pcpus: PcpuSet,
    /// How many vCPUs belong to it.
    pub vcpus: usize,
    /// What they did, all together; a pCPU that is unplugged idles for nobody.
    pub work: PcpuWork,
}

/// What one pCPU did while it was measured, or several all together. Times are in ns.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct PcpuWork {
    /// A vCPU ran there, the overhead of binding it included.
    pub busy: u64,
    /// None did.
    pub idle: u64,
    /// What switches and interrupts took.
    pub overhead: u64,
    /// How often a vCPU was bound.
    pub switches: u64,
    /// How many kicks reached it.
    pub kicks: u64,
}

impl PcpuWork {
    fn with(self, other: Self, combine: fn(u64, u64) -> u64) -> Self {
        Self {
            busy: combine(self.busy, other.busy),
            idle: combine(self.idle, other.idle),
            overhead: combine(self.overhead, other.overhead),
            switches: combine(self.switches, other.switches),
            kicks: combine(self.kicks, other.kicks),
        }
    }
}

impl Sub for PcpuWork {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        self.with(before, u64::sub)
    }
}

impl Sum for PcpuWork {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, work| sum.with(work, u64::add))
    }
}

/// A rule that broke.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Failure {
    /// The seed of the run.
    pub seed: u64,
    /// Which rule, and by whom it was broken.
    pub rule: String,
    /// When, in ns.
    pub time: u64,
    /// The last events of the vCPUs and pCPUs that it was about, one line each, oldest first.
    pub history: Vec<String>,
}
