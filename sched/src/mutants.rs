//! Breaks the code on purpose: a build with `--cfg mutants` has all mutants in it, and `TRAPLINE_MUTANT` names the one that is at
//! work. One build for all of them is what lets `.ci/mutate` try each in a second.
//!
//! A mutant is a `cfg!(mutant = "name")` in a condition, in no `const fn`. A build without `--cfg mutants` has at most the one that
//! `--cfg mutant="name"` names.

use std::{env, string::String, sync::LazyLock};

/// As the standard one, but for `mutant`.
macro_rules! cfg {
    (mutant = $name:literal) => {
        $crate::mutants::is_at_work($name)
    };
    ($($condition:tt)*) => {
        core::cfg!($($condition)*)
    };
}

/// The mutant `name` is the one that the environment names.
pub(crate) fn is_at_work(name: &str) -> bool {
    static AT_WORK: LazyLock<Option<String>> = LazyLock::new(|| env::var("TRAPLINE_MUTANT").ok());
    AT_WORK.as_deref() == Some(name)
}
