//! Which policies there are, and how one is chosen by its name.

mod budget;
mod caps;
mod credit;
mod deadline;
mod extremes;
mod fair;
mod fifo;
mod fronts;
mod gang;
mod homes;
mod line;
mod mean;
mod members;
#[cfg(all(test, not(loom)))]
mod models;
mod pinned;
mod priority;
mod ranking;
mod roster;
mod round_robin;
mod server;
mod table;
mod turn;
mod urgencies;

pub use credit::Credit;
pub use deadline::Deadline;
pub use fair::Fair;
pub use gang::Gang;
pub use pinned::Pinned;
pub use priority::Priority;
pub use round_robin::RoundRobin;
pub use table::{BadTable, Table, TableDriven, Window};

use crate::{PcpuSet, Policy};
use alloc::boxed::Box;
use caps::Caps;
use core::fmt;

/// What a policy can be told.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PolicyOptions {
    /// How long a vCPU runs while others wait, in ticks of the host's counter.
    pub slice_ticks: u64,
    /// How many vCPUs the scheduler has room for.
    pub max_vcpus: u16,
    /// The pCPUs of the pool.
    pub pcpus: PcpuSet,
    /// In what time a cap holds, or how often round-robin and priority balance pCPUs, in ticks of the host's counter.
    pub period_ticks: u64,
    /// Whose window is when and where.
    pub table: Option<Table>,
}

impl PolicyOptions {
    /// In what time a cap holds, and how often pCPUs are balanced, when nobody says otherwise, in microseconds: a vCPU whose caches
    /// are cold for some 20 after a move loses 0.2 % of a pCPU by it at most.
    pub const PERIOD_US: u32 = 10_000;
}

/// Why there is no such policy.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PolicyError {
    /// No policy has this name.
    UnknownName,
    /// A slice of no ticks would never run anybody.
    EmptySlice,
    /// A period of so many ticks is none, or too long to count with.
    BadPeriod(u64),
    /// The table-driven policy has no table.
    NoTable,
}

/// The names that [`policy_by_name`] knows.
pub const NAMES: [&str; 8] = [
    RoundRobin::NAME,
    Pinned::NAME,
    Fair::NAME,
    Deadline::NAME,
    Priority::NAME,
    Credit::NAME,
    TableDriven::NAME,
    Gang::NAME,
];

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownName => {
                f.write_str("there is no such policy; there are:")?;
                NAMES.iter().try_for_each(|name| write!(f, " {name}"))
            }
            Self::EmptySlice => f.write_str("a slice must be at least one tick of the counter"),
            Self::BadPeriod(ticks) => write!(
                f,
                "a period of {ticks} ticks: it must be at least 1 and at most {}",
                Caps::LONGEST_PERIOD
            ),
            Self::NoTable => write!(f, "the policy {} needs a table", TableDriven::NAME),
        }
    }
}

impl core::error::Error for PolicyError {}

/// The names of the options that the policy called `name` has; none if there is no such policy.
pub fn option_names(name: &str) -> &'static [&'static str] {
    match name {
        Credit::NAME | RoundRobin::NAME | Priority::NAME => &["slice_us", "period_us"],
        _ if NAMES.contains(&name) => &["slice_us"],
        _ => &[],
    }
}

/// What of an [`Entitlement`](crate::Entitlement) the policy called `name` looks at, `budget` for a reservation, and `affinity`, which
/// all look at; `None` if there is no such policy.
pub fn setting_names(name: &str) -> Option<&'static [&'static str]> {
    Some(match name {
        Gang::NAME => &["affinity"],
        RoundRobin::NAME | Pinned::NAME => &["affinity", "soft-affinity"],
        Fair::NAME => &["affinity", "soft-affinity", "weight", "slice"],
        Credit::NAME => &["affinity", "soft-affinity", "weight", "slice", "cap"],
        Deadline::NAME => &["affinity", "soft-affinity", "budget"],
        Priority::NAME => &["affinity", "soft-affinity", "priority", "slice"],
        TableDriven::NAME => &["affinity", "slice"],
        _ => return None,
    })
}

/// The policy called `name`.
pub fn policy_by_name(name: &str, options: PolicyOptions) -> Result<Box<dyn Policy>, PolicyError> {
    let PolicyOptions {
        slice_ticks,
        max_vcpus,
        pcpus,
        period_ticks,
        table,
    } = options;
    if slice_ticks == 0 {
        return Err(PolicyError::EmptySlice);
    }
    if !(1..=Caps::LONGEST_PERIOD).contains(&period_ticks) {
        return Err(PolicyError::BadPeriod(period_ticks));
    }
    match name {
        RoundRobin::NAME => Ok(Box::new(RoundRobin::new(slice_ticks, period_ticks))),
        Pinned::NAME => Ok(Box::new(Pinned::with_slice(slice_ticks))),
        Fair::NAME => Ok(Box::new(Fair::with_slice(slice_ticks, max_vcpus))),
        Deadline::NAME => Ok(Box::new(Deadline::with_slice(slice_ticks, max_vcpus))),
        Priority::NAME => {
            let priority = Priority::new(slice_ticks, period_ticks, max_vcpus);
            Ok(Box::new(priority))
        }
        Credit::NAME => {
            let credit = Credit::new(slice_ticks, period_ticks, pcpus, max_vcpus);
            Ok(Box::new(credit))
        }
        TableDriven::NAME => {
            let table = table.ok_or(PolicyError::NoTable)?;
            Ok(Box::new(TableDriven::new(slice_ticks, table, max_vcpus)))
        }
        Gang::NAME => Ok(Box::new(Gang::new(slice_ticks, pcpus, max_vcpus))),
        _ => Err(PolicyError::UnknownName),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Choice, Entitlement, Entitlements, GroupId, PcpuId, Ready, Reservation, VcpuId, Weight,
    };
    use alloc::{format, string::ToString, sync::Arc, vec};

    fn options(slice_ticks: u64, period_ticks: u64) -> PolicyOptions {
        let window = Window {
            group: Some(GroupId::new(0)),
            ticks: 1,
        };
        let frames = PcpuSet::all(2).iter().map(|pcpu| (pcpu, vec![window]));
        PolicyOptions {
            slice_ticks,
            max_vcpus: 4,
            pcpus: PcpuSet::all(2),
            period_ticks,
            table: Some(Table::new(frames).unwrap()),
        }
    }

    #[test]
    fn each_name_gives_its_policy_and_an_unknown_one_says_which_there_are() {
        let message = |name, options| policy_by_name(name, options).err().unwrap().to_string();
        for name in NAMES {
            let policy = policy_by_name(name, options(1, 1)).unwrap();
            assert_eq!(policy.name(), name);
            assert!(setting_names(name).is_some_and(|names| names.contains(&"affinity")));
        }
        assert_eq!(
            message("lottery", options(1, 1)),
            "there is no such policy; there are: round-robin pinned fair deadline priority credit table gang"
        );
        assert_eq!(
            message("pinned", options(0, 1)),
            "a slice must be at least one tick of the counter"
        );
        let without_table = PolicyOptions {
            table: None,
            ..options(1, 1)
        };
        assert_eq!(
            message("table", without_table),
            "the policy table needs a table"
        );
        assert_eq!(
            message("credit", options(1, 1 << 33)),
            format!(
                "a period of 8589934592 ticks: it must be at least 1 and at most {}",
                Caps::LONGEST_PERIOD
            )
        );
    }

    /// Whatever the clock says, and however long a slice is.
    #[test]
    fn odd_times_panic_nowhere() {
        let times = [
            0,
            1,
            7,
            1 << 31,
            1 << 40,
            1 << 62,
            u64::MAX / 2,
            u64::MAX - 1,
        ];
        let ticks = [0, 1, 9, 1 << 40, 1 << 63, u64::MAX];
        let vcpu = |index: usize| VcpuId::new((index % 4) as u16);
        let locals = [0, 1].map(PcpuId::new).map(Option::unwrap);
        let longest = Reservation::LONGEST_PERIOD;
        let reservations = [(1, 3), (longest / 2, longest), (1, longest), (2, 9)];
        let reservations = reservations.map(|(budget, period)| Reservation::new(budget, period));
        for (name, slice) in NAMES
            .into_iter()
            .flat_map(|name| ticks.map(|slice| (name, slice)))
        {
            let policy = policy_by_name(name, options(slice.max(1), 10)).unwrap();
            let entitlements = Arc::new(Entitlements::new(4));
            for index in 0..4 {
                let entitlement = Entitlement {
                    weight: Weight::new([1, 1024, 1024, 10_000][index]).unwrap(),
                    slice: [None, Some(slice)][index % 2].filter(|&slice| slice > 0),
                    cap: Some(20),
                    reservation: reservations[index].ok(),
                    ..Entitlement::default()
                };
                let affinity = PcpuSet::only(locals[index % 2]);
                let admitted = policy.admit(vcpu(index), &entitlement, affinity);
                assert!(admitted.is_ok(), "{name}");
                entitlements.set(vcpu(index), &entitlement);
            }
            let mut locals = locals.map(|pcpu| policy.local(pcpu, &entitlements));
            let mut running = [None, None];
            for step in 0..500 {
                let here = step % 2;
                let now = times[step * 5 / 8 % times.len()];
                let local = &mut locals[here];
                if let Some(running) = running[here].take() {
                    local.charge(running, ticks[step * 7 / 3 % ticks.len()], now);
                    match step % 5 {
                        0 | 1 => local.leave(running, now),
                        _ => local.enqueue(running, Ready::Preempted, now),
                    }
                }
                // Each pCPU has two of the four.
                let other = vcpu(2 * (step / 2 % 2) + here);
                local.withdraw(other, now);
                local.enqueue(other, Ready::Woken, now);
                local.preempts(vcpu(step), now);
                if step % 7 == 0 && local.take(other, now).is_some() {
                    running[here] = Some(other);
                } else if let Choice::Run(pick) = local.pick(now) {
                    running[here] = Some(pick.vcpu);
                    let has_own = pick.vcpu.index() % 2 == 1;
                    if name == Fair::NAME && has_own && slice >= 1 << 40 {
                        let ticks = pick.slice.duration.map_or(u64::MAX, u64::from);
                        assert!(ticks > 9, "{name}: {ticks} of {slice}");
                    }
                }
                let _ = local.push(now, &mut |_, _| false);
            }
        }
    }
}
