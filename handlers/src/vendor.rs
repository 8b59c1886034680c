//! Which hypervisor this is: the vendor specific hypervisor service's own calls. [DEN0028: General service queries]

use trapline_vcpu::{Action, Exit};

use crate::{
    handler::{ExitHandler, GuestCpu},
    registry::Claim,
    smccc::uuid_registers,
};

const CALL_UID: u32 = 0x8600_ff01;
const REVISION: u32 = 0x8600_ff03;

/// Trapline, a0b6c5f1-5d0e-4b57-8d0c-7a1e6c3f92d4.
const UUID: u128 = 0xa0b6_c5f1_5d0e_4b57_8d0c_7a1e_6c3f_92d4;
/// Of the service, major and minor. Which functions there are beside these a guest finds by calling them.
const VERSION: [u64; 2] = [1, 0];

/// Answers the two calls; what an embedder offers beside them is its own to claim.
pub struct VendorCalls;

impl VendorCalls {
    /// Call UID and Revision.
    pub const CLAIMS: [Claim; 2] = [
        Claim::Calls(CALL_UID..=CALL_UID),
        Claim::Calls(REVISION..=REVISION),
    ];
}

impl ExitHandler for VendorCalls {
    fn name(&self) -> &str {
        "vendor"
    }

    fn handle(&self, guest: &mut GuestCpu<'_>, _exit: &Exit) -> Action {
        let uuid = uuid_registers(UUID);
        let answers = match guest.register(0) as u32 {
            CALL_UID => &uuid[..],
            REVISION => &VERSION[..],
            _ => return Action::Decline,
        };
        (0..)
            .zip(answers)
            .for_each(|(index, &value)| guest.set_register(index, value));
        Action::Finish
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::{smccc::NOT_SUPPORTED, support::Machine};

    #[test]
    fn a_guest_learns_which_hypervisor_this_is() {
        let machine = Machine::with_vcpus(1);
        machine.register(&VendorCalls::CLAIMS, VendorCalls);
        let mut cpu = machine.cpu(0);
        assert_eq!(cpu.call(0x8600_ff01, [1, 2, 3]).1, 0xf1c5_b6a0);
        let rest = [1, 2, 3].map(|index| cpu.get(index));
        assert_eq!(rest, [0x574b_0e5d, 0x1e7a_0c8d, 0xd492_3f6c]);
        assert_eq!(cpu.call(0x8600_ff03, [7, 7, 7]).1, 1);
        assert_eq!(cpu.get(1), 0);
        for function in [0x8600_ff00, 0x8600_ff02, 0xc600_ff01, 0x8400_ff01] {
            assert_eq!(cpu.call(function, [0; 3]).1, NOT_SUPPORTED);
        }
    }
}
