//! Who answers an exit: the handlers of one VM, registered and removed at any time, guests running or not.
//!
//! A handler claims what it answers. MMIO ranges, system registers and SMCCC functions have one claimant each; an exit that
//! it declines, or that nobody claims, is offered to those who claim the whole class, and at the end gets what the hardware
//! would give it (see `Dispatcher`).
//!
//! ```text
//!  register/remove -> new Table --Published::replace--> each pCPU's Hold, at its next exit
//!                                       '-> the old table waits here until no pCPU holds it
//! ```
//! Locks: `writers` before those inside `Published`; neither is held while a handler runs or is dropped. Exits take none,
//! unless the table has changed since the pCPU's last exit.

mod published;
mod table;
#[cfg(all(test, not(loom)))]
mod tests;

use alloc::{string::String, sync::Arc, vec::Vec};
use core::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

pub use trapline_vcpu::decode::ExitClass;

pub use self::table::{Claim, HandlerCalls};
pub(crate) use self::{
    published::Hold,
    table::{LastHits, Table},
};
use self::{
    published::Published,
    table::{Entry, is_empty, overlap},
};
use crate::{handler::ExitHandler, sync::Mutex};

/// The handlers of one VM.
pub struct Registry {
    pcpu_count: usize,
    writers: Mutex<Writers>,
    table: Published<Table>,
}

struct Writers {
    entries: Vec<Arc<Entry>>,
}

/// Registrations are numbered over all registries, so that none is taken for another's.
static REGISTRATIONS: AtomicU64 = AtomicU64::new(0);

/// A handler's place in its registry, for [`Registry::remove`]. Whoever does not mean to remove it may drop this.
#[derive(Debug, Eq, PartialEq)]
pub struct Registration(u64);

/// Why a handler was not registered.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum RegisterError {
    /// The handler claims nothing, or an empty range.
    Nothing {
        /// The handler refused.
        handler: String,
    },
    /// What it claims belongs to another handler, or it claims the same twice.
    Overlap {
        /// The handler refused.
        handler: String,
        /// The one that was there before.
        owner: String,
        /// What both want.
        claim: Claim,
    },
}

impl fmt::Display for RegisterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing { handler } => write!(
                f,
                "{handler} claims nothing: name at least one non-empty range or class"
            ),
            Self::Overlap {
                handler,
                owner,
                claim,
            } => {
                write!(
                    f,
                    "{handler} claims {claim:x?}, which {owner} answers already"
                )
            }
        }
    }
}

impl core::error::Error for RegisterError {}

impl Registry {
    /// A registry without handlers, read by pCPUs 0 to `pcpu_count` - 1.
    pub fn new(pcpu_count: usize) -> Self {
        Self {
            pcpu_count,
            writers: Mutex::new(Writers {
                entries: Vec::new(),
            }),
            table: Published::new(Table::new(&[])),
        }
    }

    /// Registers `handler` for all of `claims` or, if one of them is refused, for none. pCPUs that run the VM see it at their
    /// next exit. Not on an exit path: it allocates.
    pub fn register(
        &self,
        claims: &[Claim],
        handler: Arc<dyn ExitHandler>,
    ) -> Result<Registration, RegisterError> {
        let id = {
            let mut writers = self.writers.lock();
            writers.check(claims, &*handler)?;
            let id = REGISTRATIONS.fetch_add(1, Ordering::Relaxed);
            writers
                .entries
                .push(Arc::new(Entry::new(id, claims, handler, self.pcpu_count)));
            self.table.replace(Table::new(&writers.entries));
            id
        };
        self.reap();
        Ok(Registration(id))
    }

    /// Takes a handler out. Exits that are being answered finish with it; it is dropped by this call or, if a pCPU still
    /// holds it, by a later `register`, `remove` or `reap`. A pCPU lets go of it at its next exit or switch, and nobody is
    /// kicked for it: who waits for the drop calls [`Registry::reap`] again. `false` if the registration is another registry's.
    pub fn remove(&self, registration: Registration) -> bool {
        let Registration(id) = registration;
        let removed = {
            let mut writers = self.writers.lock();
            let index = writers.entries.iter().position(|entry| entry.id == id);
            let removed = index.map(|index| writers.entries.remove(index));
            if removed.is_some() {
                self.table.replace(Table::new(&writers.entries));
            }
            removed
        };
        let was_here = removed.is_some();
        // Without the lock: dropping a handler may run code that registers another.
        drop(removed);
        self.reap();
        was_here
    }

    /// Drops the removed handlers that no pCPU holds any more.
    pub fn reap(&self) {
        self.table.reap();
    }

    /// How often each handler was called so far, in the order of registration.
    pub fn calls(&self) -> Vec<HandlerCalls> {
        let writers = self.writers.lock();
        let calls = |entry: &Arc<Entry>| HandlerCalls {
            name: entry.handler.name().into(),
            calls: entry.calls_on_all(),
        };
        writers.entries.iter().map(calls).collect()
    }

    pub(crate) fn table(&self) -> &Published<Table> {
        &self.table
    }
}

impl Writers {
    fn check(&self, claims: &[Claim], handler: &dyn ExitHandler) -> Result<(), RegisterError> {
        if claims.is_empty() || claims.iter().any(is_empty) {
            return Err(RegisterError::Nothing {
                handler: handler.name().into(),
            });
        }
        let refused = |owner: &dyn ExitHandler, claim: &Claim| RegisterError::Overlap {
            handler: handler.name().into(),
            owner: owner.name().into(),
            claim: claim.clone(),
        };
        for (index, claim) in claims.iter().enumerate() {
            if claims[..index]
                .iter()
                .any(|earlier| earlier == claim || overlap(earlier, claim))
            {
                return Err(refused(handler, claim));
            }
            let is_owner =
                |entry: &&Arc<Entry>| entry.claims.iter().any(|other| overlap(other, claim));
            if let Some(entry) = self.entries.iter().find(is_owner) {
                return Err(refused(&*entry.handler, claim));
            }
        }
        Ok(())
    }
}
