//! How often all CPUs together take one lock in a given time: what it costs when whoever holds it does not run.
//!
//! ```text
//!   think --> take the lock --> hold it --> free it --> think
//!                 '-- not free: poll for a while, then wait as `wait=` says, and poll again
//! ```
//! A pCPU that polls counts as many instructions as one that works: both give way to the others after each few hundred, since
//! under icount QEMU runs one CPU until it does.

use core::{
    arch::asm,
    sync::atomic::{
        AtomicBool, AtomicU64, AtomicUsize,
        Ordering::{AcqRel, Acquire, Relaxed, Release},
    },
};

use trapline_demos::guest::{
    MAX_CPUS, cpu,
    hypervisor::{self, Activity},
    machine,
    parameters::Parameters,
};

/// Instructions between two moments at which a CPU gives way.
const STRETCH: u64 = 500;
/// As many polls of the lock take about as long.
const POLLS: u64 = STRETCH / 8;

/// How the lock is made.
#[derive(Clone, Copy)]
enum Lock {
    /// Whoever comes first has it first.
    Ticket,
    /// Whoever finds it free has it.
    TestAndSet,
}

/// What a CPU does that has polled for a while.
#[derive(Clone, Copy)]
enum Wait {
    /// It polls on.
    Spin,
    /// It lets anybody run.
    Yield,
    /// It lets whoever is to free the lock run.
    Directed,
    /// The same, but only if that one does not run.
    State,
}

/// How the CPUs contend.
#[derive(Clone, Copy)]
pub struct Contention {
    lock: Lock,
    wait: Wait,
    /// Instructions with the lock, and without it.
    hold: u64,
    think: u64,
}

impl Contention {
    /// As `lock=`, `wait=`, `hold=` and `think=` say; `None` if one of them names nothing that there is.
    pub fn of(parameters: Parameters<'_>) -> Option<Self> {
        let lock = match parameters.text("lock").unwrap_or("ticket") {
            "ticket" => Lock::Ticket,
            "test-and-set" => Lock::TestAndSet,
            _ => return None,
        };
        let wait = match parameters.text("wait").unwrap_or("spin") {
            "spin" => Wait::Spin,
            "yield" => Wait::Yield,
            "directed" => Wait::Directed,
            "state" => Wait::State,
            _ => return None,
        };
        Some(Self {
            lock,
            wait,
            hold: parameters.number("hold", 1000),
            think: parameters.number("think", 8000),
        })
    }

    /// CPUs look at each other's states.
    pub fn needs_states(self) -> bool {
        matches!(self.wait, Wait::State)
    }

    /// Contends until `end`; how often it had the lock.
    pub fn contend(self, index: usize, end: u64) -> u64 {
        let mut rounds = 0;
        while cpu::now() < end {
            work(self.think);
            self.take(index);
            let before = COUNTED.load(Relaxed);
            work(self.hold);
            COUNTED.store(before + 1, Relaxed);
            self.free();
            rounds += 1;
        }
        rounds
    }

    fn take(self, index: usize) {
        match self.lock {
            Lock::Ticket => {
                let ticket = NEXT.fetch_add(1, AcqRel);
                HOLDERS[ticket % MAX_CPUS].store(index, Release);
                self.until(|| NOW.load(Acquire) == ticket, next_in_line);
            }
            Lock::TestAndSet => {
                let is_mine = || !IS_HELD.load(Relaxed) && !IS_HELD.swap(true, Acquire);
                self.until(is_mine, || HOLDER.load(Relaxed));
                HOLDER.store(index, Relaxed);
            }
        }
    }

    fn free(self) {
        match self.lock {
            Lock::Ticket => NOW.store(NOW.load(Relaxed) + 1, Release),
            Lock::TestAndSet => IS_HELD.store(false, Release),
        }
    }

    /// Waits for `is_done`, which is up to the CPU that `whom` says.
    fn until(self, mut is_done: impl FnMut() -> bool, whom: impl Fn() -> usize) {
        while !(0..POLLS).any(|_| is_done()) {
            cpu::relax();
            match self.wait {
                Wait::Spin => {}
                Wait::Yield => hypervisor::yield_to_anybody(),
                Wait::Directed => hypervisor::yield_to(machine::mpidr(whom())),
                Wait::State => {
                    let whom = whom();
                    if hypervisor::activity(whom) != Activity::Running {
                        hypervisor::yield_to(machine::mpidr(whom));
                    }
                }
            }
        }
    }
}

static NEXT: AtomicUsize = AtomicUsize::new(0);
static NOW: AtomicUsize = AtomicUsize::new(0);
/// Who has which ticket.
static HOLDERS: [AtomicUsize; MAX_CPUS] = [const { AtomicUsize::new(0) }; MAX_CPUS];
static IS_HELD: AtomicBool = AtomicBool::new(false);
static HOLDER: AtomicUsize = AtomicUsize::new(0);
/// How often the lock was taken, if only one CPU has it at a time.
static COUNTED: AtomicU64 = AtomicU64::new(0);

/// What all CPUs counted while they had the lock.
pub fn counted() -> u64 {
    COUNTED.load(Relaxed)
}

fn next_in_line() -> usize {
    HOLDERS[NOW.load(Relaxed) % MAX_CPUS].load(Relaxed)
}

/// So many instructions, giving way in between.
fn work(instructions: u64) {
    let mut left = instructions;
    while left > 0 {
        let now = left.min(STRETCH);
        // SAFETY: counts a register down.
        unsafe {
            asm!("1: subs {count}, {count}, #2", "b.gt 1b", count = inout(reg) now => _, options(nomem, nostack));
        }
        left -= now;
        cpu::relax();
    }
}
