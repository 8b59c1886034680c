//! `trapline sim SCENARIO.toml`: a machine, its VMs and what happens to them, described in TOML.
//!
//! [`ScenarioFile::read`] takes the text apart (`text`) and checks each value with the line that it stands in at hand;
//! [`ScenarioFile::scenario`] asks the policy whether it can keep what the VMs shall get. Times are nanoseconds from there on.

mod action;
mod pools;
mod text;
mod vms;
mod workload;

use std::{
    collections::BTreeMap,
    ops::{Range, RangeInclusive},
    path::Path,
};

use trapline_sched::{
    GroupId, PcpuId, PcpuSet, PolicyOptions, VcpuId, policies,
    policies::{Table, Window},
    policy_by_name,
    sim::{self, ActionSpec, Costs, PolicySpec, PoolSpec, Refused, Scenario, Topology},
};

use self::{
    action::Actions,
    pools::{Pool, Pools},
    text::{CostsText, FileText, GUIDE},
    vms::Vms,
};
use crate::host::{
    Failure,
    config_file::{
        SLICE_US,
        scheduling::{self, CheckedWindow},
    },
    failure::Result,
    request::Place,
    toml_text::{self, choose, within},
};

/// A microsecond and a millisecond in nanoseconds.
const US: u64 = 1_000;
const MS: u64 = 1_000_000;
/// How long a scenario may be, in milliseconds: an hour.
const DURATION_MS: i64 = 3_600_000;
/// The most that one switch, exit, kick or migration may cost, in nanoseconds: a second.
const DEAREST_NS: i64 = 1_000_000_000;
/// How long a vCPU runs while others wait, if nobody says otherwise, in microseconds.
const DEFAULT_SLICE_US: i64 = 5_000;

/// What things cost if a scenario does not say, in nanoseconds: near this project's counts of instructions on a
/// cortex-a72 (docs/performance.md), at one instruction for each nanosecond. An exit is `hvc`; a switch is `vCPU switch` less its two exits;
/// a kick is half a round trip of SGIs between running vCPUs. What a cold cache costs no count of instructions shows: a few
/// microseconds to fill the first levels from a cache that both pCPUs share, and some ten from memory, are estimates.
const COSTS: Costs = Costs {
    switch: 3_709 - 2 * 306,
    exit: 306,
    kick_delay: 1_451 / 2,
    notice: 50,
    migration_near: 2_000,
    migration_far: 20_000,
};

/// What a file says.
#[derive(Debug)]
pub struct ScenarioFile {
    policy: String,
    pools: Pools,
    scenario: Unscheduled,
    windows: Vec<CheckedWindow>,
    vms: Vms,
    place: Place,
}

/// Everything of a scenario but its policy and its VMs.
#[derive(Debug)]
struct Unscheduled {
    duration: u64,
    warm_up: u64,
    topology: Topology,
    costs: Costs,
    actions: Vec<ActionSpec>,
    /// Where each of them stands.
    places: Vec<Place>,
}

/// What policies are told, in microseconds.
#[derive(Clone, Copy, Debug)]
struct Options {
    slice_us: u64,
    period_us: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            slice_us: DEFAULT_SLICE_US as u64,
            period_us: PolicyOptions::PERIOD_US.into(),
        }
    }
}

impl ScenarioFile {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// It cannot be read, or something in it is wrong: the first such thing, with its line.
    pub fn read(path: &Path) -> Result<Self> {
        Self::parse(&toml_text::read(path, GUIDE)?, &path.display().to_string())
    }

    fn parse(text: &str, file: &str) -> Result<Self> {
        let (parsed, lines) = text::parse(text, file)?;
        let place = Place {
            file: Some((file.to_owned(), None)),
            lines: lines.file,
        };
        let part = |owner: String, (line, lines)| Place {
            file: Some((file.to_owned(), Some((owner, line)))),
            lines,
        };
        let duration_ms = required(parsed.duration_ms, 1..=DURATION_MS, "duration_ms", &place)?;
        let warm_up_ms = required(parsed.warm_up_ms, 0..=duration_ms - 1, "warm_up_ms", &place)?;
        let topology = topology_of(&parsed, &place)?;
        let policy = parsed.policy.clone();
        let policy = policy.unwrap_or_else(|| policies::RoundRobin::NAME.to_owned());
        check_policy(&policy, &place)?;
        let options = options_of(&policy, &parsed.policy_options, Options::default(), &place)?;
        let texts = parsed.pool.iter().zip(lines.pools).map(|(pool, lines)| {
            let owner = format!("pool `{}`", pool.name.escape_debug());
            (pool, part(owner, lines))
        });
        let texts: Vec<_> = texts.collect();
        let pools = Pools::read(&texts, topology.pcpus, &policy, options)?;
        let mut vms = Vms::default();
        for (vm, lines) in parsed.vm.iter().zip(lines.vms) {
            let owner = format!("vm `{}`", vm.name.escape_debug());
            vms.add(vm, topology, &pools, duration_ms, part(owner, lines))?;
        }
        if vms.specs.is_empty() {
            let remedy = "describe at least one in a [[vm]]";
            return Err(Failure::input("there is no VM", file, remedy));
        }
        let names: Vec<&str> = vms.specs.iter().map(|vm| vm.name.as_str()).collect();
        let windows = scheduling::windows_of(&parsed.window, &names, topology.pcpus, &place)?;
        let mut read = Self {
            policy,
            pools,
            scenario: Unscheduled {
                duration: duration_ms as u64 * MS,
                warm_up: warm_up_ms as u64 * MS,
                topology,
                costs: costs_of(&parsed.costs, &place)?,
                actions: Vec::new(),
                places: Vec::new(),
            },
            windows,
            vms,
            place,
        };
        let created = parsed
            .action
            .iter()
            .filter(|action| action.kind == "create-pool");
        let created = created.filter_map(|action| action.pool.as_deref());
        let known = read.pools.all().iter().map(|pool| pool.name.as_str());
        let mut known: Vec<&str> = known.collect();
        for created in created {
            if !known.contains(&created) {
                known.push(created);
            }
        }
        // Chance draws policies of those that can be made: what hinders them all is said here.
        read.spec_of(&read.policy, &read.pools.all()[0])?;
        let drawn: Vec<&str> = policies::NAMES
            .into_iter()
            .filter(|&name| name != policies::Pinned::NAME && read.takes(name))
            .collect();
        let (mut actions, mut places) = (Vec::new(), Vec::new());
        for (action, lines) in parsed.action.iter().zip(lines.actions) {
            let place = part("this action".into(), lines);
            let context = Actions {
                vms: &read.vms,
                pcpus: topology.pcpus,
                pools: &known,
                duration_ms,
                policy: &|name, place| {
                    check_policy(name, place)?;
                    read.spec_of(name, &read.pools.all()[0])
                },
                policies: &drawn,
            };
            let specs = context.read(action, &place)?;
            places.extend(specs.iter().map(|_| place.clone()));
            actions.extend(specs);
        }
        (read.scenario.actions, read.scenario.places) = (actions, places);
        Ok(read)
    }

    /// The policy that the file names.
    pub fn policy(&self) -> &str {
        &self.policy
    }

    /// The VMs that are alike, by their name in the file, and which they are in the scenario.
    pub fn parts(&self) -> impl Iterator<Item = (&str, Range<usize>)> {
        let entries = self.vms.entries.iter();
        entries.map(|entry| (entry.name.as_str(), entry.specs.clone()))
    }

    /// The scenario under `policy`, with at most `limit` nanoseconds if there is one.
    ///
    /// # Errors
    /// There is no such policy, or it cannot keep what some VM shall get.
    pub fn scenario(&self, policy: &str, limit: Option<u64>) -> Result<Scenario> {
        let scenario = &self.scenario;
        // One that the file does not name comes from the command line.
        let from_outside = Place::default();
        let is_of_file = policy == self.policy;
        let place = if is_of_file {
            &self.place
        } else {
            &from_outside
        };
        check_policy(policy, place)?;
        let mut pools = Vec::new();
        for (number, pool) in self.pools.all().iter().enumerate() {
            let name = pool.policy.as_deref().unwrap_or(policy);
            pools.push(PoolSpec {
                name: pool.name.clone(),
                pcpus: pool.pcpus,
                policy: self.admit(name, number, pool.place.as_ref().unwrap_or(place))?,
            });
        }
        let duration = scenario.duration.min(limit.unwrap_or(u64::MAX));
        let everywhere = Pool {
            pcpus: PcpuSet::all(scenario.topology.pcpus),
            ..self.pools.all()[0].clone()
        };
        let scenario = Scenario {
            duration,
            warm_up: scenario.warm_up.min(duration / 2),
            topology: scenario.topology,
            costs: scenario.costs,
            policy: self.spec_of(policy, &everywhere)?,
            pools: if self.pools.is_one() {
                Vec::new()
            } else {
                pools
            },
            vms: self.vms.specs.clone(),
            actions: scenario.actions.clone(),
        };
        sim::rehearse(&scenario).map_err(
            |Refused {
                 index,
                 time,
                 reason,
             }| {
                let what = format!("what is done at {} ms is refused: {reason}", time / MS);
                let remedy = format!("see {GUIDE} (times are in nanoseconds)");
                Failure::input(what, self.scenario.places[index].of("do"), &remedy)
            },
        )?;
        Ok(scenario)
    }

    /// The policy can be made, with the options of the file.
    fn takes(&self, name: &str) -> bool {
        let spec = self.spec_of(name, &self.pools.all()[0]);
        spec.is_ok_and(|spec| policy_by_name(name, spec.options).is_ok())
    }

    /// What the policy `name` of `pool` is told.
    fn spec_of(&self, name: &str, pool: &Pool) -> Result<PolicySpec> {
        let pcpus = pool.pcpus;
        let frames = pcpus.iter().filter_map(|pcpu| {
            let here = |window: &&CheckedWindow| window.pcpus.contains(pcpu);
            let windows = self.windows.iter().filter(here).map(|window| Window {
                group: window.guest.map(GroupId::new),
                ticks: u64::from(window.us) * US,
            });
            let frame: Vec<Window> = windows.collect();
            (!frame.is_empty()).then_some((pcpu, frame))
        });
        let table = match self.windows.as_slice() {
            [] => None,
            _ => {
                let refuse =
                    |error| Failure::input(error, self.place.of("window"), &format!("see {GUIDE}"));
                Some(Table::new(frames).map_err(refuse)?)
            }
        };
        Ok(PolicySpec {
            name: name.to_owned(),
            options: PolicyOptions {
                slice_ticks: pool.options.slice_us * US,
                max_vcpus: self.vms.vcpus() as u16,
                pcpus,
                period_ticks: pool.options.period_us * US,
                table,
            },
        })
    }

    /// Asks the policy of pool `number` itself whether it can keep what each VM there shall get.
    fn admit(&self, name: &str, number: usize, place: &Place) -> Result<PolicySpec> {
        let spec = self.spec_of(name, &self.pools.all()[number])?;
        let policy = policy_by_name(name, spec.options.clone()).map_err(|error| {
            let remedy = format!("see {GUIDE} (times are in nanoseconds)");
            Failure::input(error, place.of("policy"), &remedy)
        })?;
        let mut ids = (0..).map(VcpuId::new);
        for entry in &self.vms.entries {
            for vm in &self.vms.specs[entry.specs.clone()] {
                let affinity = vm.affinity.unwrap_or(spec.options.pcpus);
                let affinity = affinity.intersection(spec.options.pcpus);
                for id in ids.by_ref().take(vm.vcpus.into()) {
                    if vm.pool != number {
                        continue;
                    }
                    policy
                        .admit(id, &vm.entitlement, affinity)
                        .map_err(|refusal| {
                            let what = format!("policy `{name}` refuses `{}`: {refusal}", vm.name);
                            let remedy =
                                "ask for less, or give it more pCPUs (times are in nanoseconds)";
                            let key = entry.entitlement.dearest_key();
                            Failure::input(what, entry.place.of(key), remedy)
                        })?;
                }
            }
        }
        Ok(spec)
    }
}

/// What `policy` is told by `given`, and by `otherwise` where that says nothing.
fn options_of(
    policy: &str,
    given: &BTreeMap<String, i64>,
    otherwise: Options,
    place: &Place,
) -> Result<Options> {
    scheduling::check_options(policy, given, "policy_options.", place)?;
    let option = |name: &str, range| {
        let key = format!("policy_options.{name}");
        within(given.get(name).copied(), range, &key, place)
    };
    let slice = option("slice_us", SLICE_US)?;
    let period = option("period_us", scheduling::RESERVATION_US)?;
    Ok(Options {
        slice_us: slice.map_or(otherwise.slice_us, |slice| slice as u64),
        period_us: period.map_or(otherwise.period_us, |period| period as u64),
    })
}

fn check_policy(name: &str, place: &Place) -> Result<()> {
    if policies::NAMES.contains(&name) {
        return Ok(());
    }
    let what = format!("unknown policy `{}`", name.escape_debug());
    Err(Failure::input(
        what,
        place.of("policy"),
        &choose(name, &policies::NAMES),
    ))
}

fn required(value: i64, range: RangeInclusive<i64>, key: &str, place: &Place) -> Result<i64> {
    within(Some(value), range, key, place).map(|_| value)
}

fn topology_of(text: &FileText, place: &Place) -> Result<Topology> {
    let topology = &text.topology;
    let most = i64::from(PcpuId::LIMIT);
    let pcpus = required(topology.pcpus, 1..=most, "topology.pcpus", place)?;
    let key = "topology.pcpus_per_cluster";
    let per_cluster = within(topology.pcpus_per_cluster, 1..=pcpus, key, place)?;
    Ok(Topology {
        pcpus: pcpus as u16,
        pcpus_per_cluster: per_cluster.unwrap_or(pcpus) as u16,
    })
}

fn costs_of(text: &CostsText, place: &Place) -> Result<Costs> {
    let cost = |value, default, key: &str| {
        let value = within(value, 0..=DEAREST_NS, &format!("costs.{key}"), place)?;
        Ok(value.map_or(default, |value| value as u64))
    };
    Ok(Costs {
        switch: cost(text.switch_ns, COSTS.switch, "switch_ns")?,
        exit: cost(text.exit_ns, COSTS.exit, "exit_ns")?,
        kick_delay: cost(text.kick_ns, COSTS.kick_delay, "kick_ns")?,
        notice: cost(text.notice_ns, COSTS.notice, "notice_ns")?,
        migration_near: cost(
            text.migration_near_ns,
            COSTS.migration_near,
            "migration_near_ns",
        )?,
        migration_far: cost(
            text.migration_far_ns,
            COSTS.migration_far,
            "migration_far_ns",
        )?,
    })
}

#[cfg(test)]
mod tests;
