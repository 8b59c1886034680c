//! What a guest that waits gets: its pCPU goes to others.

use trapline_vcpu::{Action, Exit, GuestFault, exit::WaitKind};

use crate::{
    handler::{ExitHandler, GuestCpu},
    overcommit::yield_from_spin,
    registry::{Claim, ExitClass},
};

/// Answers WFI, WFE, WFIT and WFET.
pub struct WaitInstructions;

impl WaitInstructions {
    /// All waits that trap.
    pub const CLAIMS: [Claim; 2] = [
        Claim::Class(ExitClass::WaitInterrupt),
        Claim::Class(ExitClass::WaitEvent),
    ];
}

impl ExitHandler for WaitInstructions {
    fn name(&self) -> &str {
        "wait"
    }

    fn handle(&self, guest: &mut GuestCpu<'_>, exit: &Exit) -> Action {
        match exit {
            Exit::Wait(WaitKind::Interrupt) => Action::Wait,
            // Events are sent between pCPUs in hardware, where nobody counts them, so a vCPU cannot wait for one off its
            // pCPU. Guests wait like this for a lock: whoever holds it should run. [DDI0487: WFE wake-up events]
            Exit::Wait(WaitKind::Event) => yield_from_spin(guest),
            // The ID registers that guests see have no WFxT.
            Exit::Wait(WaitKind::InterruptUntil(_) | WaitKind::EventUntil(_)) => {
                Action::Fault(GuestFault::Undefined)
            }
            _ => Action::Decline,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::support::Machine;
    use trapline_vcpu::YieldTo;

    #[test]
    fn wfi_waits_and_what_is_hidden_is_undefined() {
        let machine = Machine::with_vcpus(1);
        machine.register(&WaitInstructions::CLAIMS, WaitInstructions);
        let undefined = Action::Fault(GuestFault::Undefined);
        let cases = [
            (WaitKind::Interrupt, Action::Wait),
            (WaitKind::Event, Action::Yield(YieldTo::ANYBODY)),
            (WaitKind::InterruptUntil(0), undefined),
            (WaitKind::EventUntil(u64::MAX), undefined),
        ];
        for (kind, expected) in cases {
            assert_eq!(machine.cpu(0).exit(Exit::Wait(kind)), expected, "{kind:?}");
        }
    }
}
