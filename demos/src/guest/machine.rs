//! What the device tree says about this machine: its CPUs, its firmware conduit, its interrupt controller, its command line.

use core::{
    ops::Range,
    sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
};

use fdt::Fdt;

use super::{MAX_CPUS, gic, parameters::Parameters, sgi::AFFINITY};

static DEVICE_TREE: AtomicUsize = AtomicUsize::new(0);
static CPU_COUNT: AtomicUsize = AtomicUsize::new(0);
static MPIDRS: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];
static CALLS_BY_SMC: AtomicBool = AtomicBool::new(false);

/// Reads the device tree; the boot CPU does it once, before any other CPU runs.
pub(super) fn discover(device_tree: usize) {
    DEVICE_TREE.store(device_tree, Ordering::Relaxed);
    let tree = tree();
    let mut count = 0;
    for (cpu, mpidr) in tree.cpus().zip(&MPIDRS) {
        mpidr.store(cpu.ids().first() as u64 & AFFINITY, Ordering::Relaxed);
        count += 1;
    }
    CPU_COUNT.store(count, Ordering::Relaxed);
    let method = tree
        .find_node("/psci")
        .and_then(|node| node.property("method"))
        .and_then(|method| method.as_str());
    CALLS_BY_SMC.store(method == Some("smc"), Ordering::Relaxed);
    gic::set_version(tree.find_compatible(&["arm,cortex-a15-gic"]).is_some());
}

fn tree() -> Fdt<'static> {
    // SAFETY: the boot protocol put a device tree there, apart from this image, and nobody writes to it.
    let tree = unsafe { Fdt::from_ptr(DEVICE_TREE.load(Ordering::Relaxed) as *const u8) };
    tree.expect("x0 at entry is the address of a device tree")
}

/// Where the device tree itself is.
pub fn device_tree() -> Range<usize> {
    let start = DEVICE_TREE.load(Ordering::Relaxed);
    start..start + tree().total_size()
}

/// The first range of memory.
pub fn memory() -> Range<usize> {
    let tree = tree();
    let memory = tree.memory();
    let region = memory.regions().next().expect("a machine has memory");
    let start = region.starting_address.addr();
    start..start + region.size.expect("a range has a length")
}

/// How many CPUs the machine has: 1 to [`MAX_CPUS`].
pub fn cpu_count() -> usize {
    CPU_COUNT.load(Ordering::Relaxed)
}

/// The affinity of the CPU at `index`, which is below [`cpu_count`].
pub fn mpidr(index: usize) -> u64 {
    MPIDRS[index].load(Ordering::Relaxed)
}

/// PSCI calls are made by SMC, not by HVC.
pub fn calls_by_smc() -> bool {
    CALLS_BY_SMC.load(Ordering::Relaxed)
}

/// The words of the kernel command line.
pub fn parameters() -> Parameters<'static> {
    // `chosen` of the crate insists on the node; a tree without one has no parameters.
    let bootargs = tree()
        .find_node("/chosen")
        .and_then(|chosen| chosen.property("bootargs"));
    Parameters::new(bootargs.and_then(|text| text.as_str()).unwrap_or(""))
}
