//! What a vCPU is: its registers, the world switch, typed exits, and stage 2.
//!
//! ```text
//!  Aarch64PerCpu::step
//!    schedule (sched) -> bind -> run_guest -> Exit::decode -> Dispatch::dispatch -> Action
//!        ^                                                                           |
//!        +---------------------------------------------------------------------------+
//! ```
//! Assembly and system registers live under `arch/`; everything else is pure and tested on the host.
//! Elsewhere: who runs next (`trapline-sched`), what an exit means (`trapline-handlers`), the physical
//! interrupt controller and timer (the embedder's [`host::Host`], for example `trapline-platform`).
#![no_std]

extern crate alloc;

mod aarch32;
pub mod action;
pub mod arch;
#[cfg_attr(
    not(all(target_arch = "aarch64", target_os = "none")),
    allow(dead_code, reason = "only the engine debugs")
)]
pub mod debug;
pub mod decode;
pub mod dispatch;
#[cfg_attr(
    not(all(target_arch = "aarch64", target_os = "none")),
    allow(dead_code, reason = "only the engine does what it says")
)]
mod emulate;
pub mod exit;
pub mod frame;
pub mod host;
pub mod inject;
#[cfg_attr(
    not(all(target_arch = "aarch64", target_os = "none")),
    allow(dead_code, reason = "only the engine reads instructions")
)]
mod instruction;
pub mod interrupts;
pub mod stage2;
mod sync;
mod syndrome;
#[cfg_attr(
    not(all(target_arch = "aarch64", target_os = "none")),
    allow(dead_code, reason = "only the engine looks into a vCPU")
)]
pub mod vcpu;
pub mod vmid;
#[cfg_attr(
    not(all(target_arch = "aarch64", target_os = "none")),
    allow(dead_code, reason = "only the engine waits")
)]
mod wait;

pub use action::{Action, GuestFault, YieldTo};
#[cfg(all(target_arch = "aarch64", target_os = "none"))]
pub use arch::aarch64::{Aarch64PerCpu, Step};
pub use exit::Exit;
pub use frame::TrapFrame;
pub use vcpu::Aarch64VCpu;
