//! Which vCPU is loaded when `schedule` is done: the same one, another, or none.

use super::{LocalScheduler, Machine};
use crate::{Choice, Pick, Ready, Slice, TraceEvent, Vcpu, VcpuId, accounting::vcpu, state::Load};
use alloc::boxed::Box;

/// What the policy picked, checked.
enum Picked<V> {
    /// The one that is loaded, for another slice.
    Loaded(Slice),
    /// This one; the state word says that it is loaded.
    Other(Next<V>),
    /// None of those that are ready here.
    Nobody,
}

struct Next<V> {
    vcpu: Box<V>,
    slice: Slice,
    /// The slice goes on: it was given away by the one that was loaded.
    is_given: bool,
    must_reset: bool,
}

impl<V: Vcpu> LocalScheduler<V> {
    /// Looks at the loaded vCPU: afterwards it can run, or waits loaded because nobody else wants the pCPU, or is gone.
    pub(super) fn settle(&mut self, machine: &mut impl Machine<V>, now: u64) {
        let Some(state) = self.loaded_state() else {
            return;
        };
        if state.has_sync()
            && let Some(mut vcpu) = self.loaded.take()
        {
            self.obey_sync(&mut vcpu, machine);
            self.loaded = Some(vcpu);
        }
        if state.is_blocked() {
            if state.may_wait_loaded() && self.ready.is_empty() && !self.would_rather_leave() {
                self.set_waiting(true, machine, now);
            } else {
                self.park_loaded(machine, now);
            }
        } else if state.has_reset() {
            // Turned off and on again before it left this pCPU: it is reset while unbound.
            self.unload_to_ready(machine, now);
        } else {
            if state.has_migrate() {
                self.move_loaded(machine, now);
            }
            if self.loaded.is_some() && self.current.is_waiting {
                self.set_waiting(false, machine, now);
            }
        }
        if self.loaded.is_none() {
            self.current.is_waiting = false;
        }
    }

    /// The loaded vCPU prefers other pCPUs of which one idles: it wakes up there, if it does not wait here with its registers loaded.
    fn would_rather_leave(&self) -> bool {
        let Some(vcpu) = &self.loaded else {
            return false;
        };
        let handle = vcpu.handle();
        if handle.entry.is_content_on(self.id) || cfg!(mutant = "stay_where_it_waits") {
            return false;
        }
        // Its policy may have a home for it, where it wakes up whatever it prefers.
        let better = handle.entry.preferred().intersection(handle.allowed());
        let idle = better.intersection(self.idle_pcpus());
        handle.entry.home().is_none() && !idle.is_empty()
    }

    /// Loads who runs next, if nobody is loaded, or if the loaded one's turn is over.
    pub(super) fn choose(&mut self, machine: &mut impl Machine<V>, now: u64) {
        let yielding = self.yielding.take();
        let has_news = core::mem::take(&mut self.has_news);
        let must_end = core::mem::take(&mut self.must_end);
        self.resume_at = None;
        let Some(loaded) = self.loaded.as_ref().map(|vcpu| vcpu.handle().id()) else {
            self.must_balance = true;
            if let Picked::Other(next) = self.pick(None, None, now) {
                self.start(next, machine, now);
            }
            return;
        };
        if self.current.is_waiting {
            return;
        }
        if yielding.is_some() && self.is_contended && self.ready.is_empty() {
            self.is_contended = false;
            machine.contend(false);
        }
        if !core::mem::take(&mut self.is_ranked) {
            let why = match must_end {
                true => {
                    self.charge(now);
                    Some(Ready::Preempted)
                }
                false => self.end_of_turn(loaded, yielding.is_some(), has_news, now),
            };
            let Some(why) = why else { return };
            self.trace(
                now,
                match why {
                    Ready::Yielded => TraceEvent::Yield(loaded),
                    _ => TraceEvent::Preempt(loaded),
                },
            );
            self.note_yield(why == Ready::Yielded);
            self.policy.enqueue(loaded, why, now);
        }
        self.must_balance = true;
        match self.pick(Some(loaded), yielding.flatten(), now) {
            Picked::Other(next) => {
                self.unload_ranked(machine, now);
                self.start(next, machine, now);
            }
            Picked::Loaded(slice) => self.start_slice(slice, now),
            Picked::Nobody => self.unload_ranked(machine, now),
        }
    }

    /// Whether the loaded vCPU's turn is over, and why. It has been charged then.
    fn end_of_turn(
        &mut self,
        loaded: VcpuId,
        is_yielding: bool,
        has_news: bool,
        now: u64,
    ) -> Option<Ready> {
        let is_over = self.current.end.is_some_and(|end| now >= end);
        if self.ready.is_empty() && !(is_over && self.current.slice.is_strict) {
            return None;
        }
        if !(is_over || is_yielding || has_news) {
            return None;
        }
        self.charge(now);
        if is_yielding {
            Some(Ready::Yielded)
        } else if is_over || self.policy.preempts(loaded, now) {
            Some(Ready::Preempted)
        } else {
            None
        }
    }

    /// Asks the policy until it names somebody who can be loaded. `loaded` is enqueued there too, and may be picked.
    fn pick(&mut self, loaded: Option<VcpuId>, mut to: Option<VcpuId>, now: u64) -> Picked<V> {
        loop {
            let given = to.take().and_then(|to| self.pick_named(to, now));
            let is_given = given.is_some();
            let choice = given
                .or_else(|| self.pick_hurried(now))
                .map_or_else(|| self.pick_checked(loaded, now), Choice::Run);
            let Pick { vcpu: id, slice } = match choice {
                Choice::Run(pick) => pick,
                Choice::Idle(until) => {
                    self.resume_at = until.map(|until| until.max(now.saturating_add(1)));
                    return Picked::Nobody;
                }
            };
            if Some(id) == loaded {
                return Picked::Loaded(slice);
            }
            let mut candidate = self.ready.remove(id);
            while let Some(vcpu) = candidate {
                candidate = match vcpu.handle().state.update(|state| state.load(self.id)) {
                    Load::Loaded { reset } => {
                        self.uncount();
                        return Picked::Other(Next {
                            vcpu,
                            slice,
                            is_given,
                            must_reset: reset,
                        });
                    }
                    Load::Blocked => self.park_queued(vcpu, now),
                    Load::Migrate => self.obey_migrate(vcpu, now),
                };
            }
            self.policy.leave(id, now);
        }
    }

    /// The vCPU to which the loaded one yields, if it is ready here and something is left of the slice: it gets that, so that
    /// two that yield to each other do not keep the pCPU.
    fn pick_named(&mut self, to: VcpuId, now: u64) -> Option<Pick> {
        self.ready.get(to)?;
        if self.current.end.is_some_and(|end| end <= now) {
            return None;
        }
        let slice = Slice {
            exclusive: false,
            ..self.policy.take(to, now)?
        };
        Some(Pick { vcpu: to, slice })
    }

    /// The vCPU that somebody waits for, if it is ready here and its policy lets it run now.
    fn pick_hurried(&mut self, now: u64) -> Option<Pick> {
        let vcpu = self.cell.hurried.take()?;
        self.ready.get(vcpu)?;
        let slice = self.policy.hurry(vcpu, now)?;
        Some(Pick { vcpu, slice })
    }

    /// Whether the loaded vCPU, should it have to leave the pCPU, lets others run of its own will.
    fn note_yield(&self, is_yielding: bool) {
        if let Some(vcpu) = &self.loaded {
            vcpu.handle().has_yielded.set(is_yielding);
        }
    }

    /// The policy's choice if it may be made, else any that is ready here.
    fn pick_checked(&mut self, loaded: Option<VcpuId>, now: u64) -> Choice {
        let is_ready = |this: &Self, id| Some(id) == loaded || this.ready.get(id).is_some();
        let choice = self.policy.pick(now);
        let is_good = match choice {
            Choice::Run(pick) => is_ready(self, pick.vcpu),
            Choice::Idle(_) => {
                let has_ready = loaded.is_some() || !self.ready.is_empty();
                !(has_ready && self.promises.bounds(1).work_conserving)
            }
        };
        if is_good {
            return choice;
        }
        self.cell.bad_picks.increment();
        match self.ready.find(|_| true).or(loaded) {
            Some(vcpu) => Choice::Run(Pick {
                vcpu,
                slice: self.policy.take(vcpu, now).unwrap_or(Slice::UNLIMITED),
            }),
            None => Choice::Idle(None),
        }
    }

    fn start(&mut self, next: Next<V>, machine: &mut impl Machine<V>, now: u64) {
        let Next {
            mut vcpu,
            slice,
            is_given,
            must_reset,
        } = next;
        let handle = vcpu.handle();
        let id = handle.id();
        self.deadlines.remove(id);
        handle.account.enter(vcpu::RUN, now);
        handle.has_yielded.set(false);
        handle.switches.increment();
        self.cell.switches.increment();
        if must_reset {
            machine.reset(&mut vcpu);
            self.trace(now, TraceEvent::Reset(id));
        }
        self.current.exclusive = slice.exclusive && self.ready.is_empty();
        machine.bind(&mut vcpu, self.current.exclusive);
        self.trace(now, TraceEvent::Switch(id));
        self.loaded = Some(vcpu);
        let end = self.current.end;
        self.start_slice(slice, now);
        if is_given {
            // A strict slice ends at its own end too.
            let own = self
                .current
                .end
                .filter(|_| slice.is_strict || end.is_none());
            self.current.end = [own, end].into_iter().flatten().min();
        }
    }

    /// The loaded vCPU has the pCPU to itself only as long as nobody else is ready here.
    pub(super) fn settle_exclusive(&mut self, machine: &mut impl Machine<V>) {
        if !self.is_contended && !self.ready.is_empty() && self.loaded.is_some() {
            self.is_contended = true;
            machine.contend(true);
        }
        let exclusive = self.current.slice.exclusive && self.ready.is_empty();
        if exclusive == self.current.exclusive {
            return;
        }
        if let Some(vcpu) = &mut self.loaded {
            machine.set_exclusive(vcpu, exclusive);
            self.current.exclusive = exclusive;
        }
    }
}
