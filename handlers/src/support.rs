//! What tests have in common.

// The models use a part of it.
#[cfg_attr(loom, allow(dead_code))]
pub(crate) mod interface;
#[cfg(not(loom))]
mod machine;

#[cfg(not(loom))]
pub(crate) use machine::{Cpu, FakeMemory, FakePlace, Machine};
