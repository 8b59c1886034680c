//! How the engine of `trapline-vcpu` runs on this machine: its host traits, and the loop of one pCPU.

use super::{
    gic::{self, Controller, Taken},
    heap::NoAllocGuard,
    hotplug, pcpu, power, relax, shared, timer, uart,
};
use alloc::sync::Arc;
use core::marker::PhantomData;
use trapline_sched::{LocalScheduler, PcpuId, PolicyFailure, VcpuId};
use trapline_vcpu::{
    Aarch64PerCpu, Aarch64VCpu, Step,
    dispatch::Dispatch,
    host::{Host, InterfaceAccess, PhysicalInterrupt},
    interrupts::TimerPpi,
    stage2::Geometry,
    vmid::VmidAllocator,
};

/// This pCPU's timer and interrupts, for the engine.
#[derive(Debug, Default)]
pub struct EngineHost {
    /// The interrupt of the host's own that was acknowledged and that [`run`] still has to answer.
    pending: Option<Taken>,
    /// It stays on its pCPU.
    not_send: PhantomData<*const ()>,
}

impl Host for EngineHost {
    /// The hypervisor is built without FP.
    const USES_FP: bool = false;

    #[inline(always)]
    fn now(&self) -> u64 {
        timer::now()
    }

    fn set_timer(&mut self, deadline: Option<u64>) {
        timer::set(deadline);
    }

    fn acknowledge(&mut self) -> PhysicalInterrupt {
        if gic::is_v2() {
            self.take::<gic::V2>()
        } else {
            self.take::<gic::V3>()
        }
    }

    fn is_ppi_active(intid: u32) -> bool {
        gic::is_active(intid)
    }

    fn deactivate(intid: u32) {
        gic::deactivate(Taken::of(intid));
    }

    fn interface(&self) -> InterfaceAccess {
        gic::control_interface().map_or(InterfaceAccess::SystemRegisters, InterfaceAccess::Memory)
    }
}

impl EngineHost {
    /// Acknowledges an interrupt as [`Host::acknowledge`] says.
    #[inline(always)]
    fn take<C: Controller>(&mut self) -> PhysicalInterrupt {
        let taken = C::acknowledge();
        let interrupt = match taken.intid() {
            gic::KICK => PhysicalInterrupt::Kick,
            gic::HYPERVISOR_TIMER => PhysicalInterrupt::HypervisorTimer,
            gic::MAINTENANCE => PhysicalInterrupt::Maintenance,
            gic::VIRTUAL_TIMER => PhysicalInterrupt::GuestTimer(TimerPpi::Virtual),
            gic::PHYSICAL_TIMER => PhysicalInterrupt::GuestTimer(TimerPpi::Physical),
            gic::SPURIOUS.. => return PhysicalInterrupt::None,
            gic::STOP => super::panic::stop(),
            _ => PhysicalInterrupt::Host,
        };
        C::end(taken);
        match interrupt {
            // Active until the guest's EOI, through the list register that names it, or until the vGIC gives it up.
            PhysicalInterrupt::GuestTimer(_) => {}
            PhysicalInterrupt::Host if shared::pass_on(taken.intid()) => {
                return PhysicalInterrupt::Passed;
            }
            PhysicalInterrupt::Host => self.pending = Some(taken),
            _ => C::deactivate(taken),
        }
        interrupt
    }

    /// Answers the interrupt that made a step return; true if it asks for the embedder's attention.
    fn answer(&mut self) -> bool {
        let Some(taken) = self.pending.take() else {
            return false;
        };
        let is_attention = taken.intid() == gic::ATTENTION;
        if !is_attention {
            uart::handle_interrupt();
        }
        gic::deactivate(taken);
        is_attention
    }
}

/// The counter and the kicks, for the scheduler of this machine's pCPUs.
#[derive(Debug)]
pub struct SchedulerHost {
    /// Called for each vCPU that was stopped or paused once it is parked, on any pCPU; it may neither wait nor allocate.
    pub on_parked: fn(VcpuId),
    /// The MPIDR of each pCPU: those that differ only in Aff0 are near each other.
    pub mpidrs: &'static [u64],
    /// Called on the pCPU that found that its pool's policy has broken its promise; it may neither wait nor allocate.
    pub on_policy_failed: fn(PolicyFailure),
}

impl trapline_sched::Host for SchedulerHost {
    fn now(&self) -> u64 {
        timer::now()
    }

    fn kick(&self, pcpu: PcpuId) {
        gic::kick(pcpu.index() as u16);
    }

    fn this_pcpu(&self) -> Option<PcpuId> {
        PcpuId::new(pcpu::this_pcpu())
    }

    fn cluster(&self, pcpu: PcpuId) -> u64 {
        let mpidr = self.mpidrs.get(pcpu.index());
        mpidr.map_or(0, |mpidr| mpidr >> 8)
    }

    fn microseconds(&self, ticks: u64) -> Option<u64> {
        Some(timer::us_of_ticks(ticks))
    }

    fn stopped(&self, vcpu: VcpuId) {
        (self.on_parked)(vcpu);
    }

    fn paused(&self, vcpu: VcpuId) {
        (self.on_parked)(vcpu);
    }

    fn policy_failed(&self, failure: PolicyFailure) {
        (self.on_policy_failed)(failure);
    }

    fn relax(&self) {
        relax::relax();
    }
}

/// The engine of the pCPU that calls, enabled: EL2's guest-facing registers are its own from here on.
///
/// # Panics
/// If `scheduler` is another pCPU's.
pub fn engine<D: Dispatch>(
    scheduler: LocalScheduler<Aarch64VCpu<D::Extension>>,
    dispatch: D,
    geometry: Geometry,
    vmids: Arc<VmidAllocator>,
) -> Aarch64PerCpu<D, EngineHost> {
    assert_eq!(
        scheduler.id().index(),
        usize::from(pcpu::this_pcpu()),
        "an engine runs on the pCPU that its scheduler is for"
    );
    let mut engine =
        Aarch64PerCpu::new(scheduler, dispatch, EngineHost::default(), geometry, vmids);
    enable(&mut engine);
    engine
}

fn enable<D: Dispatch>(engine: &mut Aarch64PerCpu<D, EngineHost>) {
    // SAFETY:
    // 1. This platform runs at EL2 with E2H=0 and interrupts masked, and its pCPUs run one call of `run` each; the assertion
    //    in `engine` ties the engine to this one, and it is not `Send`.
    // 2. The lower-EL slots of `vectors` are branches to the four exits and nothing else.
    // 3. `mmu` maps what the device tree says is GICH, and nothing in this platform touches it.
    let enabled = unsafe { engine.hardware_enable() };
    enabled.expect("the engine is not enabled");
}

/// The pCPU of `engine`, the caller's own, goes off; when this returns, [`hotplug::start`] was called for it. What [`hotplug`] says must
/// be elsewhere is.
///
/// # Errors
/// Firmware refuses: the pCPU has stayed.
///
/// # Panics
/// If the pCPU is not drained.
pub fn leave<D: Dispatch>(engine: &mut Aarch64PerCpu<D, EngineHost>) -> Result<(), hotplug::Error> {
    let disabled = engine.hardware_disable();
    disabled.expect("a pCPU that leaves is drained, and its engine is enabled");
    let left = hotplug::leave();
    enable(engine);
    left
}

/// What [`run`] tells the embedder between two steps.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Between {
    /// Nobody can run here.
    pub is_idle: bool,
    /// Somebody has called [`call_attention`] for this pCPU since the last time.
    pub is_asked: bool,
}

/// Makes pCPU `id` (an existing one, perhaps the caller's own) come to the embedder's code in [`run`] soon, also from a guest
/// that never exits.
pub fn call_attention(id: u16) {
    gic::send(gic::ATTENTION, id);
}

/// Runs vCPUs on this pCPU for ever. `between` is called after each step, with interrupts masked. It returns when it wants
/// to be called again (a value of the host's counter, perhaps past): the step in between ends then, and a pCPU on which nobody
/// can run waits for it. `None`: it has nothing to do until it is asked.
pub fn run<D: Dispatch>(
    mut engine: Aarch64PerCpu<D, EngineHost>,
    mut between: impl FnMut(&mut Aarch64PerCpu<D, EngineHost>, Between) -> Option<u64>,
) -> ! {
    let mut until = None;
    let mut is_asked = false;
    loop {
        let step = {
            let _exit_path = NoAllocGuard::new();
            engine.step(until)
        };
        if step == Step::HostInterrupt {
            is_asked |= engine.host_mut().answer();
        }
        let is_idle = matches!(step, Step::Idle | Step::Drained);
        let now = Between {
            is_idle,
            is_asked: core::mem::take(&mut is_asked),
        };
        let given = until;
        until = between(&mut engine, now);
        if is_idle {
            // The timer is armed for the time that the last step was given; another time takes another step.
            if until.is_none() || until == given {
                power::wait_for_interrupt();
            }
            while engine.take_interrupts() {
                is_asked |= engine.host_mut().answer();
            }
            if is_asked {
                // Before a vCPU that has just become ready, and that may never exit.
                until = Some(timer::now());
            }
        }
    }
}
