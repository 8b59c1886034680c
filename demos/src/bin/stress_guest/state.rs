//! What each CPU does and has done, for the others to see, and how a run fails.

use core::{
    fmt,
    sync::atomic::{
        AtomicBool, AtomicU32, AtomicU64,
        Ordering::{Relaxed, SeqCst},
    },
};

use trapline_demos::guest::{MAX_CPUS, console, cpu, machine, power};

/// All CPUs are to finish what they do and rest.
pub static STOP: AtomicBool = AtomicBool::new(false);
/// The seed of the run.
pub static SEED: AtomicU64 = AtomicU64::new(1);
static HAS_ENDED: AtomicBool = AtomicBool::new(false);
static CPUS: [CpuState; MAX_CPUS] = [const { CpuState::new() }; MAX_CPUS];

/// What a CPU is doing; a hang is reported in these words.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub enum Doing {
    /// It was never started.
    Nothing,
    /// Between two operations.
    Choosing,
    /// Taking the lock with the number in `detail`.
    Locking,
    /// Holding that lock.
    Holding,
    /// Sending mail; `detail` is target << 8 | INTID.
    Sending,
    /// In WFI until the CPU in `detail` answers.
    AwaitingReply,
    /// In WFI until its timer fires at `detail`.
    AwaitingTimer,
    /// Checking its registers.
    CheckingRegisters,
    /// Waiting until nobody has mail for it, to turn itself off.
    Leaving,
    /// In CPU_OFF.
    Off,
    /// Waiting until the CPU in `detail` is off.
    AwaitingOff,
    /// Turning the CPU in `detail` on.
    Starting,
    /// Waiting until the CPU in `detail` says that it runs.
    AwaitingStart,
    /// It runs again, and waits for whoever started it to say that it has checked that.
    AwaitingHelper,
    /// Done with its part.
    Resting,
    /// The boot CPU waits for the others: `detail` 0 and 1 until they rest, 2 until no mail is on its way.
    Finishing,
}

impl Doing {
    const ALL: [Self; 16] = [
        Self::Nothing,
        Self::Choosing,
        Self::Locking,
        Self::Holding,
        Self::Sending,
        Self::AwaitingReply,
        Self::AwaitingTimer,
        Self::CheckingRegisters,
        Self::Leaving,
        Self::Off,
        Self::AwaitingOff,
        Self::Starting,
        Self::AwaitingStart,
        Self::AwaitingHelper,
        Self::Resting,
        Self::Finishing,
    ];
}

/// One CPU's record, on cache lines of its own. Only that CPU counts; everybody reads.
#[repr(align(128))]
pub struct CpuState {
    doing: AtomicU32,
    detail: AtomicU64,
    /// Operations completed: the watchdog wants this to move.
    pub operations: AtomicU64,
    /// Rounds with a lock held.
    pub lock_rounds: AtomicU64,
    /// SGIs sent, answers included.
    pub sgis_sent: AtomicU64,
    /// SGIs taken, answers included.
    pub sgis_taken: AtomicU64,
    /// Timers armed.
    pub timers_armed: AtomicU64,
    /// Timers fired.
    pub timers_fired: AtomicU64,
    /// The longest time from a deadline to the handler, in ticks.
    pub worst_lateness: AtomicU64,
    /// How often it came back from CPU_OFF.
    pub cycles: AtomicU64,
    /// It rests.
    pub is_done: AtomicBool,
}

impl CpuState {
    const fn new() -> Self {
        Self {
            doing: AtomicU32::new(Doing::Nothing as u32),
            detail: AtomicU64::new(0),
            operations: AtomicU64::new(0),
            lock_rounds: AtomicU64::new(0),
            sgis_sent: AtomicU64::new(0),
            sgis_taken: AtomicU64::new(0),
            timers_armed: AtomicU64::new(0),
            timers_fired: AtomicU64::new(0),
            worst_lateness: AtomicU64::new(0),
            cycles: AtomicU64::new(0),
            is_done: AtomicBool::new(false),
        }
    }

    /// Says what the CPU does from now on.
    pub fn enter(&self, doing: Doing, detail: u64) {
        self.detail.store(detail, Relaxed);
        self.doing.store(doing as u32, Relaxed);
    }

    /// What the CPU does.
    pub fn doing(&self) -> Doing {
        Doing::ALL[self.doing.load(Relaxed) as usize]
    }
}

/// The record of the CPU at `index`.
pub fn cpu_state(index: usize) -> &'static CpuState {
    &CPUS[index]
}

/// The records of all CPUs of the machine.
pub fn all() -> impl Iterator<Item = &'static CpuState> {
    CPUS.iter().take(machine::cpu_count())
}

/// A counter, summed over all CPUs.
pub fn sum(counter: impl Fn(&'static CpuState) -> &'static AtomicU64) -> u64 {
    all().map(|state| counter(state).load(Relaxed)).sum()
}

/// Ends the run with a diagnosis and what every CPU was doing. The first failure is the one that counts.
pub fn fail(diagnosis: fmt::Arguments<'_>) -> ! {
    cpu::mask_interrupts();
    if HAS_ENDED.swap(true, SeqCst) {
        // Somebody else is reporting; the machine goes off under this loop.
        loop {
            cpu::relax();
        }
    }
    console::last_line(format_args!(
        "STRESS FAIL cpu={} at={} seed={}: {diagnosis}",
        cpu::index(),
        cpu::now(),
        SEED.load(Relaxed)
    ));
    for (index, state) in all().enumerate() {
        console::last_line(format_args!(
            "stress: cpu {index}: {:?} {:#x}, operations={} locks={} sgis={}/{} timers={}/{} cycles={}",
            state.doing(),
            state.detail.load(Relaxed),
            state.operations.load(Relaxed),
            state.lock_rounds.load(Relaxed),
            state.sgis_taken.load(Relaxed),
            state.sgis_sent.load(Relaxed),
            state.timers_fired.load(Relaxed),
            state.timers_armed.load(Relaxed),
            state.cycles.load(Relaxed),
        ));
    }
    power::system_off()
}

/// Prints the line of a run that passed, unless a CPU has found something in the meantime.
pub fn end_of_run(verdict: fmt::Arguments<'_>) {
    if !HAS_ENDED.swap(true, SeqCst) {
        console::last_line(verdict);
        return;
    }
    loop {
        cpu::relax();
    }
}
