//! What this machine is: QEMU `virt` at EL2, with GICv3 and 1 to 64 pCPUs or GICv2 and 1 to 8, and firmware PSCI.
//!
//! ```text
//! QEMU -> boot (MMU off) -> start -> trapline_main(BootInfo)      the boot pCPU
//!                             '-> smp -> trapline_secondary(id)   each other one
//! ```
//! An embedder replaces this crate: `trapline-sched` and `trapline-vcpu` know it only by their host traits.
//! What is pure (the device tree, the frames of the outside channel) is tested on the build machine; the
//! rest, under `el2`, exists only for `aarch64-unknown-none-softfloat`.
#![cfg_attr(not(test), no_std)]

#[cfg(all(target_arch = "aarch64", target_os = "none"))]
extern crate alloc;

pub mod dt;
pub mod wire;

#[cfg(all(target_arch = "aarch64", target_os = "none"))]
mod el2;
#[cfg(all(target_arch = "aarch64", target_os = "none"))]
pub use el2::*;
