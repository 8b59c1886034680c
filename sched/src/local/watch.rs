//! Whether the policy keeps its promise: nobody who is ready waits for longer than it says.
//!
//! One ready vCPU is watched at a time, in turns: if it has waited all the while when twice the promised wait is over, the
//! whole pool falls back to round-robin, and the host is told. Between two looks this costs one comparison. [Linux: sched_ext,
//! the watchdog that ejects a scheduler under which a task stalls]
//!
//! A policy counts on the pCPU's timer. By how much that came too late, because the machine below or a long piece of work held
//! the pCPU up, is not the policy's fault, and does not count. What each look takes anyway does count.

use super::LocalScheduler;
use crate::{PcpuId, Policy, PoolId, Ready, TraceEvent, Vcpu, VcpuId, attention::About};

/// How a policy broke its promise.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PolicyFailure {
    /// The pool.
    pub pool: PoolId,
    /// The policy's name.
    pub policy: &'static str,
    /// Who was ready, and did not run.
    pub vcpu: VcpuId,
    /// Where.
    pub pcpu: PcpuId,
    /// For how long, in ticks.
    pub waited: u64,
    /// For how long at most, by the policy's own word, in ticks.
    pub promised: u64,
}

/// A timer that is late by less than this part of round-robin's slice is no stall.
const LEAST_STALL: u64 = 4;

pub(super) struct Watched {
    vcpu: VcpuId,
    /// Watched from here on.
    since: u64,
    /// By how much the pCPU's timer has been too late since then, in ticks.
    lateness: u64,
    /// The longest wait by the policy's word at that time.
    promised: u64,
    /// Whether it still waits is looked at then.
    until: u64,
}

impl Watched {
    /// When it has waited too long.
    fn patience(&self) -> u64 {
        let longest = self.promised.saturating_mul(2);
        let longest = longest.saturating_add(self.lateness).saturating_add(1);
        self.since.saturating_add(longest)
    }
}

impl<V: Vcpu> LocalScheduler<V> {
    /// Looks after the one that is watched, or chooses one, if others wait. One that has run meanwhile stays the watched one until
    /// its time is over, so that a pCPU where vCPUs come and go looks at them rarely.
    pub(super) fn watch(&mut self, now: u64) {
        let is_early = self
            .watched
            .as_ref()
            .is_some_and(|watched| now < watched.until);
        let is_off = self.has_fallen_back || cfg!(mutant = "nobody_watches");
        if !(self.ready.is_empty() || is_early || is_off) {
            self.look_after_one(now);
        }
    }

    /// When somebody who may be ready too long has to be looked at.
    pub(super) fn next_watch(&self) -> Option<u64> {
        let watched = self.watched.as_ref().filter(|_| !self.ready.is_empty());
        watched.map(|watched| watched.until)
    }

    #[inline(never)]
    fn look_after_one(&mut self, now: u64) {
        let present = self.ready.len() + usize::from(self.is_running());
        let Some(promised) = self.promises.bounds(present).longest_wait else {
            self.watched = None;
            return;
        };
        if let Some(mut watched) = self.watched.take() {
            let vcpu = self.ready.get(watched.vcpu);
            let ready_since = vcpu.and_then(|vcpu| vcpu.handle().ready_since());
            if let Some(ready_since) = ready_since.filter(|&since| since <= watched.since) {
                watched.promised = watched.promised.max(promised);
                watched.until = watched.patience();
                if now < watched.until {
                    self.watched = Some(watched);
                    return;
                }
                let waited = now.saturating_sub(ready_since);
                return self.fail_policy(watched.vcpu, waited, watched.promised, now);
            }
        }
        let vcpu = self.ready.after(self.last_watched);
        self.last_watched = vcpu;
        self.watched = vcpu.map(|vcpu| {
            let mut watched = Watched {
                vcpu,
                since: now,
                lateness: 0,
                promised,
                until: now,
            };
            watched.until = watched.patience();
            watched
        });
    }

    /// The pCPU looks at `now`. If its timer was for before, another one is set, whether its interrupt has been taken or not.
    #[inline]
    pub(super) fn note_lateness(&mut self, now: u64) {
        if let Some(timer) = self.timer.filter(|&timer| timer < now)
            && let Some(watched) = &mut self.watched
        {
            let late = now - timer;
            if late >= self.scheduler.fallback().slice_ticks() / LEAST_STALL {
                watched.lateness = watched.lateness.saturating_add(late);
            }
        }
    }

    /// The wait of `vcpu` has been interrupted by somebody who is not the policy.
    pub(super) fn watch_anew(&mut self, vcpu: VcpuId) {
        self.watched.take_if(|watched| watched.vcpu == vcpu);
    }

    fn fail_policy(&mut self, vcpu: VcpuId, waited: u64, promised: u64, now: u64) {
        self.trace(now, TraceEvent::Starved(vcpu));
        let pool = self.scheduler.partition(self.pool_id);
        if pool.fail(self.generation) {
            self.scheduler.host().policy_failed(PolicyFailure {
                pool: self.pool_id,
                policy: self.promises.name(),
                vcpu,
                pcpu: self.id,
                waited,
                promised,
            });
            pool.pcpus()
                .iter()
                .for_each(|pcpu| self.scheduler.request(pcpu));
        }
        self.fall_back(now);
    }

    /// Round-robin takes over, if the pool's policy has failed.
    pub(super) fn fall_back(&mut self, now: u64) {
        if self.has_fallen_back
            || !self
                .scheduler
                .partition(self.pool_id)
                .has_failed(self.generation)
        {
            return;
        }
        self.has_fallen_back = true;
        self.spread_every(self.scheduler.fallback().balance_period(), now);
        self.watched = None;
        self.charge(now);
        core::mem::swap(&mut self.policy, &mut self.fallback);
        self.introduce(now);
        self.cell.attention.remind(About::Loaded);
    }

    /// Tells a policy that takes over who is ready and who runs here; it is asked at once.
    pub(super) fn introduce(&mut self, now: u64) {
        if cfg!(mutant = "successor_knows_nobody") {
            return;
        }
        let policy = &mut self.policy;
        self.ready
            .for_each(|vcpu| policy.enqueue(vcpu.handle().id(), Ready::Woken, now));
        if let Some(vcpu) = self.loaded.as_ref().filter(|_| !self.current.is_waiting) {
            policy.enqueue(vcpu.handle().id(), Ready::Woken, now);
            self.is_ranked = true;
        }
    }
}
