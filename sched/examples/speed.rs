//! How fast the simulator is as it is built here, and what a pick of each policy costs on this host.
//!
//! ```console
//! $ cargo run --release -p trapline-sched --features sim --example speed      # with room for 64 pCPUs
//! ```

use std::time::Duration;

use trapline_sched::sim::speed::{SIZES, measure_picks, measure_speed};

/// How long each machine is measured.
const EACH: Duration = Duration::from_secs(2);

fn main() {
    for (pcpus, vcpus, aim) in SIZES {
        for policy in ["round-robin", "fair", "credit"] {
            // There may be no room for so many pCPUs.
            let Some(speed) = measure_speed(policy, pcpus, vcpus, EACH) else {
                continue;
            };
            let (million, aim) = (speed.events_per_second() / 1e6, aim as f64 / 1e6);
            println!("{pcpus} x {vcpus} {policy}: {million:.2} M/s, aim {aim} M/s");
        }
    }
    for cost in measure_picks(Duration::from_millis(100)) {
        println!("{} {} {:.0} ns", cost.policy, cost.ready, cost.ns);
    }
}
