//! Tests of the command and of the images on QEMU: what a user types, and what a user sees.
//!
//! One test at a time uses the machine. `TRAPLINE_TIER=quick` leaves out what takes long, `full` runs what takes minutes too.

mod bad_input;
mod churn;
mod command;
mod control;
mod counted;
mod disks;
mod examples;
mod failure;
mod gicv2;
mod guests;
mod halt_poll;
mod harness;
mod images;
mod keys;
mod linux;
mod lives;
mod models;
mod moves;
mod passed;
mod policies;
mod restless;
mod rogue;
mod several;
mod stress;
