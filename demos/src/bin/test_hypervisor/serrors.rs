//! The call that a guest gets a virtual SError for.

use alloc::sync::Arc;

use trapline_handlers::{Claim, ExitHandler, GuestCpu, Vm};
use trapline_vcpu::{Action, Exit, GuestFault};

const SERROR: u32 = 0xc600_0015;

struct Serrors;

impl ExitHandler for Serrors {
    fn name(&self) -> &str {
        "serrors"
    }

    fn handle(&self, _guest: &mut GuestCpu<'_>, _exit: &Exit) -> Action {
        Action::Fault(GuestFault::SError)
    }
}

/// From now on the guests of `vm` can have SErrors.
pub fn register(vm: &Vm) {
    let registered = vm
        .registry()
        .register(&[Claim::Calls(SERROR..=SERROR)], Arc::new(Serrors));
    registered.expect("nobody else claims calls of this owner");
}
