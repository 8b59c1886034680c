//! What a guest that waits gets: its pCPU goes to others.

use trapline_vcpu::{Action, Exit, YieldTo, exit::WaitKind};

use crate::{
    handler::{ExitHandler, GuestCpu},
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

    fn handle(&self, _guest: &mut GuestCpu<'_>, exit: &Exit) -> Action {
        match exit {
            Exit::Wait(WaitKind::Interrupt) => Action::Wait,
            // Events are sent between pCPUs in hardware, where nobody counts them, so a vCPU cannot wait for one off its
            // pCPU. Guests wait like this for a lock: whoever holds it should run. The forms with a deadline are hidden
            // from the guest, and may end before it. [DDI0487: WFE wake-up events, WFIT]
            Exit::Wait(WaitKind::Event | WaitKind::InterruptUntil(_) | WaitKind::EventUntil(_)) => {
                Action::Yield(YieldTo::ANYBODY)
            }
            _ => Action::Decline,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::support::Machine;

    #[test]
    fn only_wfi_waits() {
        let machine = Machine::with_vcpus(1);
        machine.register(&WaitInstructions::CLAIMS, WaitInstructions);
        let cases = [
            (WaitKind::Interrupt, Action::Wait),
            (WaitKind::Event, Action::Yield(YieldTo::ANYBODY)),
            (WaitKind::InterruptUntil(0), Action::Yield(YieldTo::ANYBODY)),
            (
                WaitKind::EventUntil(u64::MAX),
                Action::Yield(YieldTo::ANYBODY),
            ),
        ];
        for (kind, expected) in cases {
            assert_eq!(machine.cpu(0).exit(Exit::Wait(kind)), expected, "{kind:?}");
        }
    }
}
