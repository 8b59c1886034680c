//! What each pool's pCPUs did while they belonged to it, whatever pools come and go and whoever moves between them.

use super::{PoolOutcome, engine::Engine};
use crate::PcpuSet;
use alloc::{
    collections::BTreeMap,
    string::{String, ToString},
    vec::Vec,
};
use core::cell::RefCell;

/// What pCPUs did.
#[derive(Clone, Copy, Default)]
struct Work {
    busy: u64,
    idle: u64,
    overhead: u64,
    switches: u64,
    kicks: u64,
}

/// What is written down.
#[derive(Default)]
pub(super) struct Ledger(RefCell<Pages>);

#[derive(Default)]
struct Pages {
    /// By pCPU: what it had done when its pool was asked last.
    before: Vec<Work>,
    /// By the pools' names.
    pools: BTreeMap<String, Work>,
}

impl Engine {
    /// From now on it is written down.
    pub(super) fn begin_ledger(&self) {
        let mut pages = self.ledger.0.borrow_mut();
        pages.before = self.work();
        pages.pools.clear();
    }

    /// What has been done since the last time belongs to the pools as they are. Nobody is changing them.
    pub(super) fn settle_ledger(&self) {
        let mut pages = self.ledger.0.borrow_mut();
        if pages.before.is_empty() {
            return;
        }
        let now = self.work();
        for pool in self.scheduler().pools() {
            let before = &pages.before;
            let work = pool.pcpus.iter().map(|pcpu| {
                let (now, before) = (now[pcpu.index()], before[pcpu.index()]);
                Work {
                    busy: now.busy - before.busy,
                    idle: now.idle - before.idle,
                    overhead: now.overhead - before.overhead,
                    switches: now.switches - before.switches,
                    kicks: now.kicks - before.kicks,
                }
            });
            let work: Vec<Work> = work.collect();
            let sum = pages.pools.entry(pool.name).or_default();
            for work in work {
                sum.busy += work.busy;
                sum.idle += work.idle;
                sum.overhead += work.overhead;
                sum.switches += work.switches;
                sum.kicks += work.kicks;
            }
        }
        pages.before = now;
    }

    /// What each pCPU has done so far.
    fn work(&self) -> Vec<Work> {
        let pcpus = self.scheduler().pcpus();
        let work = pcpus.iter().map(|pcpu| {
            let counters = self.scheduler().pcpu_counters(pcpu, self.now());
            let counters = counters.expect("rule: the machine has it");
            Work {
                busy: counters.times.busy,
                idle: counters.times.idle,
                overhead: self.station(pcpu).overhead.get(),
                switches: counters.switches,
                kicks: counters.kicks_received,
            }
        });
        work.collect()
    }
}

/// What each pool's pCPUs did: those that there are, in their order, and those that are gone.
pub(super) fn pools(engine: &Engine) -> Vec<PoolOutcome> {
    let pages = engine.ledger.0.borrow();
    let outcome = |name: &str, policy: &str, pcpus, vcpus, work: Work| PoolOutcome {
        name: name.into(),
        policy: policy.into(),
        pcpus,
        vcpus,
        busy: work.busy,
        idle: work.idle,
        overhead: work.overhead,
        switches: work.switches,
        kicks: work.kicks,
    };
    let present = engine.scheduler().pools();
    let work = |name: &str| pages.pools.get(name).copied().unwrap_or_default();
    let mut all: Vec<PoolOutcome> = present
        .iter()
        .map(|pool| {
            let vcpus = pool.vcpus.len();
            let policy = pool.policy.to_string();
            outcome(&pool.name, &policy, pool.pcpus, vcpus, work(&pool.name))
        })
        .collect();
    let is_gone = |name: &&String| present.iter().all(|pool| pool.name != **name);
    let gone = pages.pools.keys().filter(is_gone);
    all.extend(gone.map(|name| outcome(name, "", PcpuSet::EMPTY, 0, work(name))));
    all
}
