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

pub mod affinity;
pub mod agenda;
mod control;
pub mod dispatcher;
pub mod handler;
pub mod line;
pub mod manager;
pub mod memory;
pub mod overcommit;
pub mod pl011;
pub mod pl031;
pub mod pl061;
pub mod psci;
pub mod registry;
mod shared_records;
pub mod smccc;
pub mod standard;
pub mod stolen_time;
#[cfg(test)]
mod support;
mod sync;
pub mod sysregs;
pub mod timers;
pub mod trng;
mod vcpu_states;
pub mod vendor;
pub mod vgic;
pub mod vm;
pub mod wait;

pub use agenda::{Agenda, Request, Requests};
pub use dispatcher::Dispatcher;
pub use handler::{ExitHandler, GuestCpu, Interrupts};
pub use line::Line;
pub use manager::{Managed, Manager};
pub use memory::GuestMemory;
pub use registry::{Claim, RegisterError, Registration, Registry};
pub use shared_records::SHARED_PAGE_SIZE;
pub use stolen_time::StolenTime;
pub use sysregs::IdRegisters;
pub use timers::{Alarm, DeviceTimer, TimerHost, TimerQueue};
pub use vcpu_states::VcpuStates;
pub use vm::{VcpuControl, Vcpus, Vm, VmEnd, VmObserver, VmParts, VmVcpu};

/// The README's examples are compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
