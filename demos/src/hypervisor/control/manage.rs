//! The machine as the library's manager sees it.

use trapline_handlers::{
    Managed, Manager, Request,
    manager::{Handle, Settings},
};
use trapline_sched::Scheduler;

use crate::hypervisor::{GuestVcpu, Machine};

impl Managed for Machine {
    type Vcpu = GuestVcpu;

    fn scheduler(&self) -> &Scheduler<GuestVcpu> {
        &self.scheduler
    }

    fn vm_count(&self) -> usize {
        self.slots.len()
    }

    fn vm_name(&self, vm: usize) -> &str {
        &self.slots[vm].config.name
    }

    fn vm_state(&self, vm: usize) -> &'static str {
        self.slots[vm].word()
    }

    fn with_vm<R>(&self, vm: usize, visit: impl FnOnce(&mut Settings, &[Handle<Self>]) -> R) -> R {
        self.slots[vm].with_settings(visit)
    }

    fn request(&self, vm: usize, request: Request) {
        Machine::request(self, vm, request);
    }
}

impl Machine {
    /// What the machine's user may do, as calls. Between steps of a pCPU, not in an exit.
    pub fn manager(&self) -> Manager<'_, Self> {
        Manager::new(self)
    }
}
