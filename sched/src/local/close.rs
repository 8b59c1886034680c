//! How a drained pCPU stops looking, so that it can go off, and begins again.
//!
//! ```text
//!   Decision::Drained --> close --> off: nobody kicks it, and boxes that were on their way here are sent elsewhere
//!                                    '--> reopen --> schedule: looks at everything that was asked meanwhile
//! ```
//! One compare-exchange of the attention word decides: what was announced before it makes `close` fail, whoever announces
//! something after it knows.

use super::LocalScheduler;
use crate::{
    Vcpu, VcpuId,
    sync::{Ordering, fence},
};
use core::fmt;

/// Why a pCPU must go on looking.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CloseError {
    /// It is not drained: [`Scheduler::unplug`](crate::Scheduler::unplug) or [`Scheduler::drain`](crate::Scheduler::drain) comes first.
    NotDrained,
    /// This vCPU is ready here and may run nowhere else.
    Stranded(VcpuId),
    /// Something was announced: [`LocalScheduler::schedule`] looks at it.
    Raised,
}

impl fmt::Display for CloseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotDrained => f.write_str("the pCPU is not drained"),
            Self::Stranded(vcpu) => write!(f, "{vcpu} may run nowhere else"),
            Self::Raised => f.write_str("the pCPU has something to look at first"),
        }
    }
}

impl core::error::Error for CloseError {}

impl<V: Vcpu> LocalScheduler<V> {
    /// Looks no more until [`Self::reopen`]: the pCPU may go off. From now on nobody kicks it, whatever happens elsewhere; a kick
    /// that is on its way is about nothing. Nothing of this scheduler but `reopen` is called meanwhile.
    ///
    /// # Errors
    /// There is something here to look at; nothing has changed.
    pub fn close(&mut self) -> Result<(), CloseError> {
        if !self.is_drained() {
            return Err(CloseError::NotDrained);
        }
        if self.is_idle {
            // It is drained since it last looked: deadlines, and the timer for them, may be left.
            return Err(CloseError::Raised);
        }
        // Whoever finds this pCPU closed also finds where else vCPUs may run since it is drained.
        fence(Ordering::Acquire);
        let has_to_give = |vcpu: &V| vcpu.handle().must_leave(self.id);
        if self.ready.find(has_to_give).is_some() {
            // It was drained after it last looked.
            return Err(CloseError::Raised);
        }
        if let Some(vcpu) = self.ready.after(None) {
            return Err(CloseError::Stranded(vcpu));
        }
        if self.cell.attention.close() {
            Ok(())
        } else {
            Err(CloseError::Raised)
        }
    }

    /// Looks again, as a pCPU that is new: at what was asked of all meanwhile, and at boxes that may run only here. It is drained
    /// still: [`Scheduler::plug`](crate::Scheduler::plug) or [`Scheduler::undrain`](crate::Scheduler::undrain) comes next.
    pub fn reopen(&mut self) {
        self.cell.attention.open();
        self.is_new = true;
    }
}
