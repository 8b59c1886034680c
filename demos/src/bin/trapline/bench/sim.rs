//! How fast the simulator is on this host, and what a pick of each policy costs there. In a release build, or it says nothing.

use std::time::Duration;

use trapline_demos::host::{Failure, failure::Result};
use trapline_sched::sim::speed::{CROWDS, SIZES, measure_picks, measure_speed};

/// For how long each figure is measured.
const EACH: Duration = Duration::from_secs(3);
const PICKS: Duration = Duration::from_millis(200);

pub fn sim(policy: &str) -> Result<u8> {
    if cfg!(debug_assertions) {
        eprintln!(
            "trapline: this is a build for development: see what `cargo run --release -- bench sim` says"
        );
    }
    println!("pCPUs   vCPUs  million events a second    aim");
    for (pcpus, vcpus, aim) in SIZES {
        let speed = measure_speed(policy, pcpus, vcpus, EACH).ok_or_else(|| {
            let what = format!("unknown policy `{}`", policy.escape_debug());
            let known = trapline_sched::policies::NAMES.join(", ");
            Failure::input(what, "--policy", &format!("choose one of {known}"))
        })?;
        let million = speed.events_per_second() / 1e6;
        println!(
            "{pcpus:5}  {vcpus:6}  {million:23.2}  {:5.1}",
            aim as f64 / 1e6
        );
    }
    println!("\nns for a pick, its charge and its return, with so many ready on the pCPU");
    let headings: Vec<String> = CROWDS.iter().map(|crowd| format!("{crowd:7}")).collect();
    println!("{:11}{}", "policy", headings.concat());
    for costs in measure_picks(PICKS).chunks(CROWDS.len()) {
        let cells: Vec<String> = costs
            .iter()
            .map(|cost| format!("{:7.0}", cost.ns))
            .collect();
        println!("{:11}{}", costs[0].policy, cells.concat());
    }
    Ok(0)
}
