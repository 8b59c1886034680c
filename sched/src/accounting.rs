//! Where the time of each vCPU and each pCPU went, exactly: the parts always add up to the whole.
//!
//! Only the owner of a vCPU (or who claims its parked box) and the pCPU itself write; others read at any time. While a
//! writer is at work `since` says so, and a reader tries again.

use core::sync::atomic::{AtomicU64, Ordering, fence};

/// `since` while a phase is being closed. A counter of host ticks does not get there.
const CHANGING: u64 = u64::MAX;
const READ_ATTEMPTS: usize = 64;

/// Time split into `PHASES` kinds, in ticks.
pub(crate) struct Account<const PHASES: usize> {
    totals: [AtomicU64; PHASES],
    phase: AtomicU64,
    since: AtomicU64,
}

impl<const PHASES: usize> Account<PHASES> {
    pub(crate) fn new(phase: usize, now: u64) -> Self {
        Self {
            totals: core::array::from_fn(|_| AtomicU64::new(0)),
            phase: AtomicU64::new(phase as u64),
            since: AtomicU64::new(now),
        }
    }

    /// The time up to `now` belongs to the phase so far, what follows to `phase`. A `now` from before the last change,
    /// read by another pCPU just before, counts as that change's.
    pub(crate) fn enter(&self, phase: usize, now: u64) {
        let since = self.since.load(Ordering::Relaxed);
        let now = now.max(since);
        self.since.store(CHANGING, Ordering::Relaxed);
        fence(Ordering::Release);
        if let Some(total) = self.totals.get(self.phase.load(Ordering::Relaxed) as usize) {
            total.store(
                total.load(Ordering::Relaxed) + (now - since),
                Ordering::Relaxed,
            );
        }
        self.phase.store(phase as u64, Ordering::Relaxed);
        self.since.store(now, Ordering::Release);
    }

    /// Since when it is in `phase`, if it is. Exact for whoever writes; others may see a change by halves.
    pub(crate) fn since(&self, phase: usize) -> Option<u64> {
        let is_current = self.phase.load(Ordering::Relaxed) == phase as u64;
        is_current.then(|| self.since.load(Ordering::Relaxed))
    }

    /// The total of `phase` until it was left last.
    #[inline]
    pub(crate) fn total(&self, phase: usize) -> u64 {
        self.totals
            .get(phase)
            .map_or(0, |total| total.load(Ordering::Relaxed))
    }

    /// The totals at `now`, the phase that is going on included.
    pub(crate) fn read(&self, now: u64) -> [u64; PHASES] {
        let mut totals = [0; PHASES];
        for _ in 0..READ_ATTEMPTS {
            let since = self.since.load(Ordering::Acquire);
            totals = core::array::from_fn(|phase| self.totals[phase].load(Ordering::Relaxed));
            let phase = self.phase.load(Ordering::Relaxed) as usize;
            fence(Ordering::Acquire);
            if since != CHANGING && self.since.load(Ordering::Relaxed) == since {
                if let Some(total) = totals.get_mut(phase) {
                    *total += now.saturating_sub(since);
                }
                break;
            }
        }
        totals
    }
}

/// The phases of a vCPU.
pub(crate) mod vcpu {
    pub(crate) const RUN: usize = 0;
    pub(crate) const READY: usize = 1;
    pub(crate) const BLOCKED: usize = 2;
    pub(crate) type Account = super::Account<3>;
}

/// The phases of a pCPU.
pub(crate) mod pcpu {
    pub(crate) const BUSY: usize = 0;
    pub(crate) const IDLE: usize = 1;
    pub(crate) type Account = super::Account<2>;
}

/// Where a vCPU's time went since it was created, in ticks.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct VcpuTimes {
    /// A pCPU ran it, or answered one of its exits.
    pub run: u64,
    /// It could have run, and no pCPU did.
    pub ready: u64,
    /// Something blocked it.
    pub blocked: u64,
}

impl VcpuTimes {
    /// The vCPU's age.
    pub const fn total(self) -> u64 {
        self.run + self.ready + self.blocked
    }
}

/// Where a pCPU's time went since the scheduler was made, in ticks.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct PcpuTimes {
    /// A vCPU was loaded and could run.
    pub busy: u64,
    /// None was.
    pub idle: u64,
}

/// How often a vCPU changed its pCPU, by where it was at that moment.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Migrations {
    /// It was loaded, and was unbound to move.
    pub loaded: u64,
    /// It was ready, and did not run.
    pub queued: u64,
    /// It was blocked, and woke up elsewhere.
    pub parked: u64,
}

impl Migrations {
    /// All of them.
    pub const fn total(self) -> u64 {
        self.loaded + self.queued + self.parked
    }
}

/// What one pCPU has done.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct PcpuCounters {
    /// Where its time went.
    pub times: PcpuTimes,
    /// It bound a vCPU.
    pub switches: u64,
    /// It kicked another pCPU.
    pub kicks_sent: u64,
    /// A kick reached it.
    pub kicks_received: u64,
    /// It gave a ready vCPU to a pCPU that had none.
    pub handed_over: u64,
    /// It was given a vCPU because it had none.
    pub pulled: u64,
    /// Its policy returned a vCPU that is not ready here, or none although some were.
    pub bad_picks: u64,
}

/// An event counter that one pCPU, or whoever owns a vCPU, writes and others read.
#[derive(Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// One more. Only the one writer calls it, so that load and store are enough.
    #[inline]
    pub(crate) fn increment(&self) {
        self.0
            .store(self.0.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_add_up_to_the_whole_at_any_time() {
        let account = vcpu::Account::new(vcpu::BLOCKED, 100);
        account.enter(vcpu::READY, 110);
        account.enter(vcpu::RUN, 113);
        assert_eq!(account.read(120), [7, 3, 10]);
        account.enter(vcpu::BLOCKED, 130);
        assert_eq!(account.read(131), [17, 3, 11]);
        assert_eq!(account.total(vcpu::READY), 3);
    }

    #[test]
    fn a_clock_read_before_the_last_change_counts_as_that_change() {
        let account = pcpu::Account::new(pcpu::IDLE, 100);
        account.enter(pcpu::BUSY, 110);
        account.enter(pcpu::IDLE, 105);
        assert_eq!(account.read(120), [0, 20]);
    }
}
