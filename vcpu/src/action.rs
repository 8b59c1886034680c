//! What a handler decides. It returns a value; `Aarch64PerCpu::step` is the one place that acts on it.

use trapline_sched::VcpuId;

/// What happens to the vCPU that exited. No handler moves the guest PC: the action says how.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use]
pub enum Action {
    /// The instruction is done: resume after it.
    Finish,
    /// The instruction is done and reads this value (an MMIO load or an MRS): resume after it.
    FinishRead(u64),
    /// Run the same instruction again.
    Retry,
    /// The guest did wrong: it takes this exception at the instruction.
    Fault(GuestFault),
    /// Done; the pCPU is free until this vCPU has an interrupt that it can take.
    Wait,
    /// Run the same instruction again, once this vCPU may have an interrupt, also one that it cannot take; or sooner.
    WaitAndRetry,
    /// Done: the vCPU's registers are as PSCI CPU_ON leaves them, with this PC and this x0. Its interrupts stay as they are.
    Restart {
        /// The PC.
        entry: u64,
        /// x0.
        context: u64,
    },
    /// Done, and others may run first: the vCPU named, if it is ready here, else whoever the policy picks.
    Yield(Option<VcpuId>),
    /// Run the same instruction again, once somebody calls `VcpuHandle::complete`.
    Suspend,
    /// Done; the vCPU is off until a PSCI CPU_ON.
    PowerOff,
    /// The VM is finished: none of its vCPUs runs again. The handler has recorded why.
    Stop,
    /// Not mine: offer it to the next handler. A data abort that nobody takes is left to the engine, which does the load or
    /// store as [`Exit::Mmio`](crate::Exit::Mmio) if it can.
    Decline,
}

/// An exception that the guest takes at EL1. [DDI0487: AArch64.TakeException]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum GuestFault {
    /// Unknown reason: the instruction is undefined.
    Undefined,
    /// A synchronous external abort of the access that exited.
    ExternalAbort,
    /// An SError interrupt.
    SError,
}
