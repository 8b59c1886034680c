//! The engine's part of loads and stores that the syndrome does not describe: brings the instruction, and dispatches what it
//! accesses. Which instruction does what is `crate::emulate`'s business.

use trapline_sched::BlockReason;

use super::fault::{self, HardwareAddresses};
use super::percpu::Aarch64PerCpu;
use crate::aarch32;
use crate::action::Action;
use crate::decode::{self, FaultAddresses};
use crate::dispatch::Dispatch;
use crate::emulate::{self, Access, Next, Then, Verdict};
use crate::exit::{Abort, Exit};
use crate::host::Host;
use crate::wait::WaitsFor;

impl<D: Dispatch, H: Host> Aarch64PerCpu<D, H> {
    /// Does what hardware would about a data abort that no handler has answered.
    #[cold]
    #[inline(never)]
    pub(super) fn undescribed_abort(&mut self, abort: &Abort) {
        let vcpu = self.loaded();
        let frame = &vcpu.registers.trap_context_regs;
        match emulate::judge(abort, aarch32::is_aarch32(frame.spsr)) {
            Verdict::Abort => return self.abort_access(abort),
            Verdict::Finish => {
                return self.answer_with(Action::Finish, &Exit::DataAbort(*abort), abort.esr);
            }
            Verdict::Decode => {}
        }
        // Its own tables may have changed meanwhile: then the guest finds out by running the instruction again.
        let Some(place) = HardwareAddresses.translate(frame.elr) else {
            return;
        };
        let (stack_pointer, is_big_endian) = (
            fault::stack_pointer(frame.spsr),
            decode::is_big_endian(frame.spsr, HardwareAddresses.system_control()),
        );
        let access = self.instruction(place).and_then(|word| {
            let frame = &self.loaded().registers.trap_context_regs;
            Access::new(word, frame, stack_pointer, is_big_endian, abort)
        });
        match access {
            Some(access) => self.go_on(access),
            None => self.abort_access(abort),
        }
    }

    /// Goes on with an access that had to wait in its middle. Nothing of the guest runs before it is through: an interrupt
    /// handler of the guest's would find it half done.
    #[cold]
    #[inline(never)]
    pub(super) fn go_on_with_unfinished(&mut self) {
        if let Some(access) = self.loaded().registers.unfinished.take() {
            self.go_on(access);
        }
    }

    /// Does what is left of an access, until all is done or it has to wait.
    #[cold]
    #[inline(never)]
    pub(super) fn go_on(&mut self, mut access: Access) {
        if access.uses_vectors() {
            self.take_vectors();
        }
        let exit = Exit::DataAbort(*access.abort());
        loop {
            let registers = &self.loaded().registers;
            // Hardware has checked what the guest may do on the page that it reported only. [DDI0487: SPSR_EL2.M]
            let is_el0 = registers.trap_context_regs.spsr & 0b1100 == 0;
            let next = access.next(
                &registers.trap_context_regs,
                &registers.fp.vectors,
                |address| fault::translate_as(address, is_el0, access.is_store()),
            );
            let element = match next {
                Next::Element(element) => Exit::Mmio(element),
                Next::Nowhere => return self.abort_access(access.abort()),
                Next::Done => {
                    let registers = &mut self.loaded().registers;
                    let frame = &mut registers.trap_context_regs;
                    let stack_pointer = access.finish(frame, &mut registers.fp.vectors);
                    if let Some(stack_pointer) = stack_pointer {
                        fault::set_stack_pointer(frame.spsr, stack_pointer);
                    }
                    return self.answer_with(access.afterwards(), &exit, access.abort().esr);
                }
            };
            match access.answered(self.dispatch(&element)) {
                Then::GoOn => {}
                Then::Keep(action) => {
                    self.loaded().registers.unfinished = Some(access);
                    match action {
                        Action::Suspend => self.block(BlockReason::Remote),
                        Action::WaitAndRetry => self.wait_for(WaitsFor::Any),
                        _ => {}
                    }
                    // The loop comes back here by way of the scheduler, whether the vCPU was blocked or not.
                    self.must_schedule = true;
                    return;
                }
                Then::Abort => return self.abort_access(access.abort()),
                Then::Answer(action) => {
                    return self.answer_with(action, &exit, access.abort().esr);
                }
            }
        }
    }

    /// The guest gets an external abort of the access; none of its registers has changed.
    fn abort_access(&mut self, abort: &Abort) {
        let far = abort.virtual_address.unwrap_or(0);
        self.inject_abort(abort.esr, far);
    }
}
