//! Tests of the command and of the images on QEMU: what a user types, and what a user sees.
//!
//! Runs are beside others only where each has CPUs of the host for itself. `TRAPLINE_TIER=quick` leaves out what takes long,
//! `full` runs what takes minutes too.

mod bad_input;
mod broken;
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
