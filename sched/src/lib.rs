//! Which vCPU runs next on a physical CPU, where, and for how long.
#![no_std]
pub use ids::*; 
mod ids { #[doc="A vCPU, numbered in its pool."] #[derive(Clone, Copy, Debug, Eq, PartialEq, Hash, Ord, PartialOrd)] pub struct VcpuId(u16); }
