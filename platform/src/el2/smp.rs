//! How the other pCPUs start, and whether they are all alike.
//!
//! A vCPU may run on any pCPU, so what a guest has seen on one must hold on all: pCPUs that differ in model or
//! features are refused.

use super::{
    boot::{self, SecondaryStart},
    gic, mmu, pcpu, power,
    relax::{Lock, Once, relax},
    stacks::Stacks,
    timer,
};
use crate::dt::{MAX_PCPUS, Machine};
use core::{
    arch::asm,
    cell::UnsafeCell,
    sync::atomic::{
        AtomicU32,
        Ordering::{Acquire, Release},
    },
};
use smccc::psci::error::Error;

unsafe extern "Rust" {
    /// The image's function for pCPU `id`, 1 to 63: it enters it with MMU, heap, log, GIC and timer at work.
    safe fn trapline_secondary(id: u16) -> !;
}

/// How long a pCPU has to start, in seconds of the host's counter.
const START_SECONDS: u64 = 10;

const STARTING: u32 = 0;
const STARTED: u32 = 1;
const DIFFERS: u32 = 2;

/// How far the pCPU being started has come; its value for a pCPU that differs has the register's index above bit 8.
static PROGRESS: AtomicU32 = AtomicU32::new(STARTING);

/// What a pCPU finds when firmware starts it, in cache lines of its own.
#[repr(align(128))]
struct StartBlock(UnsafeCell<SecondaryStart>);
// SAFETY: `start` writes one under a lock and while its pCPU is off; only that pCPU reads it.
unsafe impl Sync for StartBlock {}

static START_BLOCKS: [StartBlock; MAX_PCPUS] = [const {
    StartBlock(UnsafeCell::new(SecondaryStart {
        tables: 0,
        percpu_area: 0,
        stack_pointer: 0,
        entry: 0,
    }))
}; MAX_PCPUS];

/// The pCPUs' affinities, by number.
static MPIDRS: Once<&'static [u64]> = Once::new();
/// Held while a pCPU is started.
static STARTING_ONE: Lock<()> = Lock::new(());

/// The registers in which pCPUs must not differ.
macro_rules! features {
    ($($name:literal)*) => {
        const FEATURES: &[&str] = &[$($name),*];
        type Features = [u64; FEATURES.len()];
        fn features() -> Features {
            [$({
                let value: u64;
                // SAFETY: an ID register is only read.
                unsafe {
                    asm!(concat!("mrs {}, ", $name), out(reg) value, options(nomem, nostack, preserves_flags));
                }
                value
            }),*]
        }
    };
}
features! {
    "midr_el1" "ctr_el0" "dczid_el0"
    "id_aa64pfr0_el1" "id_aa64pfr1_el1" "id_aa64dfr0_el1" "id_aa64isar0_el1" "id_aa64isar1_el1"
    "s3_0_c0_c6_2" // ID_AA64ISAR2_EL1, by encoding: older assemblers do not know its name
    "id_aa64mmfr0_el1" "id_aa64mmfr1_el1" "id_aa64mmfr2_el1"
}

static BOOT_FEATURES: Once<Features> = Once::new();

/// Notes which pCPUs there are, and what the boot pCPU has, for the others to compare.
pub(super) fn initialize(machine: &'static Machine<'static>) {
    MPIDRS.call_once(|| machine.mpidrs());
    BOOT_FEATURES.call_once(features);
}

/// The affinity of pCPU `id`, for firmware; `None` if the machine has no such pCPU.
pub(super) fn mpidr(id: u16) -> Option<u64> {
    MPIDRS.get()?.get(usize::from(id)).copied()
}

/// Has firmware start pCPU `id`, which goes on at `entry` on a stack that grows down from `stack_pointer`: that is asked for when the
/// pCPU is off, and nobody else starts it.
///
/// # Errors
/// What firmware says. `NotPresent`: the machine has no such pCPU, or it has no stack; `AlreadyOn`: it is not off.
///
/// # Safety
/// That stack is the pCPU's own, and `entry` finds there what it needs.
pub(super) unsafe fn start(
    id: u16,
    entry: u64,
    stack_pointer: impl FnOnce() -> Option<u64>,
) -> Result<(), Error> {
    let _alone = STARTING_ONE.lock();
    let mpidr = mpidr(id).ok_or(Error::NotPresent)?;
    if !power::is_off(mpidr)? {
        return Err(Error::AlreadyOn);
    }
    let start = SecondaryStart {
        tables: mmu::root(),
        percpu_area: pcpu::area(id),
        stack_pointer: stack_pointer().ok_or(Error::NotPresent)?,
        entry,
    };
    let block = START_BLOCKS[usize::from(id)].0.get();
    // SAFETY: the pCPU that reads it is off, and nobody else writes, as the lock is held.
    unsafe { block.write(start) };
    clean_to_memory(block as u64, size_of::<SecondaryStart>() as u64);
    let first = boot::secondary_start as *const () as u64;
    power::start_pcpu(mpidr, first, block as u64)
}

/// Starts pCPUs 1 and up, one after the other.
pub(super) fn start_secondaries(machine: &Machine<'_>) {
    for (id, &mpidr) in machine.mpidrs().iter().enumerate().skip(1) {
        start_secondary(id as u16, mpidr);
    }
    log::info!("{} pCPUs run", machine.mpidrs().len());
}

fn start_secondary(id: u16, mpidr: u64) {
    let stack = Stacks::of(id).expect("each pCPU of the machine has stacks");
    PROGRESS.store(STARTING, Release);
    let entry = secondary_main as *const () as u64;
    // SAFETY: the pCPU has not run yet: its stack is empty, and `secondary_main` needs nothing there.
    if let Err(error) = unsafe { start(id, entry, || Some(stack.stack().end)) } {
        panic!("firmware does not start pcpu{id} (MPIDR {mpidr:#x}): {error}");
    }
    let begun = timer::now();
    loop {
        match PROGRESS.load(Acquire) {
            STARTING => {}
            STARTED => return,
            differs => panic!(
                "pcpu{id} differs from pcpu0 in {}: all pCPUs must be of one model",
                FEATURES[(differs >> 8) as usize]
            ),
        }
        assert!(
            timer::now() - begun < timer::frequency() * START_SECONDS,
            "pcpu{id} does not start"
        );
        relax();
    }
}

/// The first Rust code of a secondary pCPU, on its own stack, with the final tables.
pub(super) extern "C" fn secondary_main() -> ! {
    let mine = features();
    let boot = BOOT_FEATURES.get().unwrap_or(&mine);
    if let Some(index) = mine.iter().zip(boot).position(|(mine, boot)| mine != boot) {
        PROGRESS.store(DIFFERS | (index as u32) << 8, Release);
        loop {
            relax();
        }
    }
    gic::initialize_pcpu();
    pcpu::current().is_started.store(true, Release);
    PROGRESS.store(STARTED, Release);
    trapline_secondary(pcpu::this_pcpu())
}

/// Writes a range back to memory, for a reader whose caches are off. [DDI0487: DC CVAC, CTR_EL0.DminLine]
fn clean_to_memory(start: u64, length: u64) {
    let ctr: u64;
    // SAFETY: an ID register is only read.
    unsafe { asm!("mrs {}, ctr_el0", out(reg) ctr, options(nomem, nostack, preserves_flags)) };
    let line = 4u64 << (ctr >> 16 & 0xf);
    let mut address = start & !(line - 1);
    while address < start + length {
        // SAFETY: cleaning a line changes no value in memory as Rust sees it.
        unsafe { asm!("dc cvac, {}", in(reg) address, options(nostack, preserves_flags)) };
        address += line;
    }
    // SAFETY: a barrier.
    unsafe { asm!("dsb sy", options(nostack, preserves_flags)) };
}
