//! What a hypervisor tells its guest by calls: random numbers, and the time that it stole.

use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

use trapline_demos::guest::{
    cpu, machine, mmio,
    power::{self, Conduit, status},
};

use crate::{
    read_only::expect_read_only,
    support::{self, check, is_strict},
};

/// [DEN0098]
mod trng {
    pub const VERSION: u32 = 0x8400_0050;
    pub const FEATURES: u32 = 0x8400_0051;
    pub const GET_UUID: u32 = 0x8400_0052;
    pub const RND32: u32 = 0x8400_0053;
    pub const RND64: u32 = 0xc400_0053;
}

/// [DEN0057]
mod stolen {
    pub const FEATURES: u32 = 0xc500_0020;
    pub const ADDRESS: u32 = 0xc500_0021;
}

/// [DEN0028]
const ARCH_FEATURES: u32 = 0x8000_0001;

/// Random numbers come as asked for, and not twice.
pub fn random_numbers() {
    let version = power::call(trng::VERSION, [0; 3]);
    if version == status::NOT_SUPPORTED && !is_strict() {
        return support::say(format_args!("there are none"));
    }
    check!(version == 0x1_0000, "TRNG_VERSION is {version:#x}");
    for function in [trng::FEATURES, trng::GET_UUID, trng::RND32, trng::RND64] {
        let result = power::call(trng::FEATURES, [function.into(), 0, 0]);
        check!(result == 0, "TRNG_FEATURES({function:#x}) is {result}");
    }
    let call = |function, count| {
        let registers = power::call_registers(Conduit::of_machine(), function, [count, 0, 0]);
        (
            registers[0] as i32,
            [registers[1], registers[2], registers[3]],
        )
    };
    for (function, most) in [(trng::RND32, 96), (trng::RND64, 192)] {
        for count in [0, most + 1] {
            let (result, words) = call(function, count);
            check!(
                i64::from(result) == status::INVALID_PARAMETERS && words == [0; 3],
                "{count} bits of {function:#x}: {result}, {words:x?}"
            );
        }
        let (first, second) = (call(function, most), call(function, most));
        check!(
            first.0 == 0 && second.0 == 0 && first.1 != second.1,
            "{function:#x} returned {first:x?} and {second:x?}"
        );
        let (result, [high, middle, low]) = call(function, 5);
        check!(
            result == 0 && high == 0 && middle == 0 && low < 32,
            "5 bits of {function:#x}: {high:#x} {middle:#x} {low:#x}"
        );
    }
}

/// How long CPUs compute to see what is stolen from them.
const WORK_US: u64 = 300_000;
const NANOSECONDS: u64 = 1_000_000_000;

/// The record of CPU 0; those of the others follow it, at 64 bytes each.
static RECORDS: AtomicU64 = AtomicU64::new(0);
/// What CPU 1 lost while it computed, in nanoseconds.
static LOST: AtomicU64 = AtomicU64::new(0);

fn stolen_from(cpu: usize) -> u64 {
    mmio::read64(RECORDS.load(SeqCst) as usize + 64 * cpu + 8)
}

/// Computes for a while; what was stolen meanwhile, in nanoseconds.
fn compute() -> u64 {
    let (start, end) = (cpu::now(), cpu::now() + cpu::microseconds(WORK_US));
    let before = stolen_from(cpu::index());
    let mut last = before;
    while cpu::now() < end {
        let now = stolen_from(cpu::index());
        check!(now >= last, "stolen time went back from {last} to {now}");
        last = now;
    }
    let elapsed = (cpu::now() - start) * NANOSECONDS / cpu::frequency();
    check!(
        last - before <= elapsed,
        "{} ns were stolen in {elapsed} ns",
        last - before
    );
    last - before
}

/// A CPU that shares its processor sees how much of it others had, one that has it alone sees next to nothing, and turning it off
/// and on changes nothing of that.
pub fn stolen_time() {
    let discovered = power::call(ARCH_FEATURES, [stolen::FEATURES.into(), 0, 0]);
    if discovered == status::NOT_SUPPORTED && !is_strict() {
        return support::say(format_args!("it is not told"));
    }
    check!(discovered == 0, "SMCCC_ARCH_FEATURES says {discovered}");
    let has_address = power::call(stolen::FEATURES, [stolen::ADDRESS.into(), 0, 0]);
    check!(has_address == 0, "PV_TIME_FEATURES says {has_address}");
    let address = power::call(stolen::ADDRESS, [0; 3]);
    check!(
        address > 0 && address % 64 == 0,
        "PV_TIME_ST is {address:#x}"
    );
    RECORDS.store(address as u64, SeqCst);
    let version = mmio::read64(address as usize);
    check!(version == 0, "revision and attributes are {version:#x}");

    expect_read_only("record", || mmio::write64(address as usize + 8, u64::MAX));
    check!(stolen_from(0) != u64::MAX, "the record was written");

    let work = WORK_US * 1000;
    let alone = compute();
    check!(
        alone < work / 4,
        "{alone} ns were stolen, and nobody had them"
    );
    if machine::cpu_count() == 1 {
        return support::say(format_args!("alone={alone}"));
    }
    support::start(2);
    support::run_on(1, || LOST.store(compute(), SeqCst));
    let lost = [compute(), {
        support::join(1);
        LOST.load(SeqCst)
    }];
    for (cpu, lost) in lost.into_iter().enumerate() {
        check!(
            lost > work / 4,
            "CPU {cpu} shared its processor and lost only {lost} ns of {work}"
        );
    }
    let before = stolen_from(1);
    support::run_on(1, || power::stop_this_cpu());
    support::await_or_fail("CPU 1 to be off", || {
        power::state_of(1) == power::affinity::OFF
    });
    support::start(2);
    support::run_on(1, || LOST.store(stolen_from(1), SeqCst));
    support::join(1);
    let after = LOST.load(SeqCst);
    check!(after >= before, "a reset took it from {before} to {after}");
    support::say(format_args!("alone={alone} shared={},{}", lost[0], lost[1]));
}
