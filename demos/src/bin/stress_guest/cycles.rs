//! CPU_OFF by a CPU, and CPU_ON by another. [DEN0022]
//!
//! ```text
//!  the CPU:     close mail, offer itself, CPU_OFF . . . . . entry: check, announce -> wait for `checked` -> go on
//!  its helper:  take the offer, AFFINITY_INFO or CPU_ON until it is off, CPU_ON, await announcement, set `checked`
//! ```

use core::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Acquire, Relaxed, Release, SeqCst},
};

use aarch64_cpu::registers::{CNTP_CTL_EL0, CNTV_CTL_EL0, CNTV_CVAL_EL0, Readable, Writeable};
use trapline_demos::guest::{
    MAX_CPUS,
    boot::{ENTRY_PROCESSOR_STATE, Entry},
    cpu, gic, machine, mmio,
    power::{self, affinity, status},
    random::Random,
    timer::{ENABLE, IMASK, NEVER, Timer},
};

use crate::{
    mail,
    state::{Doing, cpu_state, fail},
};

/// Also check what PSCI asks and QEMU's own firmware does not do: CPU_ON resets the CPU's part of the interrupt controller, and
/// until the CPU is there it is ON_PENDING, not OFF.
pub static IS_STRICT: AtomicBool = AtomicBool::new(false);

struct Cycle {
    /// The CPU is off, or about to be: somebody is to turn it on.
    is_offered: AtomicBool,
    /// The cookie with which it is to enter.
    cookie: AtomicU64,
    /// The cookie with which it last entered.
    announced: AtomicU64,
    /// Its helper has seen it on.
    is_checked: AtomicBool,
}

static CYCLES: [Cycle; MAX_CPUS] = [const {
    Cycle {
        is_offered: AtomicBool::new(false),
        cookie: AtomicU64::new(0),
        announced: AtomicU64::new(0),
        is_checked: AtomicBool::new(false),
    }
}; MAX_CPUS];

/// The boot CPU turns on the CPU at `index`, which nobody has turned on before.
pub fn start_first_time(index: usize) {
    expect(
        index,
        "AFFINITY_INFO before CPU_ON",
        power::state_of(index),
        &[affinity::OFF],
    );
    turn_on(0, index, index as u64 | 0xb007_0000, |result| {
        result == status::SUCCESS
    });
}

/// Turns on one CPU that has offered itself, if there is one.
pub fn help(index: usize, random: &mut Random) {
    let count = machine::cpu_count();
    let start = random.below(count as u64) as usize;
    let offered = (0..count)
        .map(|offset| (start + offset) % count)
        .find(|&other| {
            CYCLES[other].is_offered.load(Relaxed) && CYCLES[other].is_offered.swap(false, SeqCst)
        });
    let Some(other) = offered else { return };
    let cookie = random.next() >> 16;
    if random.below(2) == 0 {
        cpu_state(index).enter(Doing::AwaitingOff, other as u64);
        loop {
            let now = power::state_of(other);
            expect(
                other,
                "AFFINITY_INFO until it is off",
                now,
                &[affinity::ON, affinity::OFF],
            );
            if now == affinity::OFF {
                break;
            }
            cpu::relax();
        }
        turn_on(index, other, cookie, |result| result == status::SUCCESS);
    } else {
        turn_on(index, other, cookie, |result| {
            result == status::SUCCESS || result == status::ALREADY_ON
        });
    }
}

/// CPU_ON until it succeeds; results that are not `legal` before that fail the run.
fn turn_on(index: usize, other: usize, cookie: u64, legal: impl Fn(i64) -> bool) {
    let cycle = &CYCLES[other];
    cycle.is_checked.store(false, Relaxed);
    cycle.cookie.store(cookie, Release);
    let state = cpu_state(index);
    state.enter(Doing::Starting, other as u64);
    loop {
        let result = power::start_cpu(other, cookie);
        if !legal(result) {
            fail(format_args!("CPU_ON of CPU {other} returned {result}"));
        }
        if result == status::SUCCESS {
            break;
        }
        cpu::relax();
    }
    if IS_STRICT.load(Relaxed) {
        let now = power::state_of(other);
        expect(
            other,
            "AFFINITY_INFO after CPU_ON",
            now,
            &[affinity::ON, affinity::ON_PENDING],
        );
        let again = power::start_cpu(other, !cookie >> 16);
        expect(
            other,
            "a second CPU_ON",
            again,
            &[status::ALREADY_ON, status::ON_PENDING],
        );
    }
    state.enter(Doing::AwaitingStart, other as u64);
    while cycle.announced.load(Acquire) != cookie {
        cpu::relax();
    }
    expect(
        other,
        "AFFINITY_INFO of a running CPU",
        power::state_of(other),
        &[affinity::ON],
    );
    expect(
        other,
        "CPU_ON of a running CPU",
        power::start_cpu(other, 0),
        &[status::ALREADY_ON],
    );
    cycle.is_checked.store(true, Release);
}

fn expect(other: usize, what: &str, result: i64, allowed: &[i64]) {
    if !allowed.contains(&result) {
        fail(format_args!(
            "{what}: {result} for CPU {other}, instead of one of {allowed:?}"
        ));
    }
}

/// Turns this CPU off; it comes back through the program's `secondary`.
pub fn leave(index: usize) -> ! {
    let state = cpu_state(index);
    state.enter(Doing::Leaving, 0);
    mail::close(index);
    cpu::mask_interrupts();
    // A timer that would fire and an open mask: what a CPU must not find when it comes back.
    CNTV_CVAL_EL0.set(NEVER);
    CNTV_CTL_EL0.set(ENABLE | IMASK);
    state.enter(Doing::Off, 0);
    CYCLES[index].is_offered.store(true, SeqCst);
    power::stop_this_cpu();
}

/// A CPU that was turned on is as PSCI promises, and runs with what its helper passed. It has not touched its interrupt
/// controller yet.
pub fn check_entry(entry: &Entry) {
    let cookie = CYCLES[entry.index].cookie.load(Acquire);
    if entry.cookie != cookie {
        fail(format_args!(
            "CPU_ON passed {cookie:#x}, the CPU entered with {:#x}",
            entry.cookie
        ));
    }
    if entry.processor_state != ENTRY_PROCESSOR_STATE {
        fail(format_args!(
            "the CPU entered with PSTATE {:#x} instead of {ENTRY_PROCESSOR_STATE:#x}",
            entry.processor_state
        ));
    }
    // M, C and I.
    if entry.system_control & (1 | 1 << 2 | 1 << 12) != 0 {
        fail(format_args!(
            "the CPU entered with SCTLR_EL1 {:#x}: MMU or caches are on",
            entry.system_control
        ));
    }
    if (CNTV_CTL_EL0.get() | CNTP_CTL_EL0.get()) & ENABLE != 0 {
        fail(format_args!(
            "the CPU entered with a timer on: {:#x} {:#x}",
            CNTV_CTL_EL0.get(),
            CNTP_CTL_EL0.get()
        ));
    }
    // A GICv2 is no part of the CPU, and QEMU leaves it as it was.
    let is_reset = !gic::is_v2() || IS_STRICT.load(Relaxed);
    if is_reset && (gic::priority_mask() != 0 || gic::is_group_on()) {
        fail(format_args!(
            "the CPU entered with its interrupt interface on, priority mask {:#x}",
            gic::priority_mask()
        ));
    }
    if IS_STRICT.load(Relaxed) {
        let frame = gic::frame_of_this_cpu();
        // SGIs may be enabled at reset; what this guest enabled beyond them must be gone.
        let enabled = mmio::read32(frame + gic::offset::ISENABLER) & 1 << Timer::Virtual.intid();
        let priorities = mmio::read32(frame + gic::offset::IPRIORITYR + 24);
        if enabled != 0 || priorities != 0 {
            fail(format_args!(
                "the CPU's interrupts were not reset: enabled {enabled:#x}, priorities {priorities:#x}"
            ));
        }
    }
}

/// Tells the helper that this CPU runs, and waits until the helper has looked.
pub fn announce(entry: &Entry) {
    let state = cpu_state(entry.index);
    if state.doing() == Doing::Off {
        state.cycles.fetch_add(1, Relaxed);
    }
    state.enter(Doing::AwaitingHelper, 0);
    CYCLES[entry.index].announced.store(entry.cookie, Release);
    while !CYCLES[entry.index].is_checked.load(Acquire) {
        cpu::relax();
    }
}
