//! Turns a hang into a diagnosis: the boot CPU's physical timer looks at all CPUs, and the others look at it.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use trapline_demos::guest::{MAX_CPUS, cpu, gic, timer::Timer};

use crate::state::{self, fail};

/// Ticks from one look to the next are the limit over this.
const LOOKS: u64 = 64;

static LIMIT: AtomicU64 = AtomicU64::new(u64::MAX);
static LAST_LOOK: AtomicU64 = AtomicU64::new(0);
static IS_ENDING: AtomicBool = AtomicBool::new(false);
static SEEN: [Seen; MAX_CPUS] = [const {
    Seen {
        operations: AtomicU64::new(0),
        since: AtomicU64::new(0),
    }
}; MAX_CPUS];

/// What the watchdog saw of a CPU when it last moved, and when that was.
struct Seen {
    operations: AtomicU64,
    since: AtomicU64,
}

/// Looks from now on. A CPU that completes no operation for `seconds` fails the run.
pub fn start(seconds: u64) {
    let limit = seconds.saturating_mul(cpu::frequency());
    LIMIT.store(limit, Relaxed);
    let now = cpu::now();
    for seen in &SEEN {
        seen.since.store(now, Relaxed);
    }
    LAST_LOOK.store(now, Relaxed);
    gic::enable(Timer::Physical.intid());
    Timer::Physical.arm(Timer::Physical.now() + limit / LOOKS);
}

/// The handler of the physical timer's interrupt, on the boot CPU.
pub fn tick() {
    let now = cpu::now();
    let limit = LIMIT.load(Relaxed);
    LAST_LOOK.store(now, Relaxed);
    for (index, (state, seen)) in state::all().zip(&SEEN).enumerate() {
        let operations = state.operations.load(Relaxed);
        if operations != seen.operations.load(Relaxed) {
            seen.operations.store(operations, Relaxed);
            seen.since.store(now, Relaxed);
        }
        let idle = now - seen.since.load(Relaxed);
        let must_move = IS_ENDING.load(Relaxed) || !state.is_done.load(Relaxed);
        if must_move && idle > limit {
            fail(format_args!(
                "CPU {index} makes no progress: {:?} for {idle} ticks",
                state.doing()
            ));
        }
    }
    Timer::Physical.arm(Timer::Physical.now() + limit / LOOKS);
}

/// The run is over: from now on even a CPU that rests is waited for no longer than the limit.
pub fn expect_rest() {
    let now = cpu::now();
    for seen in &SEEN {
        seen.since.store(now, Relaxed);
    }
    IS_ENDING.store(true, Relaxed);
}

/// Fails the run if the boot CPU's watchdog has not looked for twice the limit; the other CPUs call it.
pub fn check_alive() {
    let silent = cpu::now().saturating_sub(LAST_LOOK.load(Relaxed));
    if silent > LIMIT.load(Relaxed).saturating_mul(2) {
        fail(format_args!(
            "the boot CPU's physical timer has been silent for {silent} ticks"
        ));
    }
}
