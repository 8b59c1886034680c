//! What somebody outside the machine may do to it at any moment: the operator, a device, a handler of another VM.

use super::{engine::Engine, world::Unrest};
use crate::{
    GroupId, PcpuId, PcpuSet, Policy, PoolChangeError, PoolId, VcpuId,
    admitted::Admitted,
    policies::{
        Credit, Deadline, Fair, Gang, Pinned, Priority, RoundRobin, Table, TableDriven, Window,
    },
};
use alloc::{boxed::Box, format, vec, vec::Vec};

/// One such action.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outside {
    /// A device interrupts.
    Interrupt(VcpuId),
    /// The operator pauses.
    Pause(VcpuId),
    /// The operator lets go on.
    Resume(VcpuId),
    /// PSCI CPU_ON from elsewhere.
    PowerOn(VcpuId),
    /// Move there.
    Migrate(VcpuId, PcpuId),
    /// Run only there from now on.
    SetAffinity(VcpuId, PcpuSet),
    /// Somebody wants the interrupt state in memory.
    RequestSync(VcpuId),
    /// Take a pCPU out of service.
    Drain(PcpuId),
    /// Put it back.
    Undrain(PcpuId),
    /// The VM ends.
    Stop(VcpuId),
    /// Another policy takes over in this pool.
    SetPolicy(PoolId, Successor),
    /// A new pool takes these pCPUs from where they are.
    CreatePool(PcpuSet, Successor),
    /// The first pool gets what a pool has that has no vCPUs.
    RemovePool(PoolId),
    /// It belongs to another pool.
    MovePcpu(PcpuId, PoolId),
    /// The same, of a vCPU.
    MoveVcpu(VcpuId, PoolId),
    /// The same, of all vCPUs of a VM, or of none.
    MoveGroup(GroupId, PoolId),
    /// Out of its pool, and off once it is drained.
    Unplug(PcpuId),
    /// On again if it was off, and into this one.
    Plug(PcpuId, PoolId),
}

/// A policy that can take over, with slices of ten ticks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Successor {
    /// [`RoundRobin`].
    RoundRobin,
    /// [`Pinned`].
    Pinned,
    /// [`Fair`].
    Fair,
    /// [`Deadline`].
    Deadline,
    /// [`Priority`].
    Priority,
    /// [`Credit`], with periods of five slices.
    Credit,
    /// [`TableDriven`], with windows for VM 0 and VM 1 on each pCPU.
    Table,
    /// [`Gang`].
    Gang,
}

impl Successor {
    fn policy(self, pcpus: PcpuSet, max_vcpus: u16) -> Box<dyn Policy> {
        match self {
            Self::RoundRobin => Box::new(RoundRobin::with_slice(SLICE)),
            Self::Pinned => Box::new(Pinned::with_slice(SLICE)),
            Self::Fair => Box::new(Fair::with_slice(SLICE, max_vcpus)),
            Self::Deadline => Box::new(Deadline::with_slice(SLICE, max_vcpus)),
            Self::Priority => Box::new(Priority::with_slice(SLICE, max_vcpus)),
            Self::Credit => Box::new(Credit::new(SLICE, 5 * SLICE, pcpus, max_vcpus)),
            Self::Table => Box::new(TableDriven::new(SLICE, table(pcpus), max_vcpus)),
            Self::Gang => Box::new(Gang::new(SLICE, pcpus, max_vcpus)),
        }
    }
}

/// Windows for VM 0 and VM 1 on each pCPU, not at the same times everywhere.
fn table(pcpus: PcpuSet) -> Table {
    let window = |group, ticks| Window {
        group: Some(GroupId::new(group)),
        ticks,
    };
    let frame = |pcpu: PcpuId| vec![window(1, 3), window(0, 11 + pcpu.index() as u64)];
    Table::new(pcpus.iter().map(|pcpu| (pcpu, frame(pcpu)))).expect("a good table")
}

const SLICE: u64 = 10;

impl Engine {
    /// Does it now; what is refused changes nothing.
    pub(super) fn perform(&self, action: Outside) {
        self.note_change(action);
        match action {
            Outside::Interrupt(vcpu) => self.interrupt(vcpu),
            Outside::Pause(vcpu) => self.handle(vcpu).pause(),
            Outside::Resume(vcpu) => self.handle(vcpu).resume(),
            Outside::PowerOn(vcpu) => self.power_on(vcpu),
            Outside::Migrate(vcpu, pcpu) => drop(self.handle(vcpu).migrate(pcpu)),
            Outside::SetAffinity(vcpu, set) => {
                drop(self.change(|| self.handle(vcpu).set_affinity(set)));
            }
            Outside::RequestSync(vcpu) => drop(self.handle(vcpu).request_sync()),
            Outside::Drain(pcpu) => drop(self.scheduler().drain(pcpu)),
            Outside::Undrain(pcpu) => {
                let is_done = self.change(|| self.scheduler().undrain(pcpu));
                self.note_regime(is_done == Some(true));
            }
            Outside::Stop(vcpu) => self.handle(vcpu).stop(),
            change => {
                let changed = self.change(|| self.regroup(change));
                self.note_regime(changed.is_some_and(|changed| changed.is_ok()));
            }
        }
        self.tell_pollers();
    }

    /// If it `has_changed`, the rules are others for all from now on. While it changed nobody was held to them.
    fn note_regime(&self, has_changed: bool) {
        if has_changed {
            self.regime_at.set(self.now());
        }
    }

    /// From now on the rules are others for one vCPU or all, by what is not refused or concerns one only.
    fn note_change(&self, action: Outside) {
        let changed_at = match action {
            Outside::Pause(vcpu)
            | Outside::Resume(vcpu)
            | Outside::PowerOn(vcpu)
            | Outside::Migrate(vcpu, _)
            | Outside::SetAffinity(vcpu, _)
            | Outside::Stop(vcpu) => &self.seat(vcpu).changed_at,
            Outside::Drain(_) => &self.regime_at,
            _ => return,
        };
        changed_at.set(self.now());
    }

    /// What pools do; what is refused says why.
    pub(super) fn regroup(&self, change: Outside) -> Result<(), PoolChangeError> {
        let scheduler = self.scheduler();
        match change {
            Outside::SetPolicy(id, successor) => {
                let pcpus = scheduler.partition(id).pcpus();
                scheduler.set_policy(id, self.policy(successor, pcpus))
            }
            Outside::CreatePool(pcpus, successor) => {
                let name = format!("with-{pcpus}").replace(',', "_");
                let policy = self.policy(successor, pcpus);
                scheduler.create_pool(&name, pcpus, policy).map(drop)
            }
            Outside::RemovePool(id) => scheduler.remove_pool(id, PoolId::FIRST),
            Outside::MovePcpu(pcpu, to) => scheduler.move_pcpu(pcpu, to),
            Outside::MoveVcpu(vcpu, to) => {
                scheduler.move_vcpus(core::slice::from_ref(self.handle(vcpu)), to)
            }
            Outside::MoveGroup(group, to) => {
                let members = self.handles.iter();
                let members = members.filter(|handle| handle.entitlement().group == group);
                scheduler.move_vcpus(&members.cloned().collect::<Vec<_>>(), to)
            }
            Outside::Unplug(pcpu) => scheduler.unplug(pcpu).map(drop),
            Outside::Plug(pcpu, to) => self.come_back(pcpu, || scheduler.plug(pcpu, to)),
            _ => Ok(()),
        }
    }

    fn policy(&self, successor: Successor, pcpus: PcpuSet) -> Box<dyn Policy> {
        let policy = successor.policy(pcpus, self.vcpu_count() as u16);
        Box::new(Admitted::new(policy))
    }

    /// On one thread nobody can wait for another change of what vCPUs shall get to be over: this one is not made then.
    pub(super) fn change<T>(&self, act: impl FnOnce() -> T) -> Option<T> {
        if self.is_changing.replace(true) {
            return None;
        }
        let result = act();
        self.is_changing.set(false);
        Some(result)
    }

    /// An action by chance; nothing that lasts for ever.
    pub(super) fn random_action(&self) -> Outside {
        let world = self.world();
        let vcpu = VcpuId::new(world.below(self.vcpu_count() as u64) as u16);
        let pcpus = self.scheduler().pcpus();
        let index = world.below(u64::from(pcpus.len())) as usize;
        let pcpu = pcpus.iter().nth(index).expect("rule: a machine has pCPUs");
        if self.unrest.get() == Unrest::Interleave {
            return match world.below(4) {
                0 => Outside::RequestSync(vcpu),
                _ => Outside::Interrupt(vcpu),
            };
        }
        let pools = pcpus
            .iter()
            .filter_map(|pcpu| self.scheduler().pool_of(pcpu));
        let (pool, choices) = match pools.max() {
            Some(last) if last != PoolId::FIRST => {
                let pool = PoolId::new(world.below(last.index() as u64 + 1) as usize);
                (pool.unwrap_or(last), 34)
            }
            _ => (PoolId::FIRST, 24),
        };
        match world.below(choices) {
            0..8 => Outside::Interrupt(vcpu),
            8 => Outside::Pause(vcpu),
            9..12 => Outside::Resume(vcpu),
            12 => Outside::PowerOn(vcpu),
            13..15 => Outside::Migrate(vcpu, pcpu),
            15 => Outside::SetAffinity(
                vcpu,
                PcpuSet::from_bits(world.below(u64::MAX)).intersection(pcpus),
            ),
            16 => Outside::SetAffinity(vcpu, pcpus),
            17 => Outside::RequestSync(vcpu),
            18 => Outside::Drain(pcpu),
            19..22 => Outside::SetPolicy(
                pool,
                match world.below(6) {
                    0 => Successor::RoundRobin,
                    1 => Successor::Fair,
                    2 => Successor::Deadline,
                    3 => Successor::Credit,
                    4 => Successor::Table,
                    _ => Successor::Gang,
                },
            ),
            24..27 => Outside::MoveVcpu(vcpu, pool),
            27 => Outside::MoveGroup(self.handle(vcpu).entitlement().group, pool),
            28..31 => Outside::MovePcpu(pcpu, pool),
            31 => Outside::Unplug(pcpu),
            32..34 => Outside::Plug(pcpu, pool),
            _ => Outside::Undrain(pcpu),
        }
    }
}
