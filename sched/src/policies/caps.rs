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

mod capped;

use super::{budget::Budget, members::Members};
use crate::{
    Entitlement, GroupId, PcpuId, Refusal, VcpuId,
    sync::{
        AtomicU32,
        Ordering::{Acquire, Relaxed, Release},
    },
};
use alloc::{boxed::Box, format};

pub(super) use capped::Capped;

const NO_CAP: u32 = 0;
/// Hundredths of a pCPU.
const WHOLE: u32 = 100;

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

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
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
