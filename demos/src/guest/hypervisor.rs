//! What Trapline offers a guest that has more CPUs than the machine: letting others run, and seeing who runs.
//!
//! The numbers are written out here: a guest that took them from the crate that the hypervisor uses could not see a wrong one.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::{MAX_CPUS, machine, mmio, power};

/// Lets anybody run.
pub const YIELD: u32 = 0x8600_0020;
/// Lets the CPU with the affinity in w1 run.
pub const YIELD_TO_32: u32 = 0x8600_0021;
/// Lets the CPU with the affinity in x1 run.
pub const YIELD_TO: u32 = 0xc600_0021;
/// Where the state of the CPU with the affinity in x1 is read.
pub const CPU_STATE: u32 = 0xc600_0022;

/// What these functions return in x0, beside SUCCESS and NOT_SUPPORTED as PSCI has them. [DEN0028: Return codes]
pub mod status {
    /// It has no effect now.
    pub const NOT_REQUIRED: i64 = -2;
    /// There is no such CPU.
    pub const INVALID_PARAMETER: i64 = -3;
}

/// How a CPU is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Activity {
    /// It runs.
    Running,
    /// It could run, and does not.
    Preempted,
    /// It waits, or is off.
    Waiting,
}

static STATES: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

/// Lets others run, whoever it is.
pub fn yield_to_anybody() {
    power::call(YIELD, [0; 3]);
}

/// Lets the CPU with this affinity run, if it can.
pub fn yield_to(affinity: u64) {
    power::call(YIELD_TO, [affinity, 0, 0]);
}

/// Asks where the states of all CPUs are; false if there are none.
pub fn find_states() -> bool {
    (0..machine::cpu_count()).all(|index| {
        let address = power::call(CPU_STATE, [machine::mpidr(index), 0, 0]);
        STATES[index].store(address as u64, Relaxed);
        address > 0
    })
}

/// How the CPU at `index` is, once its state has been found.
pub fn activity(index: usize) -> Activity {
    match mmio::read32(STATES[index].load(Relaxed) as usize) {
        0 => Activity::Running,
        1 => Activity::Preempted,
        _ => Activity::Waiting,
    }
}
