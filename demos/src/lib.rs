//! How an embedder puts Trapline together: what the hypervisor image, its guests and the `trapline` command share.
//!
//! ```text
//!  trapline command (host) --- config, staged images ---> hypervisor image --- device tree ---> guest
//!           ^                                                   |
//!           +------------------- wire: console, log, report ----+
//! ```
//! The library never names `trapline-platform`: guests link the library too, and the platform brings an entry point
//! and an allocator. Only the hypervisor's own binary uses it.
#![cfg_attr(target_os = "none", no_std)]

extern crate alloc;

pub mod config;
pub mod control;
pub mod guest;
#[cfg(not(target_os = "none"))]
pub mod host;
pub mod wire;
