//! System registers that are a CPU's own: whatever it writes is there after others have run on its pCPU, and is gone after it
//! was off.

use core::{
    arch::asm,
    sync::atomic::{
        AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
    },
};

use aarch64_cpu::registers::{MIDR_EL1, Readable};
use trapline_demos::guest::{
    cpu,
    lock::SpinLock,
    machine,
    power::{self, affinity, status},
    random::Random,
};

use crate::{
    support::{self, await_or_fail, check, on_exception},
    undefined::skip_undefined,
};

/// The context with which a CPU comes back.
pub const COOKIE: u64 = 0x1e_a4ed;
const ROUNDS: u64 = 100;

/// A register that nothing of the program depends on: its name, the bits that are written, and how.
struct Own {
    name: &'static str,
    written: u64,
    read: fn() -> u64,
    write: fn(u64),
}

macro_rules! own {
    ($($name:literal $register:literal $written:literal)*) => {
        [$(Own {
            name: $name,
            written: $written,
            read: || {
                let value: u64;
                // SAFETY: reads a register; one that is undefined is stepped over.
                unsafe { asm!("mov {0}, #0", concat!("mrs {0}, ", $register), out(reg) value, options(nostack)) };
                value
            },
            write: |value| {
                // SAFETY: nothing of the program depends on the register; one that is undefined is stepped over.
                unsafe { asm!(concat!("msr ", $register, ", {}"), in(reg) value, options(nostack)) };
            },
        }),*]
    };
}

/// What exceptions change comes last, so that it is written last; it is read first. Undefined ones read as zero.
#[rustfmt::skip] // read by column
static OWN: [Own; 39] = own!(
    "TPIDR2_EL0"      "s3_3_c13_c0_5"  0xffffffffffffffff
    "SCXTNUM_EL0"     "s3_3_c13_c0_7"  0xffffffffffffffff
    "SCXTNUM_EL1"     "s3_0_c13_c0_7"  0xffffffffffffffff
    "TPIDR_EL0"       "tpidr_el0"      0xffffffffffffffff
    "TPIDRRO_EL0"     "tpidrro_el0"    0xffffffffffffffff
    "TPIDR_EL1"       "tpidr_el1"      0xffffffffffffffff
    "CONTEXTIDR_EL1"  "contextidr_el1" 0xffffffff
    "AFSR0_EL1"       "afsr0_el1"      0xffffffffffffffff
    "AFSR1_EL1"       "afsr1_el1"      0xffffffffffffffff
    "AMAIR_EL1"       "amair_el1"      0xffffffffffffffff
    "TTBR1_EL1"       "ttbr1_el1"      0xffffffffffffffff
    "CSSELR_EL1"      "csselr_el1"     0x7
    "PAR_EL1"         "par_el1"        0xff00fffffffff200
    "CNTKCTL_EL1"     "cntkctl_el1"    0xff
    "CNTV_CVAL_EL0"   "cntv_cval_el0"  0x3fffffffffffffff
    "CNTP_CVAL_EL0"   "cntp_cval_el0"  0x3fffffffffffffff
    "SP_EL0"          "sp_el0"         0xffffffffffffffff
    "MDSCR_EL1"       "mdscr_el1"      0x3000
    "DBGBVR0_EL1"     "dbgbvr0_el1"    0xfffffffffffc
    "DBGBCR0_EL1"     "dbgbcr0_el1"    0x1e0
    "DBGWVR0_EL1"     "dbgwvr0_el1"    0xfffffffffffc
    "DBGWVR1_EL1"     "dbgwvr1_el1"    0xfffffffffffc
    "APIAKeyLo_EL1"   "s3_0_c2_c1_0"   0xffffffffffffffff
    "APIAKeyHi_EL1"   "s3_0_c2_c1_1"   0xffffffffffffffff
    "APIBKeyLo_EL1"   "s3_0_c2_c1_2"   0xffffffffffffffff
    "APIBKeyHi_EL1"   "s3_0_c2_c1_3"   0xffffffffffffffff
    "APDAKeyLo_EL1"   "s3_0_c2_c2_0"   0xffffffffffffffff
    "APDAKeyHi_EL1"   "s3_0_c2_c2_1"   0xffffffffffffffff
    "APDBKeyLo_EL1"   "s3_0_c2_c2_2"   0xffffffffffffffff
    "APDBKeyHi_EL1"   "s3_0_c2_c2_3"   0xffffffffffffffff
    "APGAKeyLo_EL1"   "s3_0_c2_c3_0"   0xffffffffffffffff
    "APGAKeyHi_EL1"   "s3_0_c2_c3_1"   0xffffffffffffffff
    "ICC_BPR0_EL1"    "s3_0_c12_c8_3"  0x7
    "ICC_BPR1_EL1"    "s3_0_c12_c12_3" 0x7
    "FPSR"            "s3_3_c4_c4_1"          0x0800009f
    "FAR_EL1"         "far_el1"        0xffffffffffffffff
    "ESR_EL1"         "esr_el1"        0xffffffff
    "SPSR_EL1"        "spsr_el1"       0xf00003c0
    "ELR_EL1"         "elr_el1"        0xffffffffffffffff
);

/// What the registers read, in their order; those that exceptions change are read before any of them.
fn read_all() -> [u64; OWN.len()] {
    let mut values = [0; OWN.len()];
    for (value, own) in values.iter_mut().zip(&OWN).rev() {
        *value = (own.read)();
    }
    values
}

fn write_all(random: &mut Random) {
    for own in &OWN {
        (own.write)(random.next() & own.written);
    }
}

/// Two CPUs put patterns unlike each other's into all registers, run in turns, and look.
pub fn patterns() {
    on_exception(skip_undefined);
    support::start(2);
    support::run_on(1, hold);
    hold();
    support::join(1);
    support::say(format_args!("registers={}", OWN.len()));
}

fn hold() {
    let model = MIDR_EL1.get();
    let mut random = Random::new(machine::parameters().number("seed", 1), cpu::index() as u64);
    for _ in 0..ROUNDS {
        write_all(&mut random);
        let before = read_all();
        // Reading what is undefined was an exception.
        for (own, value) in OWN.iter().zip(before) {
            (own.write)(value);
        }
        support::meet();
        let after = read_all();
        for ((own, before), after) in OWN.iter().zip(before).zip(after) {
            check!(
                before == after,
                "{} was {before:#x}, and is {after:#x} after a switch",
                own.name
            );
        }
        check!(
            cpu::index_by_affinity() == Some(cpu::index()) && MIDR_EL1.get() == model,
            "MPIDR_EL1 or MIDR_EL1 changed with a switch"
        );
    }
}

/// What the registers were when the CPU was started for the first time, and how often it was.
static FRESH: SpinLock<[u64; OWN.len()]> = SpinLock::new([0; OWN.len()]);
static STARTS: AtomicU64 = AtomicU64::new(0);

/// A CPU that writes patterns and goes off finds nothing of them when it is turned on again, three times.
pub fn reset_by_power() {
    on_exception(skip_undefined);
    for round in 1..=4 {
        let result = power::start_cpu(1, COOKIE);
        check!(result == status::SUCCESS, "CPU_ON returned {result}");
        await_or_fail("the other CPU's start", || STARTS.load(Acquire) == round);
        await_or_fail("the other CPU to go off", || {
            power::state_of(1) == affinity::OFF
        });
    }
}

/// The CPU was turned on.
pub fn started() -> ! {
    // Once: reading what is undefined is an exception.
    let values = read_all();
    if STARTS.load(Relaxed) == 0 {
        *FRESH.lock() = values;
    }
    compare("CPU_ON", values, |_| true);
    leave_patterns(STARTS.load(Relaxed));
    STARTS.fetch_add(1, Release);
    power::stop_this_cpu()
}

/// The registers are what a reset leaves.
pub fn remember() {
    *FRESH.lock() = read_all();
}

/// Writes something else into all of them.
pub fn leave_patterns(seed: u64) {
    write_all(&mut Random::new(seed, 1));
}

/// The registers whose names `is_reset` takes are what they were when [`remember`] was called.
pub fn expect_reset(what: &str, is_reset: impl Fn(&str) -> bool) {
    compare(what, read_all(), is_reset);
}

fn compare(what: &str, values: [u64; OWN.len()], is_reset: impl Fn(&str) -> bool) {
    let fresh = *FRESH.lock();
    for ((own, value), fresh) in OWN.iter().zip(values).zip(fresh) {
        check!(
            value == fresh || !is_reset(own.name),
            "{} is {value:#x} after {what}, and was {fresh:#x} at first",
            own.name
        );
    }
}
