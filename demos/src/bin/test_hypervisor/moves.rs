//! The call with which a guest moves its vCPUs.

use alloc::sync::Arc;

use trapline_handlers::{Claim, ExitHandler, GuestCpu, Vm};
use trapline_sched::PcpuId;
use trapline_vcpu::{Action, Exit};

/// x1 is the pCPU to move to, x2 the index of the vCPU, perhaps the caller's own.
const MIGRATE: u32 = 0xc600_0001;
const SUCCESS: u64 = 0;
/// There is no such vCPU or pCPU, or the one may not run on the other.
const INVALID_PARAMETERS: u64 = -2_i64 as u64;

struct Moves;

impl ExitHandler for Moves {
    fn name(&self) -> &str {
        "moves"
    }

    fn handle(&self, guest: &mut GuestCpu<'_>, _exit: &Exit) -> Action {
        let is_moved = migrate(guest).is_some();
        guest.set_register(
            0,
            if is_moved {
                SUCCESS
            } else {
                INVALID_PARAMETERS
            },
        );
        Action::Finish
    }
}

fn migrate(guest: &GuestCpu<'_>) -> Option<()> {
    let to = PcpuId::new(guest.register(1).try_into().ok()?)?;
    let vcpu = usize::try_from(guest.register(2)).ok()?;
    guest.vm().vcpu(vcpu)?.migrate(to).ok()
}

/// From now on the guests of `vm` can move their vCPUs.
pub fn register(vm: &Vm) {
    let registered = vm
        .registry()
        .register(&[Claim::Calls(MIGRATE..=MIGRATE)], Arc::new(Moves));
    registered.expect("nobody else claims calls of this owner");
}
