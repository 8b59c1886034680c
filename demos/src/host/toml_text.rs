//! Files of the user's in TOML: reading them, where their keys stand, and what is said when one is wrong.

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    io::Read,
    ops::{Range, RangeInclusive},
    path::Path,
};

use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeOwned, SeqAccess, Visitor},
};
use toml::de::{DeTable, DeValue};

use super::{
    Failure,
    failure::{Result, at},
    request::Place,
};

/// One `[[pool]]`, in a run's file and in a scenario alike.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PoolText {
    pub name: String,
    pub pcpus: String,
    pub policy: Option<String>,
    #[serde(default)]
    pub policy_options: BTreeMap<String, i64>,
}

/// More than thousands of guests can want.
const LONGEST_FILE: u64 = 1 << 20;

/// The text of the file at `path`, which `guide` explains.
///
/// # Errors
/// It cannot be read, is too long, or is no text.
pub(super) fn read(path: &Path, guide: &str) -> Result<String> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(at(path.display()))?;
    let read = file.take(LONGEST_FILE + 1).read_to_end(&mut bytes);
    read.map_err(at(path.display()))?;
    let refuse = |what| {
        let remedy = format!("give a TOML file, see {guide}");
        Failure::input(what, path.display(), &remedy)
    };
    if bytes.len() as u64 > LONGEST_FILE {
        return Err(refuse("the file is longer than 1 MiB"));
    }
    String::from_utf8(bytes).map_err(|_| refuse("the file is not text"))
}

/// Takes `text` apart, and with it what `lines` finds; `file` is what it is called in a failure.
pub(super) fn parse<T: DeserializeOwned, L>(
    text: &str,
    file: &str,
    guide: &str,
    lines: impl FnOnce(&DeTable<'_>) -> L,
) -> Result<(T, L)> {
    let refuse = |error: &toml::de::Error| failure(error, text, file, guide);
    let table = DeTable::parse(text).map_err(|error| refuse(&error))?;
    let lines = lines(table.get_ref());
    let parsed = toml::from_str(text).map_err(|error| refuse(&error))?;
    Ok((parsed, lines))
}

/// The line in which `span` begins.
pub(super) fn line(text: &str, span: &Range<usize>) -> usize {
    let before = text.get(..span.start).unwrap_or(text);
    1 + before.bytes().filter(|byte| *byte == b'\n').count()
}

/// The line of each key of `table`, with `prefix` before its name.
pub(super) fn lines_of_keys(
    text: &str,
    table: &DeTable<'_>,
    prefix: &str,
) -> BTreeMap<String, usize> {
    let lines = table.iter().map(|(key, _)| {
        (
            format!("{prefix}{}", key.get_ref()),
            line(text, &key.span()),
        )
    });
    lines.collect()
}

/// As [`lines_of_keys`], with those of its table `policy_options`.
pub(super) fn lines_with_options(text: &str, table: &DeTable<'_>) -> BTreeMap<String, usize> {
    let mut lines = lines_of_keys(text, table, "");
    let options = table.get("policy_options").map(|value| value.get_ref());
    if let Some(DeValue::Table(options)) = options {
        lines.extend(lines_of_keys(text, options, "policy_options."));
    }
    lines
}

/// The keys of each table of the array `name`: the line of its heading, and those of its keys.
pub(super) fn lines_of_tables(
    text: &str,
    table: &DeTable<'_>,
    name: &str,
) -> Vec<(usize, BTreeMap<String, usize>)> {
    let tables = table.get(name).and_then(|value| value.get_ref().as_array());
    let lines = tables
        .into_iter()
        .flat_map(|array| array.iter())
        .map(|table| {
            let keys = table.get_ref().as_table();
            let keys = keys.map(|table| lines_with_options(text, table));
            (line(text, &table.span()), keys.unwrap_or_default())
        });
    lines.collect()
}

/// One line that says what TOML or serde has against the file.
fn failure(error: &toml::de::Error, text: &str, file: &str, guide: &str) -> Failure {
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
            (what, format!("see {guide}"))
        }
    };
    let place = match error.span() {
        Some(span) => format!("{file}:{}", line(text, &span)),
        None => file.to_owned(),
    };
    Failure::input(what, place, &remedy)
}

/// `value`, if it is in `range`; `key` is how it is called at `place`.
pub(super) fn within(
    value: Option<i64>,
    range: RangeInclusive<i64>,
    key: &str,
    place: &Place,
) -> Result<Option<i64>> {
    match value {
        Some(value) if !range.contains(&value) => {
            let remedy = format!("give {} to {}", range.start(), range.end());
            Err(Failure::input(
                format!("{value} is out of range"),
                place.of(key),
                &remedy,
            ))
        }
        value => Ok(value),
    }
}

/// What to do about `given`, which is none of `known`.
pub(super) fn choose(given: &str, known: &[&str]) -> String {
    let closest = known
        .iter()
        .map(|name| (strsim::jaro_winkler(given, name), name))
        .max_by(|one, other| one.0.total_cmp(&other.0));
    match closest {
        Some((likeness, name)) if likeness > 0.8 => format!("did you mean `{name}`?"),
        _ => format!("choose one of {}", known.join(", ")),
    }
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
