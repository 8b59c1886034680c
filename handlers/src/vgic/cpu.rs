//! The part of the interrupt controller that travels with a vCPU, and what its owner does with it.
//!
//! ```text
//!   bind --> refresh ... refresh --> synchronize ... --> unbind        (all on the pCPU that has the vCPU)
//! ```

use trapline_vcpu::interrupts::{ActivePriorities, TimerPpi, VirtualCpuInterface};

use super::{
    SharedCpu, Vgic,
    due::IntidSet,
    list_register::{priority_mask, takes_group},
    remote::Ticket,
};
use crate::sync::atomic::Ordering;

/// The most list registers. [ICH_VTR_EL2.ListRegs]
pub(super) const MAX_LIST_REGISTERS: usize = 16;

/// What only the vCPU's owner touches: its list registers while bound, their saved controls while not.
pub struct VgicCpu {
    pub(super) index: usize,
    /// What is left to look at: due, waiting for a list register, or active without one.
    pub(super) candidates: IntidSet,
    /// The first `used` list registers as last written or read.
    pub(super) list_registers: [u64; MAX_LIST_REGISTERS],
    pub(super) used: usize,
    /// ICH_HCR_EL2 as last written.
    pub(super) control: u64,
    /// Some interrupt is active without a list register.
    pub(super) has_unlisted_active: bool,
    /// The priority of the most urgent pending interrupt of group 0 and of group 1, listed or not.
    pub(super) most_urgent: [Option<u8>; 2],
    /// The timer's physical interrupt is active on this pCPU, as last sampled; by index in [`TimerPpi::ALL`].
    pub(super) is_timer_active: [bool; 2],
    /// A timer's line was high when it was last sampled, and perhaps still is in its record.
    pub(super) is_timer_high: bool,
    /// The access of this vCPU that waits for others to fold.
    pub(super) ticket: Option<Ticket>,
    pub(super) machine_control: u64,
    active_priorities: ActivePriorities,
}

impl VgicCpu {
    pub(super) fn me(&self) -> u8 {
        self.index as u8
    }
}

impl Vgic {
    /// The part of vCPU `index`, in its reset state; `None` if the VM has no such vCPU. It is asked for once per vCPU.
    pub fn cpu(&self, index: usize) -> Option<VgicCpu> {
        (index < self.vcpu_count()).then(|| VgicCpu {
            index,
            candidates: match self.lpis {
                Some(_) => IntidSet::with_lpis(),
                None => IntidSet::default(),
            },
            list_registers: [0; MAX_LIST_REGISTERS],
            used: 0,
            control: 0,
            has_unlisted_active: false,
            most_urgent: [None; 2],
            is_timer_active: [false; 2],
            is_timer_high: false,
            ticket: None,
            machine_control: 0,
            active_priorities: ActivePriorities::default(),
        })
    }

    pub(super) fn shared_cpu(&self, cpu: &VgicCpu) -> &SharedCpu {
        // A `VgicCpu` is made by its own `Vgic` only, which has such a vCPU.
        &self.cpus[cpu.index]
    }

    /// The vCPU's registers are in the hardware now: makes its interrupts pending there. The list registers are all zero,
    /// as `hardware_enable` and [`Vgic::unbind`] leave them.
    pub fn bind(&self, cpu: &mut VgicCpu, interface: &mut dyn VirtualCpuInterface) {
        self.shared_cpu(cpu).waiters.store(0, Ordering::Release);
        interface.set_machine_control(cpu.machine_control);
        interface.set_active_priorities(cpu.active_priorities);
        // Not known: one that is active here and belongs to nobody would never fire again.
        cpu.is_timer_active = [true; 2];
        self.route_physical(cpu);
        self.refresh(cpu, interface);
    }

    /// The vCPU's registers are about to leave the hardware: takes back everything. Its timers still run and are stopped
    /// before physical interrupts are unmasked, since an expired one could fire again at once.
    pub fn unbind(&self, cpu: &mut VgicCpu, interface: &mut dyn VirtualCpuInterface) {
        let fold = self.begin_fold(cpu);
        self.sample_timers(cpu, interface);
        self.fold(cpu, interface);
        self.hand_over(cpu);
        for value in cpu.list_registers.iter_mut().take(cpu.used) {
            *value = 0;
        }
        for index in 0..core::mem::take(&mut cpu.used) {
            interface.set_list_register(index, 0);
        }
        // An active one would never fire again for the next vCPU here. What this vCPU has acknowledged stays active in
        // its record.
        let timers = TimerPpi::ALL
            .into_iter()
            .zip(core::mem::take(&mut cpu.is_timer_active));
        for (timer, _) in timers
            .filter(|&(_, is_active)| is_active && !cfg!(mutant = "vgic_keep_timer_on_unbind"))
        {
            interface.deactivate_timer(timer);
        }
        cpu.machine_control = interface.machine_control();
        cpu.active_priorities = interface.active_priorities();
        cpu.control = 0;
        interface.set_control(0);
        self.end_fold_unbound(cpu, fold);
    }

    /// Something about the bound vCPU's interrupts changed: brings its list registers up to date. With nothing due and
    /// nothing listed it reads none.
    pub fn refresh(&self, cpu: &mut VgicCpu, interface: &mut dyn VirtualCpuInterface) {
        self.sample_timers(cpu, interface);
        let machine_control = interface.machine_control();
        let groups = self.groups_for(cpu, machine_control);
        // Afterwards: it may have begun to take part just now, and been told of what waited for that.
        self.shared_cpu(cpu).due.drain_into(&mut cpu.candidates);
        if self.renew(cpu, interface, (groups, machine_control)) {
            return;
        }
        let fold = self.begin_fold(cpu);
        self.fold(cpu, interface);
        self.end_fold(cpu, fold);
        self.flush(cpu, interface);
    }

    /// Others wait to see the bound vCPU's interrupts as they are: takes them out of the list registers, tells those who
    /// wait, and puts them back.
    pub fn synchronize(&self, cpu: &mut VgicCpu, interface: &mut dyn VirtualCpuInterface) {
        let fold = self.begin_fold(cpu);
        self.sample_timers(cpu, interface);
        self.fold(cpu, interface);
        self.end_fold(cpu, fold);
        self.flush(cpu, interface);
    }

    /// The bound vCPU has an interrupt that ends its WFI: enabled, its groups on, more urgent than the priority mask.
    ///
    /// The running priority is not looked at. The hardware would not signal an interrupt that does not preempt, but WFI may
    /// end for any reason [DDI0487: Wait For Interrupt], while a vCPU that waits for one that the hardware would have
    /// signalled never goes on.
    pub fn has_deliverable(
        &self,
        cpu: &mut VgicCpu,
        interface: &mut dyn VirtualCpuInterface,
    ) -> bool {
        self.refresh(cpu, interface);
        let machine_control = interface.machine_control();
        let mask = priority_mask(machine_control);
        [false, true]
            .into_iter()
            .zip(cpu.most_urgent)
            .any(|(group1, most_urgent)| {
                let beats = |priority| priority < mask || cfg!(mutant = "vgic_ignore_pmr_in_wfi");
                takes_group(machine_control, group1) && most_urgent.is_some_and(beats)
            })
    }

    /// The bound vCPU has an interrupt that would wake it up from a power state: enabled, its group on in the distributor. Its CPU
    /// interface is not asked, which is without power then. [IHI0069: GICR_WAKER, power management]
    pub fn has_wake_request(
        &self,
        cpu: &mut VgicCpu,
        interface: &mut dyn VirtualCpuInterface,
    ) -> bool {
        self.refresh(cpu, interface);
        cpu.most_urgent.iter().any(Option::is_some)
    }

    /// A timer that expires while the vCPU is not bound would end its WFI, priorities aside.
    pub fn is_timer_enabled(&self, cpu: &VgicCpu, timer: TimerPpi) -> bool {
        self.record(Some(cpu.index), timer.intid())
            .is_some_and(|record| {
                let record = record.load();
                let forwarded = self.groups() & 1 << u32::from(record.is_group1()) != 0;
                record.is_enabled() && forwarded && !record.is_active()
            })
    }

    /// PSCI turned the vCPU on: its private interrupts and its CPU interface are as at reset. It is not bound.
    ///
    /// Pending SGIs stay so: one may have been sent after CPU_ON returned, and the new CPU takes it once it has enabled it,
    /// as on hardware, where turning a CPU on leaves the redistributor alone. Shared interrupts that the vCPU had
    /// acknowledged stay active for the same reason.
    pub fn reset_cpu(&self, cpu: &mut VgicCpu) {
        self.reset_private(cpu.index, |record| {
            if record.is_edge() {
                record
            } else {
                record.clear_pending()
            }
        });
        self.turned_on(cpu);
        cpu.machine_control = 0;
        cpu.active_priorities = ActivePriorities::default();
        cpu.most_urgent = [None; 2];
        cpu.ticket = None;
    }
}
