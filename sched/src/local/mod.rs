//! What one pCPU does between two guests: take mail, obey requests, choose, bind, and set the timer.
//!
//! ```text
//!   schedule:  collect (inbox, requests, deadlines)
//!              settle  (the loaded vCPU: fold, move, park, or let it wait loaded)
//!              choose  (turn over or nobody loaded: ask the policy, bind)
//!              share   (others wait here and a pCPU idles: hand one over)
//!              balance (those that the policy would rather have on another busy pCPU; now and then one to where fewer wait)
//!              arm     (the slice timer, only while it matters; the next deadline; when the policy is asked again)
//! ```
//! A box leaves the pCPU only unbound. Everything here belongs to the pCPU alone; others reach it through the inbox and
//! the attention word. Runs with physical interrupts masked.

mod choose;
mod close;
mod conclude;
mod machine;
mod moves;
mod park;
mod poll;
mod ready;
mod share;
mod turn;
mod watch;

pub use close::CloseError;
pub use machine::{Decision, Look, Machine, Woken};
pub use watch::PolicyFailure;

use crate::{
    BlockReason, LocalPolicy, PcpuId, PcpuSet, Policy, PoolId, Scheduler, Slice, TraceEvent, Vcpu,
    VcpuId,
    attention::{About, Raised},
    cell::{AtWork, Cell, RECONSIDERED},
    deadlines::Deadlines,
    halt_poll::{Poll, Stage},
    state::{Block, State},
};
use alloc::{boxed::Box, sync::Arc};
use core::num::NonZero;
use ready::ReadySet;
use watch::Watched;

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
    /// Whether the pCPU has polled in this wait.
    polling: Stage,
}

/// The scheduler of one pCPU. The loop around it:
///
/// ```text
/// loop {
///     if sched.needs_attention() && sched.schedule(machine) != Run { wait for an interrupt (if Poll, look first); answer it; continue }
///     if sched.take_wake() { bring the loaded vCPU's interrupts up to date; continue if that needs attention }
///     enter the guest; answer its exit (block, yield_now) or the physical interrupt (kicked, timer_fired)
/// }
/// ```
pub struct LocalScheduler<V: Vcpu> {
    id: PcpuId,
    scheduler: Arc<Scheduler<V>>,
    cell: Arc<Cell<V>>,
    /// The pool whose policy it follows.
    pool_id: PoolId,
    /// Whose promises hold here.
    promises: Arc<dyn Policy>,
    /// The number of the policy.
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
    /// What `Machine::contend` was told last.
    is_contended: bool,
    /// It has not looked yet: what others asked before they could see it was not asked of it, such as to fall back.
    is_new: bool,
    /// The pCPU is, or was, a bit in the idle bitmap.
    is_idle: bool,
    /// The attention word says POLLING.
    poll: Option<Poll>,
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
    /// How often a vCPU goes where fewer wait, and when that is looked for again.
    spread_period: Option<NonZero<u64>>,
    next_spread: u64,
    /// How often it was.
    spreads: u64,
    /// Where nobody could go who was looked for last: others come first.
    spread_tried: PcpuSet,
    /// The policy idles the pCPU until then.
    resume_at: Option<u64>,
}

impl<V: Vcpu> LocalScheduler<V> {
    pub(crate) fn new(
        scheduler: Arc<Scheduler<V>>,
        cell: Arc<Cell<V>>,
        id: PcpuId,
        policy: AtWork,
    ) -> Self {
        let max_vcpus = scheduler.max_vcpus();
        let current = Current {
            slice: Slice::UNLIMITED,
            end: None,
            charged_at: 0,
            exclusive: false,
            is_waiting: false,
            polling: Stage::Before,
        };
        let (period, now) = (policy.policy.balance_period(), scheduler.host().now());
        let mut local = Self {
            id,
            scheduler,
            cell,
            spread_period: None,
            next_spread: 0,
            spreads: 0,
            spread_tried: PcpuSet::EMPTY,
            pool_id: policy.pool,
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
            is_contended: false,
            is_new: true,
            is_idle: false,
            poll: None,
            is_busy: false,
            yielding: None,
            has_news: false,
            must_end: false,
            is_ranked: false,
            must_balance: false,
            resume_at: None,
        };
        local.spread_every(period, now);
        local
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

    /// By the word of the policy that it follows.
    #[cfg(all(not(loom), any(test, feature = "sim")))]
    pub(crate) fn is_work_conserving(&self) -> bool {
        self.promises.bounds(1).work_conserving
    }

    /// How long one waits at most of `ready` that are here, by the word of the policy that it follows.
    #[cfg(all(not(loom), any(test, feature = "sim")))]
    pub(crate) fn longest_wait(&self, ready: usize) -> Option<u64> {
        self.promises.bounds(ready).longest_wait
    }

    /// The policy that it follows, or followed until that broke its promise.
    #[cfg(all(not(loom), any(test, feature = "sim")))]
    pub(crate) fn policy_name(&self) -> &'static str {
        self.promises.name()
    }

    /// The pCPU is being drained, and nothing is loaded here: it runs nobody until [`Scheduler::undrain`].
    pub fn is_drained(&self) -> bool {
        self.scheduler.is_draining(self.id) && self.loaded.is_none()
    }

    /// What all pCPUs share.
    pub fn scheduler(&self) -> &Arc<Scheduler<V>> {
        &self.scheduler
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

    /// The loaded vCPU lets others run: `to`, for what is left of the slice, if it is ready here and the policy lets it; else
    /// whoever the policy picks. [`Self::schedule`] takes it from there.
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
    /// their numbers may be in use again, and this pCPU may have handles of them still, which it drops here or in
    /// [`Self::schedule`]. Whoever wants no memory freed on an exit path keeps a handle of each until all pCPUs have called this.
    pub fn forget_retired(&mut self) {
        self.deadlines.remove_gone();
    }

    /// Decides what this pCPU does next and brings the hardware there. Call it when [`Self::needs_attention`] says so, and
    /// again after each interrupt while the answer is not `Run`.
    pub fn schedule(&mut self, machine: &mut impl Machine<V>) -> Decision {
        if core::mem::take(&mut self.is_idle) {
            self.scheduler.retract_idle(self.pool_id, self.id);
            self.end_polling();
        }
        loop {
            let now = self.scheduler.host().now();
            self.note_lateness(now);
            let raised = self.collect(machine, now);
            // Asked once: whoever is told that the pCPU is drained relies on its having given everything away.
            let is_drained = self.scheduler.is_draining(self.id);
            if is_drained {
                self.evacuate(machine, now);
            } else {
                self.settle(machine, now);
                self.choose(machine, now);
                self.share(raised.work(), now);
                self.watch(now);
            }
            if raised.work() {
                self.answer_askers();
            }
            self.balance(raised.work(), now);
            self.settle_exclusive(machine);
            self.arm(machine);
            // Also what came without a kick: from this pCPU itself, or while the slice timer was armed.
            if !self.cell.attention.is_raised() || cfg!(mutant = "disarm_ignores_mail") {
                return self.conclude(is_drained, now);
            }
        }
    }

    fn collect(&mut self, machine: &mut impl Machine<V>, now: u64) -> Raised {
        let raised = self.cell.attention.take();
        if raised.requests() || core::mem::take(&mut self.is_new) {
            self.obey(machine, now);
        }
        if raised.mail() {
            while let Some(mail) = self.cell.inbox.pop() {
                // Only the policy that is to take over here may know this one.
                if self.cell.attention.has_requests() && !cfg!(mutant = "mail_before_successor") {
                    self.follow_successor(machine, now);
                }
                self.receive(mail, now);
            }
        }
        while let Some(handle) = self.deadlines.pop_due(now) {
            handle.wake();
        }
        self.must_end |= raised.turn();
        raised
    }

    #[inline(never)]
    fn obey(&mut self, machine: &mut impl Machine<V>, now: u64) {
        self.follow_successor(machine, now);
        self.fall_back(now);
        self.obey_requests(now);
    }

    /// Another policy takes over, perhaps another pool's, if one is to. It is told of nobody who does not belong to its pool.
    #[inline(never)]
    fn follow_successor(&mut self, machine: &mut impl Machine<V>, now: u64) {
        let Some(mut successor) = self.cell.successor.pop() else {
            return;
        };
        self.charge(now);
        self.expel(machine, now);
        // Who was let in again meanwhile belongs to the change that comes after, and which has left its policy here before that.
        for _ in 0..RECONSIDERED {
            if cfg!(mutant = "no_second_thoughts") {
                break;
            }
            let Some(next) = self.cell.successor.pop() else {
                break;
            };
            self.cell.retire(core::mem::replace(&mut successor, next));
            self.expel(machine, now);
        }
        self.pool_id = successor.pool;
        self.spread_every(successor.policy.balance_period(), now);
        self.cell.retire(AtWork {
            pool: successor.pool,
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

    fn loaded_state(&self) -> Option<State> {
        self.loaded.as_ref().map(|vcpu| vcpu.handle().state.load())
    }

    fn is_running(&self) -> bool {
        self.loaded.is_some() && !self.current.is_waiting
    }
}
