//! How a vCPU's registers get into this pCPU and out of it.
//!
//! [`Hardware`] is the [`Machine`] that the scheduler drives: `bind` before a vCPU runs here, `unbind` before it waits in a
//! queue, parks or moves. Between the two nothing but the general registers moves on an exit.

mod exits;

use alloc::sync::Arc;

use trapline_sched::{Machine, PcpuId, Vcpu as _};

use super::control;
use super::debug::HardwareDebug;
use super::fp;
use super::interface::HardwareInterface;
use super::registers::is_timer_armed;
use super::switch::synchronize_context;
use super::takeover::HostControl;
use super::tlb;
use crate::dispatch::{Activity, Dispatch};
use crate::host::{Host, PhysicalInterrupt};
use crate::interrupts::TimerPpi;
use crate::stage2::Geometry;
use crate::vcpu::Aarch64VCpu;
use crate::vmid::{LastRan, VmidAllocator};
use crate::wait::Deadlines;

/// One pCPU's registers, and the two sides that act on them: what exits mean, and the host's timer and interrupts.
pub(crate) struct Hardware<D: Dispatch, H: Host> {
    pcpu: PcpuId,
    dispatch: D,
    host: H,
    geometry: Geometry,
    vmids: Arc<VmidAllocator>,
    last_ran: LastRan,
    enabled: Option<Enabled>,
    is_fp_open: bool,
    /// Others are ready here: WFE traps.
    is_contended: bool,
    /// The bound vCPU has the pCPU to itself: neither WFI nor WFE traps.
    is_exclusive: bool,
    /// The pCPU has WFIT and WFET, of which guests do not know.
    has_timed_waits: bool,
    timer: Timer,
}

/// What exists from `hardware_enable` to `hardware_disable`.
struct Enabled {
    control: HostControl,
    interface: HardwareInterface,
    debug: HardwareDebug,
    /// HCR_EL2 and VTTBR_EL2 as they are: writing either costs more than comparing.
    hcr: u64,
    vttbr: u64,
}

impl Enabled {
    /// Makes a virtual SError pending. [DDI0487: HCR_EL2.VSE]
    fn pend_serror(&mut self, vcpu_hcr: &mut u64) {
        *vcpu_hcr |= control::virtual_serror();
        self.hcr |= control::virtual_serror();
        write_sysreg!("hcr_el2", self.hcr);
    }

    /// Taking a virtual SError clears it in the hardware: what is left of it travels with the vCPU.
    fn collect_serror(&mut self, vcpu_hcr: &mut u64) {
        if *vcpu_hcr & control::virtual_serror() != 0 {
            self.hcr = read_sysreg!("hcr_el2");
            *vcpu_hcr &= self.hcr | !control::virtual_serror();
        }
    }

    /// Of the traps of WFI and WFE, the bound vCPU has those in `traps` from now on.
    fn set_wait_traps(&mut self, traps: u64) {
        let hcr = control::without_taken_serror(self.hcr, read_sysreg!("hcr_el2"));
        self.hcr = hcr & !control::wait_traps() | traps;
        write_sysreg!("hcr_el2", self.hcr);
    }
}

/// CNTHP, shared by the scheduler and the caller of a step.
#[derive(Default)]
struct Timer {
    wanted: Option<u64>,
    limit: Option<u64>,
    armed: Option<u64>,
}

impl<D: Dispatch, H: Host> Hardware<D, H> {
    pub(crate) fn new(
        pcpu: PcpuId,
        dispatch: D,
        host: H,
        geometry: Geometry,
        vmids: Arc<VmidAllocator>,
    ) -> Self {
        Self {
            pcpu,
            dispatch,
            host,
            geometry,
            vmids,
            last_ran: LastRan::default(),
            enabled: None,
            is_fp_open: false,
            is_contended: false,
            is_exclusive: false,
            has_timed_waits: false,
            timer: Timer::default(),
        }
    }

    pub(crate) fn enable(&mut self) {
        let access = self.host.interface();
        let control = HostControl::take_over(self.geometry.vtcr(), access);
        let interface = HardwareInterface::new::<H>(access);
        // Other users of the VMIDs may have run here since the last time, and their timers may still be on.
        tlb::flush_local_all_guests();
        write_sysreg!("cntv_ctl_el0", 0);
        write_sysreg!("cntp_ctl_el0", 0);
        synchronize_context();
        self.has_timed_waits = control.features.timed_waits;
        let hcr = control::guest_hcr();
        self.enabled = Some(Enabled {
            debug: HardwareDebug::new(control.features.comparators),
            control,
            interface,
            hcr,
            vttbr: 0,
        });
        self.program_timer();
    }

    pub(crate) fn disable(&mut self) {
        if let Some(enabled) = self.enabled.take() {
            enabled.control.give_back();
            // The host may use the VMIDs for guests of its own.
            tlb::flush_local_all_guests();
        }
        self.program_timer();
    }

    pub(crate) fn host_mut(&mut self) -> &mut H {
        &mut self.host
    }

    pub(crate) fn dispatch_mut(&mut self) -> &mut D {
        &mut self.dispatch
    }

    /// A guest timer fired and nobody is bound: it is the last word of a vCPU that has left.
    pub(crate) fn dismiss_timer(&mut self, timer: TimerPpi) {
        H::deactivate(timer.intid());
    }

    pub(crate) fn is_enabled(&self) -> bool {
        self.enabled.is_some()
    }

    pub(crate) fn now(&self) -> u64 {
        self.host.now()
    }

    pub(crate) fn acknowledge(&mut self) -> PhysicalInterrupt {
        self.host.acknowledge()
    }

    /// The caller of a step wants the pCPU back at `limit`.
    pub(crate) fn limit_timer(&mut self, limit: Option<u64>) {
        self.timer.limit = limit;
        self.program_timer();
    }

    /// CNTHP fired: what has passed is done with, whoever asked for it looks at the clock.
    pub(crate) fn timer_fired(&mut self) {
        let now = self.host.now();
        self.timer.wanted = self.timer.wanted.filter(|&deadline| deadline > now);
        self.timer.limit = self.timer.limit.filter(|&deadline| deadline > now);
        self.program_timer();
    }

    /// The deadlines are kept while the host has the pCPU back, but then the timer is not ours to arm.
    fn program_timer(&mut self) {
        let Timer { wanted, limit, .. } = self.timer;
        // On the path of every switch, where an iterator over the two is copied first.
        let first = match (wanted, limit) {
            (Some(wanted), Some(limit)) => Some(wanted.min(limit)),
            (wanted, limit) => wanted.or(limit),
        };
        let deadline = first.filter(|_| self.is_enabled());
        if deadline != self.timer.armed {
            self.timer.armed = deadline;
            self.host.set_timer(deadline);
        }
    }

    fn parts(&mut self) -> (&mut D, &mut Enabled) {
        let enabled = self
            .enabled
            .as_mut()
            .expect("vCPUs are bound between enable and disable");
        (&mut self.dispatch, enabled)
    }

    /// Gives `vcpu`, which is bound here, the registers of one that was just turned on. Its interrupts stay as they are.
    pub(crate) fn restart(
        &mut self,
        vcpu: &mut Aarch64VCpu<D::Extension>,
        entry: u64,
        context: u64,
    ) {
        if core::mem::take(&mut self.is_fp_open) {
            fp::close(&mut vcpu.registers.fp);
        }
        let (_, enabled) = self.parts();
        vcpu.reset_registers_to(entry, context);
        enabled.debug.follow(&vcpu.registers.debug);
        vcpu.registers.vm_system_regs.restore();
        if enabled.control.features.pointer_authentication {
            vcpu.registers.pointer_auth_keys.restore();
        }
        if enabled.control.features.error_records {
            vcpu.registers.virtual_errors.restore();
        }
        // Whether it has the pCPU for itself does not change.
        enabled.hcr = vcpu.hcr & (enabled.hcr | !control::wait_traps());
        write_sysreg!("hcr_el2", enabled.hcr);
        synchronize_context();
    }

    /// The first FP instruction since `bind`: its registers go into the hardware.
    pub(crate) fn open_fp(&mut self, vcpu: &Aarch64VCpu<D::Extension>) {
        fp::open(&vcpu.registers.fp);
        self.is_fp_open = true;
    }

    pub(super) fn close_fp(&mut self, vcpu: &mut Aarch64VCpu<D::Extension>) {
        if core::mem::take(&mut self.is_fp_open) {
            fp::close(&mut vcpu.registers.fp);
            vcpu.handle().shared().count_fp_save();
        }
    }

    /// The host's own code is next, and it uses FP.
    pub(crate) fn lend_fp(&mut self, vcpu: Option<&mut Aarch64VCpu<D::Extension>>) {
        if let Some(vcpu) = vcpu {
            self.close_fp(vcpu);
        }
        if let Some(enabled) = &self.enabled {
            fp::set_cptr(enabled.control.host_cptr());
        }
    }

    /// The host lent its FP registers for the step that begins.
    pub(crate) fn borrow_fp(&mut self) {
        fp::trap();
    }

    /// Puts `vcpu`'s stage 2 in place, with what its translations need flushed.
    fn bind_stage2(&mut self, vcpu: &Aarch64VCpu<D::Extension>, is_exclusive: bool) {
        let assigned = self.vmids.vmid_for(self.pcpu.index(), &vcpu.space.vmid);
        let is_sibling_next = self.last_ran.needs_flush(vcpu.space.vm, vcpu.handle().id());
        self.is_exclusive = is_exclusive;
        let hcr = vcpu.hcr & !control::wait_traps() | self.wait_traps();
        let (_, enabled) = self.parts();
        let vttbr = vcpu.space.stage2_root | u64::from(assigned.vmid) << 48;
        if hcr != enabled.hcr {
            enabled.hcr = hcr;
            write_sysreg!("hcr_el2", hcr);
        }
        if vttbr != enabled.vttbr {
            enabled.vttbr = vttbr;
            // EL1's translation registers are this guest's already; they come into force with its stage 2, not before.
            synchronize_context();
            write_sysreg!("vttbr_el2", vttbr);
        }
        if assigned.flush {
            synchronize_context();
            tlb::flush_local_all_guests();
        } else if is_sibling_next {
            synchronize_context();
            tlb::flush_local_guest();
        }
    }

    /// Which of WFI and WFE trap.
    fn wait_traps(&self) -> u64 {
        match (self.is_exclusive, self.is_contended) {
            (true, _) => 0,
            (false, false) => control::wait_traps() & !control::event_trap(),
            (false, true) => control::wait_traps(),
        }
    }

    /// No vCPU is bound here: the stage 2 of the last one is walked no more, that at `root` is. What the TLBs hold of the
    /// last one is left there.
    pub(crate) fn leave_stage2(&mut self, root: u64) {
        if let Some(enabled) = &mut self.enabled {
            enabled.vttbr = root;
            write_sysreg!("vttbr_el2", root);
            synchronize_context();
        }
    }

    /// When the waiting `vcpu`, whose registers were just stored, wants to be woken by one of its own timers: a value of the
    /// physical counter.
    fn timer_deadline(&mut self, vcpu: &mut Aarch64VCpu<D::Extension>) -> Option<u64> {
        let offset = vcpu.space.counter_offset();
        let registers = &vcpu.registers.vm_system_regs;
        let virtual_deadline = registers.cntv_cval_el0.saturating_add(offset);
        let mut deadlines = Deadlines::default();
        for (timer, control, deadline) in [
            (TimerPpi::Virtual, registers.cntv_ctl_el0, virtual_deadline),
            (
                TimerPpi::Physical,
                registers.cntp_ctl_el0,
                registers.cntp_cval_el0,
            ),
        ] {
            if is_timer_armed(control) && self.dispatch.is_timer_enabled(&vcpu.extension, timer) {
                deadlines.add(control, deadline);
            }
        }
        let waits_for = vcpu.registers.waits_for;
        deadlines.wake_up(waits_for, || self.has_deliverable_interrupt(vcpu))
    }
}

impl<D: Dispatch, H: Host> Machine<Aarch64VCpu<D::Extension>> for Hardware<D, H> {
    fn bind(&mut self, vcpu: &mut Aarch64VCpu<D::Extension>, exclusive: bool) {
        let mut copied = vcpu.registers.vm_system_regs.restore();
        let (_, enabled) = self.parts();
        if enabled.control.features.pointer_authentication {
            copied += vcpu.registers.pointer_auth_keys.restore();
        }
        if enabled.control.features.error_records {
            copied += vcpu.registers.virtual_errors.restore();
        }
        copied += enabled.debug.follow(&vcpu.registers.debug);
        vcpu.handle().shared().count_context_registers(copied);
        write_sysreg!("vmpidr_el2", vcpu.mpidr);
        write_sysreg!("cntvoff_el2", vcpu.space.counter_offset());
        self.bind_stage2(vcpu, exclusive);
        let (dispatch, enabled) = self.parts();
        dispatch.bind(&mut vcpu.extension, &mut enabled.interface);
        dispatch.show(&mut vcpu.extension, Activity::Running);
    }

    fn unbind(&mut self, vcpu: &mut Aarch64VCpu<D::Extension>) -> Option<u64> {
        let mut copied = vcpu.registers.vm_system_regs.store();
        let deadline = self.timer_deadline(vcpu);
        if !cfg!(mutant = "forget_fp") {
            self.close_fp(vcpu);
        }
        let (dispatch, enabled) = self.parts();
        // Off first: the timers' interrupts, which `unbind` deactivates, must not fire again for a vCPU that has left.
        write_sysreg!("cntv_ctl_el0", 0);
        write_sysreg!("cntp_ctl_el0", 0);
        synchronize_context();
        dispatch.unbind(&mut vcpu.extension, &mut enabled.interface);
        let activity = match vcpu.handle().is_runnable() {
            true => Activity::Preempted,
            false => Activity::Waiting,
        };
        dispatch.show(&mut vcpu.extension, activity);
        if enabled.control.features.pointer_authentication {
            copied += vcpu.registers.pointer_auth_keys.store();
        }
        if enabled.control.features.error_records {
            copied += vcpu.registers.virtual_errors.store();
        }
        vcpu.handle().shared().count_context_registers(copied);
        enabled.collect_serror(&mut vcpu.hcr);
        deadline
    }

    fn wait(&mut self, vcpu: &mut Aarch64VCpu<D::Extension>, is_waiting: bool) {
        let activity = match is_waiting {
            true => Activity::Waiting,
            false => Activity::Running,
        };
        self.dispatch.show(&mut vcpu.extension, activity);
    }

    fn contend(&mut self, is_contended: bool) {
        self.is_contended = is_contended;
        let traps = self.wait_traps();
        let (_, enabled) = self.parts();
        enabled.set_wait_traps(traps);
    }

    fn set_exclusive(&mut self, _vcpu: &mut Aarch64VCpu<D::Extension>, exclusive: bool) {
        self.is_exclusive = exclusive;
        let traps = self.wait_traps();
        let (_, enabled) = self.parts();
        enabled.set_wait_traps(traps);
    }

    fn sync(&mut self, vcpu: &mut Aarch64VCpu<D::Extension>) {
        let (dispatch, enabled) = self.parts();
        dispatch.synchronize(&mut vcpu.extension, &mut enabled.interface);
    }

    fn reset(&mut self, vcpu: &mut Aarch64VCpu<D::Extension>) {
        vcpu.reset_registers();
        self.dispatch.reset(&mut vcpu.extension);
    }

    fn set_timer(&mut self, deadline: Option<u64>) {
        self.timer.wanted = deadline;
        self.program_timer();
    }
}
