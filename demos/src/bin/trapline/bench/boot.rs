//! Wall clock from start to power-off of the stock guest. The machines take turns, so that a slow moment of this host hits
//! all of them.

use trapline_demos::host::{Failure, failure::Result, request::GuestSource, setup::qemu::Qemu};

use super::{WORKLOAD, WORKLOAD_OK, machine, measure, median};
use crate::cli::MachineOptions;

/// What the machines are compared with.
fn bare(cpu: &str) -> MachineOptions {
    MachineOptions {
        bare: true,
        ..machine(4, 4, cpu)
    }
}

pub fn boot(runs: usize) -> Result<u8> {
    let cpu = "cortex-a72";
    let machines = [
        ("bare QEMU, 4 CPUs", bare(cpu)),
        ("4 vCPUs on 4 pCPUs", machine(4, 4, cpu)),
        ("8 vCPUs on 4 pCPUs", machine(8, 4, cpu)),
    ];
    let medians = medians(&machines, runs)?;
    for ((name, _), median) in machines.iter().zip(medians) {
        println!(
            "{name}: median {median:.2} s, ratio {:.2}",
            median / medians[0]
        );
    }
    Ok(0)
}

/// Four on four against bare QEMU, for each model that this QEMU has.
pub fn models(runs: usize) -> Result<u8> {
    let (known, unknown) = Qemu::set_up()?.tested_models();
    for cpu in known {
        let machines = [
            (format!("{cpu}, bare QEMU"), bare(cpu)),
            (format!("{cpu}, 4 vCPUs on 4 pCPUs"), machine(4, 4, cpu)),
        ];
        let [bare, ours] = medians(&machines, runs)?;
        println!(
            "{cpu:12} bare {bare:6.2} s, 4 vCPUs on 4 pCPUs {ours:6.2} s, ratio {:.2}",
            ours / bare
        );
    }
    for cpu in unknown {
        println!("{cpu:12} this QEMU has no such model");
    }
    Ok(0)
}

/// The median of `runs` runs of each machine, in seconds.
fn medians<const N: usize, S: AsRef<str>>(
    machines: &[(S, MachineOptions); N],
    runs: usize,
) -> Result<[f64; N]> {
    let mut seconds = [const { Vec::new() }; N];
    for run in 0..runs {
        for ((name, options), times) in machines.iter().zip(&mut seconds) {
            let name = name.as_ref();
            let ended = measure(GuestSource::Stock, WORKLOAD, options, &[WORKLOAD_OK])?;
            if ended.marked[0].is_empty() {
                return Err(Failure::hypervisor(format!("the workload failed: {name}")));
            }
            let wall = ended.report.wall_seconds;
            eprintln!("trapline: run {} of {runs}: {name}: {wall:.2} s", run + 1);
            times.push(wall);
        }
    }
    Ok(seconds.map(median))
}
