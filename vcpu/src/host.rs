//! What the engine asks of the machine it runs on: the embedder implements it, for example `trapline-platform`.

use crate::interrupts::TimerPpi;

/// The physical timer and interrupt controller of one pCPU. All methods concern the pCPU that calls them, with physical
/// interrupts masked at EL2.
pub trait Host {
    /// The host's own code uses FP registers between two steps. Then a step takes the guest's out and sets CPTR_EL2 to the
    /// host's value before it returns, which other hosts need not pay for. Their contents are not kept over a step, and
    /// compiled code must not use them either way: host and engine are built for soft-float.
    const USES_FP: bool;

    /// The physical counter. [DDI0487: CNTPCT_EL0]
    fn now(&self) -> u64;

    /// Raises [`PhysicalInterrupt::HypervisorTimer`] at this counter value (at once if it has passed), or never.
    /// [DDI0487: CNTHP_CVAL_EL2]
    fn set_timer(&mut self, deadline: Option<u64>);

    /// Acknowledges the most urgent pending interrupt, drops its priority, and deactivates it unless it is a
    /// [`PhysicalInterrupt::GuestTimer`] or a [`PhysicalInterrupt::Passed`], which stay active until the guest or the vGIC is
    /// done with them, or a [`PhysicalInterrupt::Host`], which is the host's. It must not be one of those that only the host
    /// wants: for them it leaves everything as it is.
    fn acknowledge(&mut self) -> PhysicalInterrupt;

    /// How the virtual CPU interface is reached, the same on all pCPUs.
    fn interface(&self) -> InterfaceAccess;

    /// The private peripheral interrupt is active on this pCPU. [IHI0069: GICR_ISACTIVER0]
    fn is_ppi_active(intid: u32) -> bool;

    /// Deactivates a private peripheral interrupt on this pCPU, or a [`PhysicalInterrupt::Passed`] one.
    /// [IHI0069: GICR_ICACTIVER0, ICC_DIR_EL1]
    fn deactivate(intid: u32);
}

/// How EL2 reaches the virtual CPU interface of its pCPU.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum InterfaceAccess {
    /// By system registers, as GICv3 has them. [IHI0069: ICH registers]
    SystemRegisters,
    /// In memory at this address, which shows each pCPU its own, as GICv2 has it. [IHI0048: GICH registers]
    Memory(u64),
}

/// Whose a physical interrupt is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PhysicalInterrupt {
    /// Another pCPU wants this one to look: the SGI that `trapline_sched::Host::kick` sends.
    Kick,
    /// The timer that [`Host::set_timer`] sets.
    HypervisorTimer,
    /// A timer of the bound guest.
    GuestTimer(TimerPpi),
    /// The virtual CPU interface ran low on list registers, or the guest ended an interrupt that must be sampled again.
    Maintenance,
    /// A guest's device: the host has told whoever passes it to the guest.
    Passed,
    /// None of ours.
    Host,
    /// Nothing was pending.
    None,
}
