//! A policy that answers at random, names who is not there, and forgets who is.

use crate::{
    Allowed, Bounds, Choice, Entitlement, Entitlements, LocalPolicy, PcpuId, PcpuSet, Pick, Policy,
    Ready, Refusal, Slice, VcpuId,
};
use alloc::{boxed::Box, sync::Arc, vec::Vec};
use core::num::NonZero;

/// Nothing that it says can be relied on.
pub(super) struct Hostile;

struct HostileLocal {
    chance: u64,
    ready: Vec<VcpuId>,
}

impl Policy for Hostile {
    fn name(&self) -> &'static str {
        "hostile"
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
        _entitlement: &Entitlement,
        _affinity: PcpuSet,
    ) -> Result<Option<PcpuId>, Refusal> {
        Ok(PcpuId::new(vcpu.index() as u16 * 7))
    }

    fn renew(&self, _pcpus: PcpuSet) -> Box<dyn Policy> {
        Box::new(Self)
    }

    fn local(&self, pcpu: PcpuId, entitlements: &Arc<Entitlements>) -> Box<dyn LocalPolicy> {
        Box::new(HostileLocal {
            chance: pcpu.index() as u64 + 1,
            ready: Vec::with_capacity(2 * entitlements.len()),
        })
    }
}

impl HostileLocal {
    fn below(&mut self, limit: u64) -> u64 {
        self.chance = self
            .chance
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.chance >> 33) % limit
    }

    fn any_vcpu(&mut self) -> VcpuId {
        VcpuId::new(self.below(8) as u16)
    }
}

impl LocalPolicy for HostileLocal {
    fn enqueue(&mut self, vcpu: VcpuId, _why: Ready, _now: u64) {
        if self.below(4) > 0 {
            self.ready.push(vcpu);
        }
    }

    fn pick(&mut self, now: u64) -> Choice {
        let slice = Slice {
            duration: NonZero::new(self.below(9)),
            is_strict: self.below(2) == 0,
            exclusive: self.below(2) == 0,
        };
        let absent = VcpuId::new(self.below(70_000) as u16);
        match self.below(5) {
            0 => Choice::Idle(None),
            1 => Choice::Idle(Some(now + self.below(20))),
            2 => Choice::Run(Pick {
                vcpu: absent,
                slice,
            }),
            _ => match self.ready.pop() {
                Some(vcpu) => Choice::Run(Pick { vcpu, slice }),
                None => Choice::Idle(None),
            },
        }
    }

    fn take(&mut self, vcpu: VcpuId, _now: u64) -> Option<Slice> {
        self.ready.retain(|&ready| ready != vcpu);
        (self.below(2) == 0).then_some(Slice::of(3))
    }

    fn hurry(&mut self, _vcpu: VcpuId, _now: u64) -> Option<Slice> {
        (self.below(2) == 0).then_some(Slice::of(2))
    }

    fn withdraw(&mut self, vcpu: VcpuId, _now: u64) {
        if self.below(2) == 0 {
            self.ready.retain(|&ready| ready != vcpu);
        }
    }

    fn surrender(&mut self, allowed: &mut dyn FnMut(VcpuId) -> bool) -> Option<VcpuId> {
        let _ = allowed(self.any_vcpu());
        Some(self.any_vcpu())
    }

    fn charge(&mut self, _vcpu: VcpuId, _ticks: u64, _now: u64) {}

    fn preempts(&mut self, _running: VcpuId, _now: u64) -> bool {
        self.below(3) == 0
    }

    fn push(&mut self, _now: u64, allowed: Allowed<'_>) -> Option<(VcpuId, PcpuId)> {
        let to = PcpuId::new(self.below(6) as u16)?;
        let vcpu = self.any_vcpu();
        let _ = allowed(vcpu, to);
        (self.below(2) == 0).then_some((vcpu, to))
    }

    fn pull(&mut self, _now: u64) -> Option<PcpuId> {
        PcpuId::new(self.below(70) as u16)
    }

    fn waiting(&self) -> usize {
        self.ready.len()
    }
}
