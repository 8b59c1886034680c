//! Instructions for a switch and for wake-ups under each policy, all on one pCPU.
//!
//! A switch is the whole of it: from the WFI of one vCPU of a VM until its sibling executes what comes after its own, with the
//! guest's part. What a policy takes of that is the difference to round-robin, whose ranking is a line. A wake-up is from the
//! deadline of a vCPU's timer to its handler: on a pCPU that idles, and on one that another VM's vCPU keeps busy, which is
//! preempted if the policy says so.

use trapline_demos::{
    config::{EntitlementConfig, WindowConfig},
    host::{Failure, failure::Result, request::GuestRequest},
};
use trapline_sched::policies::{Fair, NAMES, Pinned, RoundRobin, TableDriven};

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
    halt_poll_us: None,
};
/// How long turns, slots and windows are.
const SLICE_US: u32 = 200;
/// Under fair, whoever wants little at a time has it soon.
const SHORT_SLICE_US: u32 = 50;
/// Those that switch to each other, and the one that wakes.
const SWITCH: (&str, usize) = ("figures=switch", 2);
const WAKE: (&str, usize) = ("figures=wake", 1);
/// What the busy one does: longer than the other takes its samples.
const BUSY: (&str, usize) = ("figures=work milliseconds=80", 1);

pub fn policies() -> Result<u8> {
    println!(
        "policy       vcpu_switch  more than {}  wake_idle  wake_busy  at most",
        RoundRobin::NAME
    );
    let plain = figure(RoundRobin::NAME, "vcpu_switch", &[SWITCH])?.median;
    for policy in NAMES {
        let switch = match policy {
            RoundRobin::NAME => plain,
            _ => figure(policy, "vcpu_switch", &[SWITCH])?.median,
        };
        let idle = figure(policy, "wake", &[WAKE])?.median;
        // Under pinned, the pCPU belongs to one VM alone.
        let shares = policy != Pinned::NAME;
        let busy = shares.then(|| figure(policy, "wake", &[WAKE, BUSY]));
        let busy = busy.transpose()?;
        let busy = busy.map_or_else(Default::default, |busy| {
            [busy.median, busy.most].map(|ticks| ticks.to_string())
        });
        let more = switch as i64 - plain as i64;
        println!(
            "{policy:12} {switch:>11}  {more:>+21}  {idle:>9}  {:>9}  {:>7}",
            busy[0], busy[1]
        );
    }
    Ok(0)
}

/// Of many samples.
#[derive(Clone, Copy)]
struct Figure {
    median: u64,
    most: u64,
}

/// What the first of the guests with these parameters and so many vCPUs measures as `name`, on one pCPU.
fn figure(policy: &str, name: &str, guests: &[(&str, usize)]) -> Result<Figure> {
    let busy = if guests.len() > 1 {
        " beside a busy guest"
    } else {
        ""
    };
    eprintln!("trapline: {policy}: {name}{busy}");
    let options = MachineOptions {
        icount: true,
        policy: Some(policy.to_owned()),
        slice: Some(SLICE_US),
        ..machine(1, 1, "cortex-a72")
    };
    let guest = |(index, &(parameters, vcpus)): (usize, &(&str, usize))| GuestRequest {
        name: format!("guest{index}"),
        entitlement: match index {
            0 => EntitlementConfig {
                slice_us: (policy == Fair::NAME).then_some(SHORT_SLICE_US),
                ..FIRST
            },
            _ => EntitlementConfig::default(),
        },
        ..GuestRequest::new(bench_guest(), parameters.into(), vcpus)
    };
    let mut request = run::machine(guests.iter().enumerate().map(guest).collect(), &options);
    if policy == TableDriven::NAME {
        let window = |guest| WindowConfig {
            pcpus: 1,
            guest: Some(guest),
            us: SLICE_US,
        };
        request.policy.windows = (0..guests.len() as u16).map(window).collect();
    }
    let ended = measure_all(&request, &options, &[MARKER])?;
    let mut lines = ended.marked[0].iter();
    let line = lines.find(|line| field(line, "name") == Some(name));
    let value = |key| line.and_then(|line| field(line, key)?.parse().ok());
    let figure = value("instructions").zip(value("most"));
    let (median, most) = figure
        .ok_or_else(|| Failure::hypervisor(format!("{policy}: the guest does not say `{name}`")))?;
    Ok(Figure { median, most })
}
