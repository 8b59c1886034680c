//! What files say of scheduling, whatever runs: entitlements, the options of a policy, windows.

use std::{collections::BTreeMap, ops::RangeInclusive};

use serde::Deserialize;
use trapline_sched::{PcpuSet, Weight, policies};

use crate::{
    config::{self, EntitlementConfig},
    host::{
        Failure,
        failure::Result,
        request::Place,
        toml_text::{choose, within},
    },
};

/// What a slice may be, in microseconds.
pub const SLICE_US: RangeInclusive<i64> = wide(&config::SLICE_US);
/// For how long a pCPU may look for a wake-up, in microseconds.
pub const HALT_POLL_US: RangeInclusive<i64> = wide(&config::HALT_POLL_US);
const WEIGHT: RangeInclusive<i64> = 1..=Weight::LIMIT as i64;
const PRIORITY: RangeInclusive<i64> = 0..=u8::MAX as i64;
/// What a budget, a period and a window may be, in microseconds.
pub(in crate::host) const RESERVATION_US: RangeInclusive<i64> = wide(&config::RESERVATION_US);

const fn wide(range: &RangeInclusive<u32>) -> RangeInclusive<i64> {
    *range.start() as i64..=*range.end() as i64
}

/// One `[[window]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::host) struct WindowText {
    pub pcpus: String,
    pub vm: Option<String>,
    pub us: i64,
}

/// The keys of a `[[vm]]` that say what each of its vCPUs shall get.
pub(in crate::host) struct EntitlementText {
    pub weight: Option<i64>,
    pub slice_us: Option<i64>,
    pub cap: Option<i64>,
    pub priority: Option<i64>,
    pub budget_us: Option<i64>,
    pub period_us: Option<i64>,
    pub halt_poll_us: Option<i64>,
}

/// The [`EntitlementText`] of a `[[vm]]`, whatever other keys that has: its own are read one by one, so that unknown ones are found.
macro_rules! entitlement_of {
    ($vm:expr) => {
        $crate::host::config_file::scheduling::EntitlementText {
            weight: $vm.weight,
            slice_us: $vm.slice_us,
            cap: $vm.cap,
            priority: $vm.priority,
            budget_us: $vm.budget_us,
            period_us: $vm.period_us,
            halt_poll_us: $vm.halt_poll_us,
        }
    };
}
pub(in crate::host) use entitlement_of;

impl EntitlementText {
    /// The same with all numbers in their ranges, on a machine with at most `pcpus` pCPUs.
    pub(in crate::host) fn check(&self, pcpus: usize, place: &Place) -> Result<EntitlementConfig> {
        let within = |value, range, key| within(value, range, key, place);
        let budget = within(self.budget_us, RESERVATION_US, "budget_us")?;
        let period = within(self.period_us, RESERVATION_US, "period_us")?;
        let refuse =
            |what: String, key, remedy: &str| Err(Failure::input(what, place.of(key), remedy));
        let reservation_us = match (budget, period) {
            (None, None) => None,
            (Some(budget), Some(period)) if budget <= period => {
                Some((budget as u32, period as u32))
            }
            (Some(budget), Some(period)) => {
                let what = format!("a budget of {budget} us in a period of {period} us");
                return refuse(what, "budget_us", "give at most the period");
            }
            (Some(_), None) => {
                let what = "a budget without a period".into();
                return refuse(what, "budget_us", "give period_us too");
            }
            (None, Some(_)) => {
                let what = "a period without a budget".into();
                return refuse(what, "period_us", "give budget_us too");
            }
        };
        let most_cap = 100 * pcpus as i64;
        let weight = within(self.weight, WEIGHT, "weight")?;
        let halt_poll = within(self.halt_poll_us, HALT_POLL_US, "halt_poll_us")?;
        Ok(EntitlementConfig {
            weight: weight.map_or(Weight::DEFAULT.get(), |weight| weight as u16),
            slice_us: within(self.slice_us, SLICE_US, "slice_us")?.map(|slice| slice as u32),
            cap: within(self.cap, 1..=most_cap, "cap")?.map(|cap| cap as u32),
            priority: within(self.priority, PRIORITY, "priority")?.unwrap_or(0) as u8,
            reservation_us,
            halt_poll_us: halt_poll.map(|us| us as u32),
        })
    }
}

impl EntitlementConfig {
    /// The key that asks for most, to point at when it is refused.
    pub(in crate::host) fn dearest_key(&self) -> &'static str {
        match self {
            Self {
                reservation_us: Some(_),
                ..
            } => "budget_us",
            Self { cap: Some(_), .. } => "cap",
            _ => "weight",
        }
    }
}

/// Every one of `options` is one that `policy` has; `prefix` stands before their names at `place`.
pub(in crate::host) fn check_options(
    policy: &str,
    options: &BTreeMap<String, i64>,
    prefix: &str,
    place: &Place,
) -> Result<()> {
    let known = policies::option_names(policy);
    let unknown = options.keys().find(|name| !known.contains(&name.as_str()));
    if let Some(name) = unknown.filter(|_| policies::NAMES.contains(&policy)) {
        let key = format!("{prefix}{name}");
        let what = format!("policy `{policy}` has no option `{name}`");
        return Err(Failure::input(what, place.of(&key), &choose(name, known)));
    }
    Ok(())
}

/// A `[[window]]` whose names and numbers are those of something that is there.
#[derive(Clone, Copy, Debug)]
pub(in crate::host) struct CheckedWindow {
    pub pcpus: PcpuSet,
    /// Its number; `None`: nobody's.
    pub guest: Option<u16>,
    pub us: u32,
}

/// The windows of the frames of at most `pcpus` pCPUs, for guests with these names.
pub(in crate::host) fn windows_of(
    windows: &[WindowText],
    names: &[&str],
    pcpus: u16,
    place: &Place,
) -> Result<Vec<CheckedWindow>> {
    let window = |window: &WindowText| {
        let refuse = |error: String| {
            let what = format!("window: `{}`: {error}", window.pcpus.escape_debug());
            Failure::input(what, place.of("window"), "give pCPUs like \"0-1,3\"")
        };
        let set = window.pcpus.parse::<PcpuSet>();
        let set = set.map_err(|error| refuse(error.to_string()))?;
        if !set.difference(PcpuSet::all(pcpus)).is_empty() {
            return Err(refuse(format!("there are at most {pcpus} pCPUs")));
        }
        let number = |name: &String| {
            let found = names.iter().position(|known| *known == name);
            found.map(|index| index as u16).ok_or_else(|| {
                let what = format!("window: there is no guest `{}`", name.escape_debug());
                Failure::input(what, place.of("window"), &choose(name, names))
            })
        };
        let us = within(Some(window.us), RESERVATION_US, "window", place)?;
        Ok(CheckedWindow {
            pcpus: set,
            guest: window.vm.as_ref().map(number).transpose()?,
            us: us.unwrap_or_default() as u32,
        })
    };
    windows.iter().map(window).collect()
}
