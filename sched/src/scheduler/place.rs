//! Where a vCPU goes: who idles, who is drained, where the fewest wait.
//!
//! A vCPU that wakes up goes to its home, if its policy gives it one, and otherwise, of the pCPUs that its affinity and its pool
//! let it run on and that are in service, to the first of these that there is:
//!
//! | | where | what it costs |
//! |---|---|---|
//! | 1 | an idle pCPU that it prefers (soft affinity): the last one, one near that, any | one load; with a preference, two sets |
//! | 2 | an idle pCPU: the last one, one that shares a cache with that, any | an atomic bit for each try |
//! | 3 | the last one, unless two more wait there than where the fewest do | 32 loads if more than one waits there |
//! | 4 | where the fewest wait | the same |
//!
//! One that waits with its registers loaded goes on where it is, and so does not wait loaded where it would rather leave.
//! 3 and 4 look at 16 pCPUs that share a cache with the last one and at 16 others, which are others each time. If it prefers
//! some, they are among those only: it has to wait anyway. A pCPU that goes idle asks the one near it with
//! the most ready vCPUs, or if none near has any, the one with the most. That one gives away what the policy can do without, to
//! the nearest idle pCPU; if nobody there may run on the one that asked, that one asks the next. If somebody may and the policy lets nobody
//! go, it is not told, as it would ask the same one again: it is in the bitmap at each choice there. Whoever has work and sees nobody
//! idle does nothing for others but now and then, as [`crate::local`] says; other moves between busy pCPUs are the policies'.
//!
//! An idle pCPU is a bit in the bitmap of its pool; whoever clears that bit has claimed it and must post there. Where two words are
//! crossed there is `fence(SeqCst)` on both sides: who makes a vCPU wait looks for an idle pCPU afterwards, who goes idle
//! looks for mail and for ready vCPUs afterwards, so one of them sees the other.

use super::Scheduler;
use crate::{
    PcpuId, PcpuSet, PoolId, Vcpu, VcpuHandle,
    attention::About,
    sync::{Ordering, fence},
};

impl<V: Vcpu> Scheduler<V> {
    /// Takes `pcpu` out of service: it gives its vCPUs away and answers [`crate::Decision::Drained`]. A vCPU that may run
    /// nowhere else stays there, ready and unbound, until its affinity or the pCPU says otherwise. False if the machine does
    /// not have `pcpu`.
    pub fn drain(&self, pcpu: PcpuId) -> bool {
        self.pcpus.contains(pcpu) && {
            self.draining.insert(pcpu, Ordering::SeqCst);
            if !cfg!(mutant = "drain_tells_nobody") {
                self.request(pcpu);
            }
            true
        }
    }

    /// Puts `pcpu` back into service. False if the machine does not have it, or it is unplugged or closed.
    pub fn undrain(&self, pcpu: PcpuId) -> bool {
        self.with_regime(|_| {
            let is_plugged = self.pool_of(pcpu).is_some();
            is_plugged
                && self
                    .while_open(pcpu, || self.put_into_service(pcpu))
                    .is_some()
        })
    }

    /// What `act` does while `pcpu` does not close; `None` if it is closed. For who changes the regime.
    pub(crate) fn while_open<R>(&self, pcpu: PcpuId, act: impl FnOnce() -> R) -> Option<R> {
        let attention = &self.cell(pcpu).attention;
        attention.hold().then(|| {
            let result = act();
            attention.release();
            if self.is_draining(pcpu) {
                // It stays out of service, and may have tried to close meanwhile.
                self.request(pcpu);
            }
            result
        })
    }

    pub(super) fn put_into_service(&self, pcpu: PcpuId) {
        self.draining.remove(pcpu, Ordering::SeqCst);
        // Those that are still drained may keep vCPUs that had nowhere to go until now.
        let drained = self.draining.load(Ordering::SeqCst);
        let told = if cfg!(mutant = "undrain_tells_nobody") {
            PcpuSet::only(pcpu)
        } else {
            drained.union(PcpuSet::only(pcpu))
        };
        told.iter().for_each(|pcpu| self.request(pcpu));
    }

    pub(crate) fn is_draining(&self, pcpu: PcpuId) -> bool {
        self.draining.contains(pcpu, Ordering::Relaxed)
    }

    fn waiting(&self, pcpu: PcpuId) -> u32 {
        self.cell(pcpu).waiting.load(Ordering::Relaxed)
    }

    /// A vCPU with `affinity` may be run by a pCPU other than `here`.
    pub(crate) fn may_run_elsewhere(&self, affinity: PcpuSet, here: PcpuId) -> bool {
        let draining = self.draining.load(Ordering::Relaxed);
        !affinity
            .difference(draining)
            .difference(PcpuSet::only(here))
            .is_empty()
    }

    /// Where the vCPU of `handle` goes that was on `last`, in the order that the head of this file says. An idle pCPU is claimed
    /// for it.
    pub(crate) fn choose(&self, handle: &VcpuHandle<V>, last: Option<PcpuId>) -> PcpuId {
        if self.partition(handle.pool_id()).has_idle()
            && let Some(idle) = self.claim_idle_for(handle, self.eligible(handle), last)
        {
            return idle;
        }
        // Most go back, which takes no set to find out.
        let goes_back = |&last: &PcpuId| {
            handle.can_run_on(last)
                && handle.entry.is_content_on(last)
                && self.online.contains(last, Ordering::Relaxed)
        };
        if let Some(last) = last
            .filter(goes_back)
            .filter(|&last| self.waiting(last) <= 1)
        {
            return last;
        }
        let eligible = self.eligible(handle);
        let online = eligible.intersection(self.online.load(Ordering::Relaxed));
        let candidates = if online.is_empty() { eligible } else { online };
        let preferred = handle.entry.preferred();
        let preferred = candidates.intersection(preferred);
        // It has to wait anyway.
        let candidates = if preferred.is_empty() {
            candidates
        } else {
            preferred
        };
        let last = last.filter(|&last| candidates.contains(last));
        if let Some(last) = last.filter(|&last| self.waiting(last) <= 1) {
            return last;
        }
        // Others each time that it comes here.
        let turn = handle.switches.read() + handle.id().index() as u64;
        let (least, waiting) = self.least_loaded(candidates, last, turn);
        last.filter(|&last| self.waiting(last) <= waiting + 1)
            .unwrap_or(least)
    }

    /// Where the vCPU of `handle` may run and pCPUs are in service. If it may run only on drained ones, it waits on one of them.
    fn eligible(&self, handle: &VcpuHandle<V>) -> PcpuSet {
        let allowed = handle.allowed();
        let in_service = allowed.difference(self.draining.load(Ordering::Relaxed));
        if in_service.is_empty() {
            allowed
        } else {
            in_service
        }
    }

    /// Where the fewest wait of `candidates`, and how many: of 16 that share a cache with `last` and 16 others, which are others in
    /// each turn. Of equal ones, one near `last`.
    fn least_loaded(&self, candidates: PcpuSet, last: Option<PcpuId>, turn: u64) -> (PcpuId, u32) {
        let near = last.map_or(PcpuSet::EMPTY, |last| self.cell(last).near);
        let near = candidates.intersection(near);
        let far = candidates.difference(near);
        let sample = near.part(turn).iter().chain(far.part(turn).iter());
        let waiting = sample.map(|pcpu| (pcpu, self.waiting(pcpu)));
        let least = waiting.min_by_key(|&(pcpu, waiting)| (waiting, !near.contains(pcpu)));
        least.expect("rule: an affinity is never empty")
    }

    /// The busy pCPU of `pool` where the fewest wait, and at least `fewer` fewer than on `here`, where one that is ready `here` may
    /// run, and that is not in `tried`, with how many wait there: of 16 near ones, if there is one among them, else of 16 others, which
    /// are others in each turn.
    pub(crate) fn quieter(
        &self,
        pool: PoolId,
        here: PcpuId,
        fewer: u32,
        tried: PcpuSet,
        turn: u64,
    ) -> Option<(PcpuId, u32)> {
        let most = self.waiting(here).checked_sub(fewer)?;
        let partition = self.partition(pool);
        let busy = partition.pcpus().difference(partition.idle_pcpus());
        let busy = busy
            .intersection(self.cell(here).reach())
            .intersection(self.online.load(Ordering::Relaxed))
            .difference(self.draining.load(Ordering::Relaxed))
            .difference(PcpuSet::only(here));
        let near = busy.intersection(self.cell(here).near);
        let far = busy.difference(near);
        let sample = near.part(turn).iter().chain(far.part(turn).iter());
        let sample = sample.filter(|&pcpu| !tried.contains(pcpu));
        let waiting = sample.map(|pcpu| (pcpu, self.waiting(pcpu)));
        let quieter = waiting.filter(|&(_, waiting)| waiting <= most);
        quieter.min_by_key(|&(pcpu, waiting)| (!near.contains(pcpu), waiting))
    }

    /// Claims an idle pCPU of `set` for the vCPU of `handle`, which was on `last`: the caller must post to it.
    pub(crate) fn claim_idle_for(
        &self,
        handle: &VcpuHandle<V>,
        set: PcpuSet,
        last: Option<PcpuId>,
    ) -> Option<PcpuId> {
        let set = if cfg!(mutant = "forget_affinity") {
            self.pcpus
        } else {
            set
        };
        let pool = handle.pool_id();
        let idle = self.partition(pool).idle_pcpus().intersection(set);
        if idle.is_empty() {
            return None;
        }
        let preferred = handle.entry.preferred();
        let preferred = idle.intersection(preferred);
        if !preferred.is_empty()
            && let Some(claimed) = self.claim_nearest(pool, preferred, last)
        {
            return Some(claimed);
        }
        self.claim_nearest(pool, idle, last)
    }

    /// Claims one of `idle`: `last` if that is one, else one near it, else any.
    pub(crate) fn claim_nearest(
        &self,
        pool: PoolId,
        idle: PcpuSet,
        last: Option<PcpuId>,
    ) -> Option<PcpuId> {
        if let Some(last) = last {
            if idle.contains(last) && self.claim_idle(pool, last) {
                return Some(last);
            }
            let near = idle.intersection(self.cell(last).near);
            let claimed = near.iter().find(|&pcpu| self.claim_idle(pool, pcpu));
            if claimed.is_some() {
                return claimed;
            }
        }
        idle.iter().find(|&pcpu| self.claim_idle(pool, pcpu))
    }

    /// True for exactly one of those that want to post to an idle `pcpu` of `pool`.
    pub(crate) fn claim_idle(&self, pool: PoolId, pcpu: PcpuId) -> bool {
        let idle = &self.partition(pool).idle;
        idle.remove(pcpu, Ordering::SeqCst) || cfg!(mutant = "claim_idle_twice")
    }

    /// `pcpu`, which follows the policy of `pool`, idles.
    pub(crate) fn publish_idle(&self, pool: PoolId, pcpu: PcpuId) {
        let pool = if cfg!(mutant = "idle_everywhere") {
            PoolId::FIRST
        } else {
            pool
        };
        self.partition(pool).idle.insert(pcpu, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// The pCPU no longer idles; somebody may have claimed it already, and posts.
    pub(crate) fn retract_idle(&self, pool: PoolId, pcpu: PcpuId) {
        self.partition(pool).idle.remove(pcpu, Ordering::SeqCst);
    }

    /// `idler`, of `pool`, has nothing to do: tells those there that have mail to read, and the one with the most ready vCPUs of
    /// which one may run there, of those that are near if one of them has any. Their next `schedule` sees it in the bitmap. After
    /// `fence(SeqCst)`.
    // Inlined it makes each `schedule` save registers that only an idle pCPU needs.
    #[inline(never)]
    pub(crate) fn ask_for_work(&self, pool: PoolId, idler: PcpuId) {
        let pool = self.partition(pool);
        let others = || {
            pool.pcpus()
                .iter()
                .filter(|&pcpu| pcpu != idler && !self.is_draining(pcpu))
        };
        others()
            .filter(|&pcpu| self.cell(pcpu).attention.has_mail())
            .for_each(|pcpu| self.nudge(pcpu, About::Work));
        // One that idles itself has none, or none that its policy lets run now.
        let idle = pool.idle_pcpus();
        let givers =
            others().filter(|&pcpu| !idle.contains(pcpu) && self.cell(pcpu).reaches(idler));
        let near = self.cell(idler).near;
        let rank = |&pcpu: &PcpuId| {
            let waiting = self.waiting(pcpu);
            (near.contains(pcpu) && waiting > 0, waiting)
        };
        if let Some(giver) = givers.max_by_key(rank) {
            self.cell(giver).ask(idler);
            self.nudge(giver, About::Work);
        }
    }
}
