//! A lock that all vCPUs of a guest take again and again: how often they get it when there are more vCPUs than pCPUs, against as
//! many as there are. By counting instructions, so the same on every run.

use trapline_demos::host::{
    Failure,
    failure::Result,
    request::{GuestRequest, GuestSource},
};

use super::{field, machine, measure_all};
use crate::{cli::MachineOptions, run};

const GUEST: &str = "bench-guest";
const MARKERS: [&str; 2] = ["SPIN ", "BENCH ERROR"];
const PCPUS: u16 = 4;
const MEMORY_MIB: u64 = 64;
/// When the guests begin, by their own clocks, in milliseconds: all are there by then.
const AFTER: u32 = 100;

/// How vCPUs are scheduled and how they wait for the lock.
struct Way {
    name: &'static str,
    policy: &'static str,
    wait: &'static str,
}

const fn way(name: &'static str, policy: &'static str, wait: &'static str) -> Way {
    Way { name, policy, wait }
}

const PLAIN: Way = way("fair", "fair", "spin");
const WAYS: [Way; 5] = [
    PLAIN,
    way("fair, yields to anybody", "fair", "yield"),
    way("fair, yields to the holder", "fair", "directed"),
    way("fair, yields to it if preempted", "fair", "state"),
    way("gang", "gang", "spin"),
];

pub fn spin(milliseconds: u32) -> Result<u8> {
    for lock in ["ticket", "test-and-set"] {
        let rounds = |guests, vcpus, way| rounds(guests, vcpus, way, lock, milliseconds);
        let alone = rounds(1, PCPUS, &PLAIN)?;
        println!("{lock} lock, 1 guest with {PCPUS} vCPUs on {PCPUS} pCPUs: taken {alone} times");
        println!(
            "  {:34} 2 x {PCPUS}  4 x {PCPUS}  1 x {}  1 x {}",
            "",
            2 * PCPUS,
            4 * PCPUS
        );
        for way in &WAYS {
            print!("  {:34}", way.name);
            for (guests, vcpus) in [(2, PCPUS), (4, PCPUS), (1, 2 * PCPUS), (1, 4 * PCPUS)] {
                let ratio = rounds(guests, vcpus, way)? as f64 / alone as f64;
                print!("  {ratio:4.2} ");
            }
            println!();
        }
    }
    Ok(0)
}

/// How often the vCPUs of `guests` guests together have taken the locks of their guests.
fn rounds(guests: usize, vcpus: u16, way: &Way, lock: &str, milliseconds: u32) -> Result<u64> {
    let options = MachineOptions {
        icount: true,
        policy: Some(way.policy.to_owned()),
        ..machine(vcpus, PCPUS, "cortex-a72")
    };
    let parameters = format!(
        "figures=spin lock={lock} wait={} milliseconds={milliseconds} after={AFTER}",
        way.wait
    );
    let guest = |index: usize| GuestRequest {
        name: format!("guest{index}"),
        memory_mib: MEMORY_MIB,
        ..GuestRequest::new(
            GuestSource::Own(GUEST.into()),
            parameters.clone(),
            vcpus.into(),
        )
    };
    let request = run::machine((0..guests).map(guest).collect(), &options);
    let ended = measure_all(&request, &options, &MARKERS)?;
    let rounds = ended.marked.iter().map(|lines| {
        let result: Option<u64> = lines
            .iter()
            .find_map(|line| field(line, "iterations")?.parse().ok());
        let is_good = !lines.iter().any(|line| line.starts_with(MARKERS[1]));
        result
            .filter(|_| is_good)
            .ok_or_else(|| Failure::hypervisor(format!("the bench guest did not count: {lines:?}")))
    });
    rounds.sum::<Result<u64>>()
}
