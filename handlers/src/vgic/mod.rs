//! The virtual GICv3 of a VM.

/// A VM's interrupt controller, shared by its vCPUs.
pub struct Vgic {}

/// The part of it that travels with one vCPU.
pub struct VgicCpu {}
