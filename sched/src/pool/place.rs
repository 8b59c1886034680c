//! Where a vCPU goes: who idles, who is drained, where the fewest wait.
//!
//! An idle pCPU is a bit in the bitmap of its pool; whoever clears that bit has claimed it and must post there. Where two words are
//! crossed there is `fence(SeqCst)` on both sides: who makes a vCPU wait looks for an idle pCPU afterwards, who goes idle
//! looks for mail and for ready vCPUs afterwards, so one of them sees the other.

use super::Pool;
use crate::{
    PcpuId, PcpuSet, PoolId, Vcpu,
    attention::About,
    sync::{Ordering, fence},
};

impl<V: Vcpu> Pool<V> {
    /// Takes `pcpu` out of service: it gives its vCPUs away and answers [`crate::Decision::Drained`]. A vCPU that may run
    /// nowhere else stays there, ready and unbound, until its affinity or the pCPU says otherwise. False if the machine does
    /// not have `pcpu`.
    pub fn drain(&self, pcpu: PcpuId) -> bool {
        self.pcpus.contains(pcpu) && {
            self.draining.insert(pcpu, Ordering::SeqCst);
            self.nudge(pcpu, About::Requests);
            true
        }
    }

    /// Puts `pcpu` back into service. False if the machine does not have it, or it is unplugged.
    pub fn undrain(&self, pcpu: PcpuId) -> bool {
        self.with_regime(|_| {
            let is_plugged = self.pool_of(pcpu).is_some();
            if is_plugged {
                self.put_into_service(pcpu);
            }
            is_plugged
        })
    }

    pub(super) fn put_into_service(&self, pcpu: PcpuId) {
        self.draining.remove(pcpu, Ordering::SeqCst);
        // Those that are still drained may keep vCPUs that had nowhere to go until now.
        let drained = self.draining.load(Ordering::SeqCst);
        let told = drained.union(PcpuSet::only(pcpu));
        told.iter()
            .for_each(|pcpu| self.nudge(pcpu, About::Requests));
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

    /// Where a vCPU of `pool` goes that may run on `affinity` and was on `last`: to an idle pCPU, which is claimed for it; else back to `last`
    /// unless that is clearly busier than another near it; else where the fewest wait of those.
    pub(crate) fn choose(&self, pool: PoolId, affinity: PcpuSet, last: Option<PcpuId>) -> PcpuId {
        let in_service = affinity.difference(self.draining.load(Ordering::Relaxed));
        // If it may run only on drained pCPUs, it waits on one of them.
        let eligible = if in_service.is_empty() {
            affinity
        } else {
            in_service
        };
        if let Some(idle) = self.claim_idle_in(pool, eligible, last) {
            return idle;
        }
        let online = eligible.intersection(self.online.load(Ordering::Relaxed));
        let candidates = if online.is_empty() { eligible } else { online };
        let last = last.filter(|&last| candidates.contains(last));
        if let Some(last) = last.filter(|&last| self.waiting(last) <= 1) {
            return last;
        }
        let near = last.map_or(candidates, |last| candidates.near(last));
        let least = near.iter().min_by_key(|&pcpu| self.waiting(pcpu));
        let least = least.expect("rule: an affinity is never empty");
        last.filter(|&last| self.waiting(last) <= self.waiting(least) + 1)
            .unwrap_or(least)
    }

    /// Claims an idle pCPU of `pool` and `set`, `first` if that is one: the caller must post to it.
    pub(crate) fn claim_idle_in(
        &self,
        pool: PoolId,
        set: PcpuSet,
        first: Option<PcpuId>,
    ) -> Option<PcpuId> {
        let set = if cfg!(mutant = "forget_affinity") {
            self.pcpus
        } else {
            set
        };
        let idle = self.partition(pool).idle_pcpus().intersection(set);
        first
            .filter(|&first| idle.contains(first))
            .into_iter()
            .chain(idle.iter())
            .find(|&pcpu| self.claim_idle(pool, pcpu))
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

    /// `idler`, of `pool`, has nothing to do: tells those there that have mail to read, and the one with the most ready vCPUs of which one may
    /// run there. Their next `schedule` sees it in the bitmap. After `fence(SeqCst)`.
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
        if let Some(giver) = givers.max_by_key(|&pcpu| self.waiting(pcpu)) {
            self.nudge(giver, About::Work);
        }
    }
}
