//! The runtime of our bare-metal guests: what a program needs to run on all CPUs of a machine that looks like QEMU `virt`.
//!
//! The same image runs on bare QEMU, which is the truth, and under Trapline. It starts at EL1 with the device tree's address in
//! x0, turns the MMU on with a flat map, and calls the program that [`program!`](crate::guest_program) names. Programs take
//! their parameters from the kernel command line, report on the PL011, and end by PSCI SYSTEM_OFF.
//!
//! ```text
//!  guest_start ----> boot ----> program's main -----> power::start_cpu
//!  guest_secondary -> boot ---> program's secondary <------'
//!  vectors ---------> program's interrupt, program's exception
//! ```
//! What does no input or output is also built on the host, where it is tested.

#[cfg(target_os = "none")]
pub mod boot;
#[cfg(target_os = "none")]
pub mod console;
#[cfg(target_os = "none")]
pub mod cpu;
#[cfg(target_os = "none")]
pub mod el0;
#[cfg(target_os = "none")]
pub mod exceptions;
#[cfg(target_os = "none")]
pub mod gic;
#[cfg(target_os = "none")]
pub mod hypervisor;
#[cfg(target_os = "none")]
pub mod its;
#[cfg(target_os = "none")]
pub mod lock;
#[cfg(target_os = "none")]
pub mod machine;
#[cfg(target_os = "none")]
pub mod mmio;
pub mod parameters;
#[cfg(target_os = "none")]
pub mod patterns;
#[cfg(target_os = "none")]
pub mod power;
pub mod random;
pub mod sgi;
#[cfg(target_os = "none")]
pub mod timer;
#[cfg(target_os = "none")]
pub mod virtio;
#[cfg(target_os = "none")]
pub mod wipe;

/// How many CPUs a guest can have; the linker script reserves a stack for each.
pub const MAX_CPUS: usize = 64;
