//! What everybody but its owner can do with a vCPU: wake it, pause it, turn it on, move it, and ask how it is.
//!
//! A [`VcpuHandle`] is shared; the vCPU itself is a box that is in one place at a time. Every method is one
//! transition of the state word and then a kick or a post, callable on any pCPU and in any context: no lock, no
//! allocation; but for those that ask a policy (what it shall get, where it may run, its retirement), which wait for whoever
//! asks one at that time, and are for no exit path. Write what the vCPU shall see (a pending interrupt, an entry point) before you call.

mod errors;
mod moves;
mod park;
mod power;
mod snapshot;

pub use errors::{AffinityError, MigrateError, PowerOnError, RetireError};
pub(crate) use park::Unparked;
pub use power::PowerOnClaim;
pub use snapshot::Snapshot;

use crate::{
    BlockReason, PcpuId, Place, Scheduler, TraceEvent, VcpuId,
    accounting::{Counter, vcpu},
    attention::About,
    entitlement::Entry,
    halt_poll::HaltPoll,
    hurry::Flag,
    state::{Ask, State, StateWord, Wake},
    sync::{ArrayQueue, AtomicU32, Ordering},
};
use alloc::{boxed::Box, sync::Arc};

/// A vCPU, as the scheduler moves it: a box that knows its handle.
pub trait Vcpu: Send + Sized + 'static {
    /// What the embedder shares with other pCPUs about it: pending interrupts, an entry point.
    type Shared: Send + Sync + 'static;

    /// The handle that [`Scheduler::create_vcpu`] gave it.
    fn handle(&self) -> &Arc<VcpuHandle<Self>>;
}

const NO_DESTINATION: u32 = PcpuId::LIMIT as u32;

/// The shared side of a vCPU.
pub struct VcpuHandle<V: Vcpu> {
    pub(crate) state: StateWord,
    id: VcpuId,
    /// What it shall get.
    pub(crate) entry: Arc<Entry>,
    pub(crate) slot: ArrayQueue<Box<V>>,
    /// Where [`Self::migrate`] sends it, or `NO_DESTINATION`.
    destination: AtomicU32,
    pub(crate) account: vcpu::Account,
    pub(crate) switches: Counter,
    pub(crate) migrations: MigrationCounters,
    /// It is ready because it let others run.
    pub(crate) has_yielded: Flag,
    pub(crate) halt_poll: HaltPoll,
    scheduler: Arc<Scheduler<V>>,
    shared: V::Shared,
}

#[derive(Default)]
pub(crate) struct MigrationCounters {
    pub(crate) loaded: Counter,
    pub(crate) queued: Counter,
    pub(crate) parked: Counter,
}

impl<V: Vcpu> VcpuHandle<V> {
    pub(crate) fn new(
        id: VcpuId,
        first: PcpuId,
        scheduler: Arc<Scheduler<V>>,
        shared: V::Shared,
    ) -> Self {
        let now = scheduler.host().now();
        Self {
            state: StateWord::new(State::created(first)),
            id,
            entry: Arc::clone(scheduler.entitlements().entry(id)),
            slot: ArrayQueue::new(1),
            destination: AtomicU32::new(NO_DESTINATION),
            account: vcpu::Account::new(vcpu::BLOCKED, now),
            switches: Counter::default(),
            migrations: MigrationCounters::default(),
            has_yielded: Flag::default(),
            halt_poll: HaltPoll::default(),
            scheduler,
            shared,
        }
    }

    /// Its number among all vCPUs.
    pub fn id(&self) -> VcpuId {
        self.id
    }

    pub(crate) fn scheduler(&self) -> &Arc<Scheduler<V>> {
        &self.scheduler
    }

    /// What the embedder shares about it.
    pub fn shared(&self) -> &V::Shared {
        &self.shared
    }

    /// An interrupt has become due for it: write that first. It stops waiting; if it was not waiting, its next attempt
    /// to wait fails; if it is loaded, its pCPU looks at its interrupts before it enters the guest again; if it is ready and does
    /// not run, it is hurried.
    pub fn wake(&self) {
        self.wake_from(BlockReason::Waiting);
    }

    /// What an instruction of it waited for has been done on another pCPU: the instruction is run again.
    pub fn complete(&self) {
        self.wake_from(BlockReason::Remote);
    }

    // Both callers know their reason.
    #[inline(always)]
    fn wake_from(&self, reason: BlockReason) {
        match self.state.update(|state| state.wake(reason)) {
            Wake::Noted => {}
            Wake::Ready(pcpu) => self.hurry_on(pcpu),
            Wake::Nudge(pcpu) => self.scheduler.nudge(pcpu, About::Loaded),
            Wake::Claimed(last) => self.unpark_woken(last),
        }
    }

    #[inline(never)]
    fn unpark_woken(&self, last: PcpuId) {
        let caller = self.scheduler.caller();
        self.scheduler.trace_from(caller, TraceEvent::Wake(self.id));
        self.unpark(caller, last);
    }

    /// It does not run until [`Self::resume`]; that takes effect at once, wherever it is. See [`Self::is_parked`].
    pub fn pause(&self) {
        match self
            .state
            .update(|state| state.suspend(BlockReason::Paused))
        {
            Ask::Parked | Ask::Gone => {}
            Ask::Tell(pcpu) => self.scheduler.request(pcpu),
        }
    }

    /// It is no longer paused, and runs once nothing else blocks it.
    pub fn resume(&self) {
        self.unblock(BlockReason::Paused);
    }

    /// Takes away `reason`, with which a vCPU does not stay loaded: its owner, if it has one, is about to look at it anyway.
    fn unblock(&self, reason: BlockReason) {
        if let Some(last) = self.state.update(|state| state.unblock(reason)) {
            self.unpark(self.scheduler.caller(), last);
        }
    }

    /// Its VM ends: it never runs again, whatever PSCI says, until [`Self::rearm`]. [`crate::Host::stopped`] is called once
    /// it is parked, perhaps before this returns.
    pub fn stop(&self) {
        let was_parked = self.state.update(|state| {
            let is_news = matches!(state.place(), Place::Parked(_))
                && !state.is_blocked_by(BlockReason::Stopped);
            let (next, ask) = state.suspend(BlockReason::Stopped);
            (next, (is_news, ask))
        });
        match was_parked {
            (true, _) => self.scheduler.host().stopped(self.id),
            (false, Ask::Tell(pcpu)) => self.scheduler.request(pcpu),
            (false, Ask::Parked | Ask::Gone) => {}
        }
    }

    /// A stopped and parked vCPU is off again, as it was when it was created, for a VM that starts anew. False if it is
    /// not stopped and parked, or if somebody has a [`PowerOnClaim`] of it.
    pub fn rearm(&self) -> bool {
        let destination = self.destination.load(Ordering::Acquire);
        let is_rearmed = self.state.update(|state| state.rearm());
        if is_rearmed {
            self.forget_destination(destination);
        }
        is_rearmed
    }

    /// Somebody waits for its interrupt state, which may be in a pCPU's registers: note who waits first. True: its pCPU
    /// will call [`crate::Machine::sync`]. False: it is not loaded, so its state is in memory.
    #[must_use]
    pub fn request_sync(&self) -> bool {
        match self.state.update(|state| state.request_sync()) {
            Some(pcpu) => {
                self.scheduler.nudge(pcpu, About::Loaded);
                true
            }
            None => false,
        }
    }

    /// Takes a vCPU that is off or stopped, and parked, out of the scheduler, and gives its box back; its number is used again.
    pub fn retire(&self) -> Result<Box<V>, RetireError> {
        if !self.state.update(|state| state.retire()) {
            return Err(RetireError::StillInUse);
        }
        let vcpu = self.take_parked();
        self.scheduler.release(self.id);
        Ok(vcpu)
    }
}
