//! How a record keeps the physical interrupt behind it: whether that is active for it, and who is to deactivate it.

use super::{ACTIVE, EDGE, ENABLED, HELD, LATCH, LISTED, RAISED, Record, TARGET_SHIFT};

impl Record {
    /// The physical interrupt behind it was taken and is active. It is not kept if this one is disabled: a level comes again, an edge
    /// is latched.
    pub(in crate::vgic) const fn raise_physical(self) -> Self {
        let raised = self.with(RAISED, true);
        if self.is_enabled() {
            raised
        } else {
            raised.latch_raised().with(RAISED, self.has(RAISED))
        }
    }

    /// The physical interrupt will not come again for what it was raised for, if that was an edge: then this one remembers.
    pub(super) const fn latch_raised(self) -> Self {
        let latch = self.has(EDGE) && self.has(RAISED) && !cfg!(mutant = "vgic_lose_disabled_edge");
        self.with(LATCH, self.has(LATCH) || latch)
    }

    /// It is not pending any more because of the physical interrupt, which raises it again if its line is still high.
    pub(super) const fn give_up_raised(self) -> Self {
        let held = self.has(RAISED) && !cfg!(mutant = "vgic_keep_given_up");
        self.with(RAISED, false).with(HELD, self.has(HELD) || held)
    }

    /// The physical interrupt is active for nobody: it is to be deactivated by whoever makes [`Record::released`] of it.
    pub(in crate::vgic) const fn is_orphan(self) -> bool {
        self.0 & (HELD | ACTIVE | LISTED) == HELD
    }

    /// The record without the physical interrupt that is active for nobody.
    pub(in crate::vgic) const fn released(self) -> Self {
        self.with(HELD, self.has(HELD) && !self.is_orphan())
    }

    /// The physical interrupt is active because of this record, list registers aside.
    pub(in crate::vgic) const fn has_physical(self) -> bool {
        self.has(RAISED | HELD)
    }

    /// The record without any part in the physical interrupt.
    pub(in crate::vgic) const fn without_physical(self) -> Self {
        self.with(RAISED | HELD, false)
    }

    /// Whether, how and where the physical interrupt has to come differs from `other`.
    pub(in crate::vgic) const fn is_set_up_unlike(self, other: Self) -> bool {
        (self.0 ^ other.0) & (ENABLED | EDGE | 0xff << TARGET_SHIFT) != 0
    }
}
