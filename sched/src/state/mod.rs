//! What one word says about a vCPU: where it is, what blocks it, and what others have asked for.
//!
//! Every transition is a pure function from one word to the next and an outcome; [`StateWord`] applies it with one
//! compare-exchange. There is no second word to agree with, so no transition can be lost between two.
//!
//! ```text
//!                 load                      park (reasons not empty)
//!   Queued(p) ----------------> Loaded(p) ---------------------------> Parked --retire--> Gone
//!     ^  |  <------------------    |                                     |
//!     |  |    unload (preempted)   | route(q)                            | the last reason goes: who cleared it
//!     |  '--park, route(q)         v                                     | owns the box and queues it
//!     '------------------------ Queued(q) <------------------------------'
//! ```
//! Runnable means that no reason is set. Loaded with only WAITING or REMOTE is "waiting while loaded": its registers stay
//! in the pCPU, and a wake is a cleared bit and a kick.

use crate::{
    PcpuId,
    sync::{AtomicU32, Ordering},
};

/// Why a vCPU may not run. The reasons are a set; it runs when the set is empty.
// Each is its bit of the word.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(u32)]
pub enum BlockReason {
    /// PSCI has turned it off, or it has not been turned on yet.
    Off = 1 << 8,
    /// It waits for an interrupt.
    Waiting = 1 << 9,
    /// Somebody outside the guest paused it.
    Paused = 1 << 10,
    /// An instruction of it waits for another pCPU; it is run again afterwards.
    Remote = 1 << 11,
    /// Its VM is stopped. Unlike OFF, no PSCI call ends this.
    Stopped = 1 << 12,
}

impl BlockReason {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Off,
        Self::Waiting,
        Self::Paused,
        Self::Remote,
        Self::Stopped,
    ];

    const fn bit(self) -> u32 {
        self as u32
    }
}

/// Where a vCPU's box is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Place {
    /// In the inbox or the ready set of this pCPU, or on its way there.
    Queued(PcpuId),
    /// Its registers are in this pCPU.
    Loaded(PcpuId),
    /// In the slot of its handle; it was last on this pCPU.
    Parked(PcpuId),
    /// Retired: whoever retired it has the box.
    Gone,
}

/// What PSCI AFFINITY_INFO says. [DEN0022: AFFINITY_INFO]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PowerState {
    /// It runs, or could.
    On,
    /// It does not run until CPU_ON.
    Off,
    /// CPU_ON has been called, and it has not been entered yet.
    OnPending,
}

const PLACE: u32 = 0b11;
const QUEUED: u32 = 0;
const LOADED: u32 = 1;
const PARKED: u32 = 2;
const GONE: u32 = 3;
const REASONS: u32 = 0x1f << 8;
/// Reasons with which a vCPU may stay loaded: whoever clears them kicks its pCPU.
const LOADED_WAITS: u32 = BlockReason::Waiting.bit() | BlockReason::Remote.bit();
const WAKE: u32 = 1 << 16;
const RESET: u32 = 1 << 17;
const MIGRATE: u32 = 1 << 18;
const SYNC: u32 = 1 << 19;
const PCPU_SHIFT: u32 = 20;
const PCPU: u32 = (PcpuId::LIMIT as u32 - 1) << PCPU_SHIFT;

/// One value of the word.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct State(u32);

/// What clearing a reason led to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use]
pub(crate) enum Wake {
    /// Nothing to do: whoever owns the box sees it.
    Noted,
    /// The vCPU is loaded there, and that pCPU must look.
    Nudge(PcpuId),
    /// It was parked and can run now: the caller owns the box in the slot; it was last on this pCPU.
    Claimed(PcpuId),
    /// It is ready there, and does not run.
    Ready(PcpuId),
}

/// Whether the vCPU blocks itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use]
pub(crate) enum Block {
    Blocked,
    /// A wake came first; it is consumed.
    Woken,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use]
pub(crate) enum Load {
    /// It is loaded; `reset` says that its registers must be reset before they are bound.
    Loaded { reset: bool },
    /// Something blocks it: park it instead.
    Blocked,
    /// Its destination or affinity changed: look there first.
    Migrate,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use]
pub(crate) enum Park {
    /// Whoever clears the last reason owns the box in the slot; `stopped`: its VM is stopping; `paused`: somebody paused it.
    Parked { stopped: bool, paused: bool },
    /// Nothing blocks it any more: it is queued on its pCPU, and the caller still owns the box.
    Runnable,
    /// Somebody waits for its interrupt state: the caller still owns the box, nothing changed.
    SyncFirst,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use]
pub(crate) enum Leave {
    /// It is queued where the caller said.
    Queued,
    /// Somebody waits for its interrupt state: nothing changed.
    SyncFirst,
}

/// Who has to look after a reason or request was added from outside.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use]
pub(crate) enum Ask {
    /// It is parked: whoever wakes it sees it.
    Parked,
    /// That pCPU has it.
    Tell(PcpuId),
    /// There is nothing left to ask.
    Gone,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use]
pub(crate) enum Claim {
    Claimed,
    AlreadyOn,
    OnPending,
}

impl State {
    /// Parked and off, as a vCPU is created; `pcpu` is where a wake-up looks first.
    pub(crate) const fn created(pcpu: PcpuId) -> Self {
        Self(PARKED | (pcpu.index() as u32) << PCPU_SHIFT | BlockReason::Off.bit())
    }

    pub(crate) const fn pcpu(self) -> PcpuId {
        PcpuId::from_low_bits((self.0 & PCPU) >> PCPU_SHIFT)
    }

    pub(crate) const fn place(self) -> Place {
        match self.0 & PLACE {
            QUEUED => Place::Queued(self.pcpu()),
            LOADED => Place::Loaded(self.pcpu()),
            PARKED => Place::Parked(self.pcpu()),
            _ => Place::Gone,
        }
    }

    pub(crate) const fn is_blocked(self) -> bool {
        self.0 & REASONS != 0
    }

    pub(crate) const fn is_blocked_by(self, reason: BlockReason) -> bool {
        self.0 & reason.bit() != 0
    }

    /// It is blocked, but only by reasons with which it may stay loaded, and nothing asks it to leave.
    pub(crate) const fn may_wait_loaded(self) -> bool {
        self.is_blocked() && self.0 & (REASONS & !LOADED_WAITS | MIGRATE | RESET) == 0
    }

    /// Something for `schedule` to see before a loaded vCPU is entered.
    pub(crate) const fn needs_schedule(self) -> bool {
        self.0 & (REASONS | RESET | MIGRATE | SYNC) != 0
    }

    pub(crate) const fn has_reset(self) -> bool {
        self.0 & RESET != 0
    }

    pub(crate) const fn has_migrate(self) -> bool {
        self.0 & MIGRATE != 0
    }

    pub(crate) const fn has_sync(self) -> bool {
        self.0 & SYNC != 0
    }

    pub(crate) const fn has_wake(self) -> bool {
        self.0 & WAKE != 0
    }

    pub(crate) const fn power(self) -> PowerState {
        if self.0 & RESET != 0 {
            PowerState::OnPending
        } else if self.is_blocked_by(BlockReason::Off) {
            PowerState::Off
        } else {
            PowerState::On
        }
    }

    const fn with_place(self, place: u32) -> Self {
        Self(self.0 & !PLACE | place)
    }

    const fn with_pcpu(self, pcpu: PcpuId) -> Self {
        Self(self.0 & !PCPU | (pcpu.index() as u32) << PCPU_SHIFT)
    }

    /// Clears `reason` (WAITING or REMOTE), or leaves the WAKE token that makes the next [`Self::block`] fail.
    pub(crate) fn wake(self, reason: BlockReason) -> (Self, Wake) {
        if self.0 & PLACE == GONE {
            return (self, Wake::Noted);
        }
        if self.0 & reason.bit() != 0 {
            let (next, claimed) = self.unblock(reason);
            // The pCPU that has it loaded must also look at its interrupts again before it enters it.
            return if self.0 & PLACE == LOADED {
                (Self(next.0 | WAKE), Wake::Nudge(self.pcpu()))
            } else {
                (next, claimed.map_or(Wake::Noted, Wake::Claimed))
            };
        }
        let next = if cfg!(mutant = "skip_wake_bit") {
            self
        } else {
            Self(self.0 | WAKE)
        };
        // With the token already there, who left it has kicked or is about to.
        match self.0 & PLACE {
            LOADED if self.0 & WAKE == 0 => (next, Wake::Nudge(self.pcpu())),
            QUEUED if !self.is_blocked() => (next, Wake::Ready(self.pcpu())),
            _ => (next, Wake::Noted),
        }
    }

    /// Clears `reason`. If it was parked and can run now, the caller owns the box in the slot; it was last on that pCPU. The owner of
    /// a queued or loaded vCPU sees it by itself.
    pub(crate) const fn unblock(self, reason: BlockReason) -> (Self, Option<PcpuId>) {
        let next = Self(self.0 & !reason.bit());
        if self.0 & PLACE == PARKED && self.is_blocked() && !next.is_blocked() {
            (next.with_place(QUEUED), Some(self.pcpu()))
        } else {
            (next, None)
        }
    }

    /// The loaded vCPU blocks itself. OFF always succeeds: a vCPU that turns itself off is past all interrupts.
    pub(crate) const fn block(self, reason: BlockReason) -> (Self, Block) {
        if self.0 & WAKE != 0 && reason.bit() & LOADED_WAITS != 0 {
            (Self(self.0 & !WAKE), Block::Woken)
        } else {
            (Self(self.0 | reason.bit()), Block::Blocked)
        }
    }

    /// The owner is about to bind it on `pcpu`. Binding looks at everything that a wake could be about.
    pub(crate) fn load(self, pcpu: PcpuId) -> (Self, Load) {
        if self.is_blocked() {
            (self, Load::Blocked)
        } else if self.0 & MIGRATE != 0 {
            (self, Load::Migrate)
        } else {
            let reset = self.0 & RESET != 0 && !cfg!(mutant = "lose_reset_request");
            let next = Self(self.0 & !(WAKE | RESET))
                .with_place(LOADED)
                .with_pcpu(pcpu);
            (next, Load::Loaded { reset })
        }
    }

    /// The owner has put the unbound box into the slot.
    pub(crate) const fn park(self) -> (Self, Park) {
        if self.0 & PLACE == LOADED && self.0 & SYNC != 0 {
            (self, Park::SyncFirst)
        } else if self.is_blocked() {
            (
                self.with_place(PARKED),
                Park::Parked {
                    stopped: self.is_blocked_by(BlockReason::Stopped),
                    paused: self.is_blocked_by(BlockReason::Paused),
                },
            )
        } else {
            (self.with_place(QUEUED), Park::Runnable)
        }
    }

    /// The owner sends the unbound box to `pcpu`, or keeps it there as ready.
    pub(crate) const fn route(self, pcpu: PcpuId) -> (Self, Leave) {
        if self.0 & PLACE == LOADED && self.0 & SYNC != 0 {
            (self, Leave::SyncFirst)
        } else {
            (self.with_place(QUEUED).with_pcpu(pcpu), Leave::Queued)
        }
    }

    /// Adds a reason from outside.
    pub(crate) const fn suspend(self, reason: BlockReason) -> (Self, Ask) {
        self.ask(reason.bit())
    }

    /// Its destination or affinity has been written: whoever owns it must look.
    pub(crate) const fn request_migrate(self) -> (Self, Ask) {
        self.ask(MIGRATE)
    }

    const fn ask(self, bit: u32) -> (Self, Ask) {
        let next = Self(self.0 | bit);
        match self.0 & PLACE {
            PARKED => (next, Ask::Parked),
            GONE => (self, Ask::Gone),
            _ => (next, Ask::Tell(self.pcpu())),
        }
    }

    /// Only a loaded vCPU has interrupt state that its owner must fold first.
    pub(crate) const fn request_sync(self) -> (Self, Option<PcpuId>) {
        if self.0 & PLACE == LOADED {
            (Self(self.0 | SYNC), Some(self.pcpu()))
        } else {
            (self, None)
        }
    }

    /// PSCI CPU_ON: exactly one of several callers goes on to write the entry point.
    pub(crate) const fn claim_power_on(self) -> (Self, Claim) {
        match self.power() {
            PowerState::Off => (Self(self.0 | RESET), Claim::Claimed),
            PowerState::On => (self, Claim::AlreadyOn),
            PowerState::OnPending => (self, Claim::OnPending),
        }
    }

    pub(crate) const fn without_reset(self) -> (Self, ()) {
        (Self(self.0 & !RESET), ())
    }

    pub(crate) const fn without_wake(self) -> (Self, bool) {
        (Self(self.0 & !WAKE), self.has_wake())
    }

    pub(crate) const fn without_migrate(self) -> (Self, bool) {
        (Self(self.0 & !MIGRATE), self.has_migrate())
    }

    pub(crate) const fn without_sync(self) -> (Self, bool) {
        (Self(self.0 & !SYNC), self.has_sync())
    }

    /// Somebody turns it on, and has not committed that yet.
    const fn is_claimed(self) -> bool {
        self.0 & RESET != 0 && self.is_blocked_by(BlockReason::Off)
    }

    /// A stopped and parked vCPU goes back to what it was when it was created; false if it is not both, or if somebody has the
    /// right to turn it on.
    pub(crate) const fn rearm(self) -> (Self, bool) {
        let is_stopped = self.is_blocked_by(BlockReason::Stopped);
        if self.0 & PLACE == PARKED && is_stopped && !self.is_claimed() {
            (State::created(self.pcpu()), true)
        } else {
            (self, false)
        }
    }

    /// Takes a parked vCPU that is off or stopped out of the scheduler; false if it is not.
    pub(crate) const fn retire(self) -> (Self, bool) {
        let ended =
            self.is_blocked_by(BlockReason::Off) || self.is_blocked_by(BlockReason::Stopped);
        if self.0 & PLACE == PARKED && ended {
            (self.with_place(GONE), true)
        } else {
            (self, false)
        }
    }
}

/// The word itself.
pub(crate) struct StateWord(AtomicU32);

impl StateWord {
    pub(crate) fn new(state: State) -> Self {
        Self(AtomicU32::new(state.0))
    }

    pub(crate) fn load(&self) -> State {
        State(self.0.load(Ordering::Acquire))
    }

    /// Applies `transition` with one read-modify-write, also when it changes nothing: what the caller wrote before is
    /// seen by whoever changes the word next.
    pub(crate) fn update<T>(&self, transition: impl Fn(State) -> (State, T)) -> T {
        let mut current = self.0.load(Ordering::Relaxed);
        loop {
            let (next, outcome) = transition(State(current));
            match self
                .0
                .compare_exchange_weak(current, next.0, Ordering::AcqRel, Ordering::Relaxed)
            {
                Ok(_) => return outcome,
                Err(actual) => current = actual,
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
