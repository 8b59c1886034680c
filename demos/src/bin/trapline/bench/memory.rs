//! Where the hypervisor's memory goes, by its own counters: runs that differ in one VM or one vCPU are compared.

use trapline_demos::host::{
    Failure,
    failure::Result,
    request::{GuestRequest, GuestSource},
};

use super::{machine, measure_all};
use crate::run;

/// A guest that is through at once.
const GUEST: &str = "test-guest";
const PARAMETERS: &str = "test=vgic-priority";
const MARKER: &str = "TEST ";
const MEMORY_MIB: u64 = 64;

/// What one run reported, in bytes.
struct Memory {
    text: u64,
    rodata: u64,
    data: u64,
    stacks: u64,
    heap_room: u64,
    heap_at_start: u64,
}

pub fn memory() -> Result<u8> {
    let one = run_guests(1, 1, 1)?;
    println!("text           {:>9}", one.text);
    println!("rodata         {:>9}", one.rodata);
    println!("data and bss   {:>9}", one.data);
    println!("stacks         {:>9}", one.stacks);
    println!("room for heap  {:>9}", one.heap_room);
    let heap = one.heap_at_start;
    println!("heap at start  {heap:>9}  one VM with one vCPU on one pCPU");
    for (what, vms, vcpus, pcpus) in [
        ("a vCPU", 1, 2, 1),
        ("a VM with a vCPU", 2, 1, 1),
        ("a pCPU", 1, 1, 2),
    ] {
        let more = run_guests(vms, vcpus, pcpus)?.heap_at_start;
        println!("{what:16} {:>7}  more", more.saturating_sub(heap));
    }
    for (vms, vcpus, pcpus) in [(8, 64, 4), (8, 64, 64), (32, 16, 64)] {
        let heap = run_guests(vms, vcpus, pcpus)?.heap_at_start;
        println!("heap at start  {heap:>9}  {vms} VMs with {vcpus} vCPUs on {pcpus} pCPUs");
    }
    Ok(0)
}

fn run_guests(vms: usize, vcpus: usize, pcpus: u16) -> Result<Memory> {
    let options = machine(1, pcpus, "cortex-a72");
    let guest = |index: usize| GuestRequest {
        name: format!("guest{index}"),
        memory_mib: MEMORY_MIB,
        ..GuestRequest::new(GuestSource::Own(GUEST.into()), PARAMETERS.into(), vcpus)
    };
    let request = run::machine((0..vms).map(guest).collect(), &options);
    let ended = measure_all(&request, &options, &[MARKER])?;
    let counter = |name: &str| {
        let value = ended.report.counters.get(&format!("memory_{name}"));
        value
            .copied()
            .ok_or_else(|| Failure::hypervisor(format!("the hypervisor did not report {name}")))
    };
    Ok(Memory {
        text: counter("text")?,
        rodata: counter("rodata")?,
        data: counter("data")?,
        stacks: counter("stacks")?,
        heap_room: counter("heap_room")?,
        heap_at_start: counter("heap_at_start")?,
    })
}
