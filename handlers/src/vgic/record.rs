//! What the interrupt controller knows of one interrupt, in one atomic word.
//!
//! All changes are pure functions from [`Record`] to [`Record`], applied by compare-exchange, so any pCPU may change any
//! record at any time. The owner of a vCPU moves an interrupt's pending latch and active state into a list register with
//! [`Record::listed_by`] and takes back what the guest left of them with [`Record::folded`], or both at once with
//! [`AtomicRecord::relist`]; whatever others do to the record in between is seen there ([`listing`]). The physical interrupt behind one is in [`physical`], what only GICv2 has in
//! [`sources`].
//!
//! ```text
//!   raise, enable, retarget ...        listed_by                 guest: acknowledge, EOI
//!   ---------------------------> record --------> list register -------------------------.
//!                                  ^                                                      |
//!                                  '------------------- folded <--------------------------'
//! ```

mod listing;
mod physical;
mod sources;

use crate::sync::atomic::{AtomicU64, Ordering};
use sources::{AMONG_SHIFT, SOURCES};

pub(super) use listing::{Listing, Role};

/// No vCPU: the target of an interrupt whose affinity names nobody.
pub(super) const NOBODY: u8 = 0xff;

/// Any vCPU: the target of an interrupt of which one of them is to take each occurrence. [IHI0069: 1 of N model]
pub(super) const ANYBODY: u8 = 0xfe;

const ENABLED: u64 = 1 << 0;
const EDGE: u64 = 1 << 1;
const GROUP1: u64 = 1 << 2;
const LINE: u64 = 1 << 3;
const LATCH: u64 = 1 << 4;
const ACTIVE: u64 = 1 << 5;
/// The interrupt is in a list register of its owner.
const LISTED: u64 = 1 << 6;
/// That list register carries the pending latch, to be taken back unless the guest has acknowledged it.
const LISTED_LATCH: u64 = 1 << 7;
/// That list register was written as active.
const LISTED_ACTIVE: u64 = 1 << 8;
/// Somebody cleared the active state since: what that list register says of it is void.
const ACTIVE_VOID: u64 = 1 << 9;
/// The level of a level-sensitive interrupt that comes as messages.
const MESSAGE: u64 = 1 << 10;
/// The physical interrupt behind it is active, and the guest has not been given it: pending.
const RAISED: u64 = 1 << 11;
/// The physical interrupt behind it is active, and stays so until the guest deactivates this one.
const HELD: u64 = 1 << 12;

const PRIORITY_SHIFT: u32 = 16;
const TARGET_SHIFT: u32 = 24;
const OWNER_SHIFT: u32 = 32;
/// The priority that it was acknowledged with, which the guest's EOI has to find again.
const ACTIVE_PRIORITY_SHIFT: u32 = 40;
/// How often the ITS has changed where an LPI goes, which is never active.
const TRANSLATION_SHIFT: u32 = ACTIVE_PRIORITY_SHIFT;
/// Beside a set of groups: this vCPU takes part in what may go to any vCPU, for group 0; the next bit, for group 1.
pub(super) const TAKES_PART: u32 = 1 << 8;

/// What decides whether, where and how urgently the interrupt is delivered.
const ROUTING: u64 =
    ENABLED | GROUP1 | EDGE | 0xff << PRIORITY_SHIFT | 0xff << TARGET_SHIFT | 0xff << AMONG_SHIFT;

/// One interrupt: its configuration, its state, and who has it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Record(u64);

impl Record {
    /// The interrupt as reset leaves it: disabled, group 0, priority 0, level-sensitive.
    pub(super) const fn new(target: u8) -> Self {
        Self((target as u64) << TARGET_SHIFT | (NOBODY as u64) << OWNER_SHIFT)
    }

    const fn has(self, flag: u64) -> bool {
        self.0 & flag != 0
    }

    const fn with(self, flag: u64, on: bool) -> Self {
        Self(if on { self.0 | flag } else { self.0 & !flag })
    }

    const fn with_field(self, shift: u32, value: u8) -> Self {
        Self(self.0 & !(0xff << shift) | (value as u64) << shift)
    }

    pub(super) const fn is_enabled(self) -> bool {
        self.has(ENABLED)
    }

    pub(super) const fn is_group1(self) -> bool {
        self.has(GROUP1)
    }

    pub(super) const fn is_edge(self) -> bool {
        self.has(EDGE)
    }

    pub(super) const fn is_listed(self) -> bool {
        self.has(LISTED)
    }

    pub(super) const fn line(self) -> bool {
        self.has(LINE)
    }

    pub(super) const fn priority(self) -> u8 {
        (self.0 >> PRIORITY_SHIFT) as u8
    }

    /// The priority that it was acknowledged with; meaningless unless it is active.
    pub(super) const fn active_priority(self) -> u8 {
        (self.0 >> ACTIVE_PRIORITY_SHIFT) as u8
    }

    /// The vCPU to which the interrupt is routed, or [`NOBODY`].
    pub(super) const fn target(self) -> u8 {
        (self.0 >> TARGET_SHIFT) as u8
    }

    /// The vCPU that has it listed or active; meaningless if it is neither.
    pub(super) const fn owner(self) -> u8 {
        (self.0 >> OWNER_SHIFT) as u8
    }

    /// Its line or its messages hold it high.
    const fn is_high(self) -> bool {
        self.has(LINE | MESSAGE)
    }

    /// Pending, as far as the record knows: exact unless listed, then as of the last fold.
    pub(super) const fn is_pending(self) -> bool {
        self.has(LATCH | LISTED_LATCH | RAISED) || self.is_high() && !self.has(EDGE)
    }

    /// Pending whatever its line does.
    pub(super) const fn is_latched(self) -> bool {
        self.has(LATCH)
    }

    /// Active, as far as the record knows: exact unless listed, then as of the last fold.
    pub(super) const fn is_active(self) -> bool {
        self.has(ACTIVE | LISTED_ACTIVE)
    }

    /// There is something to deliver, groups aside, and nobody has it yet.
    pub(super) const fn is_deliverable(self) -> bool {
        self.is_enabled() && self.is_pending() && !self.has(ACTIVE | LISTED)
    }

    /// It is vCPU `me`'s to take, as soon as the distributor forwards its group.
    pub(super) const fn waits_for_group(self, me: u8) -> bool {
        self.is_deliverable() && (self.target() == me || self.target() == ANYBODY)
    }

    /// The input line moved to `level`. [IHI0069: GICD_ICFGR<n>: edge-triggered, level-sensitive]
    pub(super) const fn set_line(self, level: bool) -> Self {
        let rising = level && !self.has(LINE);
        let next = self.with(LINE, level);
        if rising && self.has(EDGE) {
            next.pulse()
        } else {
            next
        }
    }

    /// The input line rose and fell: an edge is latched, a level is gone before anybody could sample it.
    pub(super) const fn pulse(self) -> Self {
        if cfg!(mutant = "vgic_drop_latch_while_active") && self.is_active() {
            return self;
        }
        if self.has(EDGE) {
            self.with(LATCH, true)
        } else {
            self
        }
    }

    pub(super) const fn set_enabled(self, on: bool) -> Self {
        let next = self.with(ENABLED, on);
        if on {
            next
        } else {
            next.latch_raised().give_up_raised()
        }
    }

    pub(super) const fn set_group1(self, on: bool) -> Self {
        self.with(GROUP1, on)
    }

    pub(super) const fn set_edge(self, on: bool) -> Self {
        // Messages that come to an edge-triggered interrupt are edges.
        self.with(EDGE, on).with(MESSAGE, self.has(MESSAGE) && !on)
    }

    pub(super) const fn set_priority(self, priority: u8) -> Self {
        self.with_field(PRIORITY_SHIFT, priority)
    }

    pub(super) const fn set_target(self, target: u8) -> Self {
        let next = Self(self.0 & !(0xff << AMONG_SHIFT)).with_field(TARGET_SHIFT, target);
        // An interrupt that was made active while it had no target has an owner as soon as it has one.
        if self.owner() == NOBODY && target != ANYBODY {
            next.with_field(OWNER_SHIFT, target)
        } else {
            next
        }
    }

    /// The ITS has changed where the LPI goes: a message that was translated before does not raise it.
    pub(super) const fn retranslated(self) -> Self {
        self.with_field(TRANSLATION_SHIFT, self.translation().wrapping_add(1))
    }

    /// Tells one translation from those before and after it.
    pub(super) const fn translation(self) -> u8 {
        (self.0 >> TRANSLATION_SHIFT) as u8
    }

    /// Software makes it pending. [IHI0069: GICD_ISPENDR<n>]
    pub(super) const fn set_pending(self) -> Self {
        self.with(LATCH, true)
    }

    /// Software takes the pending state away; that of a high level line stays. [IHI0069: GICD_ICPENDR<n>]
    pub(super) const fn clear_pending(self) -> Self {
        self.with(LATCH | LISTED_LATCH | SOURCES, false)
            .give_up_raised()
    }

    /// A message raises it. [IHI0069: GICD_SETSPI_NSR]
    pub(super) const fn set_message(self) -> Self {
        self.with(if self.has(EDGE) { LATCH } else { MESSAGE }, true)
    }

    /// A message takes the pending state away, but not that of a line. [IHI0069: GICD_CLRSPI_NSR]
    pub(super) const fn clear_message(self) -> Self {
        self.clear_pending().with(MESSAGE, false)
    }

    /// Software makes it active; the vCPU to which it is routed will end it, or nobody if it may be any. [IHI0069: GICD_ISACTIVER<n>]
    pub(super) const fn set_active(self) -> Self {
        let next = if self.is_active() {
            self
        } else {
            self.with_field(ACTIVE_PRIORITY_SHIFT, self.priority())
        };
        let has_owner = self.is_listed() || self.is_active();
        let owner = if has_owner {
            self.owner()
        } else if self.target() == ANYBODY {
            NOBODY
        } else {
            self.target()
        };
        next.with(ACTIVE, true).with_field(OWNER_SHIFT, owner)
    }

    /// Software deactivates it. [IHI0069: GICD_ICACTIVER<n>, ICC_DIR_EL1]
    pub(super) const fn clear_active(self) -> Self {
        let void = self.is_listed() && !cfg!(mutant = "vgic_resurrect_cleared_active");
        self.with(ACTIVE | LISTED_ACTIVE, false)
            .with(ACTIVE_VOID, void)
    }

    /// Which vCPU has to look at the interrupt after somebody else changed it from `self` to `next`.
    ///
    /// While it is listed that is its owner, unless its list register does as well as it is: a line that rises is sampled
    /// at the EOI, and one that falls matters only until the guest acknowledges. While it is active nobody needs to until
    /// its owner ends it. Else it is the target, if there is something to deliver that was not there before.
    #[inline]
    pub(super) const fn attention(self, next: Self) -> Option<u8> {
        if self.0 == next.0 {
            None
        } else {
            self.attention_to_change(next)
        }
    }

    const fn attention_to_change(self, next: Self) -> Option<u8> {
        let rerouted = (self.0 ^ next.0) & ROUTING != 0;
        let vcpu = if next.is_listed() {
            let line_alone = (self.0 ^ next.0) & !(LINE | MESSAGE) == 0;
            let fell = self.is_high() && !next.is_high();
            let withdrawn = fell && !next.has(EDGE | LISTED_ACTIVE);
            if line_alone && !withdrawn {
                NOBODY
            } else {
                next.owner()
            }
        } else if next.has(ACTIVE) {
            if rerouted || !self.has(ACTIVE) || self.is_listed() {
                next.owner()
            } else {
                NOBODY
            }
        } else if next.is_deliverable() && (rerouted || !self.is_deliverable()) {
            next.target()
        } else {
            NOBODY
        };
        if vcpu == NOBODY { None } else { Some(vcpu) }
    }
}

/// A [`Record`] that every pCPU may change.
pub(super) struct AtomicRecord(AtomicU64);

impl AtomicRecord {
    pub(super) fn new(record: Record) -> Self {
        Self(AtomicU64::new(record.0))
    }

    pub(super) fn load(&self) -> Record {
        Record(self.0.load(Ordering::Acquire))
    }

    pub(super) fn store(&self, record: Record) {
        self.0.store(record.0, Ordering::Release);
    }

    /// Applies `transition`; the record before and after.
    pub(super) fn update(&self, transition: impl Fn(Record) -> Record) -> (Record, Record) {
        let mut old = self.load();
        loop {
            let new = transition(old);
            if new == old {
                return (old, old);
            }
            match self
                .0
                .compare_exchange(old.0, new.0, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => return (old, new),
                Err(current) => old = Record(current),
            }
        }
    }

    /// Moves the interrupt to a list register of `me`: what [`Record::listed_by`] says.
    pub(super) fn list(&self, me: u8, groups: u32) -> Option<Listing> {
        let mut old = self.load();
        loop {
            let (new, listing) = old.listed_by(me, groups)?;
            match self
                .0
                .compare_exchange(old.0, new.0, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => return Some(listing),
                Err(current) => old = Record(current),
            }
        }
    }

    /// Folds the record, and moves the interrupt to a list register of `me` again if it has a role there: all of it in one step. The
    /// record before and after, and what the list register gets.
    #[inline]
    pub(super) fn relist(
        &self,
        folded: impl Fn(Record) -> Record,
        me: u8,
        groups: u32,
    ) -> ((Record, Record), Option<Listing>) {
        let mut old = self.load();
        loop {
            let left = folded(old);
            let listed = match left.listed_by(me, groups) {
                // Its physical interrupt is to be released before.
                Some(_) if left.is_orphan() && !cfg!(mutant = "vgic_list_orphan") => None,
                listed => listed,
            };
            let (new, listing) = listed.map_or((left, None), |(new, listing)| (new, Some(listing)));
            if new == old {
                return ((old, old), listing);
            }
            match self
                .0
                .compare_exchange(old.0, new.0, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => return ((old, new), listing),
                Err(current) => old = Record(current),
            }
        }
    }
}
