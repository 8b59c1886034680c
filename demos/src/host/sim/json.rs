//! What `trapline sim --json` prints. The keys are stable: new ones may come, none goes. Times are in nanoseconds.

use serde::Serialize;

use trapline_sched::sim::{Failure, Histogram, Outcome, PcpuWork, PoolOutcome, VmOutcome};

use super::ScenarioFile;

/// Runs of one scenario, one for each policy.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Runs {
    /// The scenario, as it was named.
    pub scenario: String,
    /// Where all random numbers come from.
    pub seed: u64,
    /// One for each policy, in the order in which they were named.
    pub runs: Vec<Run>,
}

/// A run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Run {
    /// The policy's name.
    pub policy: String,
    /// Picks, wake-ups, blocks and migrations, those of the time to warm up included.
    pub events: u64,
    /// How long was measured: the duration less the time to warm up.
    pub virtual_time_ns: u64,
    /// How many actions from outside there were, those of the time to warm up included.
    pub actions: u64,
    /// How many of them were refused, as happens by chance.
    pub refused_actions: u64,
    /// One for each VM.
    pub vms: Vec<Vm>,
    /// One for each pool: those that there are at the end, the first first, and those that are gone.
    pub pools: Vec<Pool>,
    /// One for each pCPU.
    pub pcpus: Vec<Pcpu>,
}

/// What became of a VM after the time to warm up.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Vm {
    /// Its name.
    pub name: String,
    /// The name of its `[[vm]]`, which it shares with those that are alike.
    pub part: String,
    /// How many vCPUs it has.
    pub vcpus: u16,
    /// The name of the pool that it belongs to at the end.
    pub pool: String,
    /// How long they ran.
    pub run_ns: u64,
    /// How long they were ready and did not run.
    pub ready_ns: u64,
    /// How long something kept them from running.
    pub blocked_ns: u64,
    /// What the VM got of all pCPU time, 0 to 1.
    pub share: f64,
    /// What it shall get of it; `null` if the policy knows no shares.
    pub entitled: Option<f64>,
    /// From each wake-up to the run that it led to.
    pub wakeup_ns: Latency,
    /// The longest that a vCPU was ready and did not run.
    pub worst_wait_ns: u64,
    /// How often a vCPU went on at another pCPU.
    pub migrations: u64,
    /// How often at one that does not share a cache with the last.
    pub far_migrations: u64,
    /// How often a vCPU was put on a pCPU.
    pub switches: u64,
    /// How often one let others run.
    pub yields: u64,
    /// How often a period ended (workload `periodic`).
    pub deadlines: u64,
    /// How often its work was not done then.
    pub misses: u64,
    /// How often the workload went round.
    pub rounds: u64,
    /// When the last vCPU was up (workload `boot`); `null` if it is not, or the workload is another.
    pub finished_at_ns: Option<u64>,
}

/// A distribution of times.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Latency {
    /// How many there were; all else is 0 if none was.
    pub count: u64,
    /// The shortest.
    pub min: u64,
    /// The mean.
    pub mean: u64,
    /// Half of them were no longer.
    pub p50: u64,
    /// 90 of 100 were no longer.
    pub p90: u64,
    /// 99 of 100 were no longer.
    pub p99: u64,
    /// 999 of 1000 were no longer.
    pub p99_9: u64,
    /// The longest.
    pub max: u64,
}

/// What a pool was at the end, and what pCPUs did while they belonged to it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// Its policy's name; empty if the pool is gone.
    pub policy: String,
    /// Its pCPUs, as in `0-1,3`; empty if the pool is gone.
    pub pcpus: String,
    /// How many vCPUs it has.
    pub vcpus: usize,
    /// What they did, all together.
    #[serde(flatten)]
    pub work: Pcpu,
}

/// What a pCPU did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pcpu {
    /// How long it ran vCPUs, what it took to change them included.
    pub busy_ns: u64,
    /// How long it had nobody to run.
    pub idle_ns: u64,
    /// How long switches and interrupts took.
    pub overhead_ns: u64,
    /// How often it changed the vCPU.
    pub switches: u64,
    /// How often it was kicked.
    pub kicks: u64,
}

/// A hunt, for each policy.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Hunts {
    /// The scenario, as it was named.
    pub scenario: String,
    /// One for each policy, in the order in which they were named.
    pub hunts: Vec<HuntResult>,
}

/// What a hunt under one policy found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HuntResult {
    /// The policy's name.
    pub policy: String,
    /// How many seeds were run.
    pub seeds: u64,
    /// The seeds that broke a rule, the smallest first.
    pub failures: Vec<Broken>,
}

/// A rule that was broken.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Broken {
    /// The seed that shows it.
    pub seed: u64,
    /// Which rule, and by whom.
    pub rule: String,
    /// When.
    pub time_ns: u64,
    /// What happened before, to those who are involved.
    pub history: Vec<String>,
    /// The command that shows it again.
    pub replay: String,
}

impl Run {
    /// What `outcome` says of the VMs of `file`.
    pub fn new(file: &ScenarioFile, outcome: &Outcome) -> Self {
        let parts = file
            .parts()
            .flat_map(|(name, vms)| vms.map(move |_| name.to_owned()));
        Self {
            policy: outcome.policy.to_owned(),
            events: outcome.events,
            virtual_time_ns: outcome.virtual_time,
            vms: outcome.vms.iter().zip(parts).map(vm).collect(),
            actions: outcome.actions,
            refused_actions: outcome.refused,
            pools: outcome.pools.iter().map(pool).collect(),
            pcpus: outcome.pcpus.iter().map(pcpu).collect(),
        }
    }
}

fn vm((vm, part): (&VmOutcome, String)) -> Vm {
    Vm {
        name: vm.name.clone(),
        part,
        vcpus: vm.vcpus,
        pool: vm.pool.clone(),
        run_ns: vm.run,
        ready_ns: vm.ready,
        blocked_ns: vm.blocked,
        share: vm.share,
        entitled: vm.entitled,
        wakeup_ns: latency(&vm.wakeup),
        worst_wait_ns: vm.worst_wait,
        migrations: vm.migrations,
        far_migrations: vm.far_migrations,
        switches: vm.switches,
        yields: vm.yields,
        deadlines: vm.deadlines,
        misses: vm.misses,
        rounds: vm.rounds,
        finished_at_ns: vm.finished_at,
    }
}

fn latency(histogram: &Histogram) -> Latency {
    Latency {
        count: histogram.count(),
        min: histogram.min(),
        mean: histogram.mean(),
        p50: histogram.percentile(50.0),
        p90: histogram.percentile(90.0),
        p99: histogram.percentile(99.0),
        p99_9: histogram.percentile(99.9),
        max: histogram.max(),
    }
}

fn pool(pool: &PoolOutcome) -> Pool {
    Pool {
        name: pool.name.clone(),
        policy: pool.policy.clone(),
        pcpus: pool.pcpus.to_string(),
        vcpus: pool.vcpus,
        work: pcpu(&pool.work),
    }
}

fn pcpu(work: &PcpuWork) -> Pcpu {
    Pcpu {
        busy_ns: work.busy,
        idle_ns: work.idle,
        overhead_ns: work.overhead,
        switches: work.switches,
        kicks: work.kicks,
    }
}

impl Broken {
    /// What `failure` says, and the command that shows it again.
    pub fn new(failure: &Failure, replay: String) -> Self {
        Self {
            seed: failure.seed,
            rule: failure.rule.clone(),
            time_ns: failure.time,
            history: failure.history.clone(),
            replay,
        }
    }
}
