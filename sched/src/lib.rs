//! Which vCPU runs next on a physical CPU, where, and for how long.
//!
//! [`LocalScheduler`] (one per pCPU) keeps the rules that no policy may break: a vCPU's box is in one place at a time,
//! leaves its pCPU only unbound, and runs only while nothing blocks it. A [`Policy`] only ranks, so a bad one is unfair,
//! never unsound. Everybody else holds a [`VcpuHandle`] and asks through it.
//!
//! ```text
//!   handle.wake() --> one state word --> Parked? take the box, place it --> inbox of a pCPU, kick
//!                                    '-> Loaded? kick that pCPU
//!   LocalScheduler::schedule: inbox -> requests -> policy.pick -> Machine::bind -> (guest) -> block | slice end
//! ```
//! No lock, no allocation after vCPUs and pCPUs are created, no architecture. Elsewhere: registers and world switch
//! (`trapline-vcpu`), the timer and the kick (the embedder's [`Machine`] and [`Host`]).
#![cfg_attr(not(any(test, feature = "sim")), no_std)]
#![forbid(unsafe_code)]
// Errors name sets of pCPUs, which are large then; none is on a path that is taken often.
#![cfg_attr(feature = "many-pcpus", allow(clippy::result_large_err))]

extern crate alloc;

// First: what comes after it sees its macro.
#[cfg(mutants)]
#[macro_use]
mod mutants;

mod accounting;
#[cfg(any(test, feature = "sim"))]
mod admitted;
mod attention;
mod cell;
mod change;
mod deadlines;
mod entitlement;
mod halt_poll;
mod handle;
mod host;
mod hurry;
mod ids;
mod local;
#[cfg(all(loom, test))]
mod models;
mod pcpu_set;
pub mod policies;
mod policy;
mod scheduler;
#[cfg(all(not(loom), any(test, feature = "sim")))]
pub mod sim;
mod state;
mod sync;
mod together;
mod trace;

pub use accounting::{Migrations, PcpuCounters, PcpuTimes, VcpuTimes};
pub use entitlement::{BadReservation, Entitlement, Entitlements, Reservation, Weight};
pub use halt_poll::HaltPolls;
pub use handle::{
    AffinityError, MigrateError, PowerOnClaim, PowerOnError, RetireError, Snapshot, Vcpu,
    VcpuHandle,
};
pub use host::Host;
pub use ids::{GroupId, PcpuId, PoolId, VcpuId};
pub use local::{CloseError, Decision, LocalScheduler, Look, Machine, PolicyFailure, Woken};
pub use pcpu_set::{ParsePcpuSetError, PcpuSet};
pub use policies::{PolicyError, PolicyOptions, policy_by_name};
pub use policy::{Allowed, Bounds, Choice, LocalPolicy, Pick, Policy, Ready, Refusal, Slice};
pub use scheduler::{
    CreateError, LocalError, PoolChangeError, PoolInfo, Scheduler, SchedulerConfig, SchedulerError,
};
pub use state::{BlockReason, Place, PowerState};
pub use together::Change;
pub use trace::{TraceEvent, TraceRecord, TraceRing};
