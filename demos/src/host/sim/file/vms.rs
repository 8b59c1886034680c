//! `[[vm]]`: who is there, how often, and what each shall get.

use std::ops::Range;

use trapline_sched::{
    PcpuSet,
    sim::{Topology, VmSpec},
};

use super::{
    MS, US,
    pools::{Pool, Pools, pcpus_of},
    text::VmText,
    workload::workload_of,
};
use crate::{
    config::EntitlementConfig,
    host::{
        Failure,
        config_file::scheduling::entitlement_of,
        failure::Result,
        request::{self, Place},
        toml_text::{choose, within},
    },
};

/// A vCPU's number has 16 bits.
const MOST_VCPUS: i64 = u16::MAX as i64;

/// The VMs of a scenario.
#[derive(Debug, Default)]
pub(super) struct Vms {
    /// Each of them; one that is there several times is several.
    pub specs: Vec<VmSpec>,
    /// What the file has.
    pub entries: Vec<Entry>,
}

/// A `[[vm]]`.
#[derive(Debug)]
pub(super) struct Entry {
    pub name: String,
    /// Which of the scenario's VMs they are.
    pub specs: Range<usize>,
    pub entitlement: EntitlementConfig,
    pub place: Place,
}

impl Vms {
    /// The VMs that are called `name`: all that are alike, or the one of them whose name has its number.
    pub(super) fn find(&self, name: &str, place: &Place) -> Result<Vec<usize>> {
        if let Some(entry) = self.entries.iter().find(|entry| entry.name == name) {
            return Ok(entry.specs.clone().collect());
        }
        if let Some(index) = self.specs.iter().position(|spec| spec.name == name) {
            return Ok(vec![index]);
        }
        let what = format!("there is no VM `{}`", name.escape_debug());
        let names: Vec<&str> = self
            .entries
            .iter()
            .map(|entry| entry.name.as_str())
            .collect();
        Err(Failure::input(what, place.of("vm"), &choose(name, &names)))
    }

    /// How many vCPUs they have together.
    pub(super) fn vcpus(&self) -> i64 {
        self.specs.iter().map(|vm| i64::from(vm.vcpus)).sum()
    }

    /// Adds what `text` says, which stands at `place`.
    ///
    /// # Errors
    /// The first thing that is wrong in it.
    pub(super) fn add(
        &mut self,
        text: &VmText,
        topology: Topology,
        pools: &Pools,
        duration_ms: i64,
        place: Place,
    ) -> Result<()> {
        let within = |value, range, key| within(value, range, key, &place);
        request::check_name(&text.name, "name", &place)?;
        let count = within(text.count, 1..=MOST_VCPUS, "count")?.unwrap_or(1);
        let vcpus = within(text.vcpus, 1..=MOST_VCPUS, "vcpus")?.unwrap_or(1);
        let start = within(text.start_ms, 0..=duration_ms, "start_ms")?.unwrap_or(0);
        let together = self.vcpus() + count * vcpus;
        if together > MOST_VCPUS {
            let what = format!(
                "the VMs up to `{}` have {together} vCPUs together",
                text.name
            );
            return Err(Failure::input(
                what,
                place.of("vcpus"),
                &format!("give at most {MOST_VCPUS}"),
            ));
        }
        let pool = pools.find(text.pool.as_deref(), &place)?;
        let pcpus = pools.all()[pool].pcpus.len() as usize;
        let entitlement = entitlement_of!(text).check(pcpus, &place)?;
        let affinity = match &text.affinity {
            Some(list) => Some(affinity_of(
                list,
                topology.pcpus,
                &pools.all()[pool],
                &place,
            )?),
            None => None,
        };
        let preferred = match &text.soft_affinity {
            Some(list) => pcpus_of(list, topology.pcpus, "soft_affinity", &place)?,
            None => PcpuSet::EMPTY,
        };
        let workload = workload_of(&text.workload, &place)?;
        let first = self.specs.len();
        for number in 0..count {
            let name = match count {
                1 => text.name.clone(),
                _ => format!("{}-{number}", text.name),
            };
            if self.specs.iter().any(|other| other.name == name) {
                let what = format!("two VMs have the name `{name}`");
                return Err(Failure::input(
                    what,
                    place.of("name"),
                    "give each a name of its own",
                ));
            }
            let entitlement =
                entitlement.entitlement(self.specs.len() as u16, |us| u64::from(us) * US);
            self.specs.push(VmSpec {
                name,
                vcpus: vcpus as u16,
                pool,
                affinity,
                preferred,
                entitlement: entitlement.expect("its values have been checked"),
                workload: workload.clone(),
                start: start as u64 * MS,
            });
        }
        self.entries.push(Entry {
            name: text.name.clone(),
            specs: first..self.specs.len(),
            entitlement,
            place,
        });
        Ok(())
    }
}

/// The pCPUs that `list` names, which are some of its pool's, or all of the machine for any of its pool.
fn affinity_of(list: &str, pcpus: u16, pool: &Pool, place: &Place) -> Result<PcpuSet> {
    let set = pcpus_of(list, pcpus, "affinity", place)?;
    if set == PcpuSet::all(pcpus) {
        return Ok(set);
    }
    if let Some(outside) = set.difference(pool.pcpus).first() {
        let (name, pcpus) = (&pool.name, pool.pcpus);
        let what = format!("{outside} is not in its pool `{name}`, which has pCPUs {pcpus}");
        let remedy = "give pCPUs of the pool, or leave it out for any of them";
        return Err(Failure::input(what, place.of("affinity"), remedy));
    }
    Ok(set)
}
