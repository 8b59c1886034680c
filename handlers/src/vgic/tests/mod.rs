//! The interrupt controller as a guest sees it, on a machine in software; and, under loom, what crosses between pCPUs.

// The models use a part of it.
#[cfg_attr(loom, allow(dead_code))]
mod interface;

#[cfg(not(loom))]
mod board;
#[cfg(loom)]
mod crossings;
#[cfg(not(loom))]
mod delivery;
#[cfg(not(loom))]
mod its;
#[cfg(not(loom))]
mod machine;
#[cfg(not(loom))]
mod model;
#[cfg(not(loom))]
mod one_of_n;
#[cfg(not(loom))]
mod physical;
#[cfg(loom)]
mod physical_crossings;
#[cfg(not(loom))]
mod registers;
#[cfg(not(loom))]
mod remote;
#[cfg(not(loom))]
mod timers;
