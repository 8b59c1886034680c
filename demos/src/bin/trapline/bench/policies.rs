//! Instructions for a switch and for wake-ups under each policy.
//!
//! A wake-up is from the deadline of a vCPU's timer to its handler: on a pCPU that idles, and on one that another VM's vCPU keeps
//! busy, which is preempted if the policy says so.

use trapline_demos::{
    config::EntitlementConfig,
    host::{Failure, failure::Result, request::GuestRequest},
};
use trapline_sched::policies::TableDriven;

use super::{bench_guest, field, machine, measure_all};
use crate::{cli::MachineOptions, run};

const MARKER: &str = "BENCH name=";
/// What the one that wakes is promised, by those that promise: a tenth of the pCPU, and before all others.
const FIRST: EntitlementConfig = EntitlementConfig {
    weight: 1024,
    slice_us: None,
    cap: None,
    priority: 1,
    reservation_us: Some((1000, 10_000)),
};
/// How long turns are.
const SLICE_US: u32 = 1000;
/// What the busy one does: longer than the other takes its samples.
const BUSY: &str = "figures=work milliseconds=200";

pub fn policies() -> Result<u8> {
    println!("policy       vcpu_switch  wake_idle  wake_busy");
    // A table needs windows, and lets nobody run in those of others.
    let names = trapline_sched::policies::NAMES.into_iter();
    for policy in names.filter(|&name| name != TableDriven::NAME) {
        let switch = figure(policy, "vcpu_switch", &[("figures=switch", 2)])?;
        let idle = figure(policy, "wake", &[("figures=wake", 1)])?;
        let busy = figure(policy, "wake", &[("figures=wake", 1), (BUSY, 1)])?;
        println!("{policy:12} {switch:>11}  {idle:>9}  {busy:>9}");
    }
    Ok(0)
}

/// What the first of the guests with these parameters and so many vCPUs measures as `name`, on one pCPU.
fn figure(policy: &str, name: &str, guests: &[(&str, usize)]) -> Result<u64> {
    let options = MachineOptions {
        icount: true,
        policy: Some(policy.to_owned()),
        slice: Some(SLICE_US),
        ..machine(1, 1, "cortex-a72")
    };
    let guest = |(index, &(parameters, vcpus)): (usize, &(&str, usize))| GuestRequest {
        name: format!("guest{index}"),
        entitlement: if index == 0 {
            FIRST
        } else {
            EntitlementConfig::default()
        },
        ..GuestRequest::new(bench_guest(), parameters.into(), vcpus)
    };
    let request = run::machine(guests.iter().enumerate().map(guest).collect(), &options);
    let ended = measure_all(&request, &options, &[MARKER])?;
    let mut lines = ended.marked[0].iter();
    let line = lines.find(|line| field(line, "name") == Some(name));
    let value = line.and_then(|line| field(line, "instructions")?.parse().ok());
    value.ok_or_else(|| Failure::hypervisor(format!("{policy}: the guest does not say `{name}`")))
}
