//! How a pCPU is told that something waits for it: a box in its inbox, a bit in its attention word, a kick.

use super::Scheduler;
use crate::{
    PcpuId, TraceEvent, Vcpu,
    attention::{About, Kick},
    cell::Mail,
    handle::Unparked,
    state::Leave,
    sync::{Ordering, fence},
};
use alloc::sync::Arc;

/// Who does something, and when; asked once for all that follows from it.
#[derive(Clone, Copy)]
pub(crate) struct Caller {
    /// `None` if it is no pCPU of the machine's.
    pcpu: Option<PcpuId>,
    /// The host's counter, in ticks.
    pub(crate) now: u64,
}

impl<V: Vcpu> Scheduler<V> {
    /// Who calls.
    #[inline]
    pub(crate) fn caller(&self) -> Caller {
        Caller {
            pcpu: self.host.this_pcpu(),
            now: self.host.now(),
        }
    }

    /// Puts a box into the inbox of `to`. The state word already says that it is queued there.
    pub(crate) fn post(&self, to: PcpuId, mail: Mail<V>) {
        self.post_from(self.caller(), to, mail);
    }

    /// The same for `caller`.
    pub(crate) fn post_from(&self, caller: Caller, to: PcpuId, mail: Mail<V>) {
        let id = mail.vcpu.handle().id();
        let cell = self.cell(to);
        cell.waiting.fetch_add(1, Ordering::Relaxed);
        assert!(
            cell.inbox.push(mail).is_ok(),
            "rule: an inbox has room for every vCPU of the machine"
        );
        self.trace_from(caller, TraceEvent::Post(id, to));
        if caller.pcpu == Some(to) {
            return cell.attention.post_to_self();
        }
        match cell.attention.post(cell.is_preemptive()) {
            Kick::Send => return self.kick(caller.pcpu, to),
            Kick::Closed => return self.send_on(to),
            Kick::Seen => return,
            Kick::NotNeeded => {}
        }
        fence(Ordering::SeqCst);
        // Somebody who may run it went idle meanwhile: `to` must hand it over now, not when its slice is over.
        let pool = self.partition(self.entitlements().pool(id));
        if pool.has_idle() && !cfg!(mutant = "post_forgets_idlers") {
            let idle = pool.idle_pcpus();
            let runs_there = idle.intersection(self.entitlements().affinity(id));
            if !runs_there.is_empty() {
                self.nudge(to, About::Work);
            }
        }
    }

    /// `closed` does not look at its mail: whoever posted, or asked something of who waits there, does it instead. What may run
    /// nowhere else waits there until the pCPU is open again.
    #[cold]
    #[inline(never)]
    fn send_on(&self, closed: PcpuId) {
        // What was asked has been written before; whoever puts a box back looks for it afterwards.
        fence(Ordering::SeqCst);
        let inbox = &self.cell(closed).inbox;
        let mut left = inbox.len();
        while left > 0
            && let Some(mail) = inbox.pop()
        {
            left -= 1;
            if self.leave_at(closed, mail) {
                left = inbox.len();
            }
        }
    }

    /// A box from the inbox of `closed` is parked if something blocks it, goes where it can run, or goes back. True if it has gone
    /// back, and somebody has asked something of it since it was looked at.
    fn leave_at(&self, closed: PcpuId, mail: Mail<V>) -> bool {
        let cell = self.cell(closed);
        let caller = self.caller();
        let Mail { mut vcpu, why } = mail;
        let handle = Arc::clone(vcpu.handle());
        if handle.state.load().is_blocked() {
            let note = || self.trace_from(caller, TraceEvent::Park(handle.id()));
            match handle.park(vcpu, caller.now, note) {
                Ok(()) => {
                    cell.waiting.fetch_sub(1, Ordering::Relaxed);
                    return false;
                }
                Err(Unparked::Runnable(back) | Unparked::SyncFirst(back)) => vcpu = back,
            }
        }
        if let Some(to) = handle.next_pcpu(closed) {
            cell.waiting.fetch_sub(1, Ordering::Relaxed);
            let left = handle.state.update(|state| state.route(to));
            assert!(
                left == Leave::Queued,
                "rule: only a loaded vCPU has interrupt state to fold"
            );
            self.post_from(caller, to, Mail { vcpu, why });
            return false;
        }
        assert!(
            cell.inbox.push(Mail { vcpu, why }).is_ok(),
            "rule: an inbox has room for every vCPU of the machine"
        );
        // If it has opened meanwhile, it may have looked while this was in nobody's inbox.
        self.nudge_other(self.host.this_pcpu(), closed, About::Mail);
        // And so may whoever has stopped or moved it, or brought another pCPU back.
        fence(Ordering::SeqCst);
        handle.state.load().is_blocked() || handle.must_leave(closed)
    }

    /// Something was asked that concerns any vCPU at `to`, which looks at it; if it is closed, that is done for it.
    // Apart from `nudge`, which is on the way of each wake-up.
    #[inline(never)]
    pub(crate) fn request(&self, to: PcpuId) {
        let here = self.host.this_pcpu();
        let attention = &self.cell(to).attention;
        if here == Some(to) {
            return attention.remind(About::Requests);
        }
        match attention.nudge(About::Requests) {
            Kick::Send => self.kick(here, to),
            Kick::Closed => self.send_on(to),
            Kick::NotNeeded | Kick::Seen => {}
        }
    }

    /// Makes `to` look at what this is about.
    pub(crate) fn nudge(&self, to: PcpuId, about: About) {
        let here = self.host.this_pcpu();
        if here != Some(to) {
            self.nudge_other(here, to, about);
        } else if about != About::Loaded {
            // It looks at the loaded one before it enters it anyway.
            self.cell(to).attention.remind(about);
        }
    }

    #[inline(never)]
    fn nudge_other(&self, here: Option<PcpuId>, to: PcpuId, about: About) {
        if self.cell(to).attention.nudge(about) == Kick::Send {
            self.kick(here, to);
        }
    }

    fn kick(&self, from: Option<PcpuId>, to: PcpuId) {
        if let Some(cell) = from.and_then(|from| self.cells.get(from.index())) {
            cell.kicks_sent.increment();
        }
        let now = self.host.now();
        self.trace_from(Caller { pcpu: from, now }, TraceEvent::Kick(to));
        self.host.kick(to);
    }

    /// Records an event of `caller`.
    pub(crate) fn trace_from(&self, caller: Caller, event: TraceEvent) {
        let pcpu = caller.pcpu;
        if let Some(cell) = pcpu.and_then(|pcpu| self.cells.get(pcpu.index())) {
            cell.trace.record(caller.now, event);
        }
    }
}
