//! PSCI: what every function returns, and CPUs that go off and come back. [DEN0022]

use core::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use trapline_demos::guest::{
    boot::{self, ENTRY_PROCESSOR_STATE, Entry},
    cpu, gic, machine,
    power::{self, Conduit, affinity, status},
    timer::Timer,
};

use crate::{
    calls::tolerate_undefined,
    support::{self, await_or_fail, check, is_strict, on_exception, on_interrupt},
};

const NO_SUCH_CPU: u64 = 0x7f_00ff_ff7f;
const CYCLES: u64 = 50;
const FIRST_COOKIE: u64 = 0xc0_0c1e;

/// The cookie with which CPU 1 last entered, and how it is to go on.
static ENTERED: AtomicU64 = AtomicU64::new(0);
static MAY_LEAVE: AtomicU64 = AtomicU64::new(0);

fn expect(what: &str, result: i64, allowed: &[i64]) {
    check!(
        allowed.contains(&result),
        "{what} returned {result}, instead of one of {allowed:?}"
    );
}

/// The version, the queries, the errors, and many times off and on.
pub fn all() {
    on_exception(tolerate_undefined);
    queries();
    errors();
    start_32_bit();
    for round in 0..CYCLES {
        cycle(round);
    }
    suspend();
    other_conduit();
    support::say(format_args!("cycles={CYCLES}"));
}

fn queries() {
    let version = power::call(power::VERSION, [0; 3]);
    check!(
        version >> 16 == 1,
        "PSCI_VERSION is {version:#x}, and not 1.x"
    );
    for function in [
        power::CPU_ON,
        power::CPU_ON_32,
        power::CPU_OFF,
        power::AFFINITY_INFO,
        power::SYSTEM_OFF,
    ] {
        let result = power::call(power::FEATURES, [u64::from(function), 0, 0]);
        check!(
            result >= 0,
            "PSCI_FEATURES of {function:#x} returned {result}"
        );
    }
    expect(
        "PSCI_FEATURES of nothing",
        power::call(power::FEATURES, [0x8400_00fe, 0, 0]),
        &[status::NOT_SUPPORTED],
    );
    // 2: there is no trusted OS that would have to migrate.
    expect(
        "MIGRATE_INFO_TYPE",
        power::call(power::MIGRATE_INFO_TYPE, [0; 3]),
        &[2, status::NOT_SUPPORTED],
    );
    if is_strict() {
        let result = power::call(power::FEATURES, [u64::from(power::SMCCC_VERSION), 0, 0]);
        expect("PSCI_FEATURES of SMCCC_VERSION", result, &[status::SUCCESS]);
        let version = power::call(power::SMCCC_VERSION, [0; 3]);
        check!(version >= 0x1_0001, "SMCCC_VERSION is {version:#x}");
    }
}

fn errors() {
    let entry = boot::secondary_entry();
    let on = |mpidr| power::call(power::CPU_ON, [mpidr, entry, 1 << 8]);
    expect(
        "CPU_ON of no CPU",
        on(NO_SUCH_CPU),
        &[status::INVALID_PARAMETERS],
    );
    expect(
        "CPU_ON of this CPU",
        on(machine::mpidr(0)),
        &[status::ALREADY_ON],
    );
    let info = |mpidr, level| power::call(power::AFFINITY_INFO, [mpidr, level, 0]);
    expect(
        "AFFINITY_INFO of no CPU",
        info(NO_SUCH_CPU, 0),
        &[status::INVALID_PARAMETERS],
    );
    expect(
        "AFFINITY_INFO of this CPU",
        info(machine::mpidr(0), 0),
        &[affinity::ON],
    );
    expect(
        "AFFINITY_INFO of CPU 1",
        info(machine::mpidr(1), 0),
        &[affinity::OFF],
    );
    if is_strict() {
        expect(
            "AFFINITY_INFO of no level",
            info(machine::mpidr(0), 9),
            &[status::INVALID_PARAMETERS],
        );
        let result = power::call(power::CPU_ON, [machine::mpidr(1), 2, 0]);
        expect(
            "CPU_ON at an address that is no instruction's",
            result,
            &[status::INVALID_ADDRESS],
        );
        let result = power::call(power::CPU_ON, [machine::mpidr(1), 0xff_ffff_0000, 0]);
        expect(
            "CPU_ON at an address without memory",
            result,
            &[status::INVALID_ADDRESS],
        );
        // A 32-bit function ignores the upper halves of its arguments. [DEN0028]
        let garbage = 0xdead_beef << 32;
        let result = power::call(
            power::AFFINITY_INFO_32,
            [machine::mpidr(0) | garbage, garbage, garbage],
        );
        expect(
            "AFFINITY_INFO, 32-bit, with upper halves",
            result,
            &[affinity::ON],
        );
    }
}

/// The first start is by the 32-bit function.
fn start_32_bit() {
    let arguments = [
        machine::mpidr(1),
        boot::secondary_entry(),
        boot::context(1, FIRST_COOKIE & 0xff),
    ];
    expect(
        "CPU_ON, 32-bit",
        power::call(power::CPU_ON_32, arguments),
        &[status::SUCCESS],
    );
    await_entry(FIRST_COOKIE & 0xff);
    let result = power::call(power::AFFINITY_INFO_32, [machine::mpidr(1), 0, 0]);
    expect("AFFINITY_INFO, 32-bit", result, &[affinity::ON]);
}

fn await_entry(cookie: u64) {
    await_or_fail("the entry of CPU 1", || ENTERED.load(Acquire) == cookie);
}

/// CPU 1 goes off and comes back with another context.
fn cycle(round: u64) {
    let cookie = FIRST_COOKIE + (round << 32);
    expect(
        "CPU_ON of a running CPU",
        power::start_cpu(1, 1),
        &[status::ALREADY_ON],
    );
    MAY_LEAVE.store(round + 1, Release);
    await_or_fail("CPU 1 off", || power::state_of(1) == affinity::OFF);
    expect("CPU_ON", power::start_cpu(1, cookie), &[status::SUCCESS]);
    if is_strict() {
        expect(
            "AFFINITY_INFO after CPU_ON",
            power::state_of(1),
            &[affinity::ON, affinity::ON_PENDING],
        );
        let again = power::start_cpu(1, 1);
        expect(
            "CPU_ON of a CPU that is being started",
            again,
            &[status::ON_PENDING, status::ALREADY_ON],
        );
    }
    await_entry(cookie);
}

/// CPU 1's part: it says how it entered, and goes off when it may.
pub fn secondary(entry: &Entry) -> ! {
    check!(
        entry.processor_state == ENTRY_PROCESSOR_STATE,
        "it entered with PSTATE {:#x} instead of {ENTRY_PROCESSOR_STATE:#x}",
        entry.processor_state
    );
    let entries = MAY_LEAVE.load(Acquire);
    ENTERED.store(entry.cookie, Release);
    await_or_fail("the permission to leave", || {
        MAY_LEAVE.load(Relaxed) != entries
    });
    power::stop_this_cpu()
}

/// Standby ends with an interrupt, masked or not, and the call returns.
fn suspend() {
    on_interrupt(|intid| {
        Timer::Virtual.set_control(0);
        support::log_and_end(intid);
    });
    gic::enable(Timer::Virtual.intid());
    Timer::Virtual.arm(cpu::now() + cpu::microseconds(1000));
    expect(
        "CPU_SUSPEND to standby",
        power::call(power::CPU_SUSPEND, [0; 3]),
        &[status::SUCCESS],
    );
    support::expect_taken(
        "the timer that ended the standby",
        &[Timer::Virtual.intid()],
    );
}

/// The conduit that the device tree does not name is undefined, or answers the same.
fn other_conduit() {
    let other = if machine::calls_by_smc() {
        Conduit::Hvc
    } else {
        Conduit::Smc
    };
    let version = power::call_registers(other, power::VERSION, [0; 3])[0] as u32;
    let expected = power::call(power::VERSION, [0; 3]) as u32;
    let is_undefined = i64::from(version as i32) == status::NOT_SUPPORTED && !is_strict();
    check!(
        version == expected || is_undefined,
        "{other:?}: PSCI_VERSION is {version:#x}, instead of {expected:#x}"
    );
    if version == expected {
        let state =
            power::call_registers(other, power::AFFINITY_INFO, [machine::mpidr(1), 0, 0])[0];
        check!(
            state as i64 == affinity::ON,
            "{other:?}: AFFINITY_INFO of CPU 1 is {state}"
        );
    }
}
