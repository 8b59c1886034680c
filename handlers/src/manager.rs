//! What a machine's user asks of it while guests run, as calls: each is done as a whole or refused with its reason.
//!
//! ```text
//!  text, GUI, API of the embedder --> Manager --> Settings of a VM --> Scheduler::set_all --> the policy admits
//!                                        |'-----> Agenda of a VM (start, stop, reset, pause, resume)
//!                                        '------> Scheduler::set_policy, create_pool, move_vcpus, ...
//! ```
//! What a VM shall get ([`Settings`]) lasts longer than its vCPUs: it can be changed while the VM is off, and holds for the next
//! life. [`Managed`] says what the embedder's machine is made of. Nothing here is for exit paths: it allocates, and may wait for
//! whoever is at a VM.

mod error;
mod settings;
mod status;
#[cfg(all(test, not(loom)))]
mod tests;

use alloc::{
    borrow::ToOwned,
    boxed::Box,
    string::{String, ToString},
    sync::Arc,
    vec::Vec,
};

pub use error::ManageError;
pub use settings::{Settings, VcpuSettings};
pub use status::{PcpuStatus, PoolStatus, VcpuActivity, VcpuStatus, VmStatus};
use trapline_sched::{
    PcpuId, PcpuSet, Policy, PolicyOptions, PoolChangeError, PoolId, PoolInfo, Reservation,
    Scheduler, Vcpu, VcpuHandle, VcpuId, Weight, policy_by_name,
};

use crate::agenda::Request;

/// The machine, as its user sees it. The embedder implements it over whatever keeps its VMs.
pub trait Managed {
    /// What is scheduled.
    type Vcpu: Vcpu;

    /// All its pCPUs and vCPUs.
    fn scheduler(&self) -> &Scheduler<Self::Vcpu>;

    /// How many VMs there are, whether on or off; they are numbered from 0.
    fn vm_count(&self) -> usize;

    /// What VM `vm`, below [`Self::vm_count`], is called: no two alike.
    fn vm_name(&self, vm: usize) -> &str;

    /// What VM `vm` does now, in a word or two.
    fn vm_state(&self, vm: usize) -> &'static str;

    /// Shows what VM `vm` shall get, with its vCPUs by index, or none while it has none. It neither begins nor ends, and
    /// nobody else changes it, until `visit` returns.
    fn with_vm<R>(&self, vm: usize, visit: impl FnOnce(&mut Settings, &[Handle<Self>]) -> R) -> R;

    /// Asks VM `vm` for a change in its life, which comes soon. See [`crate::Agenda`].
    fn request(&self, vm: usize, request: Request);
}

/// A vCPU of the machine `M`.
pub type Handle<M> = Arc<VcpuHandle<<M as Managed>::Vcpu>>;

/// Some vCPUs of one VM.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Target {
    /// The VM's number.
    pub vm: usize,
    /// The vCPU's index in it; `None`: all.
    pub vcpu: Option<usize>,
}

/// What the user may do with the machine `M`.
pub struct Manager<'a, M>(&'a M);

impl<'a, M: Managed> Manager<'a, M> {
    /// That of `machine`. As many as you like may be at work.
    pub const fn new(machine: &'a M) -> Self {
        Self(machine)
    }

    /// The number of the VM called `name`.
    ///
    /// # Errors
    /// There is none.
    pub fn find(&self, name: &str) -> Result<usize, ManageError> {
        let mut vms = 0..self.0.vm_count();
        let found = vms.find(|&vm| self.0.vm_name(vm) == name);
        found.ok_or_else(|| ManageError::UnknownVm {
            name: name.to_owned(),
            known: self.names(),
        })
    }

    fn names(&self) -> Vec<String> {
        let names = (0..self.0.vm_count()).map(|vm| self.0.vm_name(vm).to_owned());
        names.collect()
    }

    /// Gives vCPUs another share against others' vCPUs.
    ///
    /// # Errors
    /// There is no such vCPU, or the policy refuses; nothing has changed then. So it is with the other changes.
    pub fn set_weight(&self, target: Target, weight: Weight) -> Result<(), ManageError> {
        self.change(target, |vcpu| vcpu.entitlement.weight = weight)
    }

    /// Lets vCPUs run for `ticks` at a time while others wait, at least one; `None`: as long as the policy has it for all.
    pub fn set_slice(&self, target: Target, ticks: Option<u64>) -> Result<(), ManageError> {
        let ticks = ticks.map(|ticks| ticks.max(1));
        self.change(target, |vcpu| vcpu.entitlement.slice = ticks)
    }

    /// Lets the pCPUs where vCPUs wait look for their wake-ups for `ticks` at most before they wait for an interrupt; 0: not at all.
    /// Nothing here bounds the time: the caller does (in the demos, to 1 ms).
    pub fn set_halt_poll(&self, target: Target, ticks: u64) -> Result<(), ManageError> {
        self.change(target, |vcpu| vcpu.entitlement.halt_poll = ticks)
    }

    /// Lets vCPUs run before all with less priority.
    pub fn set_priority(&self, target: Target, priority: u8) -> Result<(), ManageError> {
        self.change(target, |vcpu| vcpu.entitlement.priority = priority)
    }

    /// Gives each of the vCPUs this budget in each period, in any case; `None`: nothing.
    pub fn set_reservation(
        &self,
        target: Target,
        reservation: Option<Reservation>,
    ) -> Result<(), ManageError> {
        self.change(target, |vcpu| vcpu.entitlement.reservation = reservation)
    }

    /// Limits what VM `vm` gets, all its vCPUs together, to so many hundredths of a pCPU; `None`: no limit.
    ///
    /// # Errors
    /// See [`Self::set_weight`]; or it is none, or more than its pool has.
    pub fn set_cap(&self, vm: usize, cap: Option<u32>) -> Result<(), ManageError> {
        let pool = self.0.with_vm(vm, |settings, _| settings.pool());
        let most = 100 * self.pcpus_of(pool).len();
        if let Some(cap) = cap.filter(|cap| !(1..=most).contains(cap)) {
            return Err(ManageError::BadCap { cap, most });
        }
        let all = Target { vm, vcpu: None };
        self.change(all, |vcpu| vcpu.entitlement.cap = cap)
    }

    /// Says where vCPUs may run: they leave other pCPUs at once.
    pub fn set_affinity(&self, target: Target, affinity: PcpuSet) -> Result<(), ManageError> {
        self.change(target, |vcpu| vcpu.affinity = affinity)
    }

    /// Says where vCPUs run from their next wake-ups on rather than elsewhere, as long as none has to wait for that; an empty set
    /// means no preference.
    pub fn set_soft_affinity(&self, target: Target, set: PcpuSet) -> Result<(), ManageError> {
        self.change(target, |vcpu| vcpu.soft_affinity = set)
    }

    fn change(
        &self,
        Target { vm, vcpu }: Target,
        edit: impl Fn(&mut VcpuSettings),
    ) -> Result<(), ManageError> {
        let (machine, scheduler) = (self.0, self.0.scheduler());
        machine.with_vm(vm, |settings, handles| {
            match settings.changed(vcpu, edit, scheduler, handles) {
                Ok(next) => {
                    *settings = next;
                    Ok(())
                }
                Err(error) => Err(error.named(machine.vm_name(vm), scheduler)),
            }
        })
    }

    /// The pool called `name`, or of the number that `name` is, as in `pool1`.
    ///
    /// # Errors
    /// There is none.
    pub fn find_pool(&self, name: &str) -> Result<PoolId, ManageError> {
        let pools = self.0.scheduler().pools();
        let is_it = |pool: &&PoolInfo| pool.name == name || pool.id.to_string() == name;
        let found = pools.iter().find(is_it).map(|pool| pool.id);
        found.ok_or_else(|| ManageError::UnknownPool {
            name: name.to_owned(),
            known: pools.iter().map(|pool| pool.name.clone()).collect(),
        })
    }

    /// The pCPUs that `pool` has; none if there is no such pool.
    pub fn pcpus_of(&self, pool: PoolId) -> PcpuSet {
        settings::pcpus_of(self.0.scheduler(), pool)
    }

    /// Lets the policy called `name` say who runs next in `pool` from now on.
    ///
    /// # Errors
    /// There is no such policy, it makes no sense with these options, or it cannot keep what some vCPU shall get; the old one goes
    /// on then.
    pub fn set_policy(
        &self,
        pool: PoolId,
        name: &str,
        options: PolicyOptions,
    ) -> Result<(), ManageError> {
        self.replace_policy(pool, self.policy(name, options)?)
    }

    /// The same with a policy of the embedder's.
    ///
    /// # Errors
    /// It cannot keep what some vCPU shall get; the old one goes on then.
    pub fn replace_policy(&self, pool: PoolId, policy: Box<dyn Policy>) -> Result<(), ManageError> {
        let name = policy.name();
        let result = self.0.scheduler().set_policy(pool, policy);
        result.map_err(|error| ManageError::TakeOver {
            policy: name,
            error,
        })
    }

    fn policy(&self, name: &str, options: PolicyOptions) -> Result<Box<dyn Policy>, ManageError> {
        policy_by_name(name, options).map_err(|error| ManageError::Policy {
            name: name.to_owned(),
            error,
        })
    }

    /// Makes a pool called `name` of `pcpus`, which leave the pools that have them, with the policy called `policy`.
    ///
    /// # Errors
    /// See [`Self::set_policy`] and [`Scheduler::create_pool`].
    pub fn create_pool(
        &self,
        name: &str,
        pcpus: PcpuSet,
        policy: &str,
        options: PolicyOptions,
    ) -> Result<PoolId, ManageError> {
        let policy = self.policy(policy, options)?;
        let result = self.0.scheduler().create_pool(name, pcpus, policy);
        result.map_err(|error| self.pool_error(error))
    }

    /// Gives the pCPUs of `pool` to `heir`, and `pool` is no more.
    ///
    /// # Errors
    /// A VM belongs to it, even if it is off; or see [`Scheduler::remove_pool`].
    pub fn remove_pool(&self, pool: PoolId, heir: PoolId) -> Result<(), ManageError> {
        let is_in_it = |&vm: &usize| self.0.with_vm(vm, |settings, _| settings.pool() == pool);
        if let Some(vm) = (0..self.0.vm_count()).find(is_in_it) {
            let vm = self.0.vm_name(vm).to_owned();
            return Err(ManageError::PoolInUse { pool, vm });
        }
        let result = self.0.scheduler().remove_pool(pool, heir);
        result.map_err(|error| self.pool_error(error))
    }

    /// Moves `pcpu` to `pool`.
    ///
    /// # Errors
    /// See [`Scheduler::move_pcpu`].
    pub fn move_pcpu(&self, pcpu: PcpuId, pool: PoolId) -> Result<(), ManageError> {
        let result = self.0.scheduler().move_pcpu(pcpu, pool);
        result.map_err(|error| self.pool_error(error))
    }

    /// Moves VM `vm` with all its vCPUs to `pool`, for this life and the next ones.
    ///
    /// # Errors
    /// See [`Scheduler::move_vcpus`]. A VM that is off is not started later if its vCPUs may run on no pCPU of the pool.
    pub fn set_pool(&self, vm: usize, pool: PoolId) -> Result<(), ManageError> {
        let machine = self.0;
        let result = machine.with_vm(vm, |settings, handles| {
            settings.move_to(pool, machine.scheduler(), handles)
        });
        result.map_err(|error| self.pool_error(error))
    }

    /// `error` with the vCPU that is in the way as its user knows it.
    pub fn pool_error(&self, error: PoolChangeError) -> ManageError {
        let vcpu = match &error {
            PoolChangeError::NoPlace { vcpu, .. } => self.owner(*vcpu),
            _ => None,
        };
        ManageError::Pool { vcpu, error }
    }

    /// The VM of a vCPU, and its index there.
    fn owner(&self, id: VcpuId) -> Option<(String, usize)> {
        (0..self.0.vm_count()).find_map(|vm| {
            let index = self.0.with_vm(vm, |_, handles| {
                let mut handles = handles.iter();
                handles.position(|handle| handle.id() == id)
            });
            Some((self.0.vm_name(vm).to_owned(), index?))
        })
    }

    /// Asks VM `vm` for a change in its life. [`Managed::vm_state`] tells when it has come.
    pub fn request(&self, vm: usize, request: Request) {
        self.0.request(vm, request);
    }

    /// How VM `vm` is.
    pub fn vm(&self, vm: usize) -> VmStatus {
        VmStatus::of(self.0, vm)
    }

    /// How vCPU `vcpu` of VM `vm` is at `now`, in the host's ticks.
    ///
    /// # Errors
    /// The VM has no such vCPU.
    pub fn vcpu(&self, vm: usize, vcpu: usize, now: u64) -> Result<VcpuStatus, ManageError> {
        VcpuStatus::of(self.0, vm, vcpu, now)
    }

    /// How the pools are.
    pub fn pools(&self) -> Vec<PoolStatus> {
        PoolStatus::all(self.0.scheduler())
    }

    /// How `pcpu` is at `now`; `None` if the machine does not have it.
    pub fn pcpu(&self, pcpu: PcpuId, now: u64) -> Option<PcpuStatus> {
        PcpuStatus::of(self.0.scheduler(), pcpu, now)
    }
}
