//! How a vCPU sees what another vCPU has in its list registers.
//!
//! An access that needs it changes the records, draws a number from the VM's epoch, registers with each owner and
//! suspends. An owner that folds notes the epoch from before the fold and lets everybody go on who waits. The access is
//! then tried again, and is complete once each owner's note has reached its number, whatever the owners have listed since.
//! A vCPU that is not bound says so in the same word in which the others register, so nobody waits for it.
//!
//! ```text
//!   accessor: change records -> draw epoch -> register -> request_sync -> Action::Suspend ......... retry: note reached?
//!   owner:                                 bind ... read epoch -> fold -> note it -> complete all ---'   (or unbind)
//! ```

use super::{Vgic, VgicCpu};
use crate::sync::atomic::Ordering;

/// An access that waits until others have folded.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Ticket {
    epoch: u64,
    /// Bit n: vCPU n has to fold.
    owners: u64,
    access: AccessKey,
}

/// Which access it is: the address or encoding, and the value of a write.
pub(super) type AccessKey = (u64, Option<u64>);

/// A fold that some wait for: the epoch that was read before it.
pub(super) struct Fold(Option<u64>);

/// The access that the vCPU's last one was suspended for is tried again: it is in the records already.
///
/// A handler that the guest runs in between and that makes the very same access passes for it; the access itself then
/// comes once more.
pub(super) fn has_waited(cpu: &VgicCpu, access: AccessKey) -> bool {
    cpu.ticket.is_some_and(|ticket| ticket.access == access)
}

impl Vgic {
    /// Somebody waits for the list registers to be folded.
    pub(super) fn has_waiters(&self, cpu: &VgicCpu) -> bool {
        self.shared_cpu(cpu).waiters.load(Ordering::Acquire) != 0
    }

    /// Before a fold.
    pub(super) fn begin_fold(&self, cpu: &VgicCpu) -> Fold {
        let has_waiters = self.has_waiters(cpu);
        Fold(has_waiters.then(|| self.epoch.load(Ordering::Acquire)))
    }

    /// After a fold of a vCPU that stays bound.
    pub(super) fn end_fold(&self, cpu: &VgicCpu, fold: Fold) {
        if let Fold(Some(epoch)) = fold {
            self.note(cpu, epoch, 0);
        }
    }

    /// After the fold of a vCPU that is not bound any more: its records are exact until it is bound again.
    pub(super) fn end_fold_unbound(&self, cpu: &VgicCpu, fold: Fold) {
        let epoch = fold.0.unwrap_or(0);
        self.note(cpu, epoch, 1 << cpu.index);
    }

    fn note(&self, cpu: &VgicCpu, epoch: u64, unbound: u64) {
        let shared = self.shared_cpu(cpu);
        shared.folded.fetch_max(epoch, Ordering::AcqRel);
        let mut waiters = shared.waiters.swap(unbound, Ordering::AcqRel);
        while waiters != 0 {
            self.signals.complete(waiters.trailing_zeros() as usize);
            waiters &= waiters - 1;
        }
    }

    /// Whether an access of `cpu` is complete that has just been applied to the records and concerns what the vCPUs in
    /// `owners` have listed: all of them are unbound, or have folded since it was first tried. Else it is to be suspended.
    #[inline]
    pub(super) fn is_settled(&self, cpu: &mut VgicCpu, owners: u64, access: AccessKey) -> bool {
        let owners = owners & !(1 << cpu.index);
        (owners == 0 && cpu.ticket.is_none()) || self.settle(cpu, owners, access)
    }

    #[cold]
    fn settle(&self, cpu: &mut VgicCpu, owners: u64, access: AccessKey) -> bool {
        let earlier = cpu.ticket.take().filter(|ticket| ticket.access == access);
        if earlier.is_none() && owners == 0 {
            return true;
        }
        let mut ticket = earlier.unwrap_or_else(|| {
            let epoch = self.epoch.fetch_add(1, Ordering::AcqRel) + 1;
            Ticket {
                epoch,
                owners,
                access,
            }
        });
        let mut left = ticket.owners;
        while left != 0 {
            let owner = left.trailing_zeros() as usize;
            left &= left - 1;
            if self.has_folded(owner, ticket.epoch) || !self.ask(cpu.index, owner) {
                ticket.owners &= !(1 << owner);
            }
        }
        let is_settled = ticket.owners == 0;
        if !is_settled {
            cpu.ticket = Some(ticket);
        }
        is_settled
    }

    fn has_folded(&self, owner: usize, epoch: u64) -> bool {
        self.cpus
            .get(owner)
            .is_none_or(|owner| owner.folded.load(Ordering::Acquire) >= epoch)
    }

    /// Registers `accessor` with `owner` and asks it to fold; false if `owner` is not bound.
    fn ask(&self, accessor: usize, owner: usize) -> bool {
        let Some(shared) = self.cpus.get(owner) else {
            return false;
        };
        let unbound = 1 << owner;
        let mut waiters = shared.waiters.load(Ordering::Acquire);
        while waiters & unbound == 0 {
            let more = waiters | 1 << accessor;
            match shared.waiters.compare_exchange(
                waiters,
                more,
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => return self.signals.request_sync(owner),
                Err(current) => waiters = current,
            }
        }
        false
    }
}
