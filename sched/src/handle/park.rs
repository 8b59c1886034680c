//! How a box is parked by whoever has it.

use super::VcpuHandle;
use crate::{Vcpu, accounting::vcpu, state::Park};
use alloc::boxed::Box;

/// A box that could not be parked.
pub(crate) enum Unparked<V> {
    /// Nothing blocks it any more; it is queued where it was.
    Runnable(Box<V>),
    /// It is still loaded, as far as others know: somebody waits for its interrupt state.
    SyncFirst(Box<V>),
}

impl<V: Vcpu> VcpuHandle<V> {
    /// Box into the slot, then one transition: whoever clears the last reason after it owns the box. `note` records that it is
    /// parked, before anybody is told.
    // Inlined where each of its callers parks on its way out of a guest.
    #[inline(always)]
    pub(crate) fn park(
        &self,
        vcpu: Box<V>,
        now: u64,
        note: impl FnOnce(),
    ) -> Result<(), Unparked<V>> {
        self.account.enter(vcpu::BLOCKED, now);
        assert!(
            self.slot.push(vcpu).is_ok(),
            "rule: the slot of a vCPU whose box is elsewhere is empty"
        );
        let outcome = self.state.update(|state| state.park());
        if let Park::Parked { stopped, paused } = outcome {
            note();
            if stopped {
                self.scheduler.host().stopped(self.id);
            } else if paused {
                self.scheduler.host().paused(self.id);
            }
            return Ok(());
        }
        self.account.enter(vcpu::READY, now);
        let vcpu = self
            .slot
            .pop()
            .expect("rule: a box that was not parked stays with its owner");
        Err(if outcome == Park::Runnable {
            Unparked::Runnable(vcpu)
        } else {
            Unparked::SyncFirst(vcpu)
        })
    }
}
