//! `trapline sim`: what a scheduling policy does to VMs on a machine that exists only in memory.
//!
//! ```text
//!  SCENARIO.toml -> file (checked, with lines) -> Scenario -> run, or hunt (many seeds) -> summary, json, plot
//! ```
//! Elsewhere: the machine itself, and the rules that are checked (`trapline_sched::sim`).

mod file;
pub mod hunt;
pub mod json;
pub mod plot;
pub mod shipped;
pub mod summary;

pub use file::ScenarioFile;
pub use json::Broken;
pub use trapline_sched::sim::{Failure, Outcome, RunOptions, Scenario, failure_of_panic, run};
