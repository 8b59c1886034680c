//! Which calling convention the guest may use: the Arm architecture calls. [DEN0028: SMCCC 1.2]
//!
//! Functions that nobody claims, of any owner, answer [`NOT_SUPPORTED`] (see `Dispatcher`). Only x0 is written, so x1 to
//! x17 are as the guest left them, which is more than the convention asks.

use smccc::arch::{SMCCC_ARCH_FEATURES, SMCCC_VERSION};
use trapline_vcpu::{Action, Exit};

use crate::{
    handler::{ExitHandler, GuestCpu},
    registry::Claim,
    stolen_time::PV_TIME_FEATURES,
};

/// What x0 holds after a call that nobody answers: -1, as 32 or 64 bits. [DEN0028: Unknown Function Identifier]
pub const NOT_SUPPORTED: u64 = u64::MAX;

/// What w0 to w3 hold to say `uuid`: its bytes in order, the first one lowest in w0. [DEN0028: UID]
pub(crate) fn uuid_registers(uuid: u128) -> [u64; 4] {
    let bytes = uuid.swap_bytes();
    [0, 1, 2, 3]
        .map(|index| (bytes >> (32 * index)) as u32)
        .map(u64::from)
}

/// 1.2: major in bits 30:16, minor in bits 15:0.
const VERSION: u64 = 0x1_0002;

/// Answers SMCCC_VERSION and SMCCC_ARCH_FEATURES. The workarounds for speculation are not offered: a guest that needs
/// them finds NOT_SUPPORTED and says that it is vulnerable.
pub struct ArchitectureCalls;

impl ArchitectureCalls {
    /// Fast calls with owner 0, 32 and 64 bit. [DEN0028: Function Identifiers]
    pub const CLAIMS: [Claim; 2] = [
        Claim::Calls(0x8000_0000..=0x8000_ffff),
        Claim::Calls(0xc000_0000..=0xc000_ffff),
    ];
}

impl ExitHandler for ArchitectureCalls {
    fn name(&self) -> &str {
        "smccc"
    }

    fn handle(&self, guest: &mut GuestCpu<'_>, _exit: &Exit) -> Action {
        let answer = match guest.register(0) as u32 {
            SMCCC_VERSION => VERSION,
            SMCCC_ARCH_FEATURES => match guest.register(1) as u32 {
                SMCCC_VERSION | SMCCC_ARCH_FEATURES => 0,
                // It is not one of these functions, and yet asked for here. [DEN0057: Discovery]
                PV_TIME_FEATURES if guest.vm().stolen_time().is_some() => 0,
                _ => NOT_SUPPORTED,
            },
            _ => return Action::Decline,
        };
        guest.set_register(0, answer);
        Action::Finish
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::support::Machine;

    #[test]
    fn every_architecture_call_has_its_answer() {
        let machine = Machine::with_vcpus(1);
        machine.register(&ArchitectureCalls::CLAIMS, ArchitectureCalls);
        #[rustfmt::skip] // read by column
        let cases: &[(u64, u64, u64)] = &[
            (0x8000_0000, 0,           0x1_0002),
            (0x8000_0001, 0x8000_0000, 0),
            (0x8000_0001, 0x8000_0001, 0),
            (0x8000_0001, 0x8000_8000, NOT_SUPPORTED),
            (0x8000_0001, 0x8400_0000, NOT_SUPPORTED),
            (0x8000_0001, 0xc500_0020, NOT_SUPPORTED),
            (0x8000_0002, 0,           NOT_SUPPORTED),
            (0x8000_8000, 0,           NOT_SUPPORTED),
            (0x8000_7fff, 0,           NOT_SUPPORTED),
            (0x8000_3fff, 0,           NOT_SUPPORTED),
            (0xc000_0000, 0,           NOT_SUPPORTED),
            (0x8600_ff01, 0,           NOT_SUPPORTED),
            (0xffff_ffff, 0,           NOT_SUPPORTED),
        ];
        for &(function, argument, expected) in cases {
            let mut cpu = machine.cpu(0);
            (4..18).for_each(|index| cpu.set(index, 0x1000 + u64::from(index)));
            assert_eq!(
                cpu.call(function, [argument, 2, 3]),
                (Action::Finish, expected),
                "{function:#x}({argument:#x})"
            );
            assert!(
                (4..18).all(|index| cpu.get(index) == 0x1000 + u64::from(index)),
                "x4 to x17 are preserved"
            );
        }
    }
}
