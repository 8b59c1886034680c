//! What a VM is: its vCPUs, what they share, and how it ends.
//!
//! [`Vm`] is shared by all; [`VmVcpu`] is the part that travels with each vCPU's registers and that only the vCPU's owner
//! touches. [`Vcpus`] exists before either, because interrupts need somebody to wake.

use alloc::{boxed::Box, string::String, sync::Arc};
use core::sync::atomic::{AtomicUsize, Ordering};

use trapline_sched::{MigrateError, PcpuId, PowerOnError, PowerState, VcpuId};
use trapline_vcpu::dispatch::Activity;

use crate::{
    affinity::affinity_of,
    memory::GuestMemory,
    registry::Registry,
    stolen_time::StolenTime,
    sync::Once,
    sysregs::CacheWork,
    vcpu_states::VcpuStates,
    vgic::{VcpuSignals, Vgic, VgicCpu},
};

/// What a handler may ask of a vCPU of its VM, from any pCPU. None of it waits, locks or allocates.
pub trait VcpuControl: Send + Sync {
    /// Its number in the machine, for [`Action::Yield`](trapline_vcpu::Action::Yield).
    fn id(&self) -> VcpuId;
    /// An interrupt became due for the vCPU, and its record says so already.
    fn wake(&self);
    /// What the vCPU's [`Action::Suspend`](trapline_vcpu::Action::Suspend) waits for has happened.
    fn complete(&self);
    /// Asks the owner to show the vCPU's interrupts as they are; `false` if the vCPU is not bound, so they are shown.
    fn request_sync(&self) -> bool;
    /// Turns the vCPU on, fully reset, at `entry` with `context` in x0. Of several that try, one succeeds.
    fn power_on(&self, entry: u64, context: u64) -> Result<(), PowerOnError>;
    /// What PSCI AFFINITY_INFO answers.
    fn power_state(&self) -> PowerState;
    /// Stops the vCPU for good, because its VM has ended: from now on turning it on does not make it run.
    fn stop(&self);
    /// Keeps the vCPU from running, wherever it is, until [`VcpuControl::resume`]; it may still be on its way when this returns.
    fn pause(&self);
    /// The vCPU runs again, unless something else keeps it.
    fn resume(&self);
    /// No pCPU touches the vCPU, and none will while it is paused or stopped.
    fn is_parked(&self) -> bool;
    /// Moves the vCPU to another pCPU, at its next exit if it runs.
    fn migrate(&self, to: PcpuId) -> Result<(), MigrateError>;
    /// For how many ticks the vCPU could have run and no pCPU ran it. Right while it is not ready, as its owner knows it.
    fn ready_ticks(&self) -> u64;
    /// The pCPU where the vCPU is, or was last; true when it is asked, and perhaps no longer when it is answered.
    fn last_pcpu(&self) -> PcpuId;
    /// The pCPU where the vCPU is ready and does not run.
    fn ready_on(&self) -> Option<PcpuId>;
    /// The same, unless it has let others run itself.
    fn preempted_on(&self) -> Option<PcpuId>;
    /// Another vCPU waits for what this one does next: it runs before others if it is ready, as far as its policy lets it.
    fn hurry(&self);
}

/// How a VM ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum VmEnd {
    /// The guest turned it off. [PSCI SYSTEM_OFF]
    PowerOff,
    /// The guest wants to start again. [PSCI SYSTEM_RESET]
    Reset,
    /// The guest did what no guest can go on after.
    Crash(&'static str),
    /// Somebody else stopped it, or nobody is left to run.
    Stopped(&'static str),
}

/// Told once when a VM ends, on the pCPU that ended it, in the middle of an exit: it may neither wait nor allocate. The
/// VM's vCPUs have all been told to stop, and may still be on their way.
pub trait VmObserver: Send + Sync {
    /// `vm` has ended; `end` is how.
    fn ended(&self, vm: &Vm, end: &VmEnd);
}

/// The vCPUs of one VM, by index.
pub struct Vcpus {
    controls: Box<[Once<Arc<dyn VcpuControl>>]>,
    states: Option<Arc<VcpuStates>>,
}

impl Vcpus {
    /// Room for `count` vCPUs; [`Vcpus::attach`] fills it.
    pub fn new(count: usize) -> Arc<Self> {
        Self::with_states(count, None)
    }

    /// The same, for a guest that reads in `states` which of them run.
    pub fn with_states(count: usize, states: Option<Arc<VcpuStates>>) -> Arc<Self> {
        Arc::new(Self {
            controls: core::iter::repeat_with(Once::new).take(count).collect(),
            states,
        })
    }

    /// How many vCPUs the VM has.
    pub fn count(&self) -> usize {
        self.controls.len()
    }

    /// Says who controls vCPU `index`; the first to say so is right. `index` is below [`Vcpus::count`].
    pub fn attach(&self, index: usize, control: Arc<dyn VcpuControl>) {
        self.controls[index].call_once(|| control);
    }

    /// The vCPU `index`; `None` if the VM has no such vCPU, or not yet.
    pub fn get(&self, index: usize) -> Option<&dyn VcpuControl> {
        self.controls.get(index)?.get().map(|control| &**control)
    }

    fn all(&self) -> impl Iterator<Item = &dyn VcpuControl> {
        self.controls
            .iter()
            .filter_map(|control| control.get().map(|control| &**control))
    }
}

impl VcpuSignals for Vcpus {
    fn wake(&self, vcpu: usize) {
        if let Some(vcpu) = self.get(vcpu) {
            vcpu.wake();
        }
    }

    fn request_sync(&self, vcpu: usize) -> bool {
        self.get(vcpu).is_some_and(VcpuControl::request_sync)
    }

    fn complete(&self, vcpu: usize) {
        if let Some(vcpu) = self.get(vcpu) {
            vcpu.complete();
        }
    }

    fn pcpu(&self, vcpu: usize) -> Option<PcpuId> {
        self.get(vcpu).map(VcpuControl::last_pcpu)
    }
}

/// What a VM is made of.
pub struct VmParts {
    /// What messages call it.
    pub name: String,
    /// Its vCPUs.
    pub vcpus: Arc<Vcpus>,
    /// Its interrupt controller, which wakes the same vCPUs.
    pub vgic: Arc<Vgic>,
    /// Its RAM.
    pub memory: Arc<dyn GuestMemory>,
    /// Who answers its exits.
    pub registry: Registry,
    /// Where its guest reads what was stolen from it; `None`: it is not told.
    pub stolen_time: Option<Arc<StolenTime>>,
    /// Who is told when it ends.
    pub observer: Arc<dyn VmObserver>,
}

/// One virtual machine.
pub struct Vm {
    parts: VmParts,
    /// vCPUs that are on or being turned on. Who brings it to 0 ends the VM: nobody is left to turn one on.
    on_count: AtomicUsize,
    /// From which vCPU on one is looked for that was preempted, when another one spins.
    next_favoured: AtomicUsize,
    end: Once<VmEnd>,
}

impl Vm {
    /// A VM whose vCPUs are all off.
    pub fn new(parts: VmParts) -> Arc<Self> {
        Arc::new(Self {
            parts,
            on_count: AtomicUsize::new(0),
            next_favoured: AtomicUsize::new(0),
            end: Once::new(),
        })
    }

    /// What messages call it.
    pub fn name(&self) -> &str {
        &self.parts.name
    }

    /// How many vCPUs it has.
    pub fn vcpu_count(&self) -> usize {
        self.parts.vcpus.count()
    }

    /// The vCPU `index`, from 0; `None` if there is none.
    pub fn vcpu(&self, index: usize) -> Option<&dyn VcpuControl> {
        self.parts.vcpus.get(index)
    }

    /// The interrupt controller; devices claim their lines of it.
    pub fn vgic(&self) -> &Arc<Vgic> {
        &self.parts.vgic
    }

    /// The guest's RAM.
    pub fn memory(&self) -> &dyn GuestMemory {
        &*self.parts.memory
    }

    /// Who answers the exits.
    pub fn registry(&self) -> &Registry {
        &self.parts.registry
    }

    /// Where the guest reads what was stolen from it.
    pub fn stolen_time(&self) -> Option<&StolenTime> {
        self.parts.stolen_time.as_deref()
    }

    /// Where the guest reads which of its vCPUs run.
    pub fn vcpu_states(&self) -> Option<&VcpuStates> {
        self.parts.vcpus.states.as_deref()
    }

    /// An index below the number of vCPUs.
    pub(crate) fn next_favoured(&self) -> usize {
        self.next_favoured.load(Ordering::Relaxed)
    }

    pub(crate) fn set_next_favoured(&self, index: usize) {
        let count = self.vcpu_count().max(1);
        self.next_favoured.store(index % count, Ordering::Relaxed);
    }

    /// Turns vCPU `index` on, as PSCI CPU_ON does; the embedder starts the boot vCPU with it. `None`: there is no such vCPU.
    pub fn power_on(
        &self,
        index: usize,
        entry: u64,
        context: u64,
    ) -> Option<Result<(), PowerOnError>> {
        let vcpu = self.vcpu(index)?;
        // Counted before it can run, and so before it can turn itself off.
        self.on_count.fetch_add(1, Ordering::AcqRel);
        let result = vcpu.power_on(entry, context);
        if result.is_err() {
            self.count_off();
        }
        Some(result)
    }

    /// A vCPU turns itself off; `true` if it was the last that was on, and the VM has ended with it.
    pub fn count_off(&self) -> bool {
        let was_last = self.on_count.fetch_sub(1, Ordering::AcqRel) == 1;
        if was_last {
            self.stop(VmEnd::Stopped("all vCPUs are off"));
        }
        was_last
    }

    /// Ends the VM: none of its vCPUs runs again, whatever they do now. The first end counts; any pCPU may call it, and a
    /// handler that does returns [`Action::Stop`](trapline_vcpu::Action::Stop).
    pub fn stop(&self, end: VmEnd) {
        let mut is_first = false;
        let end = self.end.call_once(|| {
            is_first = true;
            end
        });
        self.parts.vcpus.all().for_each(VcpuControl::stop);
        if is_first {
            self.parts.observer.ended(self, end);
        }
    }

    /// Keeps the VM's vCPUs from running until [`Vm::resume`]. They have all left their pCPUs once [`Vm::is_parked`] says so; the
    /// host's `paused` and `stopped` tell when to ask.
    pub fn pause(&self) {
        self.parts.vcpus.all().for_each(VcpuControl::pause);
    }

    /// The vCPUs that ran when the VM was paused run again.
    pub fn resume(&self) {
        self.parts.vcpus.all().for_each(VcpuControl::resume);
    }

    /// No pCPU touches any vCPU of the VM. Of a VM that is paused or stopped this stays so.
    pub fn is_parked(&self) -> bool {
        self.parts.vcpus.all().all(VcpuControl::is_parked)
    }

    /// How the VM ended; `None` while it lives.
    pub fn end(&self) -> Option<&VmEnd> {
        self.end.get()
    }
}

/// What travels with each vCPU of a VM: the part of the VM's state that only the vCPU's owner touches.
pub struct VmVcpu {
    vm: Arc<Vm>,
    index: usize,
    interrupts: VgicCpu,
    cache_work: CacheWork,
}

impl VmVcpu {
    /// What travels with vCPU `index` of `vm`; `None` if it has no such vCPU. It is asked for once per vCPU.
    pub fn new(vm: Arc<Vm>, index: usize) -> Option<Self> {
        let interrupts = vm.vgic().cpu(index)?;
        Some(Self {
            vm,
            index,
            interrupts,
            cache_work: CacheWork::default(),
        })
    }

    /// Which of its VM's vCPUs this is, from 0.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Aff3 in bits 39:32, Aff2 to Aff0 in bits 23:0. [MPIDR_EL1]
    pub fn affinity(&self) -> u64 {
        affinity_of(self.index)
    }

    /// The VM.
    pub fn vm(&self) -> &Vm {
        &self.vm
    }

    /// The VM and the vCPU's part of the interrupt controller, at once.
    pub fn split(&mut self) -> (&Vm, &mut VgicCpu) {
        (&self.vm, &mut self.interrupts)
    }

    /// The same, to look at.
    pub(crate) fn interrupts(&self) -> (&Vm, &VgicCpu) {
        (&self.vm, &self.interrupts)
    }

    /// The VM and how far the vCPU's cache maintenance is, at once.
    pub(crate) fn split_cache_work(&mut self) -> (&Vm, &mut CacheWork) {
        (&self.vm, &mut self.cache_work)
    }

    /// Tells the guest what was stolen from the vCPU, which is being bound.
    pub(crate) fn publish_stolen_time(&self) {
        if let Some(times) = self.vm.stolen_time()
            && let Some(vcpu) = self.vm.vcpu(self.index)
        {
            times.publish(self.index, vcpu.ready_ticks());
        }
    }

    /// Tells the guest how the vCPU is from now on.
    pub(crate) fn publish_activity(&self, activity: Activity) {
        if let Some(states) = self.vm.vcpu_states() {
            states.publish(self.index, activity);
        }
    }

    /// Forgets what concerned the guest's state before it was turned on again.
    pub(crate) fn reset(&mut self) {
        self.cache_work = CacheWork::default();
    }
}
