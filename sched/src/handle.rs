//! What everybody but its owner can do with a vCPU: wake it, pause it, turn it on, move it, and ask how it is.
//!
//! A [`VcpuHandle`] is shared; the vCPU itself is a box that is in one place at a time. Every method here is one
//! transition of the state word and then a kick or a post, callable on any pCPU and in any context: no lock, no
//! allocation. Write what the vCPU shall see (a pending interrupt, an entry point) before you call.

use crate::{
    BlockReason, Entitlement, Migrations, PcpuId, PcpuSet, Place, Pool, PowerState, Ready, Refusal,
    TraceEvent, VcpuId, VcpuTimes,
    accounting::{Counter, vcpu},
    attention::About,
    cell::Mail,
    pcpu_set::AtomicPcpuSet,
    state::{Ask, Claim, Leave, State, StateWord, Wake},
    sync::{ArrayQueue, AtomicU32, Ordering},
};
use alloc::{boxed::Box, sync::Arc};
use core::fmt;

/// A vCPU, as the scheduler moves it: a box that knows its handle.
pub trait Vcpu: Send + Sized + 'static {
    /// What the embedder shares with other pCPUs about it: pending interrupts, an entry point.
    type Shared: Send + Sync + 'static;

    /// The handle that [`Pool::create_vcpu`] gave it.
    fn handle(&self) -> &Arc<VcpuHandle<Self>>;
}

const NO_DESTINATION: u32 = PcpuId::LIMIT as u32;

/// The shared side of a vCPU.
pub struct VcpuHandle<V: Vcpu> {
    pub(crate) state: StateWord,
    id: VcpuId,
    pub(crate) slot: ArrayQueue<Box<V>>,
    affinity: AtomicPcpuSet,
    /// Where [`Self::migrate`] sends it, or `NO_DESTINATION`.
    destination: AtomicU32,
    pub(crate) account: vcpu::Account,
    pub(crate) switches: Counter,
    pub(crate) migrations: MigrationCounters,
    pool: Arc<Pool<V>>,
    shared: V::Shared,
}

#[derive(Default)]
pub(crate) struct MigrationCounters {
    pub(crate) loaded: Counter,
    pub(crate) queued: Counter,
    pub(crate) parked: Counter,
}

/// Why an affinity is refused.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum AffinityError {
    /// A vCPU that may run nowhere never runs.
    Empty,
    /// The pool does not have this pCPU.
    AbsentPcpu(PcpuId),
    /// The policy cannot keep there what the vCPU is entitled to.
    Entitlement(Refusal),
}

/// Why a vCPU is not sent to a pCPU.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum MigrateError {
    /// The pool does not have it.
    AbsentPcpu,
    /// The vCPU's affinity forbids it.
    NotInAffinity,
}

/// Why PSCI CPU_ON fails. [DEN0022: CPU_ON]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PowerOnError {
    /// It is on.
    AlreadyOn,
    /// Another CPU_ON came first, and it has not been entered yet.
    OnPending,
}

/// Why a vCPU cannot be taken out of the pool.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RetireError {
    /// It must be off or stopped, and parked.
    StillInUse,
}

impl fmt::Display for AffinityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("an affinity needs at least one pCPU"),
            Self::AbsentPcpu(pcpu) => write!(f, "the pool has no {pcpu}"),
            Self::Entitlement(refusal) => refusal.fmt(f),
        }
    }
}

impl fmt::Display for MigrateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AbsentPcpu => "the pool does not have this pCPU",
            Self::NotInAffinity => "the vCPU's affinity forbids this pCPU",
        })
    }
}

impl core::error::Error for AffinityError {}
impl core::error::Error for MigrateError {}

/// How a vCPU is at one moment, for a table or a test.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Snapshot {
    /// Which vCPU.
    pub id: VcpuId,
    /// Where its box is.
    pub place: Place,
    /// Nothing blocks it.
    pub is_runnable: bool,
    /// On, off, or on its way.
    pub power: PowerState,
    /// Where its time went.
    pub times: VcpuTimes,
    /// How often it changed its pCPU.
    pub migrations: Migrations,
    /// How often it was bound to a pCPU.
    pub switches: u64,
}

impl<V: Vcpu> VcpuHandle<V> {
    pub(crate) fn new(
        id: VcpuId,
        affinity: PcpuSet,
        first: PcpuId,
        pool: Arc<Pool<V>>,
        shared: V::Shared,
    ) -> Self {
        let now = pool.host().now();
        Self {
            state: StateWord::new(State::created(first)),
            id,
            slot: ArrayQueue::new(1),
            affinity: AtomicPcpuSet::new(affinity),
            destination: AtomicU32::new(NO_DESTINATION),
            account: vcpu::Account::new(vcpu::BLOCKED, now),
            switches: Counter::default(),
            migrations: MigrationCounters::default(),
            pool,
            shared,
        }
    }

    /// Its number in the pool.
    pub fn id(&self) -> VcpuId {
        self.id
    }

    /// What the embedder shares about it.
    pub fn shared(&self) -> &V::Shared {
        &self.shared
    }

    /// An interrupt has become due for it: write that first. It stops waiting; if it was not waiting, its next attempt
    /// to wait fails; if it is loaded, its pCPU looks at its interrupts before it enters the guest again.
    pub fn wake(&self) {
        self.wake_from(BlockReason::Waiting);
    }

    /// What an instruction of it waited for has been done on another pCPU: the instruction is run again.
    pub fn complete(&self) {
        self.wake_from(BlockReason::Remote);
    }

    #[inline]
    fn wake_from(&self, reason: BlockReason) {
        match self.state.update(|state| state.wake(reason)) {
            Wake::Noted => {}
            Wake::Nudge(pcpu) => self.pool.nudge(pcpu, About::Loaded),
            Wake::Claimed(last) => self.unpark_woken(last),
        }
    }

    #[inline(never)]
    fn unpark_woken(&self, last: PcpuId) {
        self.pool.trace_here(TraceEvent::Wake(self.id));
        self.unpark(last);
    }

    /// Adds a reason not to run; it takes effect at once, wherever the vCPU is. See [`Self::is_parked`].
    pub fn suspend(&self, reason: BlockReason) {
        match self.state.update(|state| state.suspend(reason)) {
            Ask::Parked | Ask::Gone => {}
            Ask::Tell(pcpu) => self.pool.nudge(pcpu, About::Requests),
        }
    }

    /// Takes a reason away; the vCPU runs once none is left.
    pub fn resume(&self, reason: BlockReason) {
        match self.state.update(|state| state.unblock(reason)) {
            Wake::Noted => {}
            Wake::Nudge(pcpu) => self.pool.nudge(pcpu, About::Loaded),
            Wake::Claimed(last) => self.unpark(last),
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
            (true, _) => self.pool.host().stopped(self.id),
            (false, Ask::Tell(pcpu)) => self.pool.nudge(pcpu, About::Requests),
            (false, Ask::Parked | Ask::Gone) => {}
        }
    }

    /// A stopped and parked vCPU is off again, as it was when it was created, for a VM that starts anew. False if it is
    /// not stopped and parked.
    pub fn rearm(&self) -> bool {
        self.state.update(|state| state.rearm())
    }

    /// PSCI CPU_ON, first half: of several callers exactly one gets the claim, writes the entry point and commits.
    pub fn claim_power_on(&self) -> Result<PowerOnClaim<'_, V>, PowerOnError> {
        match self.state.update(|state| state.claim_power_on()) {
            Claim::Claimed => Ok(PowerOnClaim {
                handle: self,
                is_committed: false,
            }),
            Claim::AlreadyOn => Err(PowerOnError::AlreadyOn),
            Claim::OnPending => Err(PowerOnError::OnPending),
        }
    }

    /// What PSCI AFFINITY_INFO says about it.
    pub fn power_state(&self) -> PowerState {
        self.state.load().power()
    }

    /// Moves it to `to`: now if it is loaded or ready, when it wakes up if it is blocked. The last of several calls wins;
    /// if its affinity forbids `to` by then, it goes where the affinity allows.
    pub fn migrate(&self, to: PcpuId) -> Result<(), MigrateError> {
        if !self.pool.pcpus().contains(to) {
            return Err(MigrateError::AbsentPcpu);
        }
        if !self.affinity().contains(to) {
            return Err(MigrateError::NotInAffinity);
        }
        self.destination.store(to.index() as u32, Ordering::Release);
        self.request_migrate();
        Ok(())
    }

    /// Where it may run from now on; it leaves a pCPU that is not in `set` at once. One caller at a time, on no exit path.
    ///
    /// # Errors
    /// It could not run there, or would not get what it is entitled to; nothing has changed then.
    pub fn set_affinity(&self, set: PcpuSet) -> Result<(), AffinityError> {
        self.pool.check_affinity(set)?;
        let admitted = self.admit(&self.entitlement(), set);
        admitted.map_err(AffinityError::Entitlement)?;
        self.affinity.store(set, Ordering::Release);
        self.request_migrate();
        Ok(())
    }

    /// What it shall get from now on: the pCPU where it is chooses anew. One caller at a time, on no exit path.
    ///
    /// # Errors
    /// The policy cannot keep it; nothing has changed then.
    pub fn set_entitlement(&self, entitlement: &Entitlement) -> Result<(), Refusal> {
        self.admit(entitlement, self.affinity())?;
        // One that runs alone would keep what it has.
        if !self.is_gone() {
            self.pool.nudge(self.last_pcpu(), About::Turn);
        }
        Ok(())
    }

    /// Asks the policy, unless the vCPU was retired: its number may be another one's by now.
    fn admit(&self, entitlement: &Entitlement, affinity: PcpuSet) -> Result<(), Refusal> {
        let is_there = || !self.is_gone();
        self.pool.admit(self.id, entitlement, affinity, is_there)
    }

    /// What it shall get.
    pub fn entitlement(&self) -> Entitlement {
        self.pool.entitlements().get(self.id)
    }

    /// Where it may run.
    pub fn affinity(&self) -> PcpuSet {
        self.affinity.load_nonempty(Ordering::Acquire)
    }

    fn request_migrate(&self) {
        match self.state.update(|state| state.request_migrate()) {
            Ask::Parked | Ask::Gone => {}
            Ask::Tell(pcpu) => self.pool.nudge(pcpu, About::Requests),
        }
    }

    /// Somebody waits for its interrupt state, which may be in a pCPU's registers: note who waits first. True: its pCPU
    /// will call [`crate::Machine::sync`]. False: it is not loaded, so its state is in memory.
    #[must_use]
    pub fn request_sync(&self) -> bool {
        match self.state.update(|state| state.request_sync()) {
            Some(pcpu) => {
                self.pool.nudge(pcpu, About::Loaded);
                true
            }
            None => false,
        }
    }

    /// Where its box is.
    pub fn place(&self) -> Place {
        self.state.load().place()
    }

    /// Its box is in the slot of this handle, so no pCPU touches it.
    pub fn is_parked(&self) -> bool {
        matches!(self.place(), Place::Parked(_))
    }

    /// It was retired.
    pub(crate) fn is_gone(&self) -> bool {
        self.place() == Place::Gone
    }

    /// The pCPU where it is, or was last.
    pub fn last_pcpu(&self) -> PcpuId {
        self.state.load().pcpu()
    }

    /// Where its time went until `now`, in ticks.
    pub fn times(&self, now: u64) -> VcpuTimes {
        let [run, ready, blocked] = self.account.read(now);
        VcpuTimes {
            run,
            ready,
            blocked,
        }
    }

    /// For how many ticks it was ready and did not run. Unlike [`Self::times`] it leaves out what is going on, so it is exact
    /// while the vCPU runs or is blocked; cheap, and never less than before.
    #[inline]
    pub fn ready_ticks(&self) -> u64 {
        self.account.total(vcpu::READY)
    }

    /// Since when it is ready; exact on the pCPU where it is.
    pub(crate) fn ready_since(&self) -> Option<u64> {
        self.account.since(vcpu::READY)
    }

    /// How it is now.
    pub fn snapshot(&self, now: u64) -> Snapshot {
        let state = self.state.load();
        let MigrationCounters {
            loaded,
            queued,
            parked,
        } = &self.migrations;
        Snapshot {
            id: self.id,
            place: state.place(),
            is_runnable: !state.is_blocked(),
            power: state.power(),
            times: self.times(now),
            migrations: Migrations {
                loaded: loaded.read(),
                queued: queued.read(),
                parked: parked.read(),
            },
            switches: self.switches.read(),
        }
    }

    /// Takes a vCPU that is off or stopped, and parked, out of the pool, and gives its box back; its number is used again.
    pub fn retire(&self) -> Result<Box<V>, RetireError> {
        if !self.state.update(|state| state.retire()) {
            return Err(RetireError::StillInUse);
        }
        let vcpu = self.take_parked();
        self.pool.release(self.id);
        Ok(vcpu)
    }

    /// The caller's transition made it the owner of the parked box.
    fn take_parked(&self) -> Box<V> {
        self.slot
            .pop()
            .expect("rule: the box of a parked vCPU is in its slot")
    }

    fn unpark(&self, last: PcpuId) {
        let vcpu = self.take_parked();
        self.account.enter(vcpu::READY, self.pool.host().now());
        let has_run = self.switches.read() > 0;
        let wanted = if self.take_migrate_request() {
            self.take_destination()
        } else {
            None
        };
        let to = wanted.unwrap_or_else(|| self.choose_pcpu(has_run.then_some(last)));
        if has_run && to != last {
            self.migrations.parked.increment();
        }
        match self.state.update(|state| state.route(to)) {
            Leave::Queued => self.pool.post(
                to,
                Mail {
                    vcpu,
                    why: Ready::Woken,
                },
            ),
            Leave::SyncFirst => {
                unreachable!("rule: only a loaded vCPU has interrupt state to fold")
            }
        }
    }

    /// Where it goes that was on `last`.
    fn choose_pcpu(&self, last: Option<PcpuId>) -> PcpuId {
        let affinity = self.affinity();
        let home = self.pool.entitlements().home(self.id);
        let home = home.filter(|&home| self.pool.may_run(affinity, home));
        home.unwrap_or_else(|| self.pool.choose(affinity, last))
    }

    /// Clears the request before its destination is read: a later request sets both again.
    pub(crate) fn take_migrate_request(&self) -> bool {
        self.state.load().has_migrate() && self.state.update(|state| state.without_migrate())
    }

    fn take_destination(&self) -> Option<PcpuId> {
        let destination = self.destination.swap(NO_DESTINATION, Ordering::AcqRel);
        PcpuId::new(destination as u16).filter(|&pcpu| self.pool.may_run(self.affinity(), pcpu))
    }

    /// Where its owner on `here` sends it after a request; `None`: it stays, as it does if all others are drained too.
    pub(crate) fn next_pcpu(&self, here: PcpuId) -> Option<PcpuId> {
        let affinity = self.affinity();
        let stays = self.pool.may_run(affinity, here)
            || affinity.contains(here) && !self.pool.may_run_elsewhere(affinity, here);
        let to = match self.take_destination() {
            Some(destination) => destination,
            None if stays => here,
            None => self.choose_pcpu(None),
        };
        (to != here).then_some(to)
    }
}

/// The right to turn a vCPU on, between the two halves of PSCI CPU_ON. Dropped without [`Self::commit`] it leaves the vCPU off.
#[must_use]
pub struct PowerOnClaim<'a, V: Vcpu> {
    handle: &'a VcpuHandle<V>,
    is_committed: bool,
}

impl<V: Vcpu> PowerOnClaim<'_, V> {
    /// The entry point is written: the vCPU is reset and runs.
    pub fn commit(mut self) {
        self.is_committed = true;
        self.handle.resume(BlockReason::Off);
    }
}

impl<V: Vcpu> Drop for PowerOnClaim<'_, V> {
    fn drop(&mut self) {
        if !self.is_committed {
            self.handle.state.update(|state| state.without_reset());
        }
    }
}
