//! How a vCPU is: where, since when, and where its time went.

use super::{MigrationCounters, VcpuHandle};
use crate::{
    HaltPolls, Migrations, PcpuId, Place, PowerState, Vcpu, VcpuId, VcpuTimes, accounting::vcpu,
};

/// How a vCPU is at one moment, for a table or a test.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Snapshot {
    /// Which vCPU.
    pub id: VcpuId,
    /// Where its box is.
    pub place: Place,
    /// Nothing blocks it.
    pub is_runnable: bool,
    /// On, off, or on its way.
    pub power: PowerState,
    /// Where its time went.
    pub times: VcpuTimes,
    /// How often it changed its pCPU.
    pub migrations: Migrations,
    /// How often it was bound to a pCPU.
    pub switches: u64,
    /// What halt polling has brought it.
    pub halt_polls: HaltPolls,
}

impl<V: Vcpu> VcpuHandle<V> {
    /// Where its box is.
    pub fn place(&self) -> Place {
        self.state.load().place()
    }

    /// Its box is in the slot of this handle, so no pCPU touches it.
    pub fn is_parked(&self) -> bool {
        matches!(self.place(), Place::Parked(_))
    }

    /// It was retired.
    pub(crate) fn is_gone(&self) -> bool {
        self.place() == Place::Gone
    }

    /// The pCPU where it is, or was last.
    pub fn last_pcpu(&self) -> PcpuId {
        self.state.load().pcpu()
    }

    /// Where its time went until `now`, in ticks.
    pub fn times(&self, now: u64) -> VcpuTimes {
        let [run, ready, blocked] = self.account.read(now);
        VcpuTimes {
            run,
            ready,
            blocked,
        }
    }

    /// For how many ticks it was ready and did not run. Unlike [`Self::times`] it leaves out what is going on, so it is exact
    /// while the vCPU runs or is blocked; cheap, and never less than before.
    #[inline]
    pub fn ready_ticks(&self) -> u64 {
        self.account.total(vcpu::READY)
    }

    /// Since when it is ready; exact on the pCPU where it is.
    pub(crate) fn ready_since(&self) -> Option<u64> {
        self.account.since(vcpu::READY)
    }

    /// How it is now.
    pub fn snapshot(&self, now: u64) -> Snapshot {
        let state = self.state.load();
        let MigrationCounters {
            loaded,
            queued,
            parked,
        } = &self.migrations;
        Snapshot {
            id: self.id,
            place: state.place(),
            is_runnable: !state.is_blocked(),
            power: state.power(),
            times: self.times(now),
            migrations: Migrations {
                loaded: loaded.read(),
                queued: queued.read(),
                parked: parked.read(),
            },
            switches: self.switches.read(),
            halt_polls: self.halt_poll.read(),
        }
    }
}
