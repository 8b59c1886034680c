//! Loads VMs in every order on a machine whose TLBs remember who filled them.

extern crate std;

use alloc::{collections::BTreeMap, vec::Vec};
use std::sync::Mutex;

use super::*;

/// What the hardware holds. It panics when a guest could run on another guest's translations.
struct Machine {
    allocator: VmidAllocator,
    vms: Vec<VmVmid>,
    pcpus: Mutex<Vec<Pcpu>>,
}

#[derive(Clone, Default)]
struct Pcpu {
    /// The VM and its VMID.
    loaded: Option<(usize, u16)>,
    /// By VMID: the VM whose translations it holds.
    tlb: BTreeMap<u16, usize>,
}

impl Machine {
    fn new(bits: u32, pcpus: usize, vms: usize) -> Self {
        Self {
            allocator: VmidAllocator::new(bits, pcpus),
            vms: (0..vms).map(|_| VmVmid::default()).collect(),
            pcpus: Mutex::new(std::vec![Pcpu::default(); pcpus]),
        }
    }

    fn pcpus(&self) -> std::sync::MutexGuard<'_, Vec<Pcpu>> {
        self.pcpus.lock().expect("no other check failed")
    }

    /// Loads `vm` on `pcpu` and runs it for a while; says whether all was flushed.
    fn load(&self, pcpu: usize, vm: usize) -> bool {
        self.pcpus()[pcpu].loaded = None;
        let Assigned { vmid, flush } = self.allocator.vmid_for(pcpu, &self.vms[vm]);
        let mut pcpus = self.pcpus();
        for (other_vm, other_vmid) in pcpus.iter().filter_map(|other| other.loaded) {
            assert_eq!(
                other_vm == vm,
                other_vmid == vmid,
                "VM {vm} has VMID {vmid}, VM {other_vm} has VMID {other_vmid}"
            );
        }
        let here = &mut pcpus[pcpu];
        if flush {
            here.tlb.clear();
        }
        here.loaded = Some((vm, vmid));
        let filled_by = *here.tlb.entry(vmid).or_insert(vm);
        assert_eq!(filled_by, vm, "stale translations under VMID {vmid}");
        assert_ne!(vmid, 0, "VMID 0 is nobody's");
        flush
    }
}

#[cfg(not(loom))]
mod host {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_order_of_loads_keeps_guests_apart_over_roll_overs() {
        const PCPUS: usize = 2;
        const VMS: usize = 5;
        const LOADS: u32 = 5;
        let choices = PCPUS * VMS;
        for order in 0..choices.pow(LOADS) {
            let machine = Machine::new(2, PCPUS, VMS);
            for load in 0..LOADS {
                let choice = order / choices.pow(load) % choices;
                machine.load(choice % PCPUS, choice / PCPUS);
            }
        }
    }

    #[test]
    fn a_roll_over_flushes_each_pcpu_once() {
        let machine = Machine::new(2, 2, 4);
        assert!(machine.load(0, 0), "unknown translations at the start");
        assert!(machine.load(1, 1), "unknown translations at the start");
        assert!(!machine.load(0, 2));
        assert!(machine.load(0, 3), "three VMIDs do not do for four VMs");
        assert!(!machine.load(0, 3));
        assert!(machine.load(1, 1), "its VMID survived, its TLB must not");
        assert!(!machine.load(1, 1));
    }

    #[test]
    fn a_vm_that_is_loaded_elsewhere_keeps_its_vmid_over_roll_overs() {
        let machine = Machine::new(2, 2, 9);
        machine.load(1, 0);
        let before = machine.vms[0].current();
        for vm in 1..9 {
            machine.load(0, vm);
        }
        machine.load(0, 0);
        assert_eq!(machine.vms[0].current(), before);
    }

    #[test]
    fn wide_vmids_are_all_given_out_before_a_roll_over() {
        for (bits, vmids) in [(8, 255), (16, 65_535)] {
            let machine = Machine::new(bits, 1, vmids + 1);
            assert!(machine.load(0, 0));
            assert!((1..vmids).all(|vm| !machine.load(0, vm)), "{bits} bits");
            assert!(machine.load(0, vmids), "{bits} bits");
        }
    }

    #[test]
    fn a_vm_without_a_vmid_has_none_to_invalidate() {
        let machine = Machine::new(8, 1, 1);
        assert_eq!(machine.vms[0].current(), None);
        machine.load(0, 0);
        assert_eq!(machine.vms[0].current(), Some(1));
    }

    #[test]
    #[should_panic(expected = "more VMIDs than pCPUs")]
    fn too_many_pcpus_are_refused() {
        let _ = VmidAllocator::new(2, 3);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn long_runs_on_six_pcpus_keep_guests_apart(
            loads in proptest::collection::vec((0..6usize, 0..12usize), 200)
        ) {
            let machine = Machine::new(3, 6, 12);
            for (pcpu, vm) in loads {
                machine.load(pcpu, vm);
            }
        }
    }
}

#[cfg(loom)]
mod loom_models {
    use super::*;
    use alloc::sync::Arc;

    /// pCPU 0 switches between two VMs of the old generation while pCPU 1 makes the roll-over happen and comes back to
    /// one of them.
    #[test]
    fn loom_a_roll_over_meets_loads_of_the_old_generation() {
        loom::model(|| {
            let machine = Arc::new(Machine::new(2, 2, 4));
            for (pcpu, vm) in [(0, 0), (1, 1), (0, 2)] {
                machine.load(pcpu, vm);
            }
            let other = {
                let machine = machine.clone();
                loom::thread::spawn(move || {
                    machine.load(1, 3);
                    machine.load(1, 0);
                })
            };
            machine.load(0, 0);
            machine.load(0, 2);
            other.join().expect("the other pCPU's checks hold");
            machine.load(0, 1);
        });
    }
}
