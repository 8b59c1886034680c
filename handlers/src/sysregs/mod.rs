//! What a guest finds in the system registers that trap.
//!
//! | file | registers | what the guest gets |
//! |---|---|---|
//! | [`id`] | ID registers (HCR_EL2.TID3) | the hardware's values, without what is not switched |
//! | [`caches`] | translation registers (TVM), set/way cache operations (TSW) | what it wrote, with its RAM cleaned first |
//! | [`debug`] | breakpoints, watchpoints, software step, OS lock (MDCR_EL2.TDA, TDOSA) | its own, which fire |
//! | [`fixed`] | ACTLR_EL1 (TACR), the rest of debug (TDRA) | a constant, or nothing |
//!
//! Everything else that traps is undefined, as it is where the feature is not there: PMU (TPM), LORegions (TLOR), error
//! records (TERR), IMPLEMENTATION DEFINED registers (TIDCP), SVE, SME, MTE and what is newer than this list.

pub mod caches;
pub mod debug;
pub mod fixed;
pub mod id;

pub(crate) use caches::CacheWork;
pub use caches::{SetWayMaintenance, TranslationRegisters};
pub use debug::DebugRegisters;
pub use fixed::FixedRegisters;
pub use id::IdRegisters;
