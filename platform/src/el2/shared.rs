//! Shared interrupts of devices that guests drive themselves.
//!
//! Such an interrupt is taken on whichever pCPU it is routed to. Its priority is dropped and it stays active; whoever has it is told,
//! and it is deactivated by the guest's end of it, through a list register, or by [`deactivate`]. [IHI0069: EOImode]

use super::{gic, relax::Lock};
use alloc::sync::Arc;

/// INTIDs that can be given away: all that QEMU's `virt` has are below 288.
const COUNT: usize = 256;
const FIRST: u32 = 32;

/// Who is told of an interrupt.
pub trait SharedInterrupt: Send + Sync {
    /// It has been taken on this pCPU, and is active. In the middle of an exit: it may neither wait nor allocate, nor call
    /// [`give`] or [`take_back`].
    fn raise(&self);
}

static OWNERS: [Lock<Option<Arc<dyn SharedInterrupt>>>; COUNT] = [const { Lock::new(None) }; COUNT];

/// Why an interrupt is not given away: there is no such shared interrupt, or somebody has it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NotFree;

fn owner(intid: u32) -> Option<&'static Lock<Option<Arc<dyn SharedInterrupt>>>> {
    OWNERS.get(intid.checked_sub(FIRST)? as usize)
}

/// From now on `to` is told of shared interrupt `intid`, which is disabled: [`configure`] enables it. The host itself does not use it.
///
/// # Errors
/// There is no such interrupt, or somebody has it.
pub fn give(intid: u32, to: Arc<dyn SharedInterrupt>) -> Result<(), NotFree> {
    let mut owner = owner(intid).ok_or(NotFree)?.lock();
    if owner.is_some() {
        return Err(NotFree);
    }
    *owner = Some(to);
    Ok(())
}

/// Whoever was told of shared interrupt `intid` is told no more when this returns. It should be disabled first.
pub fn take_back(intid: u32) {
    let owner = owner(intid).and_then(|owner| owner.lock().take());
    // Not with the lock held: it may be the last to use what it needs itself.
    drop(owner);
}

/// Enables shared interrupt `intid` (one that was given away) or disables it, makes it edge-triggered or level-sensitive, and routes it
/// to pCPU `to`, if one is given that exists.
pub fn configure(intid: u32, is_enabled: bool, is_edge: bool, to: Option<u16>) {
    if owner(intid).is_some() {
        gic::configure_shared(intid, is_enabled, is_edge, to);
    }
}

/// An edge of shared interrupt `intid` that was not taken yet is forgotten.
pub fn clear_edge(intid: u32) {
    if owner(intid).is_some() {
        gic::clear_pending_shared(intid);
    }
}

/// Deactivates shared interrupt `intid`, on whichever pCPU it was taken. [IHI0069: ICC_DIR_EL1]
pub fn deactivate(intid: u32) {
    gic::deactivate(gic::Taken::of(intid));
}

/// Shared interrupt `intid` was taken here, and its priority has been dropped. True if somebody has it: then it is not the caller's to
/// deactivate.
pub fn pass_on(intid: u32) -> bool {
    let Some(owner) = owner(intid) else {
        return false;
    };
    let owner = owner.lock();
    if let Some(owner) = &*owner {
        owner.raise();
    }
    owner.is_some()
}
