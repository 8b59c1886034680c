//! The file as TOML has it: which keys there are, of which types, and in which lines they stand.

use std::{collections::BTreeMap, fmt, ops::Range};

use serde::{
    Deserialize, Deserializer,
    de::{self, SeqAccess, Visitor},
};
use toml::de::{DeTable, DeValue};

use super::choose;
use crate::host::{Failure, failure::Result};

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileText {
    pub pcpus: Option<i64>,
    pub cpu: Option<String>,
    pub gic: Option<i64>,
    pub policy: Option<String>,
    #[serde(default)]
    pub policy_options: BTreeMap<String, i64>,
    pub slice_us: Option<i64>,
    #[serde(default)]
    pub window: Vec<WindowText>,
    #[serde(default)]
    pub icount: bool,
    pub timeout: Option<i64>,
    #[serde(default)]
    pub pool: Vec<PoolText>,
    #[serde(default)]
    pub vm: Vec<VmText>,
}

/// One `[[pool]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PoolText {
    pub name: String,
    pub pcpus: String,
    pub policy: Option<String>,
    #[serde(default)]
    pub policy_options: BTreeMap<String, i64>,
}

/// One `[[window]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WindowText {
    pub pcpus: String,
    pub vm: Option<String>,
    pub us: i64,
}

/// One `[[vm]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct VmText {
    pub name: Option<String>,
    pub kernel: Option<String>,
    pub guest: Option<String>,
    pub initrd: Option<String>,
    pub dtb: Option<String>,
    pub append: Option<String>,
    pub memory: Option<Memory>,
    pub vcpus: Option<i64>,
    pub pool: Option<String>,
    pub affinity: Option<Lists>,
    pub soft_affinity: Option<String>,
    pub weight: Option<i64>,
    pub slice_us: Option<i64>,
    pub cap: Option<i64>,
    pub priority: Option<i64>,
    pub budget_us: Option<i64>,
    pub period_us: Option<i64>,
    #[serde(default)]
    pub device: Vec<DeviceText>,
    pub dma: Option<DmaText>,
    pub console: Option<String>,
    pub on_reset: Option<ResetText>,
    pub start: Option<bool>,
}

/// One `[[vm.device]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DeviceText {
    pub kind: String,
    pub file: Option<String>,
    pub read_only: Option<bool>,
}

/// `dma`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum DmaText {
    Trusted,
}

/// `on_reset`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum ResetText {
    Restart,
    End,
}

/// Memory in MiB: a number of them, or a text like `512M` or `2G`.
#[derive(Debug)]
pub(super) struct Memory(pub u64);

impl<'de> Deserialize<'de> for Memory {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Size;
        impl Visitor<'_> for Size {
            type Value = Memory;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of MiB above 0, or a size like \"512M\" or \"2G\"")
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> std::result::Result<Memory, E> {
                let mib = u64::try_from(value).ok().filter(|mib| *mib > 0);
                let unexpected = de::Unexpected::Signed(value);
                mib.map(Memory)
                    .ok_or_else(|| E::invalid_value(unexpected, &self))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> std::result::Result<Memory, E> {
                let unexpected = de::Unexpected::Str(text);
                let mib = parse_mib(text).filter(|mib| *mib > 0);
                mib.map(Memory)
                    .ok_or_else(|| E::invalid_value(unexpected, &self))
            }
        }
        deserializer.deserialize_any(Size)
    }
}

fn parse_mib(text: &str) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit())?;
    let (digits, unit) = text.split_at(end);
    let factor = match unit.trim() {
        "M" | "MiB" => 1,
        "G" | "GiB" => 1024,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

/// One text, or an array of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Lists(pub Vec<String>);

impl<'de> Deserialize<'de> for Lists {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct OneOrMany;
        impl<'de> Visitor<'de> for OneOrMany {
            type Value = Lists;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of pCPUs like \"0-1,3\", or an array of such lists")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> std::result::Result<Lists, E> {
                Ok(Lists(vec![text.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(
                self,
                mut array: A,
            ) -> std::result::Result<Lists, A::Error> {
                let mut lists = Vec::new();
                while let Some(list) = array.next_element()? {
                    lists.push(list);
                }
                if lists.is_empty() {
                    return Err(de::Error::invalid_length(0, &self));
                }
                Ok(Lists(lists))
            }
        }
        deserializer.deserialize_any(OneOrMany)
    }
}

/// In which lines the keys stand.
pub(super) struct Lines {
    /// The machine's; those of `policy_options` with that name and a dot before theirs.
    pub machine: BTreeMap<String, usize>,
    /// For each guest its own line, and its keys'.
    pub vms: Vec<(usize, BTreeMap<String, usize>)>,
    /// The same for each pool.
    pub pools: Vec<(usize, BTreeMap<String, usize>)>,
}

/// Takes `text` apart; `file` is what it is called in a failure.
pub(super) fn parse(text: &str, file: &str) -> Result<(FileText, Lines)> {
    let refuse = |error: &toml::de::Error| failure(error, text, file);
    let table = DeTable::parse(text).map_err(|error| refuse(&error))?;
    let lines = lines(text, table.get_ref());
    let parsed = toml::from_str(text).map_err(|error| refuse(&error))?;
    Ok((parsed, lines))
}

fn line(text: &str, span: &Range<usize>) -> usize {
    let before = text.get(..span.start).unwrap_or(text);
    1 + before.bytes().filter(|byte| *byte == b'\n').count()
}

fn lines(text: &str, table: &DeTable<'_>) -> Lines {
    let keys = |table: &DeTable<'_>, prefix: &str| {
        let lines = table.iter().map(|(key, _)| {
            (
                format!("{prefix}{}", key.get_ref()),
                line(text, &key.span()),
            )
        });
        lines.collect::<BTreeMap<_, _>>()
    };
    let with_options = |table: &DeTable<'_>| {
        let mut lines = keys(table, "");
        let options = table.get("policy_options");
        if let Some(DeValue::Table(options)) = options.map(|value| value.get_ref()) {
            lines.extend(keys(options, "policy_options."));
        }
        lines
    };
    let each = |name: &str| {
        let array = table.get(name).and_then(|value| value.get_ref().as_array());
        let parts = array.into_iter().flat_map(|array| array.iter());
        let lines = parts.map(|part| {
            let lines = part.get_ref().as_table().map(with_options);
            (line(text, &part.span()), lines.unwrap_or_default())
        });
        lines.collect()
    };
    Lines {
        machine: with_options(table),
        vms: each("vm"),
        pools: each("pool"),
    }
}

/// One line that says what TOML or serde has against the file.
fn failure(error: &toml::de::Error, text: &str, file: &str) -> Failure {
    let message = error.message();
    // `unknown field `x`, expected one of `y`, `z``: the first is what stands there, the others are what may.
    let mut names = message.split('`').skip(1).step_by(2);
    let is_unknown = message.starts_with("unknown ");
    let (what, remedy) = match names.next().filter(|_| is_unknown) {
        Some(given) => {
            let known: Vec<&str> = names.collect();
            let kind = message.split_whitespace().nth(1).unwrap_or("field");
            let kind = if kind == "field" { "key" } else { "value" };
            let what = format!("unknown {kind} `{}`", given.escape_debug());
            (what, choose(given, &known))
        }
        None => {
            let lines: Vec<&str> = message.lines().collect();
            let what = lines.join(", ");
            (what, "see docs/guide/several-guests.md".to_owned())
        }
    };
    let place = match error.span() {
        Some(span) => format!("{file}:{}", line(text, &span)),
        None => file.to_owned(),
    };
    Failure::input(what, place, &remedy)
}
