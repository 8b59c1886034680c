//! The machine itself, one question a file; only `unsafe` here touches hardware.

pub mod boot;
pub mod channel;
pub mod devices;
pub mod engine;
pub mod gic;
pub mod heap;
pub mod hotplug;
pub mod mmu;
pub mod panic;
pub mod pcpu;
pub mod power;
pub mod ram;
pub mod relax;
pub mod shared;
pub mod smp;
mod stacks;
mod symbols;
pub mod timer;
pub mod uart;
mod vectors;

pub use boot::BootInfo;
