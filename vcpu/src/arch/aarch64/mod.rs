//! AArch64 at EL2 with E2H=0.
//!
//! | file | question |
//! |---|---|
//! | `percpu` | what happens on one pCPU, from exit to exit |
//! | `hardware` | how do a vCPU's registers get into a pCPU and out of it |
//! | `switch` | how does a pCPU enter a guest and come back |
//! | [`registers`] | which EL1 registers move when a pCPU changes vCPU |
//! | `fp` | how do FP and SIMD registers move, on first use |
//! | `debug` | how do debug registers move, for a guest that debugs itself |
//! | `interface` | how does the vGIC reach this pCPU's list registers, in system registers or in memory |
//! | [`gich`] | how does GICv2 lay them out |
//! | [`control`] | what does EL2 trap while guests run |
//! | `takeover` | how do its control registers change hands between the host and us |
//! | `fault` | what does the hardware say about a fault, and how does a guest take one |
//! | `id` | what does a pCPU say about itself |
//! | `access` | who does the loads and stores that the syndrome does not describe |
//! | `bound` | which registers of a bound vCPU may its handlers touch |
//! | `tlb` | which translations does a switch invalidate |
//!
//! Only [`control`], [`gich`] and [`registers`] exist on other targets, where host tests look at their tables.

#[macro_use]
mod sysreg;

pub mod control;
pub mod gich;
pub mod registers;

// The others need the real registers.
#[cfg(all(target_arch = "aarch64", target_os = "none"))]
mod access;
#[cfg(all(target_arch = "aarch64", target_os = "none"))]
mod bound;
#[cfg(all(target_arch = "aarch64", target_os = "none"))]
mod debug;
#[cfg(all(target_arch = "aarch64", target_os = "none"))]
mod fault;
#[cfg(all(target_arch = "aarch64", target_os = "none"))]
mod fp;
#[cfg(all(target_arch = "aarch64", target_os = "none"))]
mod hardware;
#[cfg(all(target_arch = "aarch64", target_os = "none"))]
mod id;
#[cfg(all(target_arch = "aarch64", target_os = "none"))]
mod interface;
#[cfg(all(target_arch = "aarch64", target_os = "none"))]
mod percpu;
#[cfg(all(target_arch = "aarch64", target_os = "none"))]
mod switch;
#[cfg(all(target_arch = "aarch64", target_os = "none"))]
mod takeover;
#[cfg(all(target_arch = "aarch64", target_os = "none"))]
mod tlb;

#[cfg(all(target_arch = "aarch64", target_os = "none"))]
pub use id::read_id_register;
#[cfg(all(target_arch = "aarch64", target_os = "none"))]
pub use percpu::{Aarch64PerCpu, Step};
#[cfg(all(target_arch = "aarch64", target_os = "none"))]
pub use tlb::GuestTlb;
