//! How a policy's ranking on one pCPU sees only the vCPUs whose VM has budget, and how long those run.

use super::{Caps, Quantum};
use crate::{Allowed, Choice, Entitlements, LocalPolicy, PcpuId, Pick, Ready, Slice, VcpuId};
use alloc::{sync::Arc, vec::Vec};

/// A budget is used in about so many parts.
const QUANTA: u64 = 8;
/// But a part is at least this part of the period.
const LEAST_QUANTUM: u64 = 64;

/// A ranking that sees only vCPUs whose VM has budget.
pub(in crate::policies) struct Capped<L> {
    ranking: L,
    caps: Arc<Caps>,
    entitlements: Arc<Entitlements>,
    /// Ready here, and without budget.
    waiting: Vec<VcpuId>,
    /// What the vCPU that runs has taken, if its VM has a cap.
    quantum: Option<Quantum>,
}

impl<L: LocalPolicy> Capped<L> {
    pub(in crate::policies) fn new(
        ranking: L,
        caps: &Arc<Caps>,
        entitlements: &Arc<Entitlements>,
    ) -> Self {
        Self {
            ranking,
            caps: Arc::clone(caps),
            entitlements: Arc::clone(entitlements),
            waiting: Vec::with_capacity(entitlements.len()),
            quantum: None,
        }
    }

    fn has_budget(&self, vcpu: VcpuId, now: u64) -> bool {
        self.caps.has_budget(self.entitlements.group(vcpu), now)
    }

    /// `vcpu` stops, if it was running.
    fn settle(&mut self, vcpu: VcpuId, now: u64) {
        if let Some(quantum) = self.quantum.take_if(|quantum| quantum.vcpu == vcpu) {
            self.caps.give_back(quantum, now);
        }
    }

    /// Those whose VM has budget again are ranked again.
    fn release(&mut self, now: u64) {
        let (ranking, caps) = (&mut self.ranking, &self.caps);
        self.waiting.retain(|&vcpu| {
            let has_budget = caps.has_budget(self.entitlements.group(vcpu), now);
            if has_budget {
                // It was ready all the time.
                ranking.enqueue(vcpu, Ready::MigratedIn, now);
            }
            !has_budget
        });
    }

    /// For how long the vCPU that the ranking has taken out for `slice` runs; `None`: it has no budget, and waits.
    fn grant(&mut self, vcpu: VcpuId, slice: Slice, now: u64) -> Option<Slice> {
        let rest = self.caps.rest_of_period(now);
        let id = self.entitlements.group(vcpu);
        let Some((group, budget)) = self.caps.capped(id) else {
            return Some(self.shorten(slice, rest));
        };
        let period = self.caps.period(now);
        let least = self.caps.period_ticks / LEAST_QUANTUM;
        let quantum = (budget / QUANTA).max(least).max(1);
        let wanted = at_most(slice, quantum.min(rest));
        let taken = group.budget.take(period, budget, wanted);
        if taken == 0 {
            self.ranking.leave(vcpu, now);
            self.waiting.push(vcpu);
            return None;
        }
        self.quantum = Some(Quantum {
            vcpu,
            group: id,
            period,
            left: taken as i64,
        });
        Some(Slice::strictly(taken))
    }

    /// Those who wait for the next period have their turn then, and not after a long slice.
    fn shorten(&self, slice: Slice, rest: u64) -> Slice {
        if self.waiting.is_empty() {
            return slice;
        }
        Slice {
            duration: Slice::of(at_most(slice, rest)).duration,
            ..slice
        }
    }
}

/// `limit`, or less if `slice` is shorter.
fn at_most(slice: Slice, limit: u64) -> u64 {
    let ticks = slice.duration.map(|ticks| ticks.get());
    ticks.map_or(limit, |ticks| ticks.min(limit))
}

impl<L: LocalPolicy> LocalPolicy for Capped<L> {
    fn enqueue(&mut self, vcpu: VcpuId, why: Ready, now: u64) {
        self.settle(vcpu, now);
        if self.has_budget(vcpu, now) {
            self.ranking.enqueue(vcpu, why, now);
        } else {
            self.ranking.leave(vcpu, now);
            self.waiting.push(vcpu);
        }
    }

    fn pick(&mut self, now: u64) -> Choice {
        self.release(now);
        loop {
            match self.ranking.pick(now) {
                Choice::Run(Pick { vcpu, slice }) => {
                    if let Some(slice) = self.grant(vcpu, slice, now) {
                        return Choice::Run(Pick { vcpu, slice });
                    }
                }
                Choice::Idle(until) if self.waiting.is_empty() => return Choice::Idle(until),
                Choice::Idle(until) => {
                    let next = now.saturating_add(self.caps.rest_of_period(now));
                    return Choice::Idle(Some(until.map_or(next, |until| until.min(next))));
                }
            }
        }
    }

    fn take(&mut self, vcpu: VcpuId, now: u64) -> Option<Slice> {
        self.release(now);
        let slice = self.ranking.take(vcpu, now)?;
        self.grant(vcpu, slice, now)
    }

    fn hurry(&mut self, vcpu: VcpuId, now: u64) -> Option<Slice> {
        self.release(now);
        let slice = self.ranking.hurry(vcpu, now)?;
        self.grant(vcpu, slice, now)
    }

    fn withdraw(&mut self, vcpu: VcpuId, now: u64) {
        self.waiting.retain(|&waiting| waiting != vcpu);
        self.ranking.withdraw(vcpu, now);
    }

    fn leave(&mut self, vcpu: VcpuId, now: u64) {
        self.settle(vcpu, now);
        self.ranking.leave(vcpu, now);
    }

    fn surrender(&mut self, allowed: &mut dyn FnMut(VcpuId) -> bool) -> Option<VcpuId> {
        self.ranking.surrender(allowed)
    }

    fn charge(&mut self, vcpu: VcpuId, ticks: u64, now: u64) {
        let quantum = self.quantum.as_mut().filter(|held| held.vcpu == vcpu);
        if let Some(quantum) = quantum.filter(|_| !cfg!(mutant = "cap_forgets_what_is_used")) {
            quantum.left = quantum.left.saturating_sub_unsigned(ticks);
        }
        self.ranking.charge(vcpu, ticks, now);
    }

    fn preempts(&mut self, running: VcpuId, now: u64) -> bool {
        self.ranking.preempts(running, now)
    }

    fn push(&mut self, now: u64, allowed: Allowed<'_>) -> Option<(VcpuId, PcpuId)> {
        self.ranking.push(now, allowed)
    }

    fn waiting(&self) -> usize {
        self.ranking.waiting() + self.waiting.len()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::{Entitlement, GroupId, policies::round_robin::Queue};

    const PERIOD: u64 = 1000;

    #[test]
    fn what_is_used_beyond_a_quantum_is_owed_and_what_is_unused_goes_back_within_the_period() {
        let vcpu = VcpuId::new(0);
        let cap = Entitlement {
            group: GroupId::new(0),
            cap: Some(50),
            ..Entitlement::default()
        };
        let entitlements = Arc::new(Entitlements::new(1));
        entitlements.set(vcpu, &cap);
        let caps = Arc::new(Caps::new(PERIOD, 1, 1));
        caps.admit(vcpu, &cap).unwrap();
        let ranking = Queue::new(Slice::of(PERIOD), &entitlements);
        let mut local = Capped::new(ranking, &caps, &entitlements);
        let left = |now| {
            let (group, budget) = caps.capped(cap.group).unwrap();
            group.budget.left(caps.period(now), budget)
        };
        let mut turn = |start, end: u64| {
            local.enqueue(vcpu, Ready::Woken, start);
            let choice = local.pick(start);
            local.charge(vcpu, end - start, end);
            local.leave(vcpu, end);
            choice
        };
        let run = |ticks| {
            let slice = Slice::strictly(ticks);
            Choice::Run(Pick { vcpu, slice })
        };
        // Its quantum is an eighth of 500 ticks: it uses 10 of them, then 438 more than them.
        assert_eq!(turn(0, 10), run(62));
        assert_eq!(left(10), 490);
        assert_eq!(turn(100, 600), run(62));
        assert_eq!(left(600), -10);
        assert_eq!(left(PERIOD), 490);
        // It stops only in the next period: what it had left of this one is lost, what it used too much is owed then.
        assert_eq!(turn(2 * PERIOD - 10, 2 * PERIOD + 90), run(10));
        assert_eq!(left(2 * PERIOD + 90), 410);
    }
}
