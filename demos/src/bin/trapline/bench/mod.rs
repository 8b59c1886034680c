//! `trapline bench`: what Trapline costs.

mod boot;
mod figures;
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
        Bench::Boot { runs } => boot::boot(usize::from(*runs)),
        Bench::Work => work::work(),
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
        affinity: None,
        icount: false,
        timeout: None,
        quiet: true,
        log: None,
        stats: None,
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
    let request: Request = run::request(guest, bootargs.to_owned(), machine);
    let run = Run {
        default_timeout: Some(LIMIT),
        markers,
        ..Run::default()
    };
    let ended = run.execute(&request, machine)?;
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

/// The guest that measures.
fn bench_guest() -> GuestSource {
    GuestSource::Own("bench-guest".into())
}

/// The value of `key=` in a line of the guest's results.
fn field<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    line.split_ascii_whitespace()
        .find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
}
