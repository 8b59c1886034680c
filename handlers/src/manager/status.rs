//! How a machine is, for its user to look at. Each value is right for a moment; two are perhaps of different moments.

use alloc::{borrow::ToOwned, string::String, vec::Vec};

use trapline_sched::{
    HaltPolls, PcpuCounters, PcpuId, PcpuSet, Place, PoolId, PoolInfo, PowerState, Scheduler,
    Snapshot, Vcpu, VcpuTimes,
};

use super::{ManageError, Managed, VcpuSettings, error::SettingsError};

/// How a VM is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct VmStatus {
    /// What it is called.
    pub name: String,
    /// What it does, in a word or two.
    pub state: &'static str,
    /// The pool that it belongs to.
    pub pool: PoolId,
    /// How many vCPUs it has, or will have.
    pub vcpus: usize,
    /// What its vCPUs shall get, if all shall get the same.
    pub settings: Option<VcpuSettings>,
}

/// What a vCPU does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum VcpuActivity {
    /// It is off, or its VM is.
    Off,
    /// It waits for an interrupt, or its VM is paused.
    Blocked,
    /// It could run, and waits for a pCPU.
    Ready,
    /// It has a pCPU.
    Running,
}

impl VcpuActivity {
    /// A word for it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Blocked => "blocked",
            Self::Ready => "ready",
            Self::Running => "running",
        }
    }

    const fn of(snapshot: &Snapshot) -> Self {
        match (snapshot.power, snapshot.is_runnable, snapshot.place) {
            (PowerState::Off, ..) | (_, _, Place::Gone) => Self::Off,
            (_, false, _) => Self::Blocked,
            (_, true, Place::Loaded(_)) => Self::Running,
            (_, true, _) => Self::Ready,
        }
    }
}

/// How a vCPU is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct VcpuStatus {
    /// What it does.
    pub activity: VcpuActivity,
    /// The pCPU where it is, or was last; `None` while its VM has no vCPUs.
    pub pcpu: Option<PcpuId>,
    /// What it shall get.
    pub settings: VcpuSettings,
    /// Where its time went in this life of its VM, in ticks.
    pub times: VcpuTimes,
    /// What halt polling has brought it in this life.
    pub halt_polls: HaltPolls,
}

/// How a pool is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PoolStatus {
    /// What it has.
    pub info: PoolInfo,
    /// Those of its pCPUs that idle.
    pub idle: PcpuSet,
}

/// How a pCPU is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PcpuStatus {
    /// The pool that has it; `None`: it is unplugged.
    pub pool: Option<PoolId>,
    /// It has nothing to run.
    pub is_idle: bool,
    /// What it has done.
    pub counters: PcpuCounters,
}

impl VmStatus {
    pub(super) fn of<M: Managed>(machine: &M, vm: usize) -> Self {
        let state = machine.vm_state(vm);
        let (pool, vcpus, settings) = machine.with_vm(vm, |settings, _| {
            let (pool, vcpus) = (settings.pool(), settings.vcpus());
            let first = vcpus.first().copied();
            let is_same = vcpus.iter().all(|vcpu| Some(vcpu) == first.as_ref());
            (pool, vcpus.len(), first.filter(|_| is_same))
        });
        Self {
            name: machine.vm_name(vm).to_owned(),
            state,
            pool,
            vcpus,
            settings,
        }
    }
}

impl VcpuStatus {
    pub(super) fn of<M: Managed>(
        machine: &M,
        vm: usize,
        vcpu: usize,
        now: u64,
    ) -> Result<Self, ManageError> {
        let status = machine.with_vm(vm, |settings, handles| {
            let vcpus = settings.vcpus();
            let settings = vcpus.get(vcpu).copied();
            let handle = handles.get(vcpu);
            let snapshot = handle.map(|handle| (handle.snapshot(now), handle.last_pcpu()));
            settings
                .map(|settings| Self::from(settings, snapshot))
                .ok_or(vcpus.len())
        });
        status.map_err(|count| {
            let error = SettingsError::NoSuchVcpu { vcpu, count };
            error.named(machine.vm_name(vm), machine.scheduler())
        })
    }

    fn from(settings: VcpuSettings, snapshot: Option<(Snapshot, PcpuId)>) -> Self {
        match snapshot {
            Some((snapshot, pcpu)) => Self {
                activity: VcpuActivity::of(&snapshot),
                pcpu: Some(pcpu),
                settings,
                times: snapshot.times,
                halt_polls: snapshot.halt_polls,
            },
            None => Self {
                activity: VcpuActivity::Off,
                pcpu: None,
                settings,
                times: VcpuTimes::default(),
                halt_polls: HaltPolls::default(),
            },
        }
    }
}

impl PoolStatus {
    pub(super) fn all<V: Vcpu>(scheduler: &Scheduler<V>) -> Vec<Self> {
        let idle = scheduler.idle_pcpus();
        let status = |info: PoolInfo| Self {
            idle: idle.intersection(info.pcpus),
            info,
        };
        scheduler.pools().into_iter().map(status).collect()
    }
}

impl PcpuStatus {
    pub(super) fn of<V: Vcpu>(scheduler: &Scheduler<V>, pcpu: PcpuId, now: u64) -> Option<Self> {
        let counters = scheduler.pcpu_counters(pcpu, now)?;
        Some(Self {
            pool: scheduler.pool_of(pcpu),
            is_idle: scheduler.idle_pcpus().contains(pcpu),
            counters,
        })
    }
}
