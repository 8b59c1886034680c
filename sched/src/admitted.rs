//! A policy that is told only of vCPUs that it has admitted: any policy, and a check of that.

#[cfg(not(loom))]
use crate::sim::intrude;
use crate::{
    Allowed, Bounds, Choice, Entitlement, Entitlements, LocalPolicy, PcpuId, PcpuSet, Policy,
    Ready, Refusal, Slice, VcpuId,
};
use alloc::{boxed::Box, collections::BTreeSet, sync::Arc};
use core::num::NonZero;
use std::sync::Mutex;

/// In the simulator others may act now; loom lets them act between any two steps.
#[cfg(loom)]
fn intrude() {}

/// Those that a policy has admitted so far, gone or not.
type Known = Arc<Mutex<BTreeSet<VcpuId>>>;

/// `policy`, checked.
pub(crate) struct Admitted {
    policy: Box<dyn Policy>,
    known: Known,
}

struct AdmittedLocal {
    local: Box<dyn LocalPolicy>,
    known: Known,
    name: &'static str,
}

impl Admitted {
    pub(crate) fn new(policy: Box<dyn Policy>) -> Self {
        Self {
            policy,
            known: Known::default(),
        }
    }
}

impl Policy for Admitted {
    fn name(&self) -> &'static str {
        self.policy.name()
    }

    fn bounds(&self, ready: usize) -> Bounds {
        self.policy.bounds(ready)
    }

    fn room(&self) -> usize {
        self.policy.room()
    }

    fn admit(
        &self,
        vcpu: VcpuId,
        entitlement: &Entitlement,
        affinity: PcpuSet,
    ) -> Result<Option<PcpuId>, Refusal> {
        intrude();
        let home = self.policy.admit(vcpu, entitlement, affinity)?;
        let mut known = self.known.lock().expect("nobody panics with it");
        known.insert(vcpu);
        Ok(home)
    }

    fn release(&self, vcpu: VcpuId) {
        self.policy.release(vcpu);
    }

    fn is_preemptive(&self) -> bool {
        self.policy.is_preemptive()
    }

    fn balance_period(&self) -> Option<NonZero<u64>> {
        self.policy.balance_period()
    }

    fn renew(&self, pcpus: PcpuSet) -> Box<dyn Policy> {
        Box::new(Self::new(self.policy.renew(pcpus)))
    }

    fn local(&self, pcpu: PcpuId, entitlements: &Arc<Entitlements>) -> Box<dyn LocalPolicy> {
        // Between two pCPUs of a pool that is being changed.
        intrude();
        Box::new(AdmittedLocal {
            local: self.policy.local(pcpu, entitlements),
            known: Arc::clone(&self.known),
            name: self.name(),
        })
    }
}

impl LocalPolicy for AdmittedLocal {
    fn enqueue(&mut self, vcpu: VcpuId, why: Ready, now: u64) {
        let is_known = self.known.lock().is_ok_and(|known| known.contains(&vcpu));
        assert!(
            is_known,
            "{} is told of {vcpu}, which it has not admitted",
            self.name
        );
        self.local.enqueue(vcpu, why, now);
        // Between two boxes of an inbox.
        intrude();
    }

    fn pick(&mut self, now: u64) -> Choice {
        self.local.pick(now)
    }

    fn take(&mut self, vcpu: VcpuId, now: u64) -> Option<Slice> {
        self.local.take(vcpu, now)
    }

    fn hurry(&mut self, vcpu: VcpuId, now: u64) -> Option<Slice> {
        self.local.hurry(vcpu, now)
    }

    fn resume(&mut self, vcpu: VcpuId, now: u64) -> Option<Slice> {
        self.local.resume(vcpu, now)
    }

    fn withdraw(&mut self, vcpu: VcpuId, now: u64) {
        self.local.withdraw(vcpu, now);
    }

    fn leave(&mut self, vcpu: VcpuId, now: u64) {
        self.local.leave(vcpu, now);
    }

    fn surrender(&mut self, allowed: &mut dyn FnMut(VcpuId) -> bool) -> Option<VcpuId> {
        self.local.surrender(allowed)
    }

    fn relieve(
        &mut self,
        to: PcpuId,
        waiting: usize,
        allowed: &mut dyn FnMut(VcpuId) -> bool,
    ) -> Option<VcpuId> {
        self.local.relieve(to, waiting, allowed)
    }

    fn charge(&mut self, vcpu: VcpuId, ticks: u64, now: u64) {
        self.local.charge(vcpu, ticks, now);
    }

    fn preempts(&mut self, running: VcpuId, now: u64) -> bool {
        self.local.preempts(running, now)
    }

    fn push(&mut self, now: u64, allowed: Allowed<'_>) -> Option<(VcpuId, PcpuId)> {
        self.local.push(now, allowed)
    }

    fn pull(&mut self, now: u64) -> Option<PcpuId> {
        self.local.pull(now)
    }

    fn waiting(&self) -> usize {
        self.local.waiting()
    }
}
