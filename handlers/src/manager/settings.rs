//! What a VM's vCPUs shall get, for all its lives.

use alloc::{boxed::Box, sync::Arc, vec::Vec};

use trapline_sched::{
    AffinityError, Change, Entitlement, PcpuSet, PoolChangeError, PoolId, Scheduler, Vcpu,
    VcpuHandle,
};

use super::error::SettingsError;

/// What one vCPU shall get, and where it may run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct VcpuSettings {
    /// What it shall get.
    pub entitlement: Entitlement,
    /// The pCPUs that it may run on.
    pub affinity: PcpuSet,
    /// The pCPUs that it runs on rather than elsewhere; empty: it has no preference.
    pub soft_affinity: PcpuSet,
}

/// What the vCPUs of one VM shall get, by index. A VM begins each life with it, by [`Scheduler::restore_vcpu_in`] where its pool has
/// perhaps other pCPUs than when it was set.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Settings {
    pool: PoolId,
    vcpus: Box<[VcpuSettings]>,
}

impl Settings {
    /// Those of a VM with as many vCPUs, in `pool`.
    pub fn new(pool: PoolId, vcpus: impl IntoIterator<Item = VcpuSettings>) -> Self {
        Self {
            pool,
            vcpus: vcpus.into_iter().collect(),
        }
    }

    /// The pool that the VM belongs to.
    pub const fn pool(&self) -> PoolId {
        self.pool
    }

    /// Each vCPU's.
    pub fn vcpus(&self) -> &[VcpuSettings] {
        &self.vcpus
    }

    /// These with those of `vcpu`, or of all, as `edit` leaves them, which the VM's vCPUs, `handles` by index, have already. A VM
    /// that is off has none: its policy is asked when it begins.
    pub(super) fn changed<V: Vcpu>(
        &self,
        vcpu: Option<usize>,
        edit: impl Fn(&mut VcpuSettings),
        scheduler: &Scheduler<V>,
        handles: &[Arc<VcpuHandle<V>>],
    ) -> Result<Self, SettingsError> {
        let mut next = self.clone();
        match vcpu {
            None => next.vcpus.iter_mut().for_each(edit),
            Some(vcpu) => {
                let count = self.vcpus.len();
                let one = next.vcpus.get_mut(vcpu);
                edit(one.ok_or(SettingsError::NoSuchVcpu { vcpu, count })?);
            }
        }
        let affinities = self.vcpus.iter().zip(&next.vcpus).map(|(before, after)| {
            let is_other = before.affinity != after.affinity;
            is_other.then_some(after.affinity)
        });
        for (vcpu, affinity) in affinities.clone().enumerate() {
            let checked = affinity.map_or(Ok(()), |set| {
                scheduler.check_affinity(set, self.pool).map(drop)
            });
            checked.map_err(|error| self.refused(vcpu, error))?;
            let preferred = next.vcpus[vcpu].soft_affinity;
            if let Some(absent) = preferred.difference(scheduler.pcpus()).first() {
                return Err(self.refused(vcpu, AffinityError::AbsentPcpu(absent)));
            }
        }
        let vcpus = handles.iter().zip(&next.vcpus).zip(affinities);
        let changes = vcpus.map(|((vcpu, settings), affinity)| Change {
            vcpu: vcpu.clone(),
            entitlement: settings.entitlement,
            affinity,
        });
        let changes: Vec<Change<V>> = changes.collect();
        scheduler.set_all(&changes).map_err(|(id, error)| {
            let vcpu = handles.iter().position(|vcpu| vcpu.id() == id);
            self.refused(vcpu.unwrap_or_default(), error)
        })?;
        for (vcpu, settings) in handles.iter().zip(&next.vcpus) {
            vcpu.set_soft_affinity(settings.soft_affinity)
                .expect("rule: its pCPUs have been checked");
        }
        Ok(next)
    }

    const fn refused(&self, vcpu: usize, error: AffinityError) -> SettingsError {
        SettingsError::Refused {
            pool: self.pool,
            vcpu,
            error,
        }
    }

    /// The VM, whose vCPUs are `handles`, belongs to pool `to` from now on.
    pub(super) fn move_to<V: Vcpu>(
        &mut self,
        to: PoolId,
        scheduler: &Scheduler<V>,
        handles: &[Arc<VcpuHandle<V>>],
    ) -> Result<(), PoolChangeError> {
        scheduler.move_vcpus(handles, to)?;
        self.pool = to;
        Ok(())
    }
}

/// The pCPUs of the pool numbered `id`.
pub(super) fn pcpus_of<V: Vcpu>(scheduler: &Scheduler<V>, id: PoolId) -> PcpuSet {
    let own = scheduler
        .pcpus()
        .iter()
        .filter(|&pcpu| scheduler.pool_of(pcpu) == Some(id));
    own.fold(PcpuSet::EMPTY, |set, pcpu| set.union(PcpuSet::only(pcpu)))
}
