//! List registers that are brought up to date in one step for each.
//!
//! What is listed and what has come since fit into them as a rule. Then nothing has to be ranked, and what a list register has is
//! folded and, if it is still to be delivered, listed again by one change of its record: for an SGI that comes again and again,
//! one for each. In all other cases everything is folded first ([`flush`](super::flush)).

use trapline_vcpu::interrupts::VirtualCpuInterface;

use super::{
    Vgic, VgicCpu,
    cpu::MAX_LIST_REGISTERS,
    flush::{empty_from_used, left_in, timer_of, write_control},
    one_of_n::group_watch,
};

impl Vgic {
    /// Brings the list registers up to date if there is room for all that is listed and all that is a candidate. False if there is
    /// not, or if somebody waits to see what is listed folded: then [`Vgic::fold`] and [`Vgic::flush`] are left to do.
    pub(super) fn renew(
        &self,
        cpu: &mut VgicCpu,
        interface: &mut dyn VirtualCpuInterface,
        (groups, machine_control): (u32, u64),
    ) -> bool {
        let count = interface.list_register_count();
        let has_room = cpu.used < count && cpu.candidates.few(count - cpu.used).is_some();
        if !has_room || cpu.has_unlisted_active || self.has_waiters(cpu) {
            return false;
        }
        let was_used = core::mem::take(&mut cpu.used);
        cpu.most_urgent = [None; 2];
        for index in 0..was_used.min(MAX_LIST_REGISTERS) {
            self.renew_one(cpu, interface, index, groups);
        }
        if !cpu.candidates.is_empty() {
            let Some(few) = cpu.candidates.few(count - cpu.used) else {
                // What could not be listed again is in another word than what had come.
                if !cfg!(mutant = "vgic_leave_listed") {
                    empty_from_used(cpu, interface, was_used);
                }
                return false;
            };
            self.list_few(cpu, interface, few, groups);
        }
        empty_from_used(cpu, interface, was_used);
        let watch = group_watch(groups, machine_control);
        write_control(cpu, interface, machine_control, watch);
        self.confirm_groups(cpu, interface, groups);
        true
    }

    /// Folds list register `index`, and lists its interrupt again if it has a role here.
    fn renew_one(
        &self,
        cpu: &mut VgicCpu,
        interface: &mut dyn VirtualCpuInterface,
        index: usize,
        groups: u32,
    ) {
        let value = interface.list_register(index);
        cpu.list_registers[index] = value;
        let (intid, folded) = left_in(value);
        // What the timers have is looked at before it is listed.
        if timer_of(intid).is_some() {
            return self.change_own(cpu, intid, folded);
        }
        let Some(record) = self.record(Some(cpu.index), intid) else {
            return;
        };
        match record.relist(folded, cpu.me(), groups) {
            // The next free list register is this one or one that has been folded before.
            (_, Some(listing)) => self.fill(cpu, interface, intid, listing),
            (change, None) => self.follow_own(cpu, intid, change),
        }
    }
}
