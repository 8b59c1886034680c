//! The interrupt controller as a guest sees it, on a machine in software.

mod delivery;
mod interface;
mod machine;
mod model;
mod registers;
mod remote;
mod timers;
