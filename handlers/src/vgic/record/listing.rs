//! What a record is to a vCPU, what of it goes into a list register, and what comes back.

use super::{
    ACTIVE, ACTIVE_PRIORITY_SHIFT, ACTIVE_VOID, ANYBODY, EDGE, ENABLED, HELD, LATCH, LISTED,
    LISTED_ACTIVE, LISTED_LATCH, OWNER_SHIFT, RAISED, Record, TAKES_PART,
    sources::{SOURCE, SOURCES},
};
use crate::vgic::list_register::State;

/// What the interrupt is to the vCPU that asks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::vgic) enum Role {
    /// Nothing to do for it here.
    None,
    /// To be delivered here.
    Pending,
    /// Acknowledged here and not deactivated yet.
    Active,
}

/// What a list register gets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::vgic) struct Listing {
    pub(in crate::vgic) state: State,
    pub(in crate::vgic) priority: u8,
    pub(in crate::vgic) group1: bool,
    /// The hypervisor looks at the interrupt again when the guest ends it.
    pub(in crate::vgic) tells_end: bool,
    /// It was pending whatever its line does.
    pub(in crate::vgic) is_latched: bool,
    /// The guest's end of it deactivates the physical interrupt behind it.
    pub(in crate::vgic) is_physical: bool,
}

impl Record {
    /// It may go to any vCPU, and this one takes part in that for the groups in `groups` (from [`TAKES_PART`] on).
    const fn may_go_to_one(self, me: u8, groups: u32) -> bool {
        self.target() == ANYBODY
            && groups & (TAKES_PART << self.is_group1() as u32) != 0
            && self.is_among(me)
    }

    /// What it is to vCPU `me`, when the distributor forwards the groups in `groups` (bit 0 and bit 1).
    pub(in crate::vgic) const fn role(self, me: u8, groups: u32) -> Role {
        if self.is_listed() {
            return Role::None;
        }
        if self.has(ACTIVE) {
            return if self.owner() == me {
                Role::Active
            } else {
                Role::None
            };
        }
        let forwarded = self.has(ENABLED) && groups & (1 << self.is_group1() as u32) != 0;
        if self.is_pending() && forwarded && (self.target() == me || self.may_go_to_one(me, groups))
        {
            Role::Pending
        } else {
            Role::None
        }
    }

    /// Moves the latch and the active state to a list register of vCPU `me`: the record without them, and what the list
    /// register gets.
    ///
    /// `None` if it has no role there. A level-sensitive interrupt is never both pending and active in a list register:
    /// its line is sampled again when the guest ends it. Nor is one that is to be delivered elsewhere or otherwise than
    /// it was: it keeps its latch here, and is looked at again when the guest ends it.
    ///
    /// The end of one that came from a physical interrupt deactivates that, unless it is pending for another reason as well:
    /// then the list register knows of the other reason only, and the physical interrupt has its turn afterwards.
    #[inline(always)]
    pub(in crate::vgic) const fn listed_by(self, me: u8, groups: u32) -> Option<(Self, Listing)> {
        match self.role(me, groups) {
            Role::None => None,
            Role::Pending => Some(self.listed_as(State::PENDING, self.priority(), me)),
            Role::Active => {
                let again = matches!(self.with(ACTIVE, false).role(me, groups), Role::Pending)
                    && self.has(EDGE)
                    && !self.has(RAISED | HELD | SOURCES)
                    && self.priority() == self.active_priority();
                let state = if again {
                    State::PENDING_AND_ACTIVE
                } else {
                    State::ACTIVE
                };
                Some(self.listed_as(state, self.active_priority(), me))
            }
        }
    }

    /// The same, for an interrupt that has a role there.
    #[inline(always)]
    const fn listed_as(self, state: State, priority: u8, me: u8) -> (Self, Listing) {
        let takes_latch = state.is_pending() && self.has(LATCH);
        let physical = if state.is_pending() { RAISED } else { HELD };
        let is_physical = self.has(physical) && !self.has(LATCH);
        let next = self.with(LISTED, true).with_field(OWNER_SHIFT, me);
        let next = if is_physical {
            next.with(physical, false)
        } else {
            next
        };
        let next = next
            .with(
                LISTED_LATCH,
                takes_latch || is_physical && state.is_pending(),
            )
            .with(LISTED_ACTIVE, state.is_active());
        let next = next
            .with(ACTIVE, false)
            .with(LATCH, self.has(LATCH) && !takes_latch);
        let next = if takes_latch && self.has(SOURCES) {
            next.take_source()
        } else {
            next
        };
        let is_resampled = !self.has(EDGE) && !cfg!(mutant = "vgic_no_resample_on_eoi");
        let tells_end = is_resampled || next.has(LATCH | RAISED | HELD);
        let listing = Listing {
            state,
            priority,
            group1: self.is_group1(),
            tells_end,
            is_latched: self.has(LATCH),
            is_physical,
        };
        (next, listing)
    }

    /// Takes back from the list register what the guest left in it, except what others have cleared meanwhile; `priority`
    /// is what it was listed with. The guest's end of a physical one (`is_physical`) has deactivated it.
    #[inline]
    pub(in crate::vgic) const fn folded(
        self,
        left: State,
        priority: u8,
        is_physical: bool,
    ) -> Self {
        if matches!(left, State::INACTIVE) {
            self.unlisted()
        } else {
            self.folded_unended(left, priority, is_physical)
        }
    }

    /// Nothing is left of it in a list register.
    const fn unlisted(self) -> Self {
        self.with(LISTED | LISTED_LATCH | LISTED_ACTIVE | ACTIVE_VOID, false)
    }

    /// The same, if the guest has not ended it.
    #[inline(never)]
    const fn folded_unended(self, left: State, priority: u8, is_physical: bool) -> Self {
        let stays_pending = left.is_pending() && self.has(LISTED_LATCH);
        let latch = self.has(LATCH) || (stays_pending && !is_physical);
        let active = self.has(ACTIVE) || (left.is_active() && !self.has(ACTIVE_VOID));
        let next = self.unlisted().with(LATCH, latch).with(ACTIVE, active);
        let next = if stays_pending && self.has(SOURCE) {
            next.with_source_latched()
        } else {
            next
        };
        let next = if is_physical && (left.is_pending() || left.is_active()) {
            if stays_pending && self.is_enabled() {
                next.with(RAISED, true)
            } else {
                let is_lost = stays_pending && self.has(EDGE);
                next.with(HELD, true).with(LATCH, latch || is_lost)
            }
        } else {
            next
        };
        if left.is_active() {
            next.with_field(ACTIVE_PRIORITY_SHIFT, priority)
        } else {
            next
        }
    }
}
