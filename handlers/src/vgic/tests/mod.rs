//! The interrupt controller as a guest sees it, on a machine in software; and, under loom, what crosses between pCPUs.

use crate::support::interface;

#[cfg(not(loom))]
mod board;
#[cfg(loom)]
mod crossings;
#[cfg(not(loom))]
mod delivery;
#[cfg(not(loom))]
mod its;
#[cfg(loom)]
mod its_crossings;
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
mod renew;
#[cfg(loom)]
mod sgi_crossings;
#[cfg(not(loom))]
mod timers;
#[cfg(not(loom))]
mod v2;
