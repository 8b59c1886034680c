//! What a configuration says of scheduling, and what that is for the scheduler.

use alloc::{
    boxed::Box,
    string::{String, ToString},
    vec::Vec,
};
use core::ops::RangeInclusive;

use serde::{Deserialize, Serialize};
use trapline_sched::{
    Entitlement, GroupId, PcpuSet, Policy, PolicyOptions, Reservation, Weight,
    policies::{Table, Window},
    policy_by_name,
};

use super::MAX_PCPUS;

/// What a slice may be, in microseconds.
pub const SLICE_US: RangeInclusive<u32> = 50..=10_000_000;
/// What a budget, a period and a window may be, in microseconds.
pub const RESERVATION_US: RangeInclusive<u32> = 50..=10_000_000;
/// For how long a pCPU may look for a wake-up, in microseconds.
pub const HALT_POLL_US: RangeInclusive<u32> = 0..=1_000;
/// What a guest's cap may be on the largest machine, in hundredths of a pCPU.
pub const CAP: RangeInclusive<u32> = 1..=100 * MAX_PCPUS as u32;

/// A scheduling policy and its options; each policy looks at those that it has. Times are in microseconds.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct PolicyConfig {
    /// Which.
    pub name: String,
    /// How long a vCPU runs while others wait.
    pub slice_us: u32,
    /// In what time a cap holds.
    pub period_us: u32,
    /// The windows of each pCPU's frame, in their order.
    pub windows: Vec<WindowConfig>,
}

/// A pool of pCPUs.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct PoolPlan {
    /// What the user calls it: one word, unlike the other pools'.
    pub name: String,
    /// Bit n: it has pCPU n.
    pub pcpus: u64,
    /// Who runs next there.
    pub policy: PolicyConfig,
}

/// A part of the frame of some pCPUs.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct WindowConfig {
    /// Bit n: pCPU n has it.
    pub pcpus: u64,
    /// The number of the guest that runs; `None`: nobody.
    pub guest: Option<u16>,
    /// How long.
    pub us: u32,
}

impl PolicyConfig {
    /// The policy called `name`, with slices of `slice_us` and everything else as if nobody had said anything.
    pub fn new(name: &str, slice_us: u32) -> Self {
        Self {
            name: name.into(),
            slice_us,
            period_us: PolicyOptions::PERIOD_US,
            windows: Vec::new(),
        }
    }

    /// The policy, for `max_vcpus` vCPUs on `pcpus`; `ticks` says how long a number of microseconds is.
    ///
    /// # Errors
    /// There is no such policy, or its options make no sense: why.
    pub fn policy(
        &self,
        max_vcpus: u16,
        pcpus: PcpuSet,
        ticks: impl Fn(u32) -> u64,
    ) -> Result<Box<dyn Policy>, String> {
        let options = self.options(max_vcpus, pcpus, ticks)?;
        policy_by_name(&self.name, options).map_err(|error| error.to_string())
    }

    /// What the policy is told, with the same parameters.
    ///
    /// # Errors
    /// The windows make no table: why.
    pub fn options(
        &self,
        max_vcpus: u16,
        pcpus: PcpuSet,
        ticks: impl Fn(u32) -> u64,
    ) -> Result<PolicyOptions, String> {
        let window = |window: &WindowConfig| Window {
            group: window.guest.map(GroupId::new),
            ticks: ticks(window.us),
        };
        let frames = pcpus.iter().filter_map(|pcpu| {
            let windows = self.windows.iter();
            let here = windows.filter(|window| PcpuSet::from_bits(window.pcpus).contains(pcpu));
            let frame: Vec<Window> = here.map(window).collect();
            (!frame.is_empty()).then_some((pcpu, frame))
        });
        let table = match self.windows.as_slice() {
            [] => None,
            _ => Some(Table::new(frames).map_err(|error| error.to_string())?),
        };
        Ok(PolicyOptions {
            slice_ticks: ticks(self.slice_us),
            max_vcpus,
            pcpus,
            period_ticks: ticks(self.period_us),
            table,
        })
    }
}

/// What each vCPU of a guest shall get; each policy looks at what it knows. Ranges are those of
/// [`trapline_sched::Entitlement`], times in microseconds.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct EntitlementConfig {
    /// Its share against others' vCPUs.
    pub weight: u16,
    /// How long it runs at a time while others wait, if not as long as all.
    pub slice_us: Option<u32>,
    /// The most that all vCPUs of the guest get together, in hundredths of a pCPU.
    pub cap: Option<u32>,
    /// It runs before all with less.
    pub priority: u8,
    /// What it gets in any case: a budget in each period.
    pub reservation_us: Option<(u32, u32)>,
    /// For how long at most its pCPU looks for its wake-up before it waits for an interrupt; not at all if nobody says.
    pub halt_poll_us: Option<u32>,
}

impl Default for EntitlementConfig {
    fn default() -> Self {
        Self {
            weight: Weight::DEFAULT.get(),
            slice_us: None,
            cap: None,
            priority: 0,
            reservation_us: None,
            halt_poll_us: None,
        }
    }
}

impl EntitlementConfig {
    /// The same for the scheduler, of the guest with number `group`; `ticks` says how long a number of microseconds is. `None` if a
    /// value is out of range.
    pub fn entitlement(&self, group: u16, ticks: impl Fn(u32) -> u64) -> Option<Entitlement> {
        let reservation = match self.reservation_us {
            Some((budget, period)) => Some(Reservation::new(ticks(budget), ticks(period)).ok()?),
            None => None,
        };
        Some(Entitlement {
            group: GroupId::new(group),
            weight: Weight::new(self.weight)?,
            slice: self.slice_us.map(&ticks),
            reservation,
            priority: self.priority,
            cap: self.cap,
            halt_poll: self.halt_poll_us.map_or(0, ticks),
        })
    }
}
