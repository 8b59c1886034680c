//! Which policies there are, and how one is chosen by its name.

mod pinned;
mod round_robin;

pub use pinned::Pinned;
pub use round_robin::RoundRobin;

use crate::Policy;
use alloc::boxed::Box;
use core::fmt;

/// What a policy can be told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PolicyOptions {
    /// How long a vCPU runs while others wait, in ticks of the host's counter.
    pub slice_ticks: u64,
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
pub const NAMES: [&str; 2] = [RoundRobin::NAME, Pinned::NAME];

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
        RoundRobin::NAME => &["slice_us"],
        _ => &[],
    }
}

/// The policy called `name`.
pub fn policy_by_name(name: &str, options: PolicyOptions) -> Result<Box<dyn Policy>, PolicyError> {
    if options.slice_ticks == 0 {
        return Err(PolicyError::EmptySlice);
    }
    match name {
        RoundRobin::NAME => Ok(Box::new(RoundRobin::with_slice(options.slice_ticks))),
        Pinned::NAME => Ok(Box::new(Pinned)),
        _ => Err(PolicyError::UnknownName),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn each_name_gives_its_policy_and_an_unknown_one_says_which_there_are() {
        for name in NAMES {
            assert_eq!(
                policy_by_name(name, PolicyOptions { slice_ticks: 1 })
                    .unwrap()
                    .name(),
                name
            );
        }
        let error = policy_by_name("lottery", PolicyOptions { slice_ticks: 1 })
            .err()
            .unwrap();
        assert_eq!(
            error.to_string(),
            "there is no such policy; there are: round-robin pinned"
        );
        assert!(policy_by_name("pinned", PolicyOptions { slice_ticks: 0 }).is_err());
    }
}
