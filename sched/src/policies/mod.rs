//! Which policies there are, and how one is chosen by its name.

mod deadline;
mod fair;
mod fronts;
mod homes;
mod pinned;
mod priority;
mod round_robin;
mod urgencies;

pub use deadline::Deadline;
pub use fair::Fair;
pub use pinned::Pinned;
pub use priority::Priority;
pub use round_robin::RoundRobin;

use crate::Policy;
use alloc::boxed::Box;
use core::fmt;

/// What a policy can be told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PolicyOptions {
    /// How long a vCPU runs while others wait, in ticks of the host's counter.
    pub slice_ticks: u64,
    /// How many vCPUs the pool has room for.
    pub max_vcpus: u16,
}

/// Why there is no such policy.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PolicyError {
    /// No policy has this name.
    UnknownName,
    /// A slice of no ticks would never run anybody.
    EmptySlice,
}

/// The names that [`policy_by_name`] knows.
pub const NAMES: [&str; 5] = [
    RoundRobin::NAME,
    Pinned::NAME,
    Fair::NAME,
    Deadline::NAME,
    Priority::NAME,
];

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownName => {
                f.write_str("there is no such policy; there are:")?;
                NAMES.iter().try_for_each(|name| write!(f, " {name}"))
            }
            Self::EmptySlice => f.write_str("a slice must be at least one tick of the counter"),
        }
    }
}

impl core::error::Error for PolicyError {}

/// The names of the options that the policy called `name` has; none if there is no such policy.
pub fn option_names(name: &str) -> &'static [&'static str] {
    match name {
        RoundRobin::NAME | Fair::NAME | Deadline::NAME | Priority::NAME => &["slice_us"],
        _ => &[],
    }
}

/// The policy called `name`.
pub fn policy_by_name(name: &str, options: PolicyOptions) -> Result<Box<dyn Policy>, PolicyError> {
    let PolicyOptions {
        slice_ticks,
        max_vcpus,
    } = options;
    if slice_ticks == 0 {
        return Err(PolicyError::EmptySlice);
    }
    match name {
        RoundRobin::NAME => Ok(Box::new(RoundRobin::with_slice(slice_ticks))),
        Pinned::NAME => Ok(Box::new(Pinned)),
        Fair::NAME => Ok(Box::new(Fair::with_slice(slice_ticks, max_vcpus))),
        Deadline::NAME => Ok(Box::new(Deadline::with_slice(slice_ticks, max_vcpus))),
        Priority::NAME => Ok(Box::new(Priority::with_slice(slice_ticks, max_vcpus))),
        _ => Err(PolicyError::UnknownName),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    fn options(slice_ticks: u64) -> PolicyOptions {
        PolicyOptions {
            slice_ticks,
            max_vcpus: 4,
        }
    }

    #[test]
    fn each_name_gives_its_policy_and_an_unknown_one_says_which_there_are() {
        for name in NAMES {
            assert_eq!(policy_by_name(name, options(1)).unwrap().name(), name);
        }
        let error = policy_by_name("lottery", options(1)).err().unwrap();
        assert_eq!(
            error.to_string(),
            "there is no such policy; there are: round-robin pinned fair deadline priority"
        );
        assert!(policy_by_name("pinned", options(0)).is_err());
    }
}
