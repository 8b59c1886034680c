//! This machine: QEMU `virt` at EL2.
#![no_std]
