//! What a VM's vCPUs shall get, for all its lives.

use alloc::{boxed::Box, sync::Arc, vec::Vec};

use trapline_sched::{AffinityError, Change, Entitlement, PcpuSet, Pool, Vcpu, VcpuHandle};

use super::error::SettingsError;

/// What one vCPU shall get, and where it may run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct VcpuSettings {
    /// What it shall get.
    pub entitlement: Entitlement,
    /// The pCPUs that it may run on.
    pub affinity: PcpuSet,
}

/// What the vCPUs of one VM shall get, by index. A VM begins each life with it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Settings(Box<[VcpuSettings]>);

impl Settings {
    /// Those of a VM with as many vCPUs.
    pub fn new(vcpus: impl IntoIterator<Item = VcpuSettings>) -> Self {
        Self(vcpus.into_iter().collect())
    }

    /// Each vCPU's.
    pub fn vcpus(&self) -> &[VcpuSettings] {
        &self.0
    }

    /// These with those of `vcpu`, or of all, as `edit` leaves them.
    pub(super) fn changed(
        &self,
        vcpu: Option<usize>,
        edit: impl Fn(&mut VcpuSettings),
    ) -> Result<Self, SettingsError> {
        let mut next = self.clone();
        match vcpu {
            None => next.0.iter_mut().for_each(edit),
            Some(vcpu) => {
                let count = self.0.len();
                let one = next.0.get_mut(vcpu);
                edit(one.ok_or(SettingsError::NoSuchVcpu { vcpu, count })?);
            }
        }
        Ok(next)
    }

    /// Lets `handles`, the VM's vCPUs by index, have what stands here. A VM that is off has none: its policy is asked when it
    /// begins, and all that can be said now is whether its vCPUs may run anywhere.
    pub(super) fn apply<V: Vcpu>(
        &self,
        pool: &Pool<V>,
        handles: &[Arc<VcpuHandle<V>>],
    ) -> Result<(), SettingsError> {
        let is_possible = |(vcpu, settings): (usize, &VcpuSettings)| {
            let error = match settings.affinity.difference(pool.pcpus()).first() {
                Some(absent) => AffinityError::AbsentPcpu(absent),
                None if settings.affinity.is_empty() => AffinityError::Empty,
                None => return Ok(()),
            };
            Err(SettingsError::Refused { vcpu, error })
        };
        self.0.iter().enumerate().try_for_each(is_possible)?;
        let vcpus = handles.iter().zip(&self.0);
        let changes = vcpus.map(|(vcpu, settings)| Change {
            vcpu: vcpu.clone(),
            entitlement: settings.entitlement,
            affinity: settings.affinity,
        });
        let changes: Vec<Change<V>> = changes.collect();
        pool.set_all(&changes).map_err(|(id, error)| {
            let vcpu = handles.iter().position(|vcpu| vcpu.id() == id);
            let vcpu = vcpu.unwrap_or_default();
            SettingsError::Refused { vcpu, error }
        })
    }
}
