//! What an exit means to the guest: the registry of handlers, a VM, PSCI, interrupts, trapped registers, devices.
//!
//! ```text
//!  vcpu::step --Exit--> Dispatcher --lookup--> ExitHandler::handle(GuestCpu, Exit)
//!      ^                    |  (the pCPU's hold on the VM's Registry)      |
//!      '------Action--------+----------------------------------------------'
//! ```
//! Elsewhere: how an exit is decoded and what an action does to the registers (`trapline-vcpu`), who runs next
//! (`trapline-sched`).
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(any(test, loom))]
extern crate std;

pub mod handler;
mod sync;
pub mod vgic;
pub mod vm;

pub use handler::{ExitHandler, GuestCpu, Interrupts};
pub use vm::{VcpuControl, Vm, VmVcpu};
