//! How fast the simulator is on this host, and what a pick of each policy costs here.

use super::{Costs, PolicySpec, RunOptions, Scenario, Spread, Topology, VmSpec, Workload};
use crate::{
    Choice, Entitlement, Entitlements, GroupId, LocalPolicy, PcpuId, PcpuSet, PolicyOptions, Ready,
    VcpuId,
    policies::{NAMES, Table, Window},
    policy_by_name,
};
use alloc::{boxed::Box, sync::Arc, vec, vec::Vec};
use std::{
    fs,
    time::{Duration, Instant},
};

const US: u64 = 1000;
const MS: u64 = 1000 * US;

/// The machines whose speed is a figure: pCPUs, vCPUs, and events in a second that are aimed at.
pub const SIZES: [(u16, u16, u64); 3] = [
    (4, 16, 5_000_000),
    (64, 512, 2_000_000),
    (1024, 16_384, 500_000),
];

/// How many ready vCPUs the cost of a pick is measured with.
pub const CROWDS: [u16; 6] = [1, 4, 16, 64, 256, 1024];

/// How fast a machine was simulated, with all rules checked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Speed {
    /// How many pCPUs it has.
    pub pcpus: u16,
    /// How many vCPUs it has.
    pub vcpus: u16,
    /// Picks, wakes, blocks and migrations.
    pub events: u64,
    /// How long they took on one core of the host: where it says so, without what others took of it meanwhile.
    pub time: Duration,
    /// How much time passed in the machine, in ns.
    pub virtual_time: u64,
}

impl Speed {
    /// How many events there were in a second of the host.
    pub fn events_per_second(&self) -> f64 {
        self.events as f64 / self.time.as_secs_f64()
    }
}

/// What a turn costs: a pick, the charge for its time, and the return to those that are ready.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PickCost {
    /// Of which policy.
    pub policy: &'static str,
    /// How many vCPUs were ready on the pCPU.
    pub ready: u16,
    /// In ns of the host.
    pub ns: f64,
}

/// The time that this thread has a core.
struct Stopwatch {
    wall: Instant,
    on_core: Option<Duration>,
}

impl Stopwatch {
    fn start() -> Self {
        Self {
            wall: Instant::now(),
            on_core: on_core(),
        }
    }

    fn elapsed(&self) -> Duration {
        // The kernel brings its count up to date a few times in a hundredth of a second.
        let on_core = on_core().zip(self.on_core);
        let on_core = on_core.map(|(now, start)| now - start);
        let on_core = on_core.filter(|on_core| !on_core.is_zero());
        on_core.unwrap_or_else(|| self.wall.elapsed())
    }
}

/// For how long this thread has run since it began, where the kernel says so. [Linux: proc(5), schedstat]
fn on_core() -> Option<Duration> {
    let text = fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let ns = text.split_whitespace().next()?.parse().ok()?;
    (ns > 0).then_some(Duration::from_nanos(ns))
}

/// Simulates for about `wall` a machine with `policy` whose guests compute, sleep, wake each other and send each other IPIs.
/// `None`: there is no such policy, or more pCPUs than [`PcpuId::LIMIT`].
///
/// # Panics
/// A rule broke.
pub fn measure_speed(policy: &str, pcpus: u16, vcpus: u16, wall: Duration) -> Option<Speed> {
    let scenario = scenario(policy, pcpus, vcpus)?;
    let engine = scenario.engine(scenario.policy.policy().ok()?, 1, &RunOptions::default());
    // What grows only at the start has grown then.
    let mut virtual_time = 10 * MS;
    engine.run_until(virtual_time);
    let (events, start) = (engine.events(), virtual_time);
    let (started, clock) = (Instant::now(), Stopwatch::start());
    // Everything is looked at after each, which is to count for little.
    let step = (64 * MS / u64::from(pcpus)).max(MS);
    while started.elapsed() < wall {
        virtual_time += step;
        engine.run_until(virtual_time);
    }
    Some(Speed {
        pcpus,
        vcpus,
        events: engine.events() - events,
        time: clock.elapsed(),
        virtual_time: virtual_time - start,
    })
}

fn scenario(policy: &str, pcpus: u16, vcpus: u16) -> Option<Scenario> {
    PcpuId::new(pcpus.checked_sub(1)?)?;
    let work = Spread {
        least: 20 * US,
        most: 200 * US,
    };
    let sleeper = Workload::Sleeper {
        work,
        wait: Spread {
            least: 100 * US,
            most: 900 * US,
        },
    };
    let vm = |index: u16| VmSpec {
        name: "vm".into(),
        vcpus: 4,
        pool: 0,
        affinity: None,
        preferred: PcpuSet::EMPTY,
        entitlement: Entitlement::default(),
        workload: match index % 4 {
            0 => Workload::CpuBound,
            1 => Workload::WakeStorm { period: MS, work },
            2 => Workload::IpiStorm {
                work,
                to_all: false,
            },
            _ => sleeper.clone(),
        },
        start: 0,
    };
    Some(Scenario {
        duration: 0,
        warm_up: 0,
        topology: Topology {
            pcpus,
            pcpus_per_cluster: 8,
        },
        costs: Costs {
            switch: 500,
            exit: 200,
            kick_delay: 300,
            notice: 50,
            migration_near: US,
            migration_far: 5 * US,
        },
        policy: PolicySpec {
            name: policy.into(),
            options: options(pcpus, vcpus, MS),
        },
        vms: (0..vcpus / 4).map(vm).collect(),
        pools: Vec::new(),
        actions: Vec::new(),
    })
}

fn options(pcpus: u16, max_vcpus: u16, slice_ticks: u64) -> PolicyOptions {
    let window = Window {
        group: Some(GroupId::new(0)),
        ticks: 10 * slice_ticks,
    };
    let pcpus = PcpuSet::all(pcpus);
    PolicyOptions {
        slice_ticks,
        max_vcpus,
        pcpus,
        period_ticks: 10 * MS,
        table: Table::new(pcpus.iter().map(|pcpu| (pcpu, vec![window]))).ok(),
    }
}

/// What a pick of each policy costs with each number of ready vCPUs of [`CROWDS`], each measured for about `wall`.
pub fn measure_picks(wall: Duration) -> Vec<PickCost> {
    let each = NAMES
        .into_iter()
        .flat_map(|policy| CROWDS.map(|ready| (policy, ready)));
    let cost = |(policy, ready)| PickCost {
        policy,
        ready,
        ns: turn_ns(policy, ready, wall),
    };
    each.map(cost).collect()
}

fn turn_ns(policy: &str, ready: u16, wall: Duration) -> f64 {
    let slice = MS;
    let entitlements = Arc::new(Entitlements::new(ready));
    let policy =
        policy_by_name(policy, options(1, ready, slice)).expect("rule: it is one of NAMES");
    for vcpu in (0..ready).map(VcpuId::new) {
        let entitlement = Entitlement::default();
        let admitted = policy.admit(vcpu, &entitlement, PcpuSet::all(1));
        let home = admitted.expect("rule: nobody asks for more than there is");
        entitlements.set(vcpu, &entitlement);
        entitlements.set_place(vcpu, PcpuSet::all(1), home);
    }
    let mut local = policy.local(PcpuId::from_low_bits(0), &entitlements);
    let vcpus = (0..ready).map(VcpuId::new);
    vcpus.for_each(|vcpu| local.enqueue(vcpu, Ready::Woken, 0));
    let (started, clock) = (Instant::now(), Stopwatch::start());
    let (mut turns, mut now) = (0_u64, 0);
    while started.elapsed() < wall {
        for _ in 0..64 {
            now = take_turn(&mut local, now, slice);
            turns += 1;
        }
    }
    clock.elapsed().as_nanos() as f64 / turns as f64
}

fn take_turn(local: &mut Box<dyn LocalPolicy>, now: u64, slice: u64) -> u64 {
    let end = now + slice;
    if let Choice::Run(pick) = local.pick(now) {
        local.charge(pick.vcpu, slice, end);
        local.enqueue(pick.vcpu, Ready::Preempted, end);
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_has_a_speed_and_a_pick_a_cost() {
        let moment = Duration::from_millis(2);
        let speed = measure_speed("fair", 4, 16, moment).unwrap();
        assert!(speed.events > 100 && speed.virtual_time > MS, "{speed:?}");
        assert_eq!(measure_speed("lottery", 4, 16, moment), None);
        assert_eq!(measure_speed("fair", 0, 16, moment), None);
        for cost in measure_picks(Duration::from_micros(100)) {
            assert!(cost.ns > 0.0, "{cost:?}");
        }
    }
}
