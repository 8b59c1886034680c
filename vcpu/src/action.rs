//! What a handler decides. It returns a value; `Aarch64PerCpu::step` is the one place that acts on it.

use trapline_sched::VcpuId;

/// What happens to the vCPU that exited. No handler moves the guest PC: the action says how.
///
/// What a variant carries is one word, so that the compiler returns an action in two registers: every exit returns one twice.
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
    /// Done: the vCPU's registers are as PSCI CPU_ON leaves them, with this PC, and with x0 as the handler has left it. Its
    /// interrupts stay as they are.
    Restart(u64),
    /// Done, and others may run first.
    Yield(YieldTo),
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

const _: () = assert!(size_of::<Action>() == 2 * size_of::<u64>());

/// Who runs first when a vCPU yields.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct YieldTo(u64);

impl YieldTo {
    /// Whoever the policy picks.
    pub const ANYBODY: Self = Self(u64::MAX);

    /// This vCPU, if it is ready on the same pCPU, else whoever the policy picks.
    pub const fn vcpu(vcpu: VcpuId) -> Self {
        Self(vcpu.index() as u64)
    }

    /// The vCPU that was named.
    pub fn named(self) -> Option<VcpuId> {
        u16::try_from(self.0).ok().map(VcpuId::new)
    }
}

/// An exception that the guest takes at EL1. [DDI0487: AArch64.TakeException]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u64)]
pub enum GuestFault {
    /// Unknown reason: the instruction is undefined.
    Undefined,
    /// A synchronous external abort of the access that exited.
    ExternalAbort,
    /// An SError interrupt.
    SError,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_yield_names_one_or_anybody() {
        for vcpu in [0, 1, u16::MAX].map(VcpuId::new) {
            assert_eq!(YieldTo::vcpu(vcpu).named(), Some(vcpu));
        }
        assert_eq!(YieldTo::ANYBODY.named(), None);
    }
}
