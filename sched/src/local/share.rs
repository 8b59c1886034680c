//! How a pCPU gives ready vCPUs to others: to one that idles, to a busy one if the policy wants that, and now and then to a busy
//! one where fewer wait.
//!
//! An idle pCPU asks. Busy ones do not: the one where more wait looks by itself, once in a balance period that its policy has said, and
//! only when it has chosen anew anyway. It gives one vCPU away, to a pCPU where at least two fewer wait: so there are no fewer here than
//! there afterwards, and as long as no other one gives there at the same time, it does not come back. Of several that do, each sees
//! what is there before the others' gifts; then that one has more, and gives again a period later. So each looks at a time of its own in
//! the period, by its number. Near ones come first, the one with the fewest of them, of at most 16 near ones and 16
//! others, which are others each time. [Linux: load_balance, which pulls]

use super::LocalScheduler;
use crate::{
    PcpuId, PcpuSet, Ready, TraceEvent, Vcpu, VcpuId,
    attention::About,
    cell::Mail,
    state::Leave,
    sync::{Ordering, fence},
};
use core::num::NonZero;

/// Later than any time.
const NEVER: u64 = u64::MAX;
/// For how many pCPUs at most a vCPU is looked for that may go there.
const TRIES: usize = 4;
/// Where so many fewer wait, one more is better off.
const IMBALANCE: u32 = 2;

impl<V: Vcpu> LocalScheduler<V> {
    /// Others wait here and a pCPU idles: gives it one that may run there.
    pub(super) fn share(&mut self, was_asked: bool, now: u64) {
        if self.ready.is_empty() && !was_asked {
            return self.cell.clear_reach();
        }
        fence(Ordering::SeqCst);
        while !self.ready.is_empty()
            && self.scheduler.partition(self.pool_id).has_idle()
            && !cfg!(mutant = "share_nothing")
        {
            match self.surrender(now) {
                Some((id, to)) => self.hand_over(id, to, now),
                None => break,
            }
        }
    }

    /// Those of its pool that idle.
    pub(super) fn idle_pcpus(&self) -> PcpuSet {
        self.scheduler.partition(self.pool_id).idle_pcpus()
    }

    /// Lets the policy name a ready vCPU for which an idle pCPU can be claimed; the claim must be used.
    fn surrender(&mut self, now: u64) -> Option<(VcpuId, PcpuId)> {
        let (ready, scheduler, here) = (&self.ready, &self.scheduler, self.id);
        let mut accepted = None;
        let surrendered = self.policy.surrender(&mut |id| {
            if accepted.is_none() {
                let claimed = ready.get(id).and_then(|vcpu| {
                    let handle = vcpu.handle();
                    scheduler.claim_idle_for(handle, handle.allowed(), Some(here))
                });
                accepted = claimed.map(|pcpu| (id, pcpu));
            }
            accepted.is_some_and(|(first, _)| first == id)
        });
        let accepted_id = accepted.map(|(id, _)| id);
        if surrendered != accepted_id {
            // The policy is corrected: what was claimed for is given, what was not stays.
            self.cell.bad_picks.increment();
            if let Some(accepted) = accepted_id {
                self.policy.withdraw(accepted, now);
            }
            self.keep(surrendered, now);
        }
        accepted
    }

    /// The policy has taken out a vCPU that may not leave.
    fn keep(&mut self, vcpu: Option<VcpuId>, now: u64) {
        if let Some(kept) = vcpu.filter(|&kept| self.ready.get(kept).is_some()) {
            self.policy.enqueue(kept, Ready::Woken, now);
        }
    }

    /// Gives other pCPUs what the policy would rather have there, each at most one, so that two that disagree do not keep each
    /// other busy; then lets it ask another one to do the same.
    pub(super) fn balance(&mut self, was_asked: bool, now: u64) {
        if !(core::mem::take(&mut self.must_balance) || was_asked) {
            return;
        }
        let mut done = PcpuSet::only(self.id);
        while !self.ready.is_empty()
            && let Some(to) = self.push(&done, now)
        {
            done.insert(to);
        }
        let giver = self.policy.pull(now).filter(|&giver| giver != self.id);
        if let Some(giver) =
            giver.filter(|&giver| self.scheduler.partition(self.pool_id).has(giver))
        {
            self.scheduler.nudge(giver, About::Work);
        }
        if self.ready.len() >= IMBALANCE as usize && now >= self.next_spread {
            self.spread(now);
        }
    }

    /// From `now` on one goes to where fewer wait in each `period`, if it has any. Each pCPU looks at a time of its own in it, so
    /// that not all that have more give to the same one at once.
    pub(super) fn spread_every(&mut self, period: Option<NonZero<u64>>, now: u64) {
        self.spread_period = period;
        self.spread_tried = PcpuSet::EMPTY;
        let pcpus = u64::from(self.scheduler.pcpus().len().max(1));
        let offset = period.map_or(NEVER, |period| {
            let turn = self.id.index() as u64 % pcpus;
            (u128::from(period.get()) * u128::from(turn) / u128::from(pcpus)) as u64
        });
        self.next_spread = now.saturating_add(offset);
    }

    /// Gives one vCPU to where fewer wait.
    #[inline(never)]
    fn spread(&mut self, now: u64) {
        let Some(period) = self.spread_period else {
            return;
        };
        self.next_spread = now.saturating_add(period.get());
        self.spreads = self.spreads.wrapping_add(1);
        if cfg!(mutant = "nobody_spreads") {
            return;
        }
        if cfg!(mutant = "spread_tries_the_same_again") {
            self.spread_tried = PcpuSet::EMPTY;
        }
        for _ in 0..TRIES {
            let fewer = match cfg!(mutant = "spread_to_equals") {
                true => 1,
                false => IMBALANCE,
            };
            let (tried, turn) = (self.spread_tried, self.spreads);
            let to = self
                .scheduler
                .quieter(self.pool_id, self.id, fewer, tried, turn);
            let gift = to.map(|(to, waiting)| (to, self.relieve(to, waiting, now)));
            match gift {
                Some((to, None)) => self.spread_tried.insert(to),
                Some((to, Some(id))) => {
                    self.spread_tried = PcpuSet::EMPTY;
                    return self.hand_over(id, to, now);
                }
                None => {
                    self.spread_tried = PcpuSet::EMPTY;
                    return;
                }
            }
        }
    }

    /// Lets the policy name a ready vCPU that may go to `to`, where `waiting` wait. One that has preferred pCPUs is not sent away from
    /// them.
    fn relieve(&mut self, to: PcpuId, waiting: u32, now: u64) -> Option<VcpuId> {
        let (ready, here) = (&self.ready, self.id);
        let may_go = |id| {
            ready.get(id).is_some_and(|vcpu: &V| {
                let preferred = vcpu.handle().entry.preferred();
                let is_worse = preferred.contains(here) && !preferred.contains(to);
                !is_worse && vcpu.handle().can_run_on(to)
            })
        };
        let waiting = waiting as usize;
        let id = self.policy.relieve(to, waiting, &mut |id| may_go(id))?;
        if may_go(id) {
            return Some(id);
        }
        self.cell.bad_picks.increment();
        self.keep(Some(id), now);
        None
    }

    /// Lets the policy name a ready vCPU and a pCPU that is not in `done`, and hands it over.
    #[inline(never)]
    fn push(&mut self, done: &PcpuSet, now: u64) -> Option<PcpuId> {
        let ready = &self.ready;
        let may_go = |id, to| {
            let vcpu = ready.get(id).filter(|_| !done.contains(to));
            vcpu.is_some_and(|vcpu: &V| vcpu.handle().can_run_on(to))
        };
        let (id, to) = self.policy.push(now, &mut |id, to| may_go(id, to))?;
        if !may_go(id, to) {
            self.cell.bad_picks.increment();
            self.keep(Some(id), now);
            return None;
        }
        self.hand_over(id, to, now);
        Some(to)
    }

    /// Says exactly where those that are ready here may run, and wakes those that have asked for one and get none, so that they
    /// ask another: they have the time to look at all of them. One look for each that has asked, and it does not ask here again.
    #[inline(never)]
    pub(super) fn answer_askers(&self) {
        let askers = self.cell.take_askers();
        if askers.is_empty() {
            return;
        }
        let mut reach = PcpuSet::EMPTY;
        self.ready
            .for_each(|vcpu| reach = reach.union(vcpu.handle().allowed()));
        self.cell.set_reach(reach);
        let in_vain = self.idle_pcpus().intersection(askers).difference(reach);
        if !cfg!(mutant = "forget_who_asked") {
            in_vain
                .iter()
                .for_each(|asker| self.scheduler.nudge(asker, About::Work));
        }
    }

    fn hand_over(&mut self, id: VcpuId, to: PcpuId, now: u64) {
        let Some(vcpu) = self.ready.remove(id) else {
            return;
        };
        self.uncount();
        vcpu.handle().migrations.queued.increment();
        self.cell.handed_over.increment();
        self.trace(now, TraceEvent::HandOver(id, to));
        match vcpu.handle().state.update(|state| state.route(to)) {
            Leave::Queued => self.scheduler.post(
                to,
                Mail {
                    vcpu,
                    why: Ready::MigratedIn,
                },
            ),
            Leave::SyncFirst => {
                unreachable!("rule: only a loaded vCPU has interrupt state to fold")
            }
        }
    }
}
