//! The calls with which a test makes the hypervisor fail: what it then says is what is tested.

use alloc::sync::Arc;
use core::hint::black_box;

use trapline_handlers::{Claim, ExitHandler, GuestCpu, Vm};
use trapline_vcpu::{Action, Exit};

/// The hypervisor breaks a rule of its own.
const FAIL: u32 = 0xc600_0005;
/// The hypervisor needs more stack than it has.
const OVERFLOW: u32 = 0xc600_000b;

struct Failure;

impl ExitHandler for Failure {
    fn name(&self) -> &str {
        "failure"
    }

    fn handle(&self, guest: &mut GuestCpu<'_>, _exit: &Exit) -> Action {
        if guest.register(0) as u32 == OVERFLOW {
            overflow_the_stack(guest.vcpu());
        }
        break_a_rule(guest.vcpu())
    }
}

/// Has a name of its own for the backtrace to show.
#[inline(never)]
fn break_a_rule(vcpu: usize) -> Action {
    panic!("rule: vcpu {vcpu} asked for this failure")
}

/// Each call takes a kibibyte.
#[inline(never)]
fn overflow_the_stack(depth: usize) -> usize {
    if depth == usize::MAX {
        return depth;
    }
    let room = black_box([depth; 128]);
    overflow_the_stack(depth + 1) + room[depth % room.len()]
}

/// From now on the guests of `vm` can make the hypervisor fail.
pub fn register(vm: &Vm) {
    let registered = vm.registry().register(
        &[FAIL, OVERFLOW].map(|call| Claim::Calls(call..=call)),
        Arc::new(Failure),
    );
    registered.expect("nobody else claims calls of this owner");
}
