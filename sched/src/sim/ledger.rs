//! What each pool's pCPUs did while they belonged to it, whatever pools come and go and whoever moves between them.

use super::{PcpuWork, PoolOutcome, engine::Engine};
use crate::{PcpuId, PcpuSet};
use alloc::{
    collections::BTreeMap,
    string::{String, ToString},
    vec::Vec,
};
use core::cell::RefCell;

/// What is written down.
#[derive(Default)]
pub(super) struct Ledger(RefCell<Pages>);

#[derive(Default)]
struct Pages {
    /// By pCPU: what it had done when its pool was asked last.
    before: Vec<PcpuWork>,
    /// By the pools' names.
    pools: BTreeMap<String, PcpuWork>,
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
            let since = |pcpu: PcpuId| now[pcpu.index()] - before[pcpu.index()];
            let work: PcpuWork = pool.pcpus.iter().map(since).sum();
            let sum = pages.pools.entry(pool.name).or_default();
            *sum = [*sum, work].into_iter().sum();
        }
        pages.before = now;
    }

    /// What each pCPU has done so far.
    pub(super) fn work(&self) -> Vec<PcpuWork> {
        let pcpus = self.scheduler().pcpus();
        let work = pcpus.iter().map(|pcpu| {
            let counters = self.scheduler().pcpu_counters(pcpu, self.now());
            let counters = counters.expect("rule: the machine has it");
            PcpuWork {
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
    let outcome = |name: &str, policy: &str, pcpus, vcpus, work: PcpuWork| PoolOutcome {
        name: name.into(),
        policy: policy.into(),
        pcpus,
        vcpus,
        work,
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
