//! How an exit finds its handler, and what happens to one that nobody answers.

use trapline_sched::PcpuId;
use trapline_vcpu::{
    Action, Exit, GuestFault,
    dispatch::{Activity, BoundGuest, Dispatch},
    interrupts::{TimerPpi, VirtualCpuInterface},
};

use crate::{
    handler::GuestCpu,
    registry::{Hold, LastHits, Table},
    vm::VmVcpu,
};

/// Answers the exits of whatever vCPU one pCPU runs, by the registry of that vCPU's VM.
///
/// It holds the VM's table from `bind`, or from the first exit after [`Dispatcher::release`], to `unbind`; the VM lives
/// longer, since the vCPU that is bound keeps it alive.
pub struct Dispatcher {
    pcpu: usize,
    table: Hold<Table>,
    hits: LastHits,
}

impl Dispatcher {
    /// The dispatcher of `pcpu`.
    pub fn new(pcpu: PcpuId) -> Self {
        Self {
            pcpu: pcpu.index(),
            table: Hold::empty(),
            hits: LastHits::default(),
        }
    }
}

impl Dispatch for Dispatcher {
    type Extension = VmVcpu;

    fn dispatch(&mut self, guest: &mut BoundGuest<'_, VmVcpu>, exit: &Exit) -> Action {
        let table = self.table.refresh(guest.extension.vm().registry().table());
        let mut guest = GuestCpu::new(guest);
        if let Some(entry) = table.claimant(exit, guest.register(0) as u32, &mut self.hits) {
            let action = entry.called_on(self.pcpu).handle(&mut guest, exit);
            if action != Action::Decline {
                return action;
            }
        }
        for entry in table.chain(exit.class()) {
            let action = entry.called_on(self.pcpu).handle(&mut guest, exit);
            if action != Action::Decline {
                return action;
            }
        }
        unanswered(&mut guest, exit)
    }

    fn instruction(&self, vcpu: &VmVcpu, address: u64) -> Option<u32> {
        let mut word = [0; 4];
        let memory = vcpu.vm().memory();
        memory.read(address, &mut word).ok()?;
        Some(u32::from_le_bytes(word))
    }

    fn bind(&mut self, vcpu: &mut VmVcpu, interface: &mut dyn VirtualCpuInterface) {
        let (vm, cpu) = vcpu.split();
        vm.vgic().bind(cpu, interface);
        vcpu.publish_stolen_time();
    }

    fn unbind(&mut self, vcpu: &mut VmVcpu, interface: &mut dyn VirtualCpuInterface) {
        let (vm, cpu) = vcpu.split();
        vm.vgic().unbind(cpu, interface);
        // The next vCPU may be another VM's.
        self.release();
    }

    fn show(&mut self, vcpu: &mut VmVcpu, activity: Activity) {
        vcpu.publish_activity(activity);
    }

    fn refresh(&mut self, vcpu: &mut VmVcpu, interface: &mut dyn VirtualCpuInterface) {
        let (vm, cpu) = vcpu.split();
        vm.vgic().refresh(cpu, interface);
    }

    fn synchronize(&mut self, vcpu: &mut VmVcpu, interface: &mut dyn VirtualCpuInterface) {
        let (vm, cpu) = vcpu.split();
        vm.vgic().synchronize(cpu, interface);
    }

    fn has_deliverable_interrupt(
        &mut self,
        vcpu: &mut VmVcpu,
        interface: &mut dyn VirtualCpuInterface,
    ) -> bool {
        let (vm, cpu) = vcpu.split();
        vm.vgic().has_deliverable(cpu, interface)
    }

    fn is_timer_enabled(&self, vcpu: &VmVcpu, timer: TimerPpi) -> bool {
        let (vm, cpu) = vcpu.interrupts();
        vm.vgic().is_timer_enabled(cpu, timer)
    }

    /// Lets go of the registry's table. A pCPU that idles with a vCPU loaded calls it, or handlers removed meanwhile are
    /// kept until it wakes up.
    fn release(&mut self) {
        self.table.release();
    }

    fn reset(&mut self, vcpu: &mut VmVcpu) {
        let (vm, cpu) = vcpu.split();
        vm.vgic().reset_cpu(cpu);
        vcpu.reset();
    }
}

/// What hardware without the thing that nobody answers for would do.
fn unanswered(guest: &mut GuestCpu<'_>, exit: &Exit) -> Action {
    match exit {
        // Immediates other than 0 are the hypervisor's own to give a meaning, and none is given. [DEN0028: HVC and SMC
        // immediate value]
        Exit::Call(call) if call.immediate == 0 => {
            guest.set_register(0, crate::smccc::NOT_SUPPORTED);
            Action::Finish
        }
        Exit::Mmio(_) | Exit::InstructionAbort(_) => Action::Fault(GuestFault::ExternalAbort),
        // The engine looks at the instruction.
        Exit::DataAbort(_) => Action::Decline,
        // A wait may always end early.
        Exit::Wait(_) | Exit::ConditionFailed => Action::Finish,
        Exit::SError { .. } => Action::Fault(GuestFault::SError),
        Exit::Call(_) | Exit::SystemRegister(_) | Exit::Other { .. } => {
            Action::Fault(GuestFault::Undefined)
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
