//! Instructions that nobody wrote: random words, executed with random registers, each on ground made good again. A timer ends
//! those that wait or go round in circles.

use core::{
    arch::{asm, naked_asm},
    sync::atomic::Ordering::Relaxed,
};

use aarch64_cpu::registers::{
    CPACR_EL1, ELR_EL1, MAIR_EL1, MPIDR_EL1, Readable, SCTLR_EL1, SPSR_EL1, TCR_EL1, TTBR0_EL1,
    VBAR_EL1, Writeable,
};
use trapline_demos::guest::{MAX_CPUS, cpu, gic, random::Random, timer::Timer};

use crate::{DONE, code};

/// How long a word may take.
const PATIENCE_US: u64 = 300;

/// What the ground was when it was good: SCTLR, TTBR0, TCR, MAIR, CPACR.
type Ground = [u64; 5];

/// A CPU's own.
struct State {
    random: Random,
    ground: Ground,
    registers: [u64; 31],
}

static mut STATES: [State; MAX_CPUS] = [const {
    State {
        random: Random::new(0, 0),
        ground: [0; 5],
        registers: [0; 31],
    }
}; MAX_CPUS];

/// This CPU's state. Only the affinity says which CPU this is: every other register may be anything.
fn state() -> &'static mut State {
    let index = (MPIDR_EL1.get() & 0xf) as usize;
    // SAFETY: each CPU reaches only its own, and starts anew, with no reference left, whenever it gets here.
    unsafe { &mut *(&raw mut STATES).cast::<State>().add(index) }
}

/// Executes words until the machine goes off.
pub fn run_for_ever() {
    let state = state();
    state.random = crate::random();
    state.ground = [
        SCTLR_EL1.get(),
        TTBR0_EL1.get(),
        TCR_EL1.get(),
        MAIR_EL1.get(),
        CPACR_EL1.get(),
    ];
    VBAR_EL1.set(vectors as *const () as u64);
    next()
}

/// Whatever the last word did ends here: the stack is new, the ground is made good, and the next word is executed.
extern "C" fn next() -> ! {
    let state = state();
    let [control, table, translation, attributes, access] = state.ground;
    MAIR_EL1.set(attributes);
    TCR_EL1.set(translation);
    TTBR0_EL1.set(table);
    CPACR_EL1.set(access);
    SCTLR_EL1.set(control);
    // SAFETY: the ground is what it was when the program began.
    unsafe {
        asm!(
            "dsb ish",
            "tlbi vmalle1",
            "dsb ish",
            "isb",
            "msr daifset, #0xf",
            options(nostack)
        )
    };
    VBAR_EL1.set(vectors as *const () as u64);
    gic::enable_interface();
    let intid = gic::acknowledge();
    if intid != gic::SPURIOUS {
        gic::end(intid);
    }
    gic::enable(Timer::Virtual.intid());
    Timer::Virtual.arm(cpu::now() + cpu::microseconds(PATIENCE_US));
    DONE.fetch_add(1, Relaxed);
    let word = word(&mut state.random);
    state.registers = core::array::from_fn(|_| value(&mut state.random));
    let start = code::write((MPIDR_EL1.get() & 0xf) as usize, &[word, code::BRK]);
    // x30 is the address of the code: what would return stays there.
    state.registers[30] = start as u64;
    // An ERET goes anywhere, and not back to where the last exception came from.
    ELR_EL1.set(value(&mut state.random));
    SPSR_EL1.set(state.random.next());
    // SAFETY: it never returns; the exception that ends it comes to `vectors`.
    unsafe { jump(&state.registers) }
}

/// A random word, more often one from where a hypervisor has something to say.
fn word(random: &mut Random) -> u32 {
    let any = random.next() as u32;
    match random.below(8) {
        // System registers and instructions; loads and stores; exceptions and hints; FP and SIMD.
        0 | 1 => 0xd500_0000 | any & 0x003f_ffff,
        2 | 3 => 0x0800_0000 | any & 0xf7ff_ffff,
        4 => 0xd400_0000 | any & 0x00ff_ffff,
        5 => 0x0e00_0000 | any & 0xf1ff_ffff,
        _ => any,
    }
}

/// A random value, more often an address that means something.
fn value(random: &mut Random) -> u64 {
    const SCRATCH: u64 = 0x4800_0000;
    match random.below(6) {
        0 => gic::DISTRIBUTOR as u64 + random.below(0x1_0000),
        1 => gic::REDISTRIBUTORS as u64 + random.below(0x10_0000),
        2 => SCRATCH + random.below(0x10_0000),
        3 => random.below(0x1_0000),
        _ => random.next(),
    }
}

/// Takes interrupts from here on, loads x0 to x30, and goes where x30 says.
#[unsafe(naked)]
unsafe extern "C" fn jump(registers: &[u64; 31]) -> ! {
    naked_asm!(
        "msr daifclr, #2",
        "ldp x2, x3, [x0, #16]",
        "ldp x4, x5, [x0, #32]",
        "ldp x6, x7, [x0, #48]",
        "ldp x8, x9, [x0, #64]",
        "ldp x10, x11, [x0, #80]",
        "ldp x12, x13, [x0, #96]",
        "ldp x14, x15, [x0, #112]",
        "ldp x16, x17, [x0, #128]",
        "ldp x18, x19, [x0, #144]",
        "ldp x20, x21, [x0, #160]",
        "ldp x22, x23, [x0, #176]",
        "ldp x24, x25, [x0, #192]",
        "ldp x26, x27, [x0, #208]",
        "ldp x28, x29, [x0, #224]",
        "ldr x30, [x0, #240]",
        "ldp x0, x1, [x0]",
        "br x30",
    )
}

/// Every exception: the stack of this CPU by its affinity, and on.
#[unsafe(naked)]
#[unsafe(link_section = ".text.rogue_vectors")]
extern "C" fn vectors() {
    naked_asm!(
        ".balign 2048",
        ".rept 16",
        ".balign 128",
        "msr spsel, #1",
        "mrs x0, mpidr_el1",
        "and x0, x0, #0xf",
        "add x0, x0, #1",
        "mov x1, #{stack_bytes}",
        "adrp x2, __stacks_start",
        "madd x0, x0, x1, x2",
        "mov sp, x0",
        "b {next}",
        ".endr",
        stack_bytes = const cpu::STACK_BYTES,
        next = sym next,
    )
}
