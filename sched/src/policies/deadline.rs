//! Deadline: a vCPU with a reservation gets its budget in every period; the others, and those that want more, get the rest.
//!
//! ```text
//!   budget Q, period P      left q, deadline d          q -= ticks; at q = 0 it waits until d, then q += Q, d += P
//!   wakes up                d is past, or q / (d - now) > Q / P: q = Q, d = now + P; else it goes on with q and d
//!   overruns by an exit     q < 0: it waits until d as well, or if it wakes later, q += Q for each period since, up to Q
//!   pick                    the earliest d of those that have budget left; if none has, the rest take turns
//!   admission               on each pCPU the sum of Q / P is at most 1
//! ```
//! These are constant bandwidth servers: whatever a vCPU does, in any time it claims no more than its part, so it can harm
//! only itself, and one that sleeps gains nothing. [Abeni, Buttazzo: Integrating Multimedia Applications in Hard Real-Time
//! Systems, 1998] Earliest deadline first then misses none. [Liu, Layland: Scheduling Algorithms for Multiprogramming in a
//! Hard-Real-Time Environment, 1973] A reservation is hard: more than the budget comes only from what nobody has reserved.
//!
//! Each reserved vCPU has a home, the pCPU with the most room when it was admitted, and its budget only there: it does not
//! wait for an idle pCPU elsewhere, and if it must run elsewhere it takes turns with the others. The others go where pCPUs
//! idle, and where more is left for each of them. What a change of reservations sets free is given away at once, while its old owner
//! may still use it until its deadline; so long others may be late.

mod queue;

use super::homes::Homes;
use crate::{
    Bounds, Entitlement, Entitlements, LocalPolicy, PcpuId, PcpuSet, Policy, Refusal, VcpuId,
    pcpu_set::AtomicPcpuSet,
    sync::{AtomicU32, AtomicU64, Ordering::Relaxed},
};
use alloc::{boxed::Box, sync::Arc};
use queue::Queue;

/// Budgets in periods.
pub struct Deadline {
    slice_ticks: u64,
    shared: Arc<Shared>,
}

impl Deadline {
    /// The name by which it is chosen.
    pub const NAME: &str = "deadline";

    /// For up to `max_vcpus` vCPUs. Those that have no budget take turns of `slice_ticks`.
    pub fn with_slice(slice_ticks: u64, max_vcpus: u16) -> Self {
        let shared = Shared {
            homes: Homes::new(max_vcpus),
            pcpus: AtomicPcpuSet::default(),
            crowds: core::array::from_fn(|_| AtomicU32::new(0)),
            absent: (0..max_vcpus).map(|_| Absent::default()).collect(),
        };
        Self {
            slice_ticks,
            shared: Arc::new(shared),
        }
    }
}

impl Policy for Deadline {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn room(&self) -> usize {
        self.shared.absent.len()
    }

    fn bounds(&self, _ready: usize) -> Bounds {
        Bounds {
            work_conserving: false,
            longest_wait: None,
        }
    }

    fn admit(
        &self,
        vcpu: VcpuId,
        entitlement: &Entitlement,
        affinity: PcpuSet,
    ) -> Result<Option<PcpuId>, Refusal> {
        match entitlement.reservation {
            Some(reservation) => self.shared.homes.admit(vcpu, reservation, affinity)?,
            None => self.shared.homes.release(vcpu),
        }
        Ok(self.shared.homes.of(vcpu))
    }

    fn release(&self, vcpu: VcpuId) {
        self.shared.homes.release(vcpu);
        if let Some(absent) = self.shared.absent.get(vcpu.index()) {
            absent.left.store(0, Relaxed);
            absent.deadline.store(0, Relaxed);
        }
    }

    fn is_preemptive(&self) -> bool {
        true
    }

    fn renew(&self, _pcpus: PcpuSet) -> Box<dyn Policy> {
        Box::new(Self::with_slice(
            self.slice_ticks,
            self.shared.absent.len() as u16,
        ))
    }

    fn local(&self, pcpu: PcpuId, entitlements: &Arc<Entitlements>) -> Box<dyn LocalPolicy> {
        self.shared.pcpus.insert(pcpu, Relaxed);
        Box::new(Queue::new(
            pcpu,
            self.slice_ticks,
            &self.shared,
            entitlements,
        ))
    }
}

/// What the pCPUs tell each other; each value stands for itself.
struct Shared {
    homes: Homes,
    /// Those that take part.
    pcpus: AtomicPcpuSet,
    /// How many are on each pCPU, if one runs there. Only the pCPU writes it.
    crowds: [AtomicU32; PcpuId::LIMIT as usize],
    /// By vCPU number. Whoever has the vCPU's box writes it.
    absent: Box<[Absent]>,
}

/// How far a vCPU had used its budget when it left its home.
#[derive(Default)]
struct Absent {
    left: AtomicU64,
    deadline: AtomicU64,
}

impl Shared {
    fn crowd(&self, pcpu: PcpuId) -> u32 {
        self.crowds[pcpu.index()].load(Relaxed)
    }

    /// What is not reserved on `pcpu`, for each of `crowd`.
    fn rest(&self, pcpu: PcpuId, crowd: u32) -> u64 {
        self.homes.room(pcpu) / u64::from(crowd.max(1))
    }

    fn rest_for_one_more(&self, pcpu: PcpuId) -> u64 {
        self.rest(pcpu, self.crowd(pcpu) + 1)
    }
}
