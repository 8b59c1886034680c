//! The call with which a test makes the hypervisor fail: what it then says is what is tested.

use alloc::sync::Arc;

use trapline_handlers::{Claim, ExitHandler, GuestCpu, Vm};
use trapline_vcpu::{Action, Exit};

/// The hypervisor breaks a rule of its own.
const FAIL: u32 = 0xc600_0005;

struct Failure;

impl ExitHandler for Failure {
    fn name(&self) -> &str {
        "failure"
    }

    fn handle(&self, guest: &mut GuestCpu<'_>, _exit: &Exit) -> Action {
        break_a_rule(guest.vcpu())
    }
}

/// Has a name of its own for the backtrace to show.
#[inline(never)]
fn break_a_rule(vcpu: usize) -> Action {
    panic!("rule: vcpu {vcpu} asked for this failure")
}

/// From now on the guests of `vm` can make the hypervisor fail.
pub fn register(vm: &Vm) {
    let registered = vm
        .registry()
        .register(&[Claim::Calls(FAIL..=FAIL)], Arc::new(Failure));
    registered.expect("nobody else claims calls of this owner");
}
