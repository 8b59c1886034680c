//! Which vCPU is loaded when `schedule` is done: the same one, another, or none.

use super::{LocalScheduler, Machine};
use crate::{Pick, Ready, Slice, TraceEvent, Vcpu, VcpuId, accounting::vcpu, state::Load};
use alloc::boxed::Box;

/// What the policy picked, checked.
enum Picked<V> {
    /// The one that is loaded, for another slice.
    Loaded(Slice),
    /// This one; the state word says that it is loaded.
    Other(Next<V>),
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
            if state.may_wait_loaded() && self.ready.is_empty() {
                self.set_waiting(true, now);
            } else {
                self.park_loaded(machine, now);
            }
        } else if state.has_reset() {
            // Turned off and on again before it left this pCPU: it is reset while unbound.
            self.unload_to_ready(Ready::Woken, machine, now);
        } else {
            if state.has_migrate() {
                self.move_loaded(machine, now);
            }
            if self.loaded.is_some() && self.current.is_waiting {
                self.set_waiting(false, now);
                self.start_slice(self.current.slice, now);
            }
        }
        if self.loaded.is_none() {
            self.current.is_waiting = false;
        }
    }

    /// Loads who runs next, if nobody is loaded, or if others wait and the slice is over or given away.
    pub(super) fn choose(&mut self, machine: &mut impl Machine<V>, now: u64) {
        let yielding = self.yielding.take();
        let Some(loaded) = self.loaded.as_ref().map(|vcpu| vcpu.handle().id()) else {
            if let Picked::Other(next) = self.pick(None, None, now) {
                self.start(next, machine, now);
            }
            return;
        };
        let is_over = self.current.end.is_some_and(|end| now >= end);
        if self.ready.is_empty() || self.current.is_waiting || !(is_over || yielding.is_some()) {
            return;
        }
        let (why, event) = match yielding {
            Some(_) => (Ready::Yielded, TraceEvent::Yield(loaded)),
            None => (Ready::Preempted, TraceEvent::Preempt(loaded)),
        };
        self.trace(now, event);
        self.charge(now);
        self.policy.enqueue(loaded, why);
        match self.pick(Some(loaded), yielding.flatten(), now) {
            Picked::Other(next) => {
                // The policy has the loaded one already: it is only put where the others are.
                self.policy.take(loaded);
                self.unload_to_ready(why, machine, now);
                self.start(next, machine, now);
            }
            Picked::Loaded(slice) => self.start_slice(slice, now),
            Picked::Nobody => {}
        }
    }

    /// Asks the policy until it names somebody who can be loaded. `loaded` is enqueued there too, and may be picked.
    fn pick(&mut self, loaded: Option<VcpuId>, mut to: Option<VcpuId>, now: u64) -> Picked<V> {
        loop {
            let given = to.take().and_then(|to| self.pick_named(to));
            let is_given = given.is_some();
            let Some(pick) = given.or_else(|| self.pick_checked(loaded)) else {
                return Picked::Nobody;
            };
            let Pick { vcpu: id, slice } = pick;
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
        }
    }

    /// The vCPU to which the loaded one yields, if it is ready here. It gets what is left of the slice, so that two that
    /// yield to each other do not keep the pCPU; and at least half of one, since it loses its own turn.
    fn pick_named(&mut self, to: VcpuId) -> Option<Pick> {
        self.ready.get(to)?;
        let Slice { duration, .. } = self.current.slice;
        if let (Some(end), Some(whole)) = (self.current.end, duration) {
            let left = end.saturating_sub(self.pool.host().now());
            if left < whole - whole / 2 {
                return None;
            }
        }
        self.policy.take(to)?;
        let slice = Slice {
            duration,
            exclusive: false,
        };
        Some(Pick { vcpu: to, slice })
    }

    /// The policy's pick if it is ready here, else any that is.
    fn pick_checked(&mut self, loaded: Option<VcpuId>) -> Option<Pick> {
        let is_ready = |this: &Self, id| Some(id) == loaded || this.ready.get(id).is_some();
        let pick = self.policy.pick();
        if let Some(pick) = pick.filter(|pick| is_ready(self, pick.vcpu)) {
            return Some(pick);
        }
        if pick.is_some() || !self.ready.is_empty() {
            self.cell.bad_picks.increment();
        }
        let vcpu = self.ready.find(|_| true).or(loaded)?;
        Some(Pick {
            vcpu,
            slice: self.policy.take(vcpu).unwrap_or(Slice::UNLIMITED),
        })
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
            self.current.end = end;
        }
    }

    /// The loaded vCPU has the pCPU to itself only as long as nobody else is ready here.
    pub(super) fn settle_exclusive(&mut self, machine: &mut impl Machine<V>) {
        let exclusive = self.current.slice.exclusive && self.ready.is_empty();
        if exclusive == self.current.exclusive {
            return;
        }
        if let Some(vcpu) = &mut self.loaded {
            machine.unbind(vcpu);
            machine.bind(vcpu, exclusive);
            self.current.exclusive = exclusive;
        }
    }
}
