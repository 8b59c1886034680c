//! What a scheduling policy decides: which ready vCPU runs next on a pCPU, and for how long.
//!
//! A policy ranks, and nothing else. It never sees a box or a blocked vCPU, and the core checks what it returns: a vCPU that
//! is not ready is ignored and counted, and if a policy that keeps every pCPU busy names none although some are ready, the
//! core takes one itself. So a bad policy is unfair, never unsound.
//!
//! ```text
//!            enqueue                 pick: Run                    enqueue(Preempted | Yielded)
//!  not here ---------> ready here ------------> runs here, charged ---------------------------> ready here
//!     ^                    |                        |
//!     '----- withdraw, surrender, push -------------'-- leave (it blocked, or went elsewhere)
//! ```
//! Times are in ticks of [`crate::Host::now`]. What each vCPU shall get is in [`crate::Entitlements`].

use crate::{Entitlement, Entitlements, PcpuId, PcpuSet, Reservation, VcpuId};
use alloc::{boxed::Box, string::String, sync::Arc};
use core::{fmt, num::NonZero};

/// Why a vCPU became ready.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ready {
    /// Nothing blocks it any more.
    Woken,
    /// It ran until its slice was over, or another one had to run at once.
    Preempted,
    /// It let others run.
    Yielded,
    /// It comes from another pCPU, where it was ready already.
    MigratedIn,
}

/// For how long a vCPU runs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Slice {
    /// In ticks of the host's counter. `None`: as long as it likes.
    pub duration: Option<NonZero<u64>>,
    /// It ends even if no other vCPU waits: the policy is asked again, and may idle the pCPU.
    pub is_strict: bool,
    /// It may have the pCPU to itself, its WFI included, as long as no other vCPU is ready there.
    pub exclusive: bool,
}

impl Slice {
    /// Until it blocks.
    pub const UNLIMITED: Self = Self {
        duration: None,
        is_strict: false,
        exclusive: false,
    };

    /// `ticks` at most while others wait, and at least one.
    pub const fn of(ticks: u64) -> Self {
        let duration = match NonZero::new(ticks) {
            None => NonZero::<u64>::MIN,
            Some(ticks) => ticks,
        };
        Self {
            duration: Some(duration),
            ..Self::UNLIMITED
        }
    }

    /// `ticks` at most, whether others wait or not, and at least one.
    pub const fn strictly(ticks: u64) -> Self {
        Self {
            is_strict: true,
            ..Self::of(ticks)
        }
    }
}

/// The vCPU to run now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Pick {
    /// Which.
    pub vcpu: VcpuId,
    /// For how long.
    pub slice: Slice,
}

/// What a pCPU does next, as its policy sees it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use]
pub enum Choice {
    /// It runs this vCPU.
    Run(Pick),
    /// It runs none of those that are ready here, and asks again at this time, which is to come; `None`: when something has changed.
    /// Only a policy that is not work-conserving may say so while some are ready.
    Idle(Option<u64>),
}

/// What a policy promises.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Bounds {
    /// No pCPU idles while a vCPU that may run there is ready elsewhere for longer than a kick takes.
    pub work_conserving: bool,
    /// The longest a ready vCPU waits, in ticks, with as many vCPUs ready or running on its pCPU as were asked about. `None`:
    /// forever. If one waits for more than twice as long, round-robin takes over.
    pub longest_wait: Option<u64>,
}

/// Why a policy refuses an entitlement, with the numbers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Refusal {
    /// In the policy's own words.
    Words(String),
    /// No pCPU has room for a reservation.
    NoRoom {
        /// What cannot be kept.
        reservation: Reservation,
        /// What part of a pCPU it takes, in thousandths.
        needed: u64,
        /// What the emptiest of those that it may use has left, in thousandths.
        left: u64,
    },
}

impl Refusal {
    /// The same for somebody who thinks in microseconds: `us_of` makes them of the host's ticks.
    #[must_use]
    pub fn in_us(self, us_of: impl Fn(u64) -> u64) -> Self {
        let mut text = String::new();
        // Memory takes any text.
        let _ = self.write(&mut text, "us", us_of);
        Self::Words(text)
    }

    fn write(
        &self,
        to: &mut impl fmt::Write,
        unit: &str,
        unit_of: impl Fn(u64) -> u64,
    ) -> fmt::Result {
        match self {
            Self::Words(words) => to.write_str(words),
            Self::NoRoom {
                reservation,
                needed,
                left,
            } => {
                let [budget, period] = [reservation.budget(), reservation.period()].map(unit_of);
                write!(
                    to,
                    "a budget of {budget} {unit} in a period of {period} needs {}.{} % of a pCPU, and the emptiest of those it \
                     may use has {}.{} % left",
                    needed / 10,
                    needed % 10,
                    left / 10,
                    left % 10
                )
            }
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, "ticks", |ticks| ticks)
    }
}

impl core::error::Error for Refusal {}

/// Who may go where: of a ready vCPU and a pCPU, whether the vCPU may run there now.
pub type Allowed<'a> = &'a mut dyn FnMut(VcpuId, PcpuId) -> bool;

/// The part of a policy that all pCPUs of its pool share.
pub trait Policy: Send + Sync {
    /// The name by which it is chosen.
    fn name(&self) -> &'static str;

    /// What it promises to each of `ready` vCPUs that are ready or run on one pCPU.
    fn bounds(&self, ready: usize) -> Bounds;

    /// For how many vCPUs it has memory: the scheduler refuses those with higher numbers.
    fn room(&self) -> usize {
        usize::MAX
    }

    /// `vcpu` shall have `entitlement` from now on, instead of what it had, if it had any, and may run on `affinity`. Called
    /// when a vCPU is created, when its entitlement or affinity changes, and when the policy takes over; by one caller at a
    /// time, on no exit path. The result is where it goes whenever it wakes, if it belongs to one pCPU.
    ///
    /// # Errors
    /// It cannot be kept; nothing has changed then.
    fn admit(
        &self,
        _vcpu: VcpuId,
        _entitlement: &Entitlement,
        _affinity: PcpuSet,
    ) -> Result<Option<PcpuId>, Refusal> {
        Ok(None)
    }

    /// `vcpu` is gone, and what it was entitled to is free.
    fn release(&self, _vcpu: VcpuId) {}

    /// One that becomes ready may have to run before the slice of the one that runs is over: its pCPU is told at once. The
    /// answer is always the same.
    fn is_preemptive(&self) -> bool {
        false
    }

    /// How often a pCPU where vCPUs wait gives one of them to a busy pCPU of its pool where at least two fewer do, in ticks. `None`:
    /// never, since the policy sees to that itself ([`LocalPolicy::push`]), or vCPUs belong where they are. The answer is always the
    /// same. Short against the time in which somebody notices that it gets less, long against what a vCPU loses by a move.
    fn balance_period(&self) -> Option<NonZero<u64>> {
        None
    }

    /// The same policy with the same options for `pcpus`, which its pool has from now on, and without any vCPU yet. On no exit
    /// path.
    fn renew(&self, pcpus: PcpuSet) -> Box<dyn Policy>;

    /// The part for `pcpu`, with memory for `entitlements.len()` vCPUs reserved: nothing that is called later allocates.
    fn local(&self, pcpu: PcpuId, entitlements: &Arc<Entitlements>) -> Box<dyn LocalPolicy>;
}

/// The part of a policy that ranks the ready vCPUs of one pCPU. Only that pCPU calls it, with interrupts masked. `now` never
/// goes back.
pub trait LocalPolicy: Send {
    /// `vcpu` became ready here because of `why`. It was not ready here before; with [`Ready::Preempted`] and
    /// [`Ready::Yielded`] it has run here until now, and has been charged.
    fn enqueue(&mut self, vcpu: VcpuId, why: Ready, now: u64);

    /// Takes out the vCPU to run now.
    fn pick(&mut self, now: u64) -> Choice;

    /// Takes out `vcpu` in particular, to run now, because it was named; `None` if it is not ready here, or must not run. The
    /// one that has just been enqueued as [`Ready::Yielded`] gives it what is left of its slice: others may not wait longer
    /// for that, and what `vcpu` has of its own should stay.
    fn take(&mut self, vcpu: VcpuId, now: u64) -> Option<Slice>;

    /// Takes out `vcpu`, to run now, because another vCPU waits for what it does next; `None`: it comes when it comes. What it and
    /// others get over time stays the same, whoever is hurried how often. Asked once at most for each choice.
    fn hurry(&mut self, _vcpu: VcpuId, _now: u64) -> Option<Slice> {
        None
    }

    /// `vcpu`, which left because it waited, is ready again with its registers where they were, and nobody else is ready here. It
    /// runs on if there is a slice for it; with `None` it has been enqueued, and the policy is asked who runs.
    fn resume(&mut self, vcpu: VcpuId, now: u64) -> Option<Slice> {
        self.enqueue(vcpu, Ready::Woken, now);
        None
    }

    /// `vcpu` is not ready here any more: it is blocked, or goes elsewhere. Nothing happens if it was not.
    fn withdraw(&mut self, vcpu: VcpuId, now: u64);

    /// `vcpu`, which runs here, blocks or goes elsewhere. It has been charged.
    fn leave(&mut self, _vcpu: VcpuId, _now: u64) {}

    /// Takes out the vCPU that it can best do without among those for which `allowed` is true. The first for which it
    /// was true is the one: `allowed` has reserved a pCPU for it.
    fn surrender(&mut self, allowed: &mut dyn FnMut(VcpuId) -> bool) -> Option<VcpuId>;

    /// Takes out the vCPU that had best wait on `to` instead, of those for which `allowed` is true: `to` is busy, and only `waiting`
    /// wait there. Asked once in each [`Policy::balance_period`], for a few pCPUs at most.
    fn relieve(
        &mut self,
        _to: PcpuId,
        _waiting: usize,
        allowed: &mut dyn FnMut(VcpuId) -> bool,
    ) -> Option<VcpuId> {
        self.surrender(allowed)
    }

    /// `vcpu`, which runs here, has run for `ticks` more, its exits included.
    fn charge(&mut self, vcpu: VcpuId, ticks: u64, now: u64);

    /// The pCPU must choose anew although the slice of `running` is not over. Asked when one became ready here.
    fn preempts(&mut self, _running: VcpuId, _now: u64) -> bool {
        false
    }

    /// Takes out a vCPU that should rather be ready on another pCPU, which is busy, and names that one; `allowed` says what is
    /// possible. Asked whenever the pCPU has chosen anew or a vCPU has not stayed ready here, and when another asks for work,
    /// until the answer is `None`; no pCPU is allowed twice.
    fn push(&mut self, _now: u64, _allowed: Allowed<'_>) -> Option<(VcpuId, PcpuId)> {
        None
    }

    /// Names another pCPU where a vCPU is ready that should rather run elsewhere: that one is told at once, and asked to
    /// [`Self::push`]. Asked whenever that has been asked here: what others wait for can be due to this pCPU, or it was told
    /// itself and can do nothing about it.
    fn pull(&mut self, _now: u64) -> Option<PcpuId> {
        None
    }

    /// How many are ready here.
    fn waiting(&self) -> usize;
}
