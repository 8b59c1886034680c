//! How the runner fails: one line that says what, where, and what to do, and the status to end with.

use std::fmt;

/// A failure of the runner, as it is printed after `trapline: error: `.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Failure {
    /// The process ends with this status.
    pub status: u8,
    message: String,
}

/// Bad usage, bad input, or something missing on this machine.
pub const BAD_INPUT: u8 = 2;
/// The hypervisor, or QEMU under it, failed.
pub const HYPERVISOR_FAILED: u8 = 3;
/// The run took longer than it may.
pub const TIMEOUT: u8 = 124;

impl Failure {
    /// Something about the input: what is wrong, where, and what to do about it. Nothing was started.
    pub fn input(what: impl fmt::Display, place: impl fmt::Display, remedy: &str) -> Self {
        Self {
            status: BAD_INPUT,
            message: format!("{what}: {place}: {remedy}"),
        }
    }

    /// The hypervisor or QEMU did what it must not do.
    pub fn hypervisor(what: impl fmt::Display) -> Self {
        Self {
            status: HYPERVISOR_FAILED,
            message: what.to_string(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// What most of the runner returns.
pub type Result<T> = std::result::Result<T, Failure>;

/// An input or output error on `place`, as a failure of the input.
pub fn at(place: impl fmt::Display) -> impl FnOnce(std::io::Error) -> Failure {
    move |error| Failure::input(error, place, "check that it exists and that you may use it")
}
