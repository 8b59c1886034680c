//! How much all CPUs together compute in a given time: what sharing pCPUs costs.

use core::{
    arch::asm,
    sync::atomic::{
        AtomicU64, AtomicUsize,
        Ordering::{AcqRel, Acquire, Relaxed, Release},
    },
};

use trapline_demos::{
    guest::{MAX_CPUS, cpu, machine},
    guest_println,
};

/// All CPUs start this long after the last of them is there, if not later.
const HEAD_START_US: u64 = 1000;

static DURATION: AtomicU64 = AtomicU64::new(0);
static START: AtomicU64 = AtomicU64::new(0);
static READY: AtomicUsize = AtomicUsize::new(0);
static DONE: AtomicUsize = AtomicUsize::new(0);
static ITERATIONS: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

/// The boot CPU's part, and the report. All CPUs start `after` milliseconds of the guest's time, or when they are there, so that
/// guests beside each other compute at the same time.
pub fn run(milliseconds: u64, after: u64) {
    DURATION.store(
        cpu::microseconds(milliseconds.saturating_mul(1000)),
        Relaxed,
    );
    let others = machine::cpu_count() - 1;
    while READY.load(Acquire) != others {
        cpu::relax();
    }
    let soon = cpu::now() + cpu::microseconds(HEAD_START_US);
    let start = soon.max(cpu::microseconds(after.saturating_mul(1000)));
    START.store(start, Release);
    compute(0);
    while DONE.load(Acquire) != machine::cpu_count() {
        cpu::relax();
    }
    let all = || {
        ITERATIONS
            .iter()
            .take(machine::cpu_count())
            .map(|count| count.load(Relaxed))
    };
    guest_println!(
        "WORK cpus={} iterations={} least={} most={}",
        machine::cpu_count(),
        all().sum::<u64>(),
        all().min().unwrap_or(0),
        all().max().unwrap_or(0)
    );
}

/// Every other CPU's part; then it waits for the end.
pub fn join(index: usize) -> ! {
    READY.fetch_add(1, AcqRel);
    while START.load(Acquire) == 0 {
        cpu::relax();
    }
    compute(index);
    loop {
        cpu::wait_for_interrupt();
    }
}

/// It gives way after each thousand steps: under icount QEMU runs one CPU until it does, or until a timer is due.
fn compute(index: usize) {
    let start = START.load(Relaxed);
    let end = start + DURATION.load(Relaxed);
    while cpu::now() < start {
        cpu::relax();
    }
    let mut iterations = 0;
    while cpu::now() < end {
        thousand_steps();
        cpu::relax();
        iterations += 1;
    }
    ITERATIONS[index].store(iterations, Relaxed);
    DONE.fetch_add(1, AcqRel);
}

pub fn thousand_steps() {
    // SAFETY: counts a register down.
    unsafe {
        asm!("1: subs {count}, {count}, #1", "b.ne 1b", count = inout(reg) 500_u64 => _, options(nomem, nostack));
    }
}
