//! How much all CPUs together get done in a given time: what sharing pCPUs costs.

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

/// What CPU `index` does until the time `end`; how often it did it.
pub trait Job: Fn(usize, u64) -> u64 {}

impl<F: Fn(usize, u64) -> u64> Job for F {}

/// The boot CPU's part, and the report, which begins with `name`. All CPUs start at `after` milliseconds of the guest's time, or
/// when they are there, which the report tells, so that guests beside each other work at the same time. The result is how often all
/// did it.
pub fn run(name: &str, job: impl Job, milliseconds: u64, after: u64) -> u64 {
    DURATION.store(
        cpu::microseconds(milliseconds.saturating_mul(1000)),
        Relaxed,
    );
    let others = machine::cpu_count() - 1;
    while READY.load(Acquire) != others {
        cpu::relax();
    }
    let soon = cpu::now() + cpu::microseconds(HEAD_START_US);
    let wanted = cpu::microseconds(after.saturating_mul(1000));
    let start = soon.max(wanted);
    START.store(start, Release);
    work(0, job);
    while DONE.load(Acquire) != machine::cpu_count() {
        cpu::relax();
    }
    let all = || {
        ITERATIONS
            .iter()
            .take(machine::cpu_count())
            .map(|count| count.load(Relaxed))
    };
    let sum = all().sum();
    guest_println!(
        "{name} cpus={} iterations={sum} least={} most={} late_us={}",
        machine::cpu_count(),
        all().min().unwrap_or(0),
        all().max().unwrap_or(0),
        (start - wanted) * 1_000_000 / cpu::frequency()
    );
    sum
}

/// Every other CPU's part; then it waits for the end.
pub fn join(index: usize, job: impl Job) -> ! {
    READY.fetch_add(1, AcqRel);
    while START.load(Acquire) == 0 {
        cpu::relax();
    }
    work(index, job);
    loop {
        cpu::wait_for_interrupt();
    }
}

fn work(index: usize, job: impl Job) {
    let start = START.load(Relaxed);
    let end = start + DURATION.load(Relaxed);
    while cpu::now() < start {
        cpu::relax();
    }
    ITERATIONS[index].store(job(index, end), Relaxed);
    DONE.fetch_add(1, AcqRel);
}

/// A job: computes. It gives way after each thousand steps: under icount QEMU runs one CPU until it does, or until a timer is due.
pub fn compute(_index: usize, end: u64) -> u64 {
    let mut iterations = 0;
    while cpu::now() < end {
        thousand_steps();
        cpu::relax();
        iterations += 1;
    }
    iterations
}

pub fn thousand_steps() {
    // SAFETY: counts a register down.
    unsafe {
        asm!("1: subs {count}, {count}, #1", "b.ne 1b", count = inout(reg) 500_u64 => _, options(nomem, nostack));
    }
}
