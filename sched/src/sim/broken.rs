//! What a broken rule leaves: which one it was, when, and what led to it.

use super::{
    Failure, RunOptions, Workload, run_with,
    scenarios::{SLICE, scenario, vm},
};
use crate::{
    Bounds, Choice, Entitlements, LocalPolicy, PcpuId, PcpuSet, Policy, Ready, Slice, VcpuId,
    policies::RoundRobin,
};
use alloc::{boxed::Box, sync::Arc, vec, vec::Vec};

/// A policy that promises a wait of two slices, and lets vCPU 0 wait for ever.
struct Unfair;

struct UnfairLocal(Vec<VcpuId>);

impl Policy for Unfair {
    fn name(&self) -> &'static str {
        "unfair"
    }

    fn bounds(&self, _ready: usize) -> Bounds {
        Bounds {
            work_conserving: true,
            longest_wait: Some(2 * SLICE),
        }
    }

    fn renew(&self, _pcpus: PcpuSet) -> Box<dyn Policy> {
        Box::new(Self)
    }

    fn local(&self, _pcpu: PcpuId, entitlements: &Arc<Entitlements>) -> Box<dyn LocalPolicy> {
        Box::new(UnfairLocal(Vec::with_capacity(entitlements.len())))
    }
}

impl LocalPolicy for UnfairLocal {
    fn enqueue(&mut self, vcpu: VcpuId, _why: Ready, _now: u64) {
        self.0.push(vcpu);
    }

    fn pick(&mut self, _now: u64) -> Choice {
        let others = self.0.iter().position(|vcpu| vcpu.index() > 0);
        match others.or((!self.0.is_empty()).then_some(0)) {
            Some(index) => Choice::Run(crate::Pick {
                vcpu: self.0.remove(index),
                slice: Slice::of(SLICE),
            }),
            None => Choice::Idle(None),
        }
    }

    fn take(&mut self, vcpu: VcpuId, _now: u64) -> Option<Slice> {
        let index = self.0.iter().position(|&ready| ready == vcpu)?;
        self.0.remove(index);
        Some(Slice::of(SLICE))
    }

    fn withdraw(&mut self, vcpu: VcpuId, _now: u64) {
        self.0.retain(|&ready| ready != vcpu);
    }

    fn surrender(&mut self, allowed: &mut dyn FnMut(VcpuId) -> bool) -> Option<VcpuId> {
        let index = self.0.iter().position(|&vcpu| allowed(vcpu))?;
        Some(self.0.remove(index))
    }

    fn charge(&mut self, _vcpu: VcpuId, _ticks: u64, _now: u64) {}

    fn waiting(&self) -> usize {
        self.0.len()
    }
}

#[test]
fn a_policy_that_breaks_its_promise_is_a_failure_with_what_led_to_it() {
    let scenario = scenario(RoundRobin::NAME, 1, vec![vm("cpu", 3, Workload::CpuBound)]);
    let policy = || -> Box<dyn Policy> { Box::new(Unfair) };
    let run = || run_with(&scenario, 7, &RunOptions::default(), policy);
    let Failure {
        seed,
        rule,
        time,
        history,
    } = run().unwrap_err();
    assert_eq!(seed, 7);
    assert!(rule.starts_with("vcpu0 was ready on pcpu0 for "), "{rule}");
    assert!(
        rule.ends_with("the policy unfair promises at most 2000000"),
        "{rule}"
    );
    assert!((2 * SLICE..20 * SLICE).contains(&time), "{time}");
    assert!((5..=40).contains(&history.len()), "{history:#?}");
    assert!(history[0].contains(" pcpu0 "), "{history:#?}");
    let last = history.last().unwrap();
    assert!(
        history
            .iter()
            .any(|line| line.ends_with("has let vcpu0 wait for too long"))
    );
    assert!(last.starts_with(&time.to_string()), "{last}");
    assert_eq!(run().unwrap_err().history, history, "the same again");
}
