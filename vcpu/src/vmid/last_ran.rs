//! Whether another vCPU of the same VM ran last on this pCPU.
//!
//! The vCPUs of a VM share a VMID, and each may use the same ASID for other tables: what one left in the TLB is wrong for
//! the next. A vCPU that went elsewhere and came back finds its own entries, which every invalidation of its own has
//! reached, because all of them are broadcast. [DDI0487: HCR_EL2.FB]

use trapline_sched::VcpuId;

/// VMs that a pCPU remembers. One that is forgotten costs a flush, never correctness.
const SLOTS: usize = 32;

/// For one pCPU, the vCPU of each VM that ran last. Only that pCPU uses it.
#[derive(Clone, Debug, Default)]
pub struct LastRan([Slot; SLOTS]);

#[derive(Clone, Copy, Debug, Default)]
enum Slot {
    #[default]
    NeverUsed,
    Last {
        vm: u16,
        vcpu: VcpuId,
    },
}

impl LastRan {
    /// `vcpu` of `vm` runs here next: the translations under its VMID must be dropped on this pCPU first.
    /// [DDI0487: TLBI VMALLE1]
    ///
    /// `vm` is any number that tells the VMs of the machine apart.
    pub fn needs_flush(&mut self, vm: u16, vcpu: VcpuId) -> bool {
        let slot = &mut self.0[usize::from(vm) % SLOTS];
        let needs_flush = match *slot {
            Slot::NeverUsed => false,
            Slot::Last {
                vm: last_vm,
                vcpu: last,
            } => (last_vm, last) != (vm, vcpu),
        };
        *slot = Slot::Last { vm, vcpu };
        needs_flush && !cfg!(mutant = "no_sibling_flush")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: VcpuId = VcpuId::new(0);
    const B: VcpuId = VcpuId::new(1);

    #[test]
    fn a_sibling_that_ran_last_is_flushed() {
        let mut last_ran = LastRan::default();
        assert!(!last_ran.needs_flush(7, A), "nothing of this VM is here");
        assert!(!last_ran.needs_flush(7, A), "its own entries");
        assert!(last_ran.needs_flush(7, B), "entries of A");
        assert!(last_ran.needs_flush(7, A), "entries of B");
    }

    #[test]
    fn vcpus_of_other_vms_in_between_do_not_matter() {
        let mut last_ran = LastRan::default();
        let other = VcpuId::new(9);
        assert!(!last_ran.needs_flush(1, A));
        assert!(!last_ran.needs_flush(2, other));
        assert!(!last_ran.needs_flush(1, A));
        assert!(!last_ran.needs_flush(2, other));
        assert!(last_ran.needs_flush(1, B));
    }

    #[test]
    fn a_forgotten_vm_is_flushed() {
        let mut last_ran = LastRan::default();
        let same_slot = 1 + SLOTS as u16;
        assert!(!last_ran.needs_flush(1, A));
        assert!(last_ran.needs_flush(same_slot, B));
        assert!(last_ran.needs_flush(1, A));
    }
}
