//! What a vCPU is while no pCPU runs it: all its registers, and what others may know of it.
//!
//! An [`Aarch64VCpu`] is owned by exactly one place at a time: a ready queue, the pCPU that has it loaded, its parking slot,
//! or a message in flight. [`VcpuShared`] is the part that everybody may look at.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use trapline_sched::{Vcpu, VcpuHandle};

use crate::arch::aarch64::control::guest_hcr;
use crate::arch::aarch64::registers::{GuestSystemRegisters, PointerAuthKeys, VirtualErrors};
use crate::debug::DebugRegisters;
use crate::decode::ExitClass;
use crate::emulate::Access;
use crate::frame::{FpState, TrapFrame};
use crate::stage2::{PhysicalAddress, Stage2};
use crate::vmid::VmVmid;
use crate::wait::WaitsFor;

/// PSTATE of a vCPU that PSCI turns on: EL1 with its own stack pointer, all interrupts masked. [DEN0022: initial core state]
const PSTATE_AT_POWER_ON: u64 = 0x3c5;

/// MPIDR_EL1.RES1, bit 31.
const MPIDR_RES1: u64 = 1 << 31;

/// What the vCPUs of a VM have in common: their stage 2, its VMID and their clock.
#[derive(Debug)]
pub struct AddressSpace {
    /// The physical address of the stage-2 root. [DDI0487: VTTBR_EL2.BADDR]
    pub stage2_root: u64,
    /// The VMID, as the allocator last gave it.
    pub vmid: VmVmid,
    /// CNTVOFF_EL2: the host counter's value when the guest's virtual counter was zero, in ticks.
    counter_offset: AtomicU64,
    /// Tells this VM from all others that run on the same pCPUs.
    pub vm: u16,
}

/// The registers of a vCPU that no pCPU has loaded.
#[derive(Clone, Debug, Default)]
pub struct VmCpuRegisters {
    /// General registers, PC and PSTATE. Live here on every exit.
    pub trap_context_regs: TrapFrame,
    /// EL1 and EL0 system registers. In the hardware from `bind` to `unbind`.
    pub vm_system_regs: GuestSystemRegisters,
    /// Pointer authentication keys, likewise.
    pub pointer_auth_keys: PointerAuthKeys,
    /// Virtual SErrors, likewise.
    pub virtual_errors: VirtualErrors,
    /// FP and SIMD. In the hardware from their first use after `bind` to `unbind`.
    pub fp: FpState,
    /// Debug registers. What could fire is also in the hardware from `bind` to `unbind`.
    pub debug: DebugRegisters,
    /// A load or store that waits in its middle: it is through before the guest runs again.
    pub(crate) unfinished: Option<Access>,
    /// Which interrupts end its wait, if it waits.
    pub(crate) waits_for: WaitsFor,
}

/// A vCPU.
pub struct Aarch64VCpu<E: Send + 'static> {
    pub(crate) registers: VmCpuRegisters,
    pub(crate) hcr: u64,
    pub(crate) mpidr: u64,
    pub(crate) space: Arc<AddressSpace>,
    pub(crate) extension: E,
    handle: Arc<VcpuHandle<Self>>,
}

impl AddressSpace {
    /// The address space behind `stage2`, which lives as long. `vm` is unlike that of any other VM on the same pCPUs.
    pub fn new<P: PhysicalAddress>(stage2: &Stage2<P>, counter_offset: u64, vm: u16) -> Self {
        Self {
            stage2_root: stage2.vttbr(0),
            vmid: VmVmid::default(),
            counter_offset: AtomicU64::new(counter_offset),
            vm,
        }
    }

    /// CNTVOFF_EL2, in ticks of the physical counter.
    #[inline]
    pub fn counter_offset(&self) -> u64 {
        self.counter_offset.load(Relaxed)
    }

    /// Takes `ticks` out of the guest's virtual time: its counter goes on where it would have been so many ticks ago, and its
    /// virtual timers expire so much later. All vCPUs of the VM are parked, and the caller lets them run afterwards; those
    /// with a deadline may be woken as early as before.
    pub fn take_out_of_virtual_time(&self, ticks: u64) {
        self.counter_offset
            .store(self.counter_offset().wrapping_add(ticks), Relaxed);
    }
}

impl<E: Send + 'static> Aarch64VCpu<E> {
    /// A vCPU that is off, with everything at its reset value. `affinity` is Aff3 to Aff0 as in MPIDR_EL1.
    pub fn new(
        handle: Arc<VcpuHandle<Self>>,
        affinity: u64,
        space: Arc<AddressSpace>,
        extension: E,
    ) -> Self {
        Self {
            registers: VmCpuRegisters::default(),
            hcr: guest_hcr(),
            mpidr: affinity | MPIDR_RES1,
            space,
            extension,
            handle,
        }
    }

    /// Puts the registers back to what PSCI CPU_ON promises, with the PC and x0 from the mailbox.
    pub(crate) fn reset_registers(&mut self) {
        let mailbox = self.handle.shared();
        let (entry, context) = (mailbox.entry.load(Relaxed), mailbox.argument.load(Relaxed));
        self.reset_registers_to(entry, context);
    }

    /// The same, with this PC and this x0.
    pub(crate) fn reset_registers_to(&mut self, entry: u64, context: u64) {
        self.registers = VmCpuRegisters::default();
        self.hcr = guest_hcr();
        let frame = &mut self.registers.trap_context_regs;
        frame.elr = entry;
        frame.spsr = PSTATE_AT_POWER_ON;
        frame.set_gpr(0, context);
    }
}

impl<E: Send + 'static> Vcpu for Aarch64VCpu<E> {
    type Shared = VcpuShared;

    fn handle(&self) -> &Arc<VcpuHandle<Self>> {
        &self.handle
    }
}

/// The part of a vCPU that any pCPU may read at any time.
#[derive(Debug, Default)]
pub struct VcpuShared {
    entry: AtomicU64,
    argument: AtomicU64,
    exits: [AtomicU64; ExitClass::COUNT],
    fp_saves: AtomicU64,
    context_registers: AtomicU64,
}

impl VcpuShared {
    /// Where the vCPU starts and its x0, for whoever has claimed its power-on; published by the commit of the claim.
    pub fn set_entry(&self, entry: u64, argument: u64) {
        self.entry.store(entry, Relaxed);
        self.argument.store(argument, Relaxed);
    }

    /// How many exits of this class there were.
    pub fn exits(&self, class: ExitClass) -> u64 {
        self.exits[class.index()].load(Relaxed)
    }

    /// How many times the FP registers were taken out of the hardware.
    pub fn fp_saves(&self) -> u64 {
        self.fp_saves.load(Relaxed)
    }

    /// How many EL1 context registers, pointer authentication keys included, were copied into the hardware and out of it.
    pub fn context_registers(&self) -> u64 {
        self.context_registers.load(Relaxed)
    }

    /// Counts an exit. Only the pCPU that has the vCPU loaded calls it, so no read-modify-write is needed.
    pub(crate) fn count_exit(&self, class: ExitClass) {
        let counter = &self.exits[class.index()];
        counter.store(counter.load(Relaxed) + 1, Relaxed);
    }

    /// Counts copies of EL1 context registers, likewise.
    pub(crate) fn count_context_registers(&self, count: u64) {
        let counter = &self.context_registers;
        counter.store(counter.load(Relaxed) + count, Relaxed);
    }

    /// Counts a save of the FP registers, likewise.
    pub(crate) fn count_fp_save(&self) {
        self.fp_saves
            .store(self.fp_saves.load(Relaxed) + 1, Relaxed);
    }
}
