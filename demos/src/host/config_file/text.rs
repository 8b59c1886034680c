//! The file as TOML has it: which keys there are, of which types, and in which lines they stand.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{self, Visitor},
};
use toml::de::DeTable;

use super::{GUIDE, scheduling::WindowText};
use crate::host::{
    failure::Result,
    toml_text::{self, Lists, PoolText, lines_of_tables, lines_with_options},
};

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
    pub halt_poll_us: Option<i64>,
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
    pub halt_poll_us: Option<i64>,
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
    toml_text::parse(text, file, GUIDE, |table| lines(text, table))
}

fn lines(text: &str, table: &DeTable<'_>) -> Lines {
    Lines {
        machine: lines_with_options(text, table),
        vms: lines_of_tables(text, table, "vm"),
        pools: lines_of_tables(text, table, "pool"),
    }
}
