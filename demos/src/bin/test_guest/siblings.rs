//! CPUs that let each other run, and see whether they do.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use trapline_demos::guest::{
    cpu,
    hypervisor::{self, Activity, status},
    machine, mmio,
    power::{self, status::NOT_SUPPORTED},
};

use crate::{
    read_only::expect_read_only,
    support::{self, check, is_strict},
};

const ROUNDS: u64 = 200;
/// A slice, unless somebody says otherwise, in microseconds.
const SLICE_US: u64 = 5000;

static COUNTER: AtomicU64 = AtomicU64::new(0);
static MUST_STOP: AtomicBool = AtomicBool::new(false);

fn call_to(affinity: u64) -> i64 {
    power::call(hypervisor::YIELD_TO, [affinity, 0, 0])
}

/// Counts, and lets CPU 0 run after each step.
fn count() {
    while !MUST_STOP.load(SeqCst) {
        COUNTER.fetch_add(1, SeqCst);
        hypervisor::yield_to(machine::mpidr(0));
    }
}

/// Calls about CPUs that are absent, off, or the caller have their answers; on one pCPU a CPU that is yielded to runs at once, and
/// is seen as what it is.
pub fn yields() {
    if power::call(hypervisor::YIELD, [0; 3]) == NOT_SUPPORTED && !is_strict() {
        return support::say(format_args!("there are no such calls"));
    }
    let me = machine::mpidr(0);
    check!(power::call(hypervisor::YIELD, [0; 3]) == 0, "YIELD failed");
    for (affinity, expected) in [
        (me, status::NOT_REQUIRED),
        (machine::mpidr(1), status::NOT_REQUIRED),
        (1 << 31 | me, status::INVALID_PARAMETER),
        (0xf, status::INVALID_PARAMETER),
        (0xff << 32, status::INVALID_PARAMETER),
        (u64::MAX, status::INVALID_PARAMETER),
    ] {
        let result = call_to(affinity);
        check!(result == expected, "YIELD_TO({affinity:#x}) is {result}");
    }
    let wide = power::call(hypervisor::YIELD_TO_32, [1 << 32 | me, 0, 0]);
    check!(wide == status::NOT_REQUIRED, "YIELD_TO_32 is {wide}");
    let absent = power::call(hypervisor::CPU_STATE, [0xf, 0, 0]);
    check!(
        absent == status::INVALID_PARAMETER,
        "VCPU_STATE of none is {absent}"
    );

    check!(hypervisor::find_states(), "there are no states");
    let states = || [0, 1].map(hypervisor::activity);
    check!(
        states() == [Activity::Running, Activity::Waiting],
        "before CPU 1 is on: {:?}",
        states()
    );
    let mine = power::call(hypervisor::CPU_STATE, [me, 0, 0]);
    expect_read_only("state", || mmio::write32(mine as usize, 1));

    support::start(2);
    support::run_on(1, count);
    let start = cpu::now();
    for round in 0..ROUNDS {
        let before = COUNTER.load(SeqCst);
        let mut result = call_to(machine::mpidr(1));
        // Its turn may have ended between its count and its call: then that comes first.
        if result == 0 && COUNTER.load(SeqCst) == before {
            result = call_to(machine::mpidr(1));
        }
        let after = COUNTER.load(SeqCst);
        check!(
            result == 0 && after > before,
            "round {round}: {result}, and the counter went from {before} to {after}"
        );
    }
    let took = cpu::now() - start;
    check!(
        took < cpu::microseconds(ROUNDS * SLICE_US / 2),
        "{ROUNDS} rounds took {took} ticks"
    );
    check!(
        states() == [Activity::Running, Activity::Preempted],
        "while CPU 1 counts: {:?}",
        states()
    );
    MUST_STOP.store(true, SeqCst);
    support::join(1);
    support::await_or_fail("CPU 1 to wait", || {
        hypervisor::yield_to_anybody();
        hypervisor::activity(1) == Activity::Waiting
    });
    support::say(format_args!("ticks={took}"));
}
