//! What one pCPU does between two guests: take mail, obey requests, choose, bind, and set the timer.
//!
//! ```text
//!   schedule:  collect (inbox, requests, deadlines)
//!              settle  (the loaded vCPU: fold, move, park, or let it wait loaded)
//!              choose  (turn over or nobody loaded: ask the policy, bind)
//!              share   (others wait here and a pCPU idles: hand one over)
//!              balance (those that the policy would rather have on another busy pCPU)
//!              arm     (the slice timer, only while it matters; the next deadline; when the policy is asked again)
//! ```
//! A box leaves the pCPU only unbound. Everything here belongs to the pCPU alone; others reach it through the inbox and
//! the attention word. Runs with physical interrupts masked.

mod choose;
mod moves;
mod ready;
mod watch;

pub use watch::PolicyFailure;

use crate::{
    BlockReason, LocalPolicy, PcpuId, Policy, Pool, Ready, Slice, TraceEvent, Vcpu, VcpuId,
    accounting::{pcpu, vcpu},
    attention::{About, Raised},
    cell::Cell,
    change::AtWork,
    deadlines::Deadlines,
    state::{Block, State},
};
use alloc::{boxed::Box, sync::Arc};
use ready::ReadySet;
use watch::Watched;

/// Later than any time.
const NEVER: u64 = u64::MAX;

/// What the scheduler tells the pCPU to do. Called on that pCPU only, from [`LocalScheduler::schedule`].
pub trait Machine<V> {
    /// Puts the vCPU's registers into the hardware, and looks at everything that could have become pending since it was
    /// unbound. `exclusive`: no other vCPU is ready here, and the policy lets it have the pCPU, its WFI included.
    fn bind(&mut self, vcpu: &mut V, exclusive: bool);

    /// Takes them out again. The result is when its next timer expires, in ticks of [`crate::Host::now`], if that would
    /// wake it; it is used only if the vCPU waits.
    fn unbind(&mut self, vcpu: &mut V) -> Option<u64>;

    /// Folds the bound vCPU's interrupt state and tells who waits for it; the vCPU stays bound.
    fn sync(&mut self, vcpu: &mut V);

    /// PSCI turned the vCPU on: its registers go to their reset values and its PC to the entry point. It is not bound.
    fn reset(&mut self, vcpu: &mut V);

    /// The pCPU must call [`LocalScheduler::timer_fired`] at this time, and not before another time is set; `None`: never.
    /// Called only when the time changes.
    fn set_timer(&mut self, deadline: Option<u64>);
}

/// What the pCPU does next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use]
pub enum Decision {
    /// Enter the guest of the loaded vCPU.
    Run,
    /// Wait for a physical interrupt, answer it, and call `schedule` again.
    Idle,
    /// The pCPU is drained: nothing is loaded. Wait as for `Idle`; a kick says that something changed.
    Drained,
}

/// The vCPU is not blocked: a wake came first, and it is consumed. Bring its interrupts up to date and go on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Woken;

/// How the loaded vCPU is being run.
struct Current {
    slice: Slice,
    /// When its slice is over, if it has one.
    end: Option<u64>,
    /// Its policy has been charged up to here.
    charged_at: u64,
    /// What `bind` was told.
    exclusive: bool,
    /// It waits with its registers loaded.
    is_waiting: bool,
}

/// The scheduler of one pCPU. The loop around it:
///
/// ```text
/// loop {
///     if sched.needs_attention() && sched.schedule(machine) != Run { wait for an interrupt; answer it; continue }
///     if sched.take_wake() { bring the loaded vCPU's interrupts up to date; continue if that needs attention }
///     enter the guest; answer its exit (block, yield_now) or the physical interrupt (kicked, timer_fired)
/// }
/// ```
pub struct LocalScheduler<V: Vcpu> {
    id: PcpuId,
    pool: Arc<Pool<V>>,
    cell: Arc<Cell<V>>,
    /// Whose promises hold here.
    promises: Arc<dyn Policy>,
    /// Which of the pool's policies that is.
    generation: u64,
    policy: Box<dyn LocalPolicy>,
    /// What takes over if the policy breaks its promise; afterwards, the policy that did.
    fallback: Box<dyn LocalPolicy>,
    has_fallen_back: bool,
    /// The ready vCPU that is watched.
    watched: Option<Watched>,
    last_watched: Option<VcpuId>,
    loaded: Option<Box<V>>,
    current: Current,
    ready: ReadySet<V>,
    deadlines: Deadlines<V>,
    /// What `Machine::set_timer` was told last.
    timer: Option<u64>,
    /// The attention word says ARMED.
    is_armed: bool,
    /// It has not looked yet: what others asked before they could see it was not asked of it, such as to fall back.
    is_new: bool,
    /// The pCPU is, or was, a bit in the idle bitmap.
    is_idle: bool,
    is_busy: bool,
    /// The loaded vCPU yields, perhaps to one in particular.
    yielding: Option<Option<VcpuId>>,
    /// One has become ready since the policy was asked.
    has_news: bool,
    /// The turn of the loaded vCPU is to end.
    must_end: bool,
    /// The loaded vCPU is enqueued with the policy: it waited, and has woken up.
    is_ranked: bool,
    /// The policy has chosen, or what was handed over has not stayed: it has yet to be asked who goes elsewhere.
    must_balance: bool,
    /// The policy idles the pCPU until then.
    resume_at: Option<u64>,
}

impl<V: Vcpu> LocalScheduler<V> {
    pub(crate) fn new(pool: Arc<Pool<V>>, cell: Arc<Cell<V>>, id: PcpuId, policy: AtWork) -> Self {
        let max_vcpus = pool.max_vcpus();
        let current = Current {
            slice: Slice::UNLIMITED,
            end: None,
            charged_at: 0,
            exclusive: false,
            is_waiting: false,
        };
        Self {
            id,
            pool,
            cell,
            promises: policy.policy,
            generation: policy.generation,
            policy: policy.local,
            fallback: policy.fallback,
            has_fallen_back: false,
            watched: None,
            last_watched: None,
            loaded: None,
            current,
            ready: ReadySet::new(max_vcpus),
            deadlines: Deadlines::new(max_vcpus),
            timer: None,
            is_armed: false,
            is_new: true,
            is_idle: false,
            is_busy: false,
            yielding: None,
            has_news: false,
            must_end: false,
            is_ranked: false,
            must_balance: false,
            resume_at: None,
        }
    }

    /// The pCPU.
    pub fn id(&self) -> PcpuId {
        self.id
    }

    /// The policy knows of as many ready vCPUs as there are. Only a bad policy forgets one, or the core, which the simulator
    /// looks for.
    #[cfg(all(not(loom), any(test, feature = "sim")))]
    pub(crate) fn is_all_ranked(&self) -> bool {
        self.policy.waiting() == self.ready.len()
    }

    /// The policy that it follows, or followed until that broke its promise.
    #[cfg(all(not(loom), any(test, feature = "sim")))]
    pub(crate) fn policy_name(&self) -> &'static str {
        self.promises.name()
    }

    /// The pCPU is being drained, and nothing is loaded here: it runs nobody until [`Pool::undrain`].
    pub fn is_drained(&self) -> bool {
        self.pool.is_draining(self.id) && self.loaded.is_none()
    }

    /// The pool that it belongs to.
    pub fn pool(&self) -> &Arc<Pool<V>> {
        &self.pool
    }

    /// The vCPU whose registers are in this pCPU.
    pub fn loaded(&mut self) -> Option<&mut V> {
        self.loaded.as_deref_mut()
    }

    /// Records an event in this pCPU's trace.
    #[inline]
    pub fn trace(&self, time: u64, event: TraceEvent) {
        self.cell.trace.record(time, event);
    }

    /// [`Self::schedule`] must be called before the guest is entered. Cheap: ask before every entry.
    #[inline]
    pub fn needs_attention(&self) -> bool {
        let loaded_needs = match &self.loaded {
            Some(vcpu) => vcpu.handle().state.load().needs_schedule(),
            None => true,
        };
        loaded_needs | self.cell.attention.is_raised()
    }

    /// Somebody woke the loaded vCPU: its interrupts must be looked at before it is entered. Ask after
    /// [`Self::needs_attention`] and before every entry; true once per wake.
    #[inline]
    pub fn take_wake(&mut self) -> bool {
        self.loaded.as_ref().is_some_and(|vcpu| {
            let state = &vcpu.handle().state;
            state.load().has_wake() && state.update(|state| state.without_wake())
        })
    }

    /// The loaded vCPU does not go on, unless a wake came first; [`Self::schedule`] takes it from there. OFF always
    /// succeeds. Does nothing if no vCPU is loaded.
    pub fn block(&mut self, reason: BlockReason) -> Result<(), Woken> {
        match &self.loaded {
            Some(vcpu) => match vcpu.handle().state.update(|state| state.block(reason)) {
                Block::Blocked => Ok(()),
                Block::Woken => Err(Woken),
            },
            None => Ok(()),
        }
    }

    /// The loaded vCPU lets others run: `to`, with what is left of the slice, if it is ready here and half the slice is
    /// left; else whoever the policy picks. [`Self::schedule`] takes it from there.
    pub fn yield_now(&mut self, to: Option<VcpuId>) {
        if self.loaded.is_some() {
            self.yielding = Some(to);
            self.cell.attention.remind(About::Loaded);
        }
    }

    /// The physical timer has fired; call it in answer to that interrupt.
    pub fn timer_fired(&mut self) {
        self.cell.attention.remind(About::Loaded);
    }

    /// A kick has arrived; call it in answer to that interrupt.
    pub fn kicked(&mut self) {
        self.cell.kicks_received.increment();
    }

    /// Forgets the vCPUs that have been retired: nothing on this pCPU refers to them any more when this returns. Before it,
    /// their numbers may be in use again, but their handles are kept. Not for exit paths: it drops the last of them.
    pub fn forget_retired(&mut self) {
        self.deadlines.remove_gone();
    }

    /// Decides what this pCPU does next and brings the hardware there. Call it when [`Self::needs_attention`] says so, and
    /// again after each interrupt while the answer is not `Run`.
    pub fn schedule(&mut self, machine: &mut impl Machine<V>) -> Decision {
        if core::mem::take(&mut self.is_idle) {
            self.pool.retract_idle(self.id);
        }
        loop {
            let now = self.pool.host().now();
            let raised = self.collect(now);
            if self.pool.is_draining(self.id) {
                self.evacuate(machine, now);
            } else {
                self.settle(machine, now);
                self.choose(machine, now);
                self.share(raised.work(), now);
                self.watch(now);
            }
            self.balance(raised.work(), now);
            self.settle_exclusive(machine);
            self.arm(machine);
            // Also what came without a kick: from this pCPU itself, or while the slice timer was armed.
            if !self.cell.attention.is_raised() || cfg!(mutant = "disarm_ignores_mail") {
                return self.conclude(now);
            }
        }
    }

    fn collect(&mut self, now: u64) -> Raised {
        let raised = self.cell.attention.take();
        if raised.mail() {
            while let Some(mail) = self.cell.inbox.pop() {
                self.receive(mail, now);
            }
        }
        while let Some(handle) = self.deadlines.pop_due(now) {
            handle.wake();
        }
        self.must_end |= raised.turn();
        if raised.requests() || core::mem::take(&mut self.is_new) {
            self.obey(now);
        }
        raised
    }

    #[inline(never)]
    fn obey(&mut self, now: u64) {
        self.follow_successor(now);
        self.fall_back(now);
        self.obey_requests(now);
    }

    /// Another policy takes over, if one is to.
    fn follow_successor(&mut self, now: u64) {
        let Some(successor) = self.cell.successor.pop() else {
            return;
        };
        self.charge(now);
        self.cell.retire(AtWork {
            policy: core::mem::replace(&mut self.promises, successor.policy),
            generation: core::mem::replace(&mut self.generation, successor.generation),
            local: core::mem::replace(&mut self.policy, successor.local),
            fallback: core::mem::replace(&mut self.fallback, successor.fallback),
        });
        self.has_fallen_back = false;
        self.watched = None;
        self.introduce(now);
        self.trace(now, TraceEvent::Policy);
    }

    /// The slice timer runs only while others wait, or the slice is strict.
    fn arm(&mut self, machine: &mut impl Machine<V>) {
        let end = self
            .current
            .end
            .filter(|_| self.is_running())
            .filter(|_| self.current.slice.is_strict || !self.ready.is_empty());
        if end.is_some() != self.is_armed {
            self.is_armed = end.is_some();
            if self.is_armed {
                self.cell.attention.arm();
            } else {
                self.cell.attention.disarm();
            }
        }
        let times = [
            end,
            self.deadlines.first(),
            self.resume_at,
            self.next_watch(),
        ];
        let first = times.map(|time| time.unwrap_or(NEVER)).into_iter().min();
        let timer = first.filter(|&first| first != NEVER);
        if timer != self.timer {
            machine.set_timer(timer);
            self.timer = timer;
        }
    }

    fn conclude(&mut self, now: u64) -> Decision {
        let is_running = self.is_running();
        if is_running != self.is_busy {
            self.is_busy = is_running;
            let phase = if is_running { pcpu::BUSY } else { pcpu::IDLE };
            self.cell.account.enter(phase, now);
        }
        if is_running {
            return Decision::Run;
        }
        if self.pool.is_draining(self.id) {
            self.trace(now, TraceEvent::Drained);
            return Decision::Drained;
        }
        self.trace(now, TraceEvent::Idle);
        self.is_idle = true;
        // Whoever has something for this pCPU since it last looked kicks it. Whoever made a vCPU wait elsewhere before it
        // could see this pCPU idle does not: those are asked.
        self.pool.publish_idle(self.id);
        if !cfg!(mutant = "idle_without_recheck") {
            self.pool.ask_for_work(self.id);
        }
        Decision::Idle
    }

    fn loaded_state(&self) -> Option<State> {
        self.loaded.as_ref().map(|vcpu| vcpu.handle().state.load())
    }

    fn is_running(&self) -> bool {
        self.loaded.is_some() && !self.current.is_waiting
    }

    fn charge(&mut self, now: u64) {
        if self.current.charged_at == now {
            return;
        }
        if let Some(vcpu) = self.loaded.as_ref().filter(|_| !self.current.is_waiting) {
            let ticks = now.saturating_sub(self.current.charged_at);
            self.policy.charge(vcpu.handle().id(), ticks, now);
        }
        self.current.charged_at = now;
    }

    /// The loaded vCPU starts a slice.
    fn start_slice(&mut self, slice: Slice, now: u64) {
        let end = slice.duration.map(|ticks| now.saturating_add(ticks.get()));
        self.current.slice = slice;
        self.current.end = end;
        self.current.charged_at = now;
    }

    /// The loaded vCPU runs again, or waits, with its registers loaded. Before it runs, its policy is asked.
    fn set_waiting(&mut self, is_waiting: bool, now: u64) {
        if self.current.is_waiting == is_waiting {
            return;
        }
        let Some(loaded) = &self.loaded else { return };
        let id = loaded.handle().id();
        let phase = if is_waiting { vcpu::BLOCKED } else { vcpu::RUN };
        loaded.handle().account.enter(phase, now);
        if is_waiting {
            self.stop_turn(now);
            self.current.is_waiting = true;
            return self.trace(now, TraceEvent::WaitLoaded(id));
        }
        self.current.is_waiting = false;
        let slice = if self.ready.is_empty() {
            self.policy.resume(id, now)
        } else {
            self.policy.enqueue(id, Ready::Woken, now);
            None
        };
        self.is_ranked = slice.is_none();
        self.start_slice(slice.unwrap_or(Slice::UNLIMITED), now);
    }

    /// The loaded vCPU blocks or goes elsewhere: its policy forgets it, unless it has already because it waits.
    fn stop_turn(&mut self, now: u64) {
        self.charge(now);
        if let Some(vcpu) = self.loaded.as_ref().filter(|_| !self.current.is_waiting) {
            let id = vcpu.handle().id();
            if core::mem::take(&mut self.is_ranked) {
                self.policy.withdraw(id, now);
            } else {
                self.policy.leave(id, now);
            }
        }
    }
}
