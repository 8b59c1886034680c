//! What came out of a run, for a reader: VMs that are alike as one, in a table, or several runs side by side.

use std::fmt::Write;

use trapline_sched::sim::{Histogram, Outcome, PcpuWork, PoolOutcome, VmOutcome};

use super::ScenarioFile;
use crate::host::table::align;

/// What became of the VMs that one `[[vm]]` describes, all together.
#[derive(Clone, Debug)]
pub struct Part {
    /// Their name in the scenario.
    pub name: String,
    /// How many VMs there are.
    pub vms: usize,
    /// The pool that they belong to at the end; `None`: not all to the same, or there is only one.
    pub pool: Option<String>,
    /// What they got of all pCPU time, 0 to 1.
    pub share: f64,
    /// What they shall get of it, if the policy knows shares.
    pub entitled: Option<f64>,
    /// How long their vCPUs ran, in nanoseconds.
    pub run: u64,
    /// From each wake-up to the run that it led to, in nanoseconds.
    pub wakeup: Histogram,
    /// The longest that a vCPU was ready and did not run, in nanoseconds.
    pub worst_wait: u64,
    /// How often a vCPU went on at another pCPU.
    pub migrations: u64,
    /// To a pCPU that does not share a cache with the last.
    pub far_migrations: u64,
    /// How often a vCPU was put on a pCPU.
    pub switches: u64,
    /// How often one let others run.
    pub yields: u64,
    /// How often a period ended.
    pub deadlines: u64,
    /// How often its work was not done then.
    pub misses: u64,
    /// How often the workload went round.
    pub rounds: u64,
    /// When the last of them had started, in nanoseconds, if all have.
    pub finished_at: Option<u64>,
}

/// A run, with the VMs that are alike put together.
#[derive(Clone, Debug)]
pub struct Summary {
    /// The policy's name.
    pub policy: String,
    /// One for each `[[vm]]`, in their order.
    pub parts: Vec<Part>,
}

impl Summary {
    /// Puts together what `outcome` has for VMs that are alike in `file`.
    pub fn new(file: &ScenarioFile, outcome: &Outcome) -> Self {
        let part = |(name, range): (&str, std::ops::Range<usize>)| {
            let vms = &outcome.vms[range];
            let sum = |count: fn(&VmOutcome) -> u64| vms.iter().map(count).sum();
            let mut wakeup = Histogram::default();
            vms.iter().for_each(|vm| wakeup.merge(&vm.wakeup));
            let finished: Option<Vec<u64>> = vms.iter().map(|vm| vm.finished_at).collect();
            Part {
                name: name.to_owned(),
                vms: vms.len(),
                pool: pool_of(vms).filter(|_| outcome.pools.len() > 1),
                share: vms.iter().map(|vm| vm.share).sum(),
                entitled: vms.iter().map(|vm| vm.entitled).sum(),
                run: sum(|vm| vm.run),
                wakeup,
                worst_wait: vms.iter().map(|vm| vm.worst_wait).max().unwrap_or(0),
                migrations: sum(|vm| vm.migrations),
                far_migrations: sum(|vm| vm.far_migrations),
                switches: sum(|vm| vm.switches),
                yields: sum(|vm| vm.yields),
                deadlines: sum(|vm| vm.deadlines),
                misses: sum(|vm| vm.misses),
                rounds: sum(|vm| vm.rounds),
                finished_at: finished.and_then(|times| times.into_iter().max()),
            }
        };
        Self {
            policy: outcome.policy.to_owned(),
            parts: file.parts().map(part).collect(),
        }
    }
}

/// The pool that all of them belong to.
fn pool_of(vms: &[VmOutcome]) -> Option<String> {
    let (first, others) = vms.split_first()?;
    let is_one = others.iter().all(|other| other.pool == first.pool);
    is_one.then(|| first.pool.clone())
}

/// A column of a table: its heading, and what a part has there; `None`: there is nothing to say.
type Column = (&'static str, fn(&Part) -> Option<String>);

#[rustfmt::skip] // read by column
const COLUMNS: &[Column] = &[
    ("pool",         |part| part.pool.clone()),
    ("share %",      |part| Some(percent(part.share))),
    ("entitled %",   |part| part.entitled.map(percent)),
    ("run ms",       |part| Some(ms(part.run))),
    ("wake-ups",     |part| woken(part).map(|wakeup| wakeup.count().to_string())),
    ("p50 us",       |part| woken(part).map(|wakeup| us(wakeup.percentile(50.0)))),
    ("p90 us",       |part| woken(part).map(|wakeup| us(wakeup.percentile(90.0)))),
    ("p99 us",       |part| woken(part).map(|wakeup| us(wakeup.percentile(99.0)))),
    ("p99.9 us",     |part| woken(part).map(|wakeup| us(wakeup.percentile(99.9)))),
    ("max us",       |part| woken(part).map(|wakeup| us(wakeup.max()))),
    ("worst wait us", |part| Some(us(part.worst_wait))),
    ("switches",     |part| Some(part.switches.to_string())),
    ("migrations",   |part| Some(part.migrations.to_string())),
    ("far",          |part| (part.far_migrations > 0).then(|| part.far_migrations.to_string())),
    ("yields",       |part| (part.yields > 0).then(|| part.yields.to_string())),
    ("misses",       |part| misses(part)),
    ("rounds",       |part| rounds(part)),
    ("up after ms",  |part| part.finished_at.map(ms)),
];

/// What is compared between policies.
#[rustfmt::skip] // read by column
const COMPARED: &[Column] = &[
    ("share %",      |part| Some(percent(part.share))),
    ("p50 us",       |part| woken(part).map(|wakeup| us(wakeup.percentile(50.0)))),
    ("p99 us",       |part| woken(part).map(|wakeup| us(wakeup.percentile(99.0)))),
    ("worst wait us", |part| Some(us(part.worst_wait))),
    ("switches",     |part| Some(part.switches.to_string())),
    ("far",          |part| (part.far_migrations > 0).then(|| part.far_migrations.to_string())),
    ("misses",       |part| misses(part)),
    ("rounds",       |part| rounds(part)),
    ("up after ms",  |part| part.finished_at.map(ms)),
];

fn percent(share: f64) -> String {
    format!("{:.2}", share * 100.0)
}

fn ms(ns: u64) -> String {
    format!("{:.1}", ns as f64 / 1e6)
}

fn us(ns: u64) -> String {
    format!("{:.1}", ns as f64 / 1e3)
}

fn woken(part: &Part) -> Option<&Histogram> {
    Some(&part.wakeup).filter(|wakeup| wakeup.count() > 0)
}

fn misses(part: &Part) -> Option<String> {
    (part.deadlines > 0).then(|| format!("{} of {}", part.misses, part.deadlines))
}

fn rounds(part: &Part) -> Option<String> {
    (part.rounds > 0).then(|| part.rounds.to_string())
}

fn name(part: &Part) -> String {
    match part.vms {
        1 => part.name.clone(),
        count => format!("{} x{count}", part.name),
    }
}

/// The table of one run: a line for each part, and a last one about the pCPUs.
pub fn table(summary: &Summary, outcome: &Outcome) -> String {
    let mut text = side_by_side(std::slice::from_ref(summary), COLUMNS, false);
    if outcome.pools.len() > 1 {
        text += &pools(&outcome.pools);
    }
    let work: PcpuWork = outcome.pcpus.iter().copied().sum();
    let [busy, overhead, idle] = parts(&work);
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "{} pCPUs: {} % busy, with {} % for switches and interrupts, {} % idle; {} switches, {} kicks; {} events{}",
        outcome.pcpus.len(),
        busy,
        overhead,
        idle,
        work.switches,
        work.kicks,
        outcome.events,
        match (outcome.actions, outcome.refused) {
            (0, _) => String::new(),
            (actions, 0) => format!("; {actions} actions"),
            (actions, refused) => format!("; {actions} actions, {refused} refused"),
        }
    );
    text
}

/// What part of their time pCPUs were busy, what of that was overhead, and what part they were idle, in percent.
fn parts(work: &PcpuWork) -> [String; 3] {
    let all = (work.busy + work.idle).max(1) as f64;
    [work.busy, work.overhead, work.idle].map(|ns| percent(ns as f64 / all))
}

/// A line for each pool.
fn pools(pools: &[PoolOutcome]) -> String {
    let headings = [
        "pool",
        "pcpus",
        "policy",
        "vcpus",
        "busy %",
        "overhead %",
        "idle %",
        "switches",
        "kicks",
    ];
    let mut lines = vec![headings.map(str::to_owned).to_vec()];
    lines.extend(pools.iter().map(|pool| {
        let [busy, overhead, idle] = parts(&pool.work);
        let or_dash = |text: String| if text.is_empty() { "-".into() } else { text };
        vec![
            pool.name.clone(),
            or_dash(pool.pcpus.to_string()),
            or_dash(pool.policy.clone()),
            pool.vcpus.to_string(),
            busy,
            overhead,
            idle,
            pool.work.switches.to_string(),
            pool.work.kicks.to_string(),
        ]
    }));
    align(&lines)
}

/// One table with a group of columns for each run of the same scenario.
pub fn comparison(summaries: &[Summary]) -> String {
    side_by_side(summaries, COMPARED, true)
}

fn side_by_side(summaries: &[Summary], columns: &[Column], has_groups: bool) -> String {
    let Some(first) = summaries.first() else {
        return String::new();
    };
    let mut groups = vec![String::new()];
    let mut headings = vec!["vm".to_owned()];
    let mut lines: Vec<Vec<String>> = first.parts.iter().map(|part| vec![name(part)]).collect();
    for (index, summary) in summaries.iter().enumerate() {
        if index > 0 {
            groups.push("|".into());
            headings.push("|".into());
            lines.iter_mut().for_each(|line| line.push("|".into()));
        }
        let mut group = Some(summary.policy.clone());
        for (heading, cell) in columns {
            let cells: Vec<Option<String>> = summary.parts.iter().map(cell).collect();
            // A column in which nobody has anything says nothing.
            if cells.iter().all(Option::is_none) {
                continue;
            }
            groups.push(group.take().unwrap_or_default());
            headings.push((*heading).to_owned());
            for (line, cell) in lines.iter_mut().zip(cells) {
                line.push(cell.unwrap_or_else(|| "-".into()));
            }
        }
    }
    lines.insert(0, headings);
    if has_groups {
        lines.insert(0, groups);
    }
    align(&lines)
}
