//! What a record has with GICv2 only: who sent an SGI, and which vCPUs may take a shared interrupt.
//!
//! An SGI is pending once for each vCPU that sent it, and is acknowledged once for each. It is latched for as long as somebody's
//! is; one of them at a time moves to a list register. With GICv3 all of this is zero. [IHI0048: SGIs, GICD_ITARGETSR<n>]

use super::{ANYBODY, LATCH, LISTED_LATCH, Record};

/// The vCPUs whose SGI is latched, one bit for each.
const SOURCES_SHIFT: u32 = 48;
pub(super) const SOURCES: u64 = 0xff << SOURCES_SHIFT;
/// The vCPU that sent the SGI which is listed or active: its bit.
const SOURCE_SHIFT: u32 = 56;
pub(super) const SOURCE: u64 = 0xff << SOURCE_SHIFT;
/// Of a shared interrupt whose target is [`ANYBODY`]: the vCPUs of which any may take it, one bit for each. None: it may be any.
pub(super) const AMONG_SHIFT: u32 = 56;

impl Record {
    /// Each vCPU whose bit is in `sources` sends the SGI. [IHI0048: GICD_SGIR, GICD_SPENDSGIR<n>]
    pub(in crate::vgic) const fn send_from_each(self, sources: u8) -> Self {
        Self(self.0 | (sources as u64) << SOURCES_SHIFT).with_latch_of_sources()
    }

    /// The SGI is not pending any more from the vCPUs in `sources`. [IHI0048: GICD_CPENDSGIR<n>]
    pub(in crate::vgic) const fn take_back_from_each(self, sources: u8) -> Self {
        let stays_listed = self.has(LISTED_LATCH) && self.source() & sources == 0;
        Self(self.0 & !((sources as u64) << SOURCES_SHIFT))
            .with(LISTED_LATCH, stays_listed)
            .with_latch_of_sources()
    }

    const fn with_latch_of_sources(self) -> Self {
        self.with(LATCH, self.has(SOURCES))
    }

    /// From which vCPUs the SGI is pending, as far as the record knows.
    pub(in crate::vgic) const fn pending_sources(self) -> u8 {
        let listed = if self.has(LISTED_LATCH) {
            self.source()
        } else {
            0
        };
        (self.0 >> SOURCES_SHIFT) as u8 | listed
    }

    /// Who sent the SGI that is listed or active.
    pub(in crate::vgic) const fn source(self) -> u8 {
        (self.0 >> SOURCE_SHIFT) as u8
    }

    /// The SGI of one of those that sent it is to be listed: the others' stay latched.
    #[cold]
    #[inline(never)]
    pub(super) const fn take_source(self) -> Self {
        let sources = self.0 & SOURCES;
        let lowest = if cfg!(mutant = "vgic_merge_senders") {
            sources
        } else {
            sources & sources.wrapping_neg()
        };
        Self(self.0 & !(lowest | SOURCE) | lowest << (SOURCE_SHIFT - SOURCES_SHIFT))
            .with_latch_of_sources()
    }

    /// What was listed stays pending: an SGI from whom it was.
    #[cold]
    #[inline(never)]
    pub(super) const fn with_source_latched(self) -> Self {
        if self.target() == ANYBODY {
            return self;
        }
        Self(self.0 | (self.0 & SOURCE) >> (SOURCE_SHIFT - SOURCES_SHIFT))
    }

    /// Pending as `other` is, which has been latched.
    pub(in crate::vgic) const fn keep_latch(self, other: Self) -> Self {
        Self(self.0 | other.0 & (LATCH | SOURCES))
    }

    /// As [`Record::set_target`]; if any may take it, then any of the vCPUs whose bits are in `among`, unless there are none.
    pub(in crate::vgic) const fn set_target_among(self, target: u8, among: u8) -> Self {
        self.set_target(target).with_field(AMONG_SHIFT, among)
    }

    /// If it may go to any vCPU, it may go to `vcpu`.
    pub(in crate::vgic) const fn is_among(self, vcpu: u8) -> bool {
        let among = self.0 >> AMONG_SHIFT;
        among == 0 || among >> (vcpu & 63) & 1 != 0
    }
}
