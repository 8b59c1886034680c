//! Virtual SErrors.

use core::sync::atomic::{AtomicU32, Ordering::SeqCst};

use trapline_demos::guest::{
    cpu,
    exceptions::{self, Frame, Kind},
    hypervisor, power,
};

use crate::support::{self, check};

/// The call that a virtual SError is the answer to.
const SERROR: u32 = 0xc600_0015;

static TAKEN: AtomicU32 = AtomicU32::new(0);

fn count(kind: Kind, frame: &mut Frame) {
    match kind {
        Kind::SystemError => {
            TAKEN.fetch_add(1, SeqCst);
        }
        _ => exceptions::report(kind, frame),
    }
}

/// Each is taken once, although others want the pCPU before and afterwards, and none does when it is yielded: what traps then is
/// written into the register that has the SError.
pub fn taken_once() {
    support::on_exception(count);
    support::start(2);
    cpu::unmask_serrors();
    for round in 1..=10 {
        support::run_on(1, || ());
        support::join(1);
        power::call(SERROR, [0; 3]);
        support::await_or_fail("an SError", || TAKEN.load(SeqCst) >= round);
        power::call(hypervisor::YIELD, [0; 3]);
        let taken = TAKEN.load(SeqCst);
        check!(taken == round, "{taken} were taken instead of {round}");
    }
}
