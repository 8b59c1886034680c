//! Caps: in every period the vCPUs of a VM get no more CPU time together than its cap allows, on an idle machine too.
//!
//! ```text
//!   period  a budget for each VM that has a cap: cap / 100 * period, in a word that all pCPUs share
//!   pick    takes a quantum from the budget; the vCPU runs no longer than that, nor beyond the period
//!   stop    gives back what is unused; what was used too much is owed, in the next periods too
//!   none    the vCPU waits for the next period, out of the ranking; without others its pCPU idles
//! ```
//! A layer: [`Capped`] wraps the ranking of any policy and lets it see only the vCPUs whose VM has budget. What is unused at
//! the end of a period is lost, not saved up. A vCPU that waits does not hear of budget that is given back on another pCPU:
//! it may lose up to a quantum for each pCPU and period, which the cap allows. [Xen: credit2, caps]

use super::{budget::Budget, members::Members};
use crate::{
    Allowed, Choice, Entitlement, Entitlements, GroupId, LocalPolicy, PcpuId, Pick, Ready, Refusal,
    Slice, VcpuId,
    sync::{
        AtomicU32,
        Ordering::{Acquire, Relaxed, Release},
    },
};
use alloc::{boxed::Box, format, sync::Arc, vec::Vec};

const NO_CAP: u32 = 0;
/// Hundredths of a pCPU.
const WHOLE: u32 = 100;
/// A budget is used in about so many parts.
const QUANTA: u64 = 8;
/// But a part is at least this part of the period.
const LEAST_QUANTUM: u64 = 64;

/// The caps of all VMs.
pub(super) struct Caps {
    period_ticks: u64,
    pcpus: u32,
    /// By group number.
    groups: Box<[Group]>,
    members: Members,
    /// How many groups have a cap.
    capped: AtomicU32,
}

struct Group {
    /// In hundredths of a pCPU, or `NO_CAP`.
    cap: AtomicU32,
    budget: Budget,
}

/// Time that a vCPU has taken from its VM's budget.
#[derive(Clone, Copy)]
struct Quantum {
    vcpu: VcpuId,
    group: GroupId,
    period: u64,
    /// Negative if it ran for longer.
    left: i64,
}

impl Caps {
    /// The longest period: the budgets of as many pCPUs as there can be still fit into their word.
    pub(super) const LONGEST_PERIOD: u64 = Budget::LIMIT / PcpuId::LIMIT as u64;

    pub(super) fn new(period_ticks: u64, pcpus: u32, max_vcpus: u16) -> Self {
        let group = || Group {
            cap: AtomicU32::new(NO_CAP),
            budget: Budget::new(),
        };
        Self {
            period_ticks,
            pcpus,
            groups: (0..max_vcpus).map(|_| group()).collect(),
            members: Members::new(max_vcpus),
            capped: AtomicU32::new(0),
        }
    }

    pub(super) fn period_ticks(&self) -> u64 {
        self.period_ticks
    }

    /// Some VM has a cap.
    pub(super) fn is_any(&self) -> bool {
        self.capped.load(Acquire) > 0
    }

    /// The cap of `vcpu`'s VM is what `entitlement` says, for all its vCPUs.
    pub(super) fn admit(&self, vcpu: VcpuId, entitlement: &Entitlement) -> Result<(), Refusal> {
        let group = entitlement.group;
        if let Some(cap) = entitlement.cap {
            self.check(group, cap)?;
        }
        if self.members.get(vcpu).map(|member| member.group) != Some(group) {
            self.release(vcpu);
            self.members.join(vcpu, group);
        }
        self.set(group, entitlement.cap.unwrap_or(NO_CAP));
        Ok(())
    }

    fn check(&self, group: GroupId, cap: u32) -> Result<(), Refusal> {
        let (most, groups, period) = (self.pcpus * WHOLE, self.groups.len(), self.period_ticks);
        let refuse = |reason| Err(Refusal::Words(reason));
        if cap == 0 {
            return refuse("a cap of 0 would never let it run: it is at least 1".into());
        }
        if cap > most {
            return refuse(format!(
                "a cap of {cap} hundredths of a pCPU is more than the {most} of the pool's {} pCPUs",
                self.pcpus
            ));
        }
        if self.budget(cap) == 0 {
            return refuse(format!(
                "a cap of {cap} hundredths is less than a tick in a period of {period} ticks"
            ));
        }
        if group.index() >= groups {
            return refuse(format!(
                "VM {} has a cap, and only those below {groups} can",
                group.index()
            ));
        }
        Ok(())
    }

    pub(super) fn release(&self, vcpu: VcpuId) {
        if let Some(group) = self.members.leave(vcpu)
            && !self.members.has(group)
        {
            self.set(group, NO_CAP);
        }
    }

    /// Who sees that nobody has a cap sees no cap either.
    fn set(&self, group: GroupId, cap: u32) {
        let Some(Group { cap: word, .. }) = self.groups.get(group.index()) else {
            return;
        };
        let before = word.load(Relaxed);
        if before == NO_CAP && cap != NO_CAP {
            self.capped.fetch_add(1, Relaxed);
        }
        word.store(cap, Relaxed);
        if before != NO_CAP && cap == NO_CAP {
            self.capped.fetch_sub(1, Release);
        }
    }

    fn budget(&self, cap: u32) -> u64 {
        (u128::from(cap) * u128::from(self.period_ticks) / u128::from(WHOLE)) as u64
    }

    /// The group, and the budget that it has in a period, if it has a cap.
    fn capped(&self, group: GroupId) -> Option<(&Group, u64)> {
        let group = self.groups.get(group.index())?;
        let cap = group.cap.load(Relaxed);
        (cap != NO_CAP).then(|| (group, self.budget(cap)))
    }

    fn period(&self, now: u64) -> u64 {
        now / self.period_ticks
    }

    /// How long the period of `now` still lasts.
    fn rest_of_period(&self, now: u64) -> u64 {
        self.period_ticks - now % self.period_ticks
    }

    fn has_budget(&self, group: GroupId, now: u64) -> bool {
        self.capped(group)
            .is_none_or(|(group, budget)| group.budget.left(self.period(now), budget) > 0)
    }

    fn give_back(&self, quantum: Quantum, now: u64) {
        if let Some((group, budget)) = self.capped(quantum.group) {
            let is_past = self.period(now) != quantum.period;
            let left = if is_past {
                quantum.left.min(0)
            } else {
                quantum.left
            };
            group.budget.add(self.period(now), budget, left);
        }
    }
}

/// A ranking that sees only vCPUs whose VM has budget.
pub(super) struct Capped<L> {
    ranking: L,
    caps: Arc<Caps>,
    entitlements: Arc<Entitlements>,
    /// Ready here, and without budget.
    waiting: Vec<VcpuId>,
    /// What the vCPU that runs has taken, if its VM has a cap.
    quantum: Option<Quantum>,
}

impl<L: LocalPolicy> Capped<L> {
    pub(super) fn new(ranking: L, caps: &Arc<Caps>, entitlements: &Arc<Entitlements>) -> Self {
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
    use crate::policies::round_robin::Queue;
    use alloc::string::ToString;

    const PERIOD: u64 = 1000;

    fn capped(group: u16, cap: u32) -> Entitlement {
        Entitlement {
            group: GroupId::new(group),
            cap: Some(cap),
            ..Entitlement::default()
        }
    }

    #[test]
    fn what_cannot_be_kept_is_refused_with_the_numbers() {
        let caps = Caps::new(PERIOD, 2, 4);
        let refusal = |group, cap| {
            let refused = caps.admit(VcpuId::new(0), &capped(group, cap));
            assert!(!caps.is_any(), "nothing has changed");
            refused.unwrap_err().to_string()
        };
        assert_eq!(
            refusal(0, 0),
            "a cap of 0 would never let it run: it is at least 1"
        );
        assert_eq!(
            refusal(0, 201),
            "a cap of 201 hundredths of a pCPU is more than the 200 of the pool's 2 pCPUs"
        );
        assert_eq!(refusal(4, 50), "VM 4 has a cap, and only those below 4 can");
        let refused = Caps::new(9, 2, 4).admit(VcpuId::new(0), &capped(0, 11));
        assert_eq!(
            refused.unwrap_err().to_string(),
            "a cap of 11 hundredths is less than a tick in a period of 9 ticks"
        );
    }

    #[test]
    fn what_is_used_beyond_a_quantum_is_owed_and_what_is_unused_goes_back_within_the_period() {
        let (vcpu, cap) = (VcpuId::new(0), capped(0, 50));
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

    #[test]
    fn a_cap_goes_with_the_last_vcpu_of_its_vm() {
        let (caps, first, second) = (Caps::new(PERIOD, 2, 4), VcpuId::new(0), VcpuId::new(3));
        for vcpu in [first, second] {
            caps.admit(vcpu, &capped(1, 50)).unwrap();
        }
        caps.release(first);
        assert!(caps.is_any() && caps.capped(GroupId::new(1)).is_some());
        // It belongs to another VM now.
        caps.admit(second, &capped(2, 70)).unwrap();
        assert!(caps.capped(GroupId::new(1)).is_none());
        caps.admit(
            second,
            &Entitlement {
                cap: None,
                ..capped(2, 1)
            },
        )
        .unwrap();
        assert!(!caps.is_any());
    }
}
