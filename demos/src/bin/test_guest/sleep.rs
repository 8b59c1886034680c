//! A system, or a CPU, that sleeps until an interrupt. [DEN0022: SYSTEM_SUSPEND, CPU_SUSPEND] QEMU's own firmware cannot do it.

use core::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Acquire, Release},
};

use trapline_demos::guest::{
    boot::{self, ENTRY_PROCESSOR_STATE, Entry},
    cpu, gic, machine,
    power::{self, affinity, status},
    timer::Timer,
};

use crate::{
    own_registers,
    support::{self, check, on_exception},
    undefined::skip_undefined,
};

/// The context that the CPU enters with when it wakes up.
pub const COOKIE: u64 = 0x51ee_9e12;
/// CPU_SUSPEND's power_state for a state that loses the CPU's context.
const POWER_DOWN: u64 = 1 << 16;
const EXCEPTION_REGISTERS: [&str; 4] = ["FAR_EL1", "ESR_EL1", "SPSR_EL1", "ELR_EL1"];
const SLEEP_US: u64 = 5_000;

/// It is the CPU alone that sleeps.
static IS_CPU: AtomicBool = AtomicBool::new(false);
static ROUND: AtomicU64 = AtomicU64::new(0);
static DEADLINE: AtomicU64 = AtomicU64::new(0);

/// Sleeps until its timer fires, `rounds` times; every other time its CPU interface would let nothing through, as an operating
/// system leaves it. It wakes up where it said, with its registers reset, and not before its timer. With `soon=1` the timer fires
/// while it goes to sleep, a little later each time.
pub fn until_the_timer() {
    check!(
        power::call(power::FEATURES, [power::SYSTEM_SUSPEND.into(), 0, 0]) == status::SUCCESS,
        "there is no SYSTEM_SUSPEND"
    );
    remember_registers();
    support::start_all();
    let refused = suspend(boot::secondary_entry());
    check!(
        refused == status::DENIED,
        "with another CPU on it returned {refused}"
    );
    support::run_on(1, power_off);
    support::await_or_fail("the other CPU to go off", || {
        power::state_of(1) == affinity::OFF
    });
    let refused = suspend(0);
    check!(
        refused == status::INVALID_ADDRESS,
        "with no entry it returned {refused}"
    );
    sleep()
}

/// The same for one CPU, while another one is on.
pub fn one_cpu() {
    IS_CPU.store(true, Release);
    remember_registers();
    support::start_all();
    for (power_state, entry, expected) in [
        (1 << 31, boot::secondary_entry(), status::INVALID_PARAMETERS),
        (
            POWER_DOWN | 1 << 17,
            boot::secondary_entry(),
            status::INVALID_PARAMETERS,
        ),
        (POWER_DOWN, 0, status::INVALID_ADDRESS),
        (
            POWER_DOWN,
            boot::secondary_entry() + 2,
            status::INVALID_ADDRESS,
        ),
    ] {
        let refused = power::call(power::CPU_SUSPEND, [power_state, entry, 0]);
        check!(
            refused == expected,
            "CPU_SUSPEND to {power_state:#x}, {entry:#x} returned {refused}"
        );
    }
    sleep()
}

/// What this CPU's registers are, which nobody has written yet.
fn remember_registers() {
    on_exception(skip_undefined);
    own_registers::remember();
}

fn power_off() {
    power::stop_this_cpu()
}

fn suspend(entry: u64) -> i64 {
    let context = boot::context(0, COOKIE);
    if IS_CPU.load(Acquire) {
        power::call(power::CPU_SUSPEND, [POWER_DOWN, entry, context])
    } else {
        power::call(power::SYSTEM_SUSPEND, [entry, context, 0])
    }
}

fn sleep() -> ! {
    let round = ROUND.fetch_add(1, Release);
    gic::set_priority_mask(if round.is_multiple_of(2) { 0 } else { 0xff });
    gic::enable(Timer::Virtual.intid());
    own_registers::leave_patterns(round);
    let is_soon = machine::parameters().number("soon", 0) != 0;
    let sleep = if is_soon {
        round
    } else {
        cpu::microseconds(SLEEP_US)
    };
    let deadline = cpu::now() + sleep;
    DEADLINE.store(deadline, Release);
    Timer::Virtual.arm(deadline);
    let returned = suspend(boot::secondary_entry());
    support::fail(format_args!("the call returned {returned}"))
}

/// The CPU is awake.
pub fn woken(entry: &Entry) -> ! {
    // The interrupt controller was not asleep. What the program did since its own start is in those of exceptions.
    own_registers::expect_reset("its sleep", |name| {
        !name.starts_with("ICC_") && !EXCEPTION_REGISTERS.contains(&name)
    });
    let (now, deadline) = (cpu::now(), DEADLINE.load(Acquire));
    check!(now >= deadline, "it woke up at {now}, before {deadline}");
    check!(
        entry.processor_state == ENTRY_PROCESSOR_STATE,
        "it woke up with PSTATE {:#x}",
        entry.processor_state
    );
    const MMU_AND_CACHES: u64 = 1 | 1 << 2 | 1 << 12;
    check!(
        entry.system_control & MMU_AND_CACHES == 0,
        "it woke up with SCTLR_EL1 {:#x}",
        entry.system_control
    );
    let control = Timer::Virtual.control();
    check!(control & 1 == 0, "it woke up with its timer on: {control}");
    let rounds = machine::parameters().number("rounds", 20);
    if ROUND.load(Acquire) < rounds {
        sleep();
    }
    support::say(format_args!(
        "rounds={rounds} cpus={}",
        machine::cpu_count()
    ));
    support::pass()
}
