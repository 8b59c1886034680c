//! Checks what the user gives before anything starts: kernels, initial ramdisks, and how they fit.

pub mod initrd;
pub mod kernel;
