//! `workload` of a `[[vm]]`: what its vCPUs do, with times that say their unit.

use std::collections::{BTreeMap, btree_map::Entry};

use trapline_sched::sim::{Spread, Workload};

use super::text::{Parameter, WorkloadText};
use crate::host::{Failure, failure::Result, request::Place, toml_text::choose};

/// The names of the workloads, as [`workload_of`] knows them.
const KINDS: [&str; 8] = [
    "cpu-bound",
    "periodic",
    "sleeper",
    "dodger",
    "spin-lock",
    "ipi-storm",
    "wake-storm",
    "boot",
];
/// How a key says its unit, and how many nanoseconds that is.
const UNITS: [(&str, u64); 4] = [
    ("_ns", 1),
    ("_us", 1_000),
    ("_ms", 1_000_000),
    ("_s", 1_000_000_000),
];
/// No time of a workload is longer: an hour.
const LONGEST_NS: u64 = 3_600 * 1_000_000_000;

/// What `text` says, which stands at `place`.
///
/// # Errors
/// There is no such workload, or what it is told is not what it needs.
pub(super) fn workload_of(text: &WorkloadText, place: &Place) -> Result<Workload> {
    let mut told = Told::new(text, place)?;
    let workload = match text.kind.as_str() {
        "cpu-bound" => Workload::CpuBound,
        "periodic" => Workload::Periodic {
            period: told.time("period")?,
            work: told.time("work")?,
        },
        "sleeper" => Workload::Sleeper {
            work: told.spread("work")?,
            wait: told.spread("wait")?,
        },
        "dodger" => Workload::Dodger {
            work: told.time("work")?,
            wait: told.time("wait")?,
        },
        "spin-lock" => Workload::SpinLock {
            outside: told.spread("outside")?,
            inside: told.spread("inside")?,
            directed_yield: told.time_if_any("directed_yield")?,
        },
        "ipi-storm" => Workload::IpiStorm {
            work: told.spread("work")?,
            to_all: told.flag("to_all")?,
        },
        "wake-storm" => Workload::WakeStorm {
            period: told.time("period")?,
            work: told.spread("work")?,
        },
        "boot" => Workload::Boot {
            work: told.spread("work")?,
            after: told.time("after")?,
        },
        unknown => {
            let what = format!("unknown workload `{}`", unknown.escape_debug());
            let remedy = choose(unknown, &KINDS);
            return Err(Failure::input(what, place.of("workload"), &remedy));
        }
    };
    told.finish()?;
    Ok(workload)
}

/// What a workload was told, and what of it has been asked for.
struct Told<'a> {
    kind: &'a str,
    place: &'a Place,
    /// By the name without its unit: the key as it was given, what it says, and the unit.
    rest: BTreeMap<&'a str, (&'a str, &'a Parameter, Option<u64>)>,
    /// How the keys that it knows are written.
    known: Vec<String>,
}

impl<'a> Told<'a> {
    fn new(text: &'a WorkloadText, place: &'a Place) -> Result<Self> {
        let mut told = Self {
            kind: &text.kind,
            place,
            rest: BTreeMap::new(),
            known: Vec::new(),
        };
        for (key, parameter) in &text.parameters {
            let with_unit = UNITS
                .iter()
                .find_map(|(suffix, ns)| Some((key.strip_suffix(suffix)?, Some(*ns))));
            let (name, unit) = with_unit.unwrap_or((key, None));
            match told.rest.entry(name) {
                Entry::Vacant(vacant) => drop(vacant.insert((key, parameter, unit))),
                Entry::Occupied(other) => {
                    let what = format!("{name} is given twice, by {} and by {key}", other.get().0);
                    return Err(told.refuse(key, what, "give it once"));
                }
            }
        }
        Ok(told)
    }

    fn refuse(&self, key: &str, what: String, remedy: &str) -> Failure {
        Failure::input(what, self.place.of(&format!("workload.{key}")), remedy)
    }

    /// A key that the workload knows, if it is given: as it was written, what it says, and its unit in nanoseconds.
    fn take(
        &mut self,
        name: &str,
        has_unit: bool,
    ) -> Result<Option<(&'a str, &'a Parameter, u64)>> {
        let known = format!("{name}{}", if has_unit { "_us" } else { "" });
        self.known.push(known.clone());
        match self.rest.remove(name) {
            None => Ok(None),
            Some((key, parameter, unit)) if unit.is_some() == has_unit => {
                Ok(Some((key, parameter, unit.unwrap_or(1))))
            }
            Some((key, ..)) if has_unit => {
                let remedy = format!("give {name}_ns, {name}_us, {name}_ms or {name}_s");
                Err(self.refuse(key, format!("{key} does not say its unit"), &remedy))
            }
            Some((key, ..)) => {
                Err(self.refuse(key, format!("{key} is no time"), &format!("give {known}")))
            }
        }
    }

    fn spread_if_any(&mut self, name: &str) -> Result<Option<Spread>> {
        let Some((key, parameter, unit)) = self.take(name, true)? else {
            return Ok(None);
        };
        let range = match parameter {
            Parameter::Number(number) => u64::try_from(*number).ok().map(|number| (number, number)),
            Parameter::Text(text) => text.split_once('-').and_then(|(least, most)| {
                let number = |text: &str| text.trim().parse::<u64>().ok();
                Some((number(least)?, number(most)?))
            }),
            Parameter::Flag(_) => None,
        };
        let Some((least, most)) = range else {
            let what = format!("{parameter} is no time");
            return Err(self.refuse(key, what, "give a number, or a range like \"50-150\""));
        };
        if least > most {
            let what = format!("the range {parameter} ends before it starts");
            return Err(self.refuse(key, what, "give the smaller number first"));
        }
        let longest = LONGEST_NS / unit;
        if least == 0 || most > longest {
            let what = format!("{parameter} is out of range");
            return Err(self.refuse(key, what, &format!("give 1 to {longest}")));
        }
        Ok(Some(Spread {
            least: least * unit,
            most: most * unit,
        }))
    }

    fn spread(&mut self, name: &str) -> Result<Spread> {
        let spread = self.spread_if_any(name)?;
        spread.ok_or_else(|| {
            let what = format!("workload `{}` needs {name}_us", self.kind);
            let remedy = format!("give {name}_us, or {name}_ns, {name}_ms or {name}_s");
            Failure::input(what, self.place.of("workload"), &remedy)
        })
    }

    /// A time that is always the same.
    fn fixed(&self, name: &str, spread: Spread) -> Result<u64> {
        if spread.least == spread.most {
            return Ok(spread.least);
        }
        let what = format!("{name} is a range");
        Err(self.refuse(name, what, "give one number"))
    }

    fn time(&mut self, name: &str) -> Result<u64> {
        let spread = self.spread(name)?;
        self.fixed(name, spread)
    }

    fn time_if_any(&mut self, name: &str) -> Result<Option<u64>> {
        let spread = self.spread_if_any(name)?;
        spread.map(|spread| self.fixed(name, spread)).transpose()
    }

    fn flag(&mut self, name: &str) -> Result<bool> {
        match self.take(name, false)? {
            None => Ok(false),
            Some((_, Parameter::Flag(flag), _)) => Ok(*flag),
            Some((key, other, _)) => Err(self.refuse(
                key,
                format!("{other} is not true or false"),
                "give true or false",
            )),
        }
    }

    /// Nothing is left that nobody has asked for.
    fn finish(self) -> Result<()> {
        let Some((key, ..)) = self.rest.values().next() else {
            return Ok(());
        };
        let what = format!(
            "workload `{}` has no key `{}`",
            self.kind,
            key.escape_debug()
        );
        let known: Vec<&str> = self.known.iter().map(String::as_str).collect();
        let remedy = match known.as_slice() {
            [] => "it has none".to_owned(),
            known => choose(key, known),
        };
        Err(self.refuse(key, what, &remedy))
    }
}
