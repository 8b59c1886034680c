//! The engine of one pCPU: who runs, until it exits, and what then.
//!
//! [`Aarch64PerCpu::step`] is the one loop, and the one place that acts on an [`Action`]. It runs with physical interrupts
//! masked and takes them as exits; `hardware` moves a vCPU's registers in and out.

mod service;

use alloc::sync::Arc;

use trapline_sched::{BlockReason, Decision, LocalScheduler, Look, Vcpu as _};

use super::fault;
use super::hardware::Hardware;
use super::switch::{Vector, run_guest};
use crate::action::{Action, GuestFault};
use crate::decode::{self, ExitClass};
use crate::dispatch::Dispatch;
use crate::exit::Exit;
use crate::host::{Host, PhysicalInterrupt};
use crate::stage2::Geometry;
use crate::vcpu::Aarch64VCpu;
use crate::vmid::VmidAllocator;
use crate::wait::WaitsFor;

/// Why [`Aarch64PerCpu::step`] returned.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use]
pub enum Step {
    /// Nobody can run. Wait for an interrupt, hand it to [`Aarch64PerCpu::take_interrupts`], and step again.
    Idle,
    /// An interrupt that is the host's own is pending, or was acknowledged as such: handle it, then step again.
    HostInterrupt,
    /// The time given to the step is over.
    Expired,
    /// The pCPU was drained: it has no vCPU, and gets none until it is opened again.
    Drained,
}

/// One pCPU: its run queue, the vCPU that it has loaded, and the way to run it.
///
/// It is made on any pCPU and used on one, the one whose id its scheduler has.
pub struct Aarch64PerCpu<D: Dispatch, H: Host> {
    scheduler: LocalScheduler<Aarch64VCpu<D::Extension>>,
    hardware: Hardware<D, H>,
    /// Something happened that only the scheduler can judge: a timer fired, a vCPU blocked or yielded.
    pub(super) must_schedule: bool,
    /// The bound vCPU's list registers may be out of date for a reason that its state word does not tell.
    must_refresh: bool,
}

impl<D: Dispatch, H: Host> Aarch64PerCpu<D, H> {
    /// The engine of the pCPU that `scheduler` is for. `geometry` is that of every guest's stage 2; `vmids` is shared by
    /// all pCPUs.
    pub fn new(
        scheduler: LocalScheduler<Aarch64VCpu<D::Extension>>,
        dispatch: D,
        host: H,
        geometry: Geometry,
        vmids: Arc<VmidAllocator>,
    ) -> Self {
        let hardware = Hardware::new(scheduler.id(), dispatch, host, geometry, vmids);
        Self {
            scheduler,
            hardware,
            must_schedule: true,
            must_refresh: false,
        }
    }

    /// The host's side of this engine.
    pub fn host_mut(&mut self) -> &mut H {
        self.hardware.host_mut()
    }

    /// What answers this pCPU's exits.
    pub fn dispatch_mut(&mut self) -> &mut D {
        self.hardware.dispatch_mut()
    }

    /// The scheduler, for its counters and ids.
    pub fn scheduler(&self) -> &LocalScheduler<Aarch64VCpu<D::Extension>> {
        &self.scheduler
    }

    /// Steps for ever; `idle` is called while nobody can run, with interrupts masked, and returns when one is pending.
    /// Returns when the pCPU is drained or the host has an interrupt of its own.
    pub fn run_loop(&mut self, mut idle: impl FnMut(&mut D)) -> Step {
        loop {
            match self.step(None) {
                Step::Idle => {
                    idle(self.hardware.dispatch_mut());
                    if self.take_interrupts() {
                        return Step::HostInterrupt;
                    }
                }
                other => return other,
            }
        }
    }

    /// Runs vCPUs until the host is needed: nobody can run, an interrupt is the host's, the counter reaches `until`, or the
    /// pCPU is drained.
    ///
    /// The caller keeps physical interrupts masked; `hardware_enable` was called.
    pub fn step(&mut self, until: Option<u64>) -> Step {
        assert!(self.is_enabled(), "hardware_enable comes before step");
        self.hardware.limit_timer(until);
        if H::USES_FP {
            self.hardware.borrow_fp();
        }
        let step = self.run_until_host_is_needed(until);
        if H::USES_FP {
            self.hardware.lend_fp(self.scheduler.loaded());
        }
        step
    }

    fn run_until_host_is_needed(&mut self, until: Option<u64>) -> Step {
        loop {
            if self.must_schedule || self.scheduler.needs_attention() {
                self.must_schedule = false;
                let idle = match self.scheduler.schedule(&mut self.hardware) {
                    Decision::Run => None,
                    Decision::Poll if self.poll() => {
                        self.must_schedule = true;
                        continue;
                    }
                    Decision::Idle | Decision::Poll => Some(Step::Idle),
                    Decision::Drained => Some(Step::Drained),
                };
                if let Some(step) = idle {
                    // What ends the wait may be an interrupt of this pCPU, which nobody announces.
                    self.must_schedule = true;
                    return step;
                }
                if until.is_some_and(|deadline| self.hardware.now() >= deadline) {
                    self.must_schedule = true;
                    return Step::Expired;
                }
                // Whoever left it unfinished has asked for the scheduler, so it is seen here before the guest runs.
                if self.loaded().registers.unfinished.is_some() {
                    if self.take_interrupts() {
                        self.must_schedule = true;
                        return Step::HostInterrupt;
                    }
                    self.go_on_with_unfinished();
                    continue;
                }
            }
            // Both are evaluated: the token is consumed whatever else asks for a refresh.
            let must_refresh = self.scheduler.take_wake() | core::mem::take(&mut self.must_refresh);
            if must_refresh {
                let vcpu = self
                    .scheduler
                    .loaded()
                    .expect("a vCPU is loaded after Decision::Run");
                self.hardware.refresh(vcpu);
                // An interrupt that went to a sibling may have put it into our own inbox, for which nobody is kicked.
                if self.scheduler.needs_attention() {
                    continue;
                }
            }
            let vcpu = self
                .scheduler
                .loaded()
                .expect("a vCPU is loaded after Decision::Run");
            // SAFETY:
            // 1. The scheduler answered Run, so `Hardware::bind` has put this vCPU's state into this pCPU.
            // 2. Interrupts are masked at EL2 by the contract of `hardware_enable`.
            // 3. So are the vectors.
            let vector = unsafe { run_guest(&mut vcpu.registers.trap_context_regs) };
            match vector {
                Vector::Synchronous => self.vmexit_handler(),
                Vector::Irq => {
                    vcpu.handle().shared().count_exit(ExitClass::Interrupt);
                    if self.take_interrupt() == PhysicalInterrupt::Host {
                        return Step::HostInterrupt;
                    }
                }
                Vector::Fiq => return Step::HostInterrupt,
                Vector::SError => {
                    let esr = fault::syndrome();
                    self.answer(&Exit::SError { esr }, esr);
                }
            }
        }
    }

    /// Looks for the wake-up of the vCPU that waits here; false: wait for an interrupt, of which one may be pending.
    /// [DDI0487: ISR_EL1]
    #[inline(never)]
    fn poll(&mut self) -> bool {
        loop {
            let is_interrupted = read_sysreg!("isr_el1") != 0;
            match self.scheduler.look(is_interrupted) {
                Look::Again => {}
                look => return look == Look::Schedule,
            }
        }
    }

    /// Answers a synchronous exit.
    fn vmexit_handler(&mut self) {
        let esr = fault::syndrome();
        let vcpu = self
            .scheduler
            .loaded()
            .expect("the vCPU that exited is loaded");
        if decode::is_fp_trap(esr) {
            vcpu.handle().shared().count_exit(ExitClass::FloatingPoint);
            self.hardware.open_fp(vcpu);
            return;
        }
        let exit = decode::decode(
            &vcpu.registers.trap_context_regs,
            esr,
            &fault::HardwareAddresses,
        );
        self.answer(&exit, esr);
    }

    /// Asks what `exit` means, and does it.
    fn answer(&mut self, exit: &Exit, esr: u64) {
        self.act(exit, esr, |hardware, vcpu| {
            vcpu.handle().shared().count_exit(exit.class());
            hardware.dispatch(vcpu, exit)
        });
    }

    /// Does what `action` says about `exit`, when that is not a handler's own answer.
    #[cold]
    #[inline(never)]
    pub(super) fn answer_with(&mut self, action: Action, exit: &Exit, esr: u64) {
        self.act(exit, esr, |_, _| action);
    }

    /// Does what is decided about `exit`. It is on the path of every exit, and the vCPU is looked up once.
    #[inline(always)]
    fn act(
        &mut self,
        exit: &Exit,
        esr: u64,
        decide: impl FnOnce(&mut Hardware<D, H>, &mut Aarch64VCpu<D::Extension>) -> Action,
    ) {
        let vcpu = self
            .scheduler
            .loaded()
            .expect("the vCPU that exited is loaded");
        let action = decide(&mut self.hardware, vcpu);
        let frame = &mut vcpu.registers.trap_context_regs;
        match action {
            Action::Finish => decode::step_over(frame, exit, esr),
            Action::FinishRead(value) => {
                decode::finish_read(frame, exit, value, &fault::HardwareAddresses);
                decode::step_over(frame, exit, esr);
            }
            Action::Retry => decode::rewind(frame, exit),
            Action::Fault(fault) => self.hardware.inject(vcpu, fault, esr),
            Action::Decline => match exit {
                Exit::DataAbort(abort) => self.undescribed_abort(abort),
                _ => self.hardware.inject(vcpu, GuestFault::Undefined, esr),
            },
            Action::Wait if self.hardware.is_hidden_wait(&vcpu.extension, frame, exit) => {
                self.hardware.inject(vcpu, GuestFault::Undefined, esr);
            }
            Action::Wait => {
                decode::step_over(frame, exit, esr);
                if !self.hardware.has_deliverable_interrupt(vcpu) {
                    self.wait_for(WaitsFor::Deliverable);
                }
            }
            Action::Suspend => {
                decode::rewind(frame, exit);
                self.block(BlockReason::Remote);
            }
            Action::WaitAndRetry => {
                decode::rewind(frame, exit);
                self.wait_for(WaitsFor::Any);
            }
            Action::Restart(entry) => {
                let context = frame.gpr(0);
                self.hardware.restart(vcpu, entry, context);
                self.must_refresh = true;
            }
            Action::Yield(to) => {
                decode::step_over(frame, exit, esr);
                self.scheduler.yield_now(to.named());
                self.must_schedule = true;
            }
            Action::PowerOff => {
                decode::step_over(frame, exit, esr);
                self.block(BlockReason::Off);
            }
            // Whoever stopped the VM has told every vCPU of it, this one included.
            Action::Stop => self.must_schedule = true,
        }
    }

    /// The vCPU whose registers are in the hardware.
    pub(super) fn loaded(&mut self) -> &mut Aarch64VCpu<D::Extension> {
        self.scheduler
            .loaded()
            .expect("a vCPU is loaded from Decision::Run on")
    }

    /// Asks what one access of the loaded vCPU means.
    pub(super) fn dispatch(&mut self, exit: &Exit) -> Action {
        let vcpu = self.scheduler.loaded().expect("as in `loaded`");
        self.hardware.dispatch(vcpu, exit)
    }

    /// The loaded vCPU's instruction at the intermediate physical address `place`.
    pub(super) fn instruction(&mut self, place: u64) -> Option<u32> {
        let vcpu = self.scheduler.loaded().expect("as in `loaded`");
        self.hardware.instruction(vcpu, place)
    }

    /// Takes the loaded vCPU's FP registers out of the hardware; its next use brings them back.
    pub(super) fn take_vectors(&mut self) {
        let vcpu = self.scheduler.loaded().expect("as in `loaded`");
        self.hardware.close_fp(vcpu);
    }

    /// Makes the loaded vCPU take an external abort of the access that `esr` and `far` tell of.
    pub(super) fn inject_abort(&mut self, esr: u64, far: u64) {
        let vcpu = self.scheduler.loaded().expect("as in `loaded`");
        self.hardware
            .inject_at(vcpu, GuestFault::ExternalAbort, esr, far);
    }

    /// Takes the loaded vCPU off until it has such an interrupt.
    pub(super) fn wait_for(&mut self, interrupt: WaitsFor) {
        self.loaded().registers.waits_for = interrupt;
        self.block(BlockReason::Waiting);
    }

    /// Takes the loaded vCPU off, unless somebody woke it meanwhile: then it goes on, and looks at its interrupts first.
    pub(super) fn block(&mut self, reason: BlockReason) {
        match self.scheduler.block(reason) {
            Ok(()) => self.must_schedule = true,
            Err(_woken) => self.must_refresh = true,
        }
    }

    /// Takes all pending interrupts, on behalf of a host that idled. `true`: one of them is the host's own.
    pub fn take_interrupts(&mut self) -> bool {
        loop {
            match self.take_interrupt() {
                PhysicalInterrupt::None => return false,
                PhysicalInterrupt::Host => return true,
                _ => {}
            }
        }
    }

    /// Takes one interrupt, and leaves to the next step what follows from it.
    fn take_interrupt(&mut self) -> PhysicalInterrupt {
        let interrupt = self.hardware.acknowledge();
        self.handle_interrupt(interrupt);
        interrupt
    }

    /// Does what one of our interrupts asks for, when a host with interrupt handling of its own has acknowledged it.
    pub fn handle_interrupt(&mut self, interrupt: PhysicalInterrupt) {
        match interrupt {
            PhysicalInterrupt::Kick => self.scheduler.kicked(),
            PhysicalInterrupt::HypervisorTimer => {
                self.hardware.timer_fired();
                self.scheduler.timer_fired();
            }
            // Also if the vCPU waits with its registers loaded; the token makes it look at its interrupts.
            PhysicalInterrupt::GuestTimer(timer) => match self.scheduler.loaded() {
                Some(vcpu) => vcpu.handle().wake(),
                None => self.hardware.dismiss_timer(timer),
            },
            // A level that only looking takes away: it would come back at once.
            PhysicalInterrupt::Maintenance => {
                if let Some(vcpu) = self.scheduler.loaded()
                    && self.hardware.has_deliverable_interrupt(vcpu)
                {
                    vcpu.handle().wake();
                }
                self.must_schedule = true;
            }
            // Whoever it was passed to has woken the vCPU that it is for.
            PhysicalInterrupt::Passed | PhysicalInterrupt::Host | PhysicalInterrupt::None => {}
        }
    }
}
