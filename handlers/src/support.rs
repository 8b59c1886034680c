//! What tests have in common.

// The models use a part of it.
#[cfg_attr(loom, allow(dead_code))]
pub(crate) mod interface;
#[cfg(not(loom))]
mod machine;
#[cfg(not(loom))]
mod memory;
#[cfg(not(loom))]
mod vcpu;

#[cfg(not(loom))]
pub(crate) use machine::{Cpu, Machine};
#[cfg(not(loom))]
pub(crate) use memory::FakeMemory;
#[cfg(not(loom))]
pub(crate) use vcpu::FakePlace;
