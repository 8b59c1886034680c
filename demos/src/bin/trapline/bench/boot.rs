//! Wall clock from start to power-off of the stock guest. The machines take turns, so that a slow moment of this host hits
//! all of them.

use trapline_demos::host::{Failure, failure::Result, request::GuestSource};

use super::{machine, measure};
use crate::cli::MachineOptions;

const WORKLOAD_OK: &str = "trapline: workload ok";

pub fn boot(runs: usize) -> Result<u8> {
    let bare = MachineOptions {
        bare: true,
        ..machine(4, 4, "cortex-a72")
    };
    let machines = [
        ("bare QEMU, 4 CPUs", bare),
        ("4 vCPUs on 4 pCPUs", machine(4, 4, "cortex-a72")),
        ("8 vCPUs on 4 pCPUs", machine(8, 4, "cortex-a72")),
    ];
    let mut seconds = machines.each_ref().map(|_| Vec::new());
    for run in 0..runs {
        for ((name, options), times) in machines.iter().zip(&mut seconds) {
            let ended = measure(
                GuestSource::Stock,
                "panic=-1 trapline=batch",
                options,
                &[WORKLOAD_OK],
            )?;
            if ended.marked[0].is_empty() {
                return Err(Failure::hypervisor(format!("the workload failed: {name}")));
            }
            eprintln!(
                "trapline: run {} of {runs}: {name}: {:.2} s",
                run + 1,
                ended.report.wall_seconds
            );
            times.push(ended.report.wall_seconds);
        }
    }
    let medians = seconds.map(median);
    for ((name, _), median) in machines.iter().zip(medians) {
        println!(
            "{name}: median {median:.2} s, ratio {:.2}",
            median / medians[0]
        );
    }
    Ok(0)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values[middle]
    } else {
        (values[middle - 1] + values[middle]) / 2.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
    }
}
