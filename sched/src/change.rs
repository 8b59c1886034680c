//! How what vCPUs shall get is changed, and how a pool's policy is replaced, while vCPUs run.
//!
//! ```text
//!   set_policy:  new policy admits every vCPU --> its part for each pCPU into that one's `successor`, and a request to look
//!   each pCPU:   takes it, tells it who is ready and who runs here, and leaves the old one in `retired`
//!   next change: drops what is in `retired`
//! ```
//! For a moment some pCPUs follow the old policy and some the new one: each ranks only what is on its own pCPU, so no vCPU is
//! lost, and none waits for more than the kick. No exit path allocates or frees.

use crate::{
    Entitlement, LocalPolicy, PcpuId, PcpuSet, Policy, Pool, Refusal, Vcpu, VcpuId,
    attention::About, cell::Cell,
};
use alloc::{boxed::Box, format, sync::Arc, vec::Vec};

/// A policy, and its part on one pCPU.
pub(crate) struct AtWork {
    pub(crate) policy: Arc<dyn Policy>,
    /// The pool's policies are numbered in the order in which they come.
    pub(crate) generation: u64,
    pub(crate) local: Box<dyn LocalPolicy>,
    /// What takes over if the policy breaks its promise.
    pub(crate) fallback: Box<dyn LocalPolicy>,
}

impl<V: Vcpu> Pool<V> {
    /// Lets `policy` say who runs next from now on: each pCPU asks it as soon as it has looked up, which it is told to.
    /// Anybody calls it, on no exit path.
    ///
    /// # Errors
    /// It cannot keep what some vCPU shall get; nothing has changed then.
    pub fn set_policy(&self, policy: Box<dyn Policy>) -> Result<(), Refusal> {
        let successor: Arc<dyn Policy> = policy.into();
        self.with_policy(|current| {
            let admit = |(vcpu, affinity)| {
                let entitlement = self.entitlements().get(vcpu);
                let home = ask(&*successor, vcpu, &entitlement, affinity)?;
                Ok((vcpu, affinity, home))
            };
            let places = self.entitlements().present().map(admit);
            for (vcpu, affinity, home) in places.collect::<Result<Vec<_>, Refusal>>()? {
                self.entitlements().set_place(vcpu, affinity, home);
            }
            self.set_preemptive(successor.is_preemptive());
            self.next_generation();
            for pcpu in self.online().iter() {
                self.cell(pcpu).succeed(self.at_work(&successor, pcpu));
                self.nudge(pcpu, About::Requests);
            }
            *current = successor;
            Ok(())
        })
    }

    /// `vcpu` shall have `entitlement`, and may run on `affinity`, if it `is_there`, which does not change meanwhile.
    pub(crate) fn admit(
        &self,
        vcpu: VcpuId,
        entitlement: &Entitlement,
        affinity: PcpuSet,
        is_there: impl Fn() -> bool,
    ) -> Result<(), Refusal> {
        self.with_policy(|policy| {
            if !is_there() {
                return Ok(());
            }
            let home = ask(&**policy, vcpu, entitlement, affinity)?;
            self.entitlements().set(vcpu, entitlement);
            self.entitlements().set_place(vcpu, affinity, home);
            Ok(())
        })
    }

    /// `vcpu` is gone; its number is used again.
    pub(crate) fn release(&self, vcpu: VcpuId) {
        self.with_policy(|policy| {
            policy.release(vcpu);
            self.entitlements().clear(vcpu);
        });
        self.free_id(vcpu);
    }

    pub(crate) fn at_work(&self, policy: &Arc<dyn Policy>, pcpu: PcpuId) -> AtWork {
        let entitlements = self.shared_entitlements();
        AtWork {
            policy: Arc::clone(policy),
            generation: self.generation(),
            local: policy.local(pcpu, entitlements),
            fallback: self.fallback().local(pcpu, entitlements),
        }
    }

    /// Nobody else changes anything until `act` returns, which is soon.
    pub(crate) fn with_policy<R>(&self, act: impl FnOnce(&mut Arc<dyn Policy>) -> R) -> R {
        let mut policy = loop {
            match self.policy.pop() {
                Some(policy) => break policy,
                None => self.host().relax(),
            }
        };
        let result = act(&mut policy);
        assert!(
            self.policy.push(policy).is_ok(),
            "rule: who took the policy out puts it back"
        );
        result
    }
}

/// Asks `policy` whether it can keep `entitlement`, and where the vCPU belongs.
fn ask(
    policy: &dyn Policy,
    vcpu: VcpuId,
    entitlement: &Entitlement,
    affinity: PcpuSet,
) -> Result<Option<PcpuId>, Refusal> {
    let room = policy.room();
    if vcpu.index() >= room {
        let name = policy.name();
        let reason = format!("the policy {name} was made for {room} vCPUs, and this is {vcpu}");
        return Err(Refusal(reason));
    }
    policy.admit(vcpu, entitlement, affinity)
}

impl<V> Cell<V> {
    /// `next` is to take over here. Only one changes policies at a time.
    fn succeed(&self, next: AtWork) {
        while self.retired.pop().is_some() {}
        // One that the pCPU has not taken yet never takes over.
        drop(self.successor.pop());
        assert!(
            self.successor.push(next).is_ok(),
            "rule: one policy at a time takes over"
        );
    }

    /// The pCPU has another policy now. Between two changes it takes over at most one, and one more while the second change is
    /// made.
    pub(crate) fn retire(&self, before: AtWork) {
        assert!(
            self.retired.push(before).is_ok(),
            "rule: there is room for the policies that were replaced"
        );
    }
}
