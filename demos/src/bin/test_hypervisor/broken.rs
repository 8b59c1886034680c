//! Policies that break their promise, and take over in every pool when a guest asks for it.

use alloc::{boxed::Box, sync::Arc, vec::Vec};

use trapline_platform::timer;
use trapline_sched::{
    Bounds, Choice, Entitlements, LocalPolicy, PcpuId, PcpuSet, Pick, Policy, PoolInfo, Ready,
    Slice, VcpuId,
};

use crate::hypervisor::Machine;

/// The longest wait by their word, in microseconds.
const PROMISED_US: u32 = 20_000;
/// How long they let others run.
const SLICE_US: u32 = 1000;
/// No scheduler has room for so many.
const ABSENT: VcpuId = VcpuId::new(60_000);

/// How a policy is broken.
#[derive(Clone, Copy)]
enum Broken {
    /// It never picks this one.
    Starving(VcpuId),
    /// It picks one that does not exist.
    AbsentMinded,
}

struct BrokenLocal {
    how: Broken,
    ready: Vec<VcpuId>,
}

impl Policy for Broken {
    fn name(&self) -> &'static str {
        match self {
            Self::Starving(_) => "starving",
            Self::AbsentMinded => "absent-minded",
        }
    }

    fn bounds(&self, _ready: usize) -> Bounds {
        Bounds {
            work_conserving: false,
            longest_wait: Some(timer::ticks_of_us(PROMISED_US)),
        }
    }

    fn renew(&self, _pcpus: PcpuSet) -> Box<dyn Policy> {
        Box::new(*self)
    }

    fn local(&self, _pcpu: PcpuId, entitlements: &Arc<Entitlements>) -> Box<dyn LocalPolicy> {
        Box::new(BrokenLocal {
            how: *self,
            ready: Vec::with_capacity(entitlements.len()),
        })
    }
}

impl BrokenLocal {
    fn is_picked(&self, vcpu: VcpuId) -> bool {
        match self.how {
            Broken::Starving(starved) => vcpu != starved,
            Broken::AbsentMinded => false,
        }
    }

    fn remove(&mut self, is_wanted: impl Fn(&Self, VcpuId) -> bool) -> Option<VcpuId> {
        let index = self.ready.iter().position(|&vcpu| is_wanted(self, vcpu))?;
        Some(self.ready.remove(index))
    }
}

fn slice() -> Slice {
    Slice::of(timer::ticks_of_us(SLICE_US))
}

impl LocalPolicy for BrokenLocal {
    /// One that the scheduler has taken itself, after a bad pick, is still here.
    fn enqueue(&mut self, vcpu: VcpuId, _why: Ready, _now: u64) {
        if !self.ready.contains(&vcpu) {
            self.ready.push(vcpu);
        }
    }

    fn pick(&mut self, _now: u64) -> Choice {
        let picked = match self.how {
            Broken::Starving(_) => self.remove(Self::is_picked),
            Broken::AbsentMinded => Some(ABSENT),
        };
        let run = |vcpu| {
            Choice::Run(Pick {
                vcpu,
                slice: slice(),
            })
        };
        picked.map_or(Choice::Idle(None), run)
    }

    fn take(&mut self, vcpu: VcpuId, _now: u64) -> Option<Slice> {
        let taken = self.remove(|local, ready| ready == vcpu && local.is_picked(vcpu));
        taken.map(|_| slice())
    }

    fn withdraw(&mut self, vcpu: VcpuId, _now: u64) {
        self.remove(|_, ready| ready == vcpu);
    }

    fn surrender(&mut self, _allowed: &mut dyn FnMut(VcpuId) -> bool) -> Option<VcpuId> {
        None
    }

    fn charge(&mut self, _vcpu: VcpuId, _ticks: u64, _now: u64) {}

    fn waiting(&self) -> usize {
        self.ready.len()
    }
}

/// From now on the pools' policies are broken, by turns the one way and the other. True if they have taken over.
pub fn take_over(machine: &Machine) -> bool {
    let pools = machine.scheduler.pools();
    pools.iter().enumerate().all(|(index, pool)| {
        broken(index, pool).is_some_and(|policy| {
            let admitted = machine.scheduler.set_policy(pool.id, Box::new(policy));
            admitted.is_ok()
        })
    })
}

/// How the policy of the pool at `index` is broken; who starves is its last vCPU.
fn broken(index: usize, pool: &PoolInfo) -> Option<Broken> {
    if index.is_multiple_of(2) {
        pool.vcpus.last().copied().map(Broken::Starving)
    } else {
        Some(Broken::AbsentMinded)
    }
}
