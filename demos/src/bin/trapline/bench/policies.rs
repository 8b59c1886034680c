//! Instructions for a switch and for wake-ups under each policy, all on one pCPU.
//!
//! A switch is the whole of it: from the WFI of one vCPU of a VM until its sibling executes what comes after its own, with the
//! guest's part. What of that is scheduling is counted by itself, at EL2, by `bench-hypervisor`: the wake-up, the wait, and the
//! scheduler's decisions, without what they make of the hardware. A wake-up is from the deadline of a vCPU's timer to its handler:
//! on a pCPU that idles, and on one that another VM's vCPU keeps busy, which is preempted if the policy says so.

use trapline_demos::{
    config::{EntitlementConfig, WindowConfig},
    host::{Failure, failure::Result, request::GuestRequest, session::Ended},
};
use trapline_sched::policies::{Fair, NAMES, Pinned, RoundRobin, TableDriven};

use super::{bench_guest, field, machine, measure_all};
use crate::{cli::MachineOptions, run};

const MARKERS: [&str; 2] = ["BENCH name=", "WORK "];
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
/// Those that switch to each other, and the one that wakes. First all boot, which takes budgets and credit, and has exits that take
/// longer than a switch.
const SWITCH: (&str, usize) = ("figures=switch after=200", 2);
const WAKE: (&str, usize) = ("figures=wake after=200", 1);
/// What the busy one does: longer than the other takes its samples.
const BUSY: (&str, usize) = ("figures=work after=200 milliseconds=80", 1);
/// The image that counts what is scheduling, and what it says.
const COUNTER: &str = "bench-hypervisor";
const SCHEDULING: &str = "scheduling";
const SLOW_BIND: &str = "scheduling_slow_bind";
/// By how much a switch with a slow bind costs more: 1000 ticks, and up to the next look at the counter.
const SLOWER: std::ops::RangeInclusive<u64> = 1000..=1020;

pub fn policies() -> Result<u8> {
    let plain = RoundRobin::NAME;
    println!(
        "policy       scheduling  more than {plain}  vcpu_switch  more than {plain}  wake_idle  wake_busy  at most"
    );
    let of_plain = (scheduling(plain)?, switch(plain)?);
    for policy in NAMES {
        let (scheduling, switch) = match policy {
            RoundRobin::NAME => of_plain,
            _ => (scheduling(policy)?, switch(policy)?),
        };
        let idle = figure(policy, "wake", &[WAKE])?.median;
        // Under pinned, the pCPU belongs to one VM alone.
        let shares = policy != Pinned::NAME;
        let busy = shares.then(|| figure(policy, "wake", &[WAKE, BUSY]));
        let busy = busy.transpose()?;
        let busy = busy.map_or_else(Default::default, |busy| {
            [busy.median, busy.most].map(|ticks| ticks.to_string())
        });
        let [more_scheduling, more] = [(scheduling, of_plain.0), (switch, of_plain.1)]
            .map(|(own, plain)| own as i64 - plain as i64);
        println!(
            "{policy:12} {scheduling:>10}  {more_scheduling:>+21}  {switch:>11}  {more:>+21}  {idle:>9}  {:>9}  {:>7}",
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

/// What a switch takes from one vCPU to the other.
fn switch(policy: &str) -> Result<u64> {
    Ok(figure(policy, "vcpu_switch", &[SWITCH])?.median)
}

/// What of a switch is scheduling.
fn scheduling(policy: &str) -> Result<u64> {
    eprintln!("trapline: {policy}: {SCHEDULING}");
    let ended = run_guests(policy, &[SWITCH], COUNTER)?;
    let counter = |name| {
        let value = ended.report.counters.get(name).copied();
        value.ok_or_else(|| Failure::hypervisor(format!("{policy}: {COUNTER} counts no `{name}`")))
    };
    checked(counter(SCHEDULING)?, counter(SLOW_BIND)?)
        .ok_or_else(|| Failure::hypervisor(format!("{policy}: {COUNTER} does not count switches")))
}

/// `ticks`, if that many are `slow` ones less what the slow bind takes once.
fn checked(ticks: u64, slow: u64) -> Option<u64> {
    SLOWER.contains(&slow.checked_sub(ticks)?).then_some(ticks)
}

/// What the first of the guests with these parameters and so many vCPUs measures as `name`, on one pCPU.
fn figure(policy: &str, name: &str, guests: &[(&str, usize)]) -> Result<Figure> {
    let busy = if guests.len() > 1 {
        " beside a busy guest"
    } else {
        ""
    };
    eprintln!("trapline: {policy}: {name}{busy}");
    let ended = run_guests(policy, guests, "hypervisor")?;
    if !ended.marked.iter().skip(1).all(|lines| was_busy(lines)) {
        let why = format!("{policy}: the busy guest is not busy while the other measures");
        return Err(Failure::hypervisor(why));
    }
    let mut lines = ended.marked[0].iter();
    let line = lines.find(|line| field(line, "name") == Some(name));
    let value = |key| line.and_then(|line| field(line, key)?.parse().ok());
    let figure = value("instructions").zip(value("most"));
    let (median, most) = figure
        .ok_or_else(|| Failure::hypervisor(format!("{policy}: the guest does not say `{name}`")))?;
    Ok(Figure { median, most })
}

/// The guest that says `lines` worked, and began when it was told to.
fn was_busy(lines: &[String]) -> bool {
    let has_worked =
        |line: &String| line.starts_with(MARKERS[1]) && field(line, "late_us") == Some("0");
    lines.iter().any(has_worked)
}

/// Runs guests with these parameters and so many vCPUs on one pCPU, counting instructions.
fn run_guests(policy: &str, guests: &[(&str, usize)], hypervisor: &str) -> Result<Ended> {
    let options = MachineOptions {
        icount: true,
        policy: Some(policy.to_owned()),
        slice: Some(SLICE_US),
        hypervisor: hypervisor.to_owned(),
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
    measure_all(&request, &options, &MARKERS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_that_does_not_grow_with_the_bind_is_none() {
        assert_eq!(checked(1200, 2205), Some(1200));
        for slow in [0, 1200, 2199, 2221, 3210] {
            assert_eq!(checked(1200, slow), None, "{slow}");
        }
    }

    #[test]
    fn a_guest_that_is_busy_too_late_is_noticed() {
        let says = |line: &str| was_busy(&[line.to_owned()]);
        assert!(says("WORK cpus=1 iterations=3 least=3 most=3 late_us=0"));
        assert!(!says("WORK cpus=1 iterations=3 least=3 most=3 late_us=1"));
        assert!(!says("WORK cpus=1 iterations=3 least=3 most=3"));
        assert!(!was_busy(&[]));
    }
}
