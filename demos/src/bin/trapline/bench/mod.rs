//! `trapline bench`: what Trapline costs.

mod boot;
mod figures;
mod memory;
mod pair;
mod policies;
mod sim;
mod spin;
mod work;

use std::time::Duration;

use trapline_demos::host::{
    Failure,
    failure::Result,
    request::{GuestSource, Request},
    session::Ended,
};

use crate::{
    cli::{Bench, BenchOptions, MachineOptions},
    run::{self, Run},
};

const LIMIT: Duration = Duration::from_secs(600);

/// Measures; the status to end with.
pub fn bench(options: &BenchOptions) -> Result<u8> {
    match &options.what {
        Bench::Figures { cpu, record } => figures::figures(cpu, *record),
        Bench::Boot { models: true, runs } => boot::models(usize::from(*runs)),
        Bench::Boot { runs, .. } => boot::boot(usize::from(*runs)),
        Bench::Work => work::work(),
        Bench::Spin { milliseconds } => spin::spin(*milliseconds),
        Bench::Memory => memory::memory(),
        Bench::Policies => policies::policies(),
        Bench::Sim { policy } => sim::sim(policy),
        Bench::Pair { runs } => pair::pair(usize::from(*runs)),
    }
}

/// A machine with nothing special, and nothing on the terminal but the results.
fn machine(vcpus: u16, pcpus: u16, cpu: &str) -> MachineOptions {
    MachineOptions {
        vcpus: Some(vcpus),
        pcpus: Some(pcpus),
        cpu: Some(cpu.to_owned()),
        policy: None,
        slice: None,
        halt_poll: None,
        affinity: None,
        icount: false,
        timeout: None,
        quiet: true,
        gic: None,
        log: None,
        stats: None,
        control: None,
        bare: false,
        hypervisor: "hypervisor".into(),
    }
}

/// Runs `guest` to a good end, and keeps the console lines that start with one of `markers`.
fn measure(
    guest: GuestSource,
    bootargs: &str,
    machine: &MachineOptions,
    markers: &[&str],
) -> Result<Ended> {
    let request = run::request(guest, bootargs.to_owned(), machine);
    measure_all(&request, machine, markers)
}

/// As [`measure`], for a request that is there already.
fn measure_all(request: &Request, machine: &MachineOptions, markers: &[&str]) -> Result<Ended> {
    let run = Run {
        default_timeout: Some(LIMIT),
        markers,
        ..Run::default()
    };
    let ended = run.execute(request, machine)?;
    if ended.report.status == 0 {
        return Ok(ended);
    }
    if let Some(panic) = &ended.panic {
        eprint!("{panic}");
    }
    Err(Failure::hypervisor(format!(
        "the measured run failed: {}",
        ended.report.reason
    )))
}

/// What the stock guest is told to do its workload and power off.
const WORKLOAD: &str = "panic=-1 trapline=batch";
/// What it then says if all went well.
const WORKLOAD_OK: &str = "trapline: workload ok";

/// The middle one, or what lies between the two in the middle.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values[middle]
    } else {
        (values[middle - 1] + values[middle]) / 2.0
    }
}

/// The guest that measures.
fn bench_guest() -> GuestSource {
    GuestSource::Own("bench-guest".into())
}

/// The value of `key=` in a line of the guest's results.
fn field<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    line.split_ascii_whitespace()
        .find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
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
