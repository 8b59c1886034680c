//! `[[pool]]`: how the pCPUs are divided at first, and whose policy each part follows.

use trapline_sched::{PcpuSet, PoolId};

use super::{Options, check_policy, options_of};
use crate::host::{
    Failure,
    failure::Result,
    request::{self, Place},
    toml_text::{PoolText, choose},
};

/// What the pool of all other pCPUs is called, and that of all if there is no other.
const REST: &str = "rest";
const ALL: &str = "all";

/// The pools of a scenario: each pCPU is in one of them.
#[derive(Debug)]
pub(super) struct Pools(Vec<Pool>);

/// One of them.
#[derive(Clone, Debug)]
pub(super) struct Pool {
    pub name: String,
    pub pcpus: PcpuSet,
    /// `None`: that of the file, or whichever is asked for instead.
    pub policy: Option<String>,
    pub options: Options,
    /// Where it stands; `None`: nowhere, it has what is left.
    pub place: Option<Place>,
}

impl Pools {
    /// What `texts` say, each of which stands at its place, of a machine with `pcpus`; `policy` and `options` are those of the file.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub(super) fn read(
        texts: &[(&PoolText, Place)],
        pcpus: u16,
        policy: &str,
        options: Options,
    ) -> Result<Self> {
        let mut rest = PcpuSet::all(pcpus);
        let mut pools: Vec<Pool> = Vec::new();
        for (text, place) in texts {
            let own = pcpus_of(&text.pcpus, pcpus, "pcpus", place)?;
            let refuse =
                |what: String, key, remedy: &str| Err(Failure::input(what, place.of(key), remedy));
            let taken = pools
                .iter()
                .find(|other| !other.pcpus.intersection(own).is_empty());
            if let Some(other) = taken {
                let shared = other.pcpus.intersection(own);
                let what = format!("`{}` has pCPU {shared} already", other.name);
                return refuse(what, "pcpus", "give each pCPU to one pool");
            }
            check_name(&text.name, "name", place)?;
            if pools.iter().any(|other| other.name == text.name) {
                let what = format!("two pools have the name `{}`", text.name);
                return refuse(what, "name", "give each a name of its own");
            }
            if let Some(policy) = &text.policy {
                check_policy(policy, place)?;
            }
            let policy = text.policy.as_deref().unwrap_or(policy);
            rest = rest.difference(own);
            pools.push(Pool {
                name: text.name.clone(),
                pcpus: own,
                policy: text.policy.clone(),
                options: options_of(policy, &text.policy_options, options, place)?,
                place: Some(place.clone()),
            });
        }
        if !rest.is_empty() {
            let name = if pools.is_empty() { ALL } else { REST };
            let pool = Pool {
                name: name.into(),
                pcpus: rest,
                policy: None,
                options,
                place: None,
            };
            pools.insert(0, pool);
        }
        if pools.len() > PoolId::LIMIT {
            let what = format!("there are {} pools", pools.len());
            let place = texts.last().map(|(_, place)| place.of("pcpus"));
            let remedy = format!("give at most {}", PoolId::LIMIT);
            return Err(Failure::input(what, place.unwrap_or_default(), &remedy));
        }
        Ok(Self(pools))
    }

    /// All of them, the first first.
    pub(super) fn all(&self) -> &[Pool] {
        &self.0
    }

    /// They are what they are when there is no `[[pool]]`.
    pub(super) fn is_one(&self) -> bool {
        self.0.len() == 1
    }

    /// The number of the one that is called `name`, or of the one with what is left.
    pub(super) fn find(&self, name: Option<&str>, place: &Place) -> Result<usize> {
        let found = self.0.iter().position(|pool| match name {
            Some(name) => pool.name == name,
            None => pool.place.is_none(),
        });
        found.ok_or_else(|| {
            let names: Vec<&str> = self.0.iter().map(|pool| pool.name.as_str()).collect();
            let (what, remedy) = match name {
                Some(name) => (
                    format!("there is no pool `{}`", name.escape_debug()),
                    choose(name, &names),
                ),
                None => (
                    "it has no pool, and every pCPU is in one".into(),
                    format!("choose one of {}", names.join(", ")),
                ),
            };
            Failure::input(what, place.of("pool"), &remedy)
        })
    }
}

/// A pool can be called so, as `key` says.
pub(super) fn check_name(name: &str, key: &str, place: &Place) -> Result<()> {
    request::check_name(name, key, place)?;
    let is_number = PoolId::all().any(|id| id.to_string() == name);
    if is_number || [REST, ALL].contains(&name) {
        let what = format!("`{name}` is no name for this pool");
        let remedy = format!("give it one of its own (`{REST}` is the one of all other pCPUs)");
        return Err(Failure::input(what, place.of(key), &remedy));
    }
    Ok(())
}

/// The pCPUs that `list` names, of a machine with `pcpus`.
pub(super) fn pcpus_of(list: &str, pcpus: u16, key: &str, place: &Place) -> Result<PcpuSet> {
    let refuse = |what: String| {
        let remedy = "give a list of pCPUs like \"0-1,3\"";
        Failure::input(what, place.of(key), remedy)
    };
    let set: PcpuSet = list
        .parse()
        .map_err(|error| refuse(format!("`{}`: {error}", list.escape_debug())))?;
    if set.is_empty() || !set.difference(PcpuSet::all(pcpus)).is_empty() {
        return Err(refuse(format!("`{list}` is not among the {pcpus} pCPUs")));
    }
    Ok(set)
}
