//! A scenario as TOML has it: which keys there are, of which types, and in which lines they stand.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, Visitor},
};
use toml::de::{DeTable, DeValue};

use crate::host::{
    config_file::scheduling::WindowText,
    failure::Result,
    toml_text::{self, PoolText, lines_of_keys, lines_of_tables},
};

/// What explains such a file.
pub(super) const GUIDE: &str = "docs/guide/simulator.md";

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileText {
    pub duration_ms: i64,
    #[serde(default)]
    pub warm_up_ms: i64,
    pub policy: Option<String>,
    #[serde(default)]
    pub policy_options: BTreeMap<String, i64>,
    pub topology: TopologyText,
    #[serde(default)]
    pub costs: CostsText,
    #[serde(default)]
    pub pool: Vec<PoolText>,
    #[serde(default)]
    pub window: Vec<WindowText>,
    #[serde(default)]
    pub vm: Vec<VmText>,
    #[serde(default)]
    pub action: Vec<ActionText>,
}

/// `[topology]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TopologyText {
    pub pcpus: i64,
    pub pcpus_per_cluster: Option<i64>,
}

/// `[costs]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CostsText {
    pub switch_ns: Option<i64>,
    pub exit_ns: Option<i64>,
    pub kick_ns: Option<i64>,
    pub notice_ns: Option<i64>,
    pub migration_near_ns: Option<i64>,
    pub migration_far_ns: Option<i64>,
}

/// One `[[vm]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct VmText {
    pub name: String,
    pub vcpus: Option<i64>,
    pub count: Option<i64>,
    pub workload: WorkloadText,
    pub pool: Option<String>,
    pub affinity: Option<String>,
    pub soft_affinity: Option<String>,
    pub weight: Option<i64>,
    pub slice_us: Option<i64>,
    pub cap: Option<i64>,
    pub priority: Option<i64>,
    pub budget_us: Option<i64>,
    pub period_us: Option<i64>,
    pub halt_poll_us: Option<i64>,
    pub start_ms: Option<i64>,
}

/// `workload`: the name of one that needs nothing more, or a table with its `kind` and what that needs.
#[derive(Debug)]
pub(super) struct WorkloadText {
    pub kind: String,
    pub parameters: BTreeMap<String, Parameter>,
}

/// What a workload is told.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Parameter {
    Flag(bool),
    Number(i64),
    Text(String),
}

impl fmt::Display for Parameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => write!(f, "{flag}"),
            Self::Number(number) => write!(f, "{number}"),
            Self::Text(text) => write!(f, "\"{}\"", text.escape_debug()),
        }
    }
}

impl<'de> Deserialize<'de> for WorkloadText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct NameOrTable;
        impl<'de> Visitor<'de> for NameOrTable {
            type Value = WorkloadText;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a workload like \"cpu-bound\", or { kind = \"sleeper\", work_us = 50, wait_us = 500 }")
            }

            fn visit_str<E: de::Error>(self, kind: &str) -> std::result::Result<WorkloadText, E> {
                Ok(WorkloadText {
                    kind: kind.to_owned(),
                    parameters: BTreeMap::new(),
                })
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<WorkloadText, A::Error> {
                let (mut kind, mut parameters) = (None, BTreeMap::new());
                while let Some(key) = map.next_key::<String>()? {
                    match key.as_str() {
                        "kind" => kind = Some(map.next_value()?),
                        _ => drop(parameters.insert(key, map.next_value()?)),
                    }
                }
                let kind = kind.ok_or_else(|| de::Error::missing_field("kind"))?;
                Ok(WorkloadText { kind, parameters })
            }
        }
        deserializer.deserialize_any(NameOrTable)
    }
}

/// One `[[action]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ActionText {
    #[serde(rename = "do")]
    pub kind: String,
    pub at_ms: Option<i64>,
    pub every_ms: Option<i64>,
    pub about_every_ms: Option<i64>,
    pub vm: Option<String>,
    pub vcpu: Option<i64>,
    pub pcpu: Option<i64>,
    pub weight: Option<i64>,
    pub priority: Option<i64>,
    pub cap: Option<i64>,
    pub budget_us: Option<i64>,
    pub period_us: Option<i64>,
    pub policy: Option<String>,
    pub pool: Option<String>,
    pub pcpus: Option<String>,
}

/// In which lines the keys stand.
pub(super) struct Lines {
    /// Those of the whole file; those of `policy_options`, `topology` and `costs` with that name and a dot before theirs.
    pub file: BTreeMap<String, usize>,
    /// For each pool its own line, and its keys'; those of `policy_options` with that name and a dot before theirs.
    pub pools: Vec<(usize, BTreeMap<String, usize>)>,
    /// For each VM its own line, and its keys'; those of `workload` with that name and a dot before theirs.
    pub vms: Vec<(usize, BTreeMap<String, usize>)>,
    /// For each action likewise.
    pub actions: Vec<(usize, BTreeMap<String, usize>)>,
}

/// Takes `text` apart; `file` is what it is called in a failure.
pub(super) fn parse(text: &str, file: &str) -> Result<(FileText, Lines)> {
    toml_text::parse(text, file, GUIDE, |table| lines(text, table))
}

fn lines(text: &str, table: &DeTable<'_>) -> Lines {
    let inner = |table: &DeTable<'_>, name: &str| match table.get(name).map(|value| value.get_ref())
    {
        Some(DeValue::Table(inner)) => lines_of_keys(text, inner, &format!("{name}.")),
        _ => BTreeMap::new(),
    };
    let mut file = lines_of_keys(text, table, "");
    for name in ["policy_options", "topology", "costs"] {
        file.extend(inner(table, name));
    }
    let tables = |name: &str, within: &str| {
        let mut all = lines_of_tables(text, table, name);
        let tables = table.get(name).and_then(|value| value.get_ref().as_array());
        for (one, (_, lines)) in tables.into_iter().flatten().zip(&mut all) {
            if let Some(one) = one.get_ref().as_table() {
                lines.extend(inner(one, within));
            }
        }
        all
    };
    Lines {
        file,
        pools: tables("pool", "policy_options"),
        vms: tables("vm", "workload"),
        actions: lines_of_tables(text, table, "action"),
    }
}
