//! A program that debugs itself at EL1: breakpoints, watchpoints and software step. [DDI0487: Self-hosted debug]

use core::{
    arch::{asm, naked_asm},
    sync::atomic::{
        AtomicU64,
        Ordering::{Relaxed, SeqCst},
    },
};

use trapline_demos::guest::{
    MAX_CPUS, cpu,
    exceptions::{Frame, Kind},
    machine,
};

use crate::support::{self, check, on_exception};

/// Exception classes, all taken from EL1 to EL1. [DDI0487: ESR_EL1.EC]
const BREAKPOINT: u64 = 0x31;
const STEP: u64 = 0x33;
const WATCHPOINT: u64 = 0x35;
const BRK: u64 = 0x3c;

/// MDSCR_EL1: SS, KDE, MDE.
const MDSCR_STEP: u64 = 1 << 0;
const MDSCR_KERNEL: u64 = 1 << 13;
const MDSCR_MONITOR: u64 = 1 << 15;
/// SPSR_EL1: SS and D.
const SPSR_STEP: u64 = 1 << 21;
const SPSR_DEBUG_MASK: u64 = 1 << 9;
/// DBGBCR: E, PMC = EL1, BAS = all four bytes.
const BREAK_AT: u64 = 1 | 0b01 << 1 | 0xf << 5;
/// DBGWCR: E, PAC = EL1, LSC = stores, BAS = all eight bytes.
const WATCH_STORES: u64 = 1 | 0b01 << 1 | 0b10 << 3 | 0xff << 5;

/// For each CPU: how often a breakpoint and a watchpoint fired, and where the last ones were.
static BREAKS: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];
static WATCHES: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];
static LAST_BREAK: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];
static LAST_WATCH: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];
/// One for each CPU, each in a word that a watchpoint can tell from its neighbours.
static WATCHED: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];
/// Where steps ended.
static STEPS: [AtomicU64; 32] = [const { AtomicU64::new(0) }; 32];
static STEP_COUNT: AtomicU64 = AtomicU64::new(0);

macro_rules! read {
    ($register:literal) => {{
        let value: u64;
        // SAFETY: reads a register that the ID registers say is there.
        unsafe { asm!(concat!("mrs {}, ", $register), out(reg) value, options(nostack)) };
        value
    }};
}

macro_rules! write {
    ($register:literal, $value:expr) => {{
        let value: u64 = $value;
        // SAFETY: what fires because of it is expected by the handler, which returns to where it was.
        unsafe { asm!(concat!("msr ", $register, ", {}"), "isb", in(reg) value, options(nostack)) };
    }};
}

fn open_lock() {
    write!("oslar_el1", 0);
}

/// Debug exceptions from EL1 are taken (PSTATE.D is clear) while `work` runs.
fn unmasked(work: impl FnOnce()) {
    // SAFETY: what fires is expected by the handler.
    unsafe { asm!("msr daifclr, #8", "isb", options(nostack)) };
    work();
    // SAFETY: masks again.
    unsafe { asm!("msr daifset, #8", "isb", options(nostack)) };
}

fn fired(kind: Kind, frame: &mut Frame) {
    let index = cpu::index();
    check!(
        kind == Kind::Synchronous,
        "{kind:?} exception, esr {:#x} at {:#x}",
        frame.esr,
        frame.elr
    );
    match frame.class() {
        // Without it the same instruction would break again.
        BREAKPOINT => {
            write!("dbgbcr0_el1", read!("dbgbcr0_el1") & !1);
            BREAKS[index].fetch_add(1, SeqCst);
            LAST_BREAK[index].store(frame.elr, Relaxed);
        }
        WATCHPOINT => {
            write!("dbgwcr0_el1", read!("dbgwcr0_el1") & !1);
            check!(
                frame.esr & 1 << 6 != 0,
                "esr {:#x} is of no store",
                frame.esr
            );
            WATCHES[index].fetch_add(1, SeqCst);
            LAST_WATCH[index].store(frame.far, Relaxed);
        }
        // The first starts to step, the second ends it: it is stepped on as any other instruction is.
        BRK if frame.esr & 0xffff == 1 => {
            frame.skip();
            write!("mdscr_el1", read!("mdscr_el1") | MDSCR_STEP);
            frame.spsr = frame.spsr & !SPSR_DEBUG_MASK | SPSR_STEP;
        }
        BRK => {
            frame.skip();
            write!("mdscr_el1", read!("mdscr_el1") & !MDSCR_STEP);
            frame.spsr = frame.spsr & !SPSR_STEP | SPSR_DEBUG_MASK;
        }
        STEP => {
            let count = STEP_COUNT.fetch_add(1, SeqCst) as usize;
            check!(
                count < STEPS.len(),
                "the step at {:#x} is one too many",
                frame.elr
            );
            STEPS[count].store(frame.elr, Relaxed);
            frame.spsr |= SPSR_STEP;
        }
        _ => support::fail(format_args!(
            "esr {:#x} at {:#x}, far {:#x}",
            frame.esr, frame.elr, frame.far
        )),
    }
}

/// Everything is off and zero at first; the OS lock is locked, and lets nothing fire; registers that the ID register does not
/// count are not there, the others hold what is written.
pub fn registers() {
    on_exception(fired);
    check!(
        read!("oslsr_el1") & 0b1010 == 0b1010,
        "the OS lock is open at power-on"
    );
    check!(
        read!("mdscr_el1") == 0,
        "MDSCR_EL1 is {:#x} at power-on",
        read!("mdscr_el1")
    );
    macro_rules! first_two {
        ($($register:literal)*) => {
            $(
                check!(read!($register) == 0, "{} is {:#x} at power-on", $register, read!($register));
            )*
        };
    }
    first_two!("dbgbvr0_el1" "dbgbcr0_el1" "dbgwvr0_el1" "dbgwcr0_el1" "dbgbvr1_el1" "dbgbcr1_el1" "dbgwvr1_el1" "dbgwcr1_el1");
    write!("mdscr_el1", MDSCR_KERNEL | MDSCR_MONITOR);
    write!("dbgwvr1_el1", 0xffff_8000_1234_5678);
    check!(
        read!("dbgwvr1_el1") == 0xffff_8000_1234_5678,
        "DBGWVR1_EL1 does not hold its value"
    );
    write!("dbgwvr1_el1", 0);

    if support::is_strict() {
        // QEMU looks at another bit than OSLSR_EL1.OSLK.
        watch(0, "a locked OS lock");
        break_at(0, "a locked OS lock");
    }
    open_lock();
    check!(read!("oslsr_el1") & 0b10 == 0, "the OS lock does not open");
    watch(1, "an open OS lock");
    break_at(1, "an open OS lock");
    write!("mdscr_el1", MDSCR_KERNEL);
    watch(0, "MDSCR_EL1.MDE off");
    break_at(0, "MDSCR_EL1.MDE off");
    write!("mdscr_el1", MDSCR_MONITOR);
    watch(0, "MDSCR_EL1.KDE off");
    break_at(0, "MDSCR_EL1.KDE off");
    write!("mdscr_el1", 0);
    support::say(format_args!(
        "breakpoints={} watchpoints={}",
        counts().0,
        counts().1
    ));
}

/// How many there are.
fn counts() -> (u64, u64) {
    let features = read!("id_aa64dfr0_el1");
    ((features >> 12 & 0xf) + 1, (features >> 20 & 0xf) + 1)
}

/// A watchpoint on this CPU's word fires so often for a store there.
fn watch(times: u64, when: &str) {
    let index = cpu::index();
    let address = WATCHED[index].as_ptr() as u64;
    let before = (WATCHES[index].load(SeqCst), WATCHED[index].load(Relaxed));
    write!("dbgwvr0_el1", address);
    write!("dbgwcr0_el1", WATCH_STORES);
    unmasked(|| WATCHED[index].store(before.1 + 1, SeqCst));
    write!("dbgwcr0_el1", 0);
    let fired = WATCHES[index].load(SeqCst) - before.0;
    check!(
        fired == times,
        "{when}: a watchpoint fired {fired} times instead of {times}"
    );
    let far = LAST_WATCH[index].load(Relaxed);
    check!(
        times == 0 || far == address,
        "{when}: FAR_EL1 is {far:#x}, and {address:#x} is watched"
    );
    check!(
        WATCHED[index].load(Relaxed) == before.1 + 1,
        "{when}: the store was lost"
    );
}

/// A breakpoint on a function fires so often when this CPU calls it.
fn break_at(times: u64, when: &str) {
    let index = cpu::index();
    let function = FUNCTIONS[index % FUNCTIONS.len()];
    let before = BREAKS[index].load(SeqCst);
    write!("dbgbvr0_el1", function as usize as u64);
    write!("dbgbcr0_el1", BREAK_AT);
    unmasked(|| function());
    write!("dbgbcr0_el1", 0);
    let fired = BREAKS[index].load(SeqCst) - before;
    check!(
        fired == times,
        "{when}: a breakpoint fired {fired} times instead of {times}"
    );
    let at = LAST_BREAK[index].load(Relaxed);
    check!(
        times == 0 || at == function as usize as u64,
        "{when}: it fired at {at:#x}"
    );
}

/// Functions to break at, so that neighbours have different ones.
const FUNCTIONS: [extern "C" fn(); 4] = [nothing::<0>, nothing::<1>, nothing::<2>, nothing::<3>];

#[unsafe(naked)]
extern "C" fn nothing<const NUMBER: u32>() {
    naked_asm!("mov w9, #{}", "ret", const NUMBER)
}

/// Stepping goes from instruction to instruction, also over those that a hypervisor does.
pub fn step() {
    on_exception(fired);
    open_lock();
    write!("mdscr_el1", MDSCR_KERNEL);
    let (start, end): (u64, u64);
    // SAFETY: reads registers and a device, calls a function that there is not, and waits for what may be at once.
    unsafe {
        asm!(
            ".arch_extension fp",
            "adr {start}, 2f",
            "adr {end}, 3f",
            "brk #1",
            "2: nop",
            "mrs {scratch}, id_aa64pfr0_el1",
            "mrs {scratch}, oslsr_el1",
            "ldr {scratch:w}, [{device}]",
            "ldp {scratch:w}, {other:w}, [{device}]",
            "str {scratch:w}, [{device}]",
            "hvc #0",
            "fmov d0, xzr",
            "b 4f",
            "nop",
            "4: wfe",
            "3: brk #2",
            start = out(reg) start,
            end = out(reg) end,
            scratch = out(reg) _,
            other = out(reg) _,
            device = in(reg) UART_DIVISORS,
            inout("x0") 0x8400_0000_u64 => _,
            out("x1") _, out("x2") _, out("x3") _,
            options(nostack),
        );
    }
    // Each step ends at the next instruction; the branch steps over one.
    let expected = (1..=8).chain([10, 11]).map(|index| start + 4 * index);
    check!(
        end == start + 44,
        "the program is laid out as it is written"
    );
    let count = STEP_COUNT.load(SeqCst) as usize;
    for (index, address) in expected.clone().enumerate() {
        let at = STEPS[index].load(Relaxed).wrapping_sub(start);
        check!(
            index < count && at == address - start,
            "step {index} of {count} ended at +{at:#x} instead of +{:#x}",
            address - start
        );
    }
    check!(count == expected.count(), "{count} steps");
    write!("mdscr_el1", 0);
    support::say(format_args!("steps={count}"));
}

/// UARTIBRD and UARTFBRD.
const UART_DIVISORS: usize = 0x0900_0024;

/// How long CPUs use their own breakpoints beside each other.
const MILLISECONDS: u64 = 400;

/// This CPU debugs itself: every second one, and with `quiet=1` none.
fn is_debugger(index: usize) -> bool {
    index.is_multiple_of(2) && machine::parameters().number("quiet", 0) == 0
}

/// Half of the CPUs debug themselves, all at the same time. What fires is their own, and nothing fires on the others, which
/// call the same functions and write the same words.
pub fn shared() {
    on_exception(fired);
    support::start_all();
    (1..machine::cpu_count()).for_each(|index| support::run_on(index, debug_or_not));
    debug_or_not();
    (1..machine::cpu_count()).for_each(support::join);
    let (mut breaks, mut watches) = (0, 0);
    for index in 0..machine::cpu_count() {
        breaks += BREAKS[index].load(SeqCst);
        watches += WATCHES[index].load(SeqCst);
        check!(
            is_debugger(index) || BREAKS[index].load(SeqCst) + WATCHES[index].load(SeqCst) == 0,
            "something fired on CPU {index}, which debugs nothing"
        );
    }
    support::say(format_args!("breaks={breaks} watches={watches}"));
}

fn debug_or_not() {
    let index = cpu::index();
    let end = cpu::now() + cpu::microseconds(MILLISECONDS * 1000);
    if !is_debugger(index) {
        // SAFETY: what would fire fails the test.
        unsafe { asm!("msr daifclr, #8", options(nostack)) };
        while cpu::now() < end {
            FUNCTIONS.iter().for_each(|function| function());
            WATCHED
                .iter()
                .for_each(|word| _ = word.fetch_add(0, SeqCst));
        }
        check!(read!("mdscr_el1") == 0, "MDSCR_EL1 of another CPU shows");
        check!(
            read!("dbgwvr0_el1") | read!("dbgbvr0_el1") == 0,
            "a register of another CPU shows"
        );
        return;
    }
    open_lock();
    write!("mdscr_el1", MDSCR_KERNEL | MDSCR_MONITOR);
    let (address, function) = (WATCHED[index].as_ptr() as u64, FUNCTIONS[index % 4]);
    while cpu::now() < end {
        let (breaks, watches) = (BREAKS[index].load(SeqCst), WATCHES[index].load(SeqCst));
        write!("dbgwvr0_el1", address);
        write!("dbgwcr0_el1", WATCH_STORES);
        write!("dbgbvr0_el1", function as usize as u64);
        write!("dbgbcr0_el1", BREAK_AT);
        // Others run meanwhile, and another pCPU may be next.
        support::pause();
        unmasked(|| {
            function();
            WATCHED[index].fetch_add(1, SeqCst);
        });
        check!(
            BREAKS[index].load(SeqCst) == breaks + 1 && WATCHES[index].load(SeqCst) == watches + 1,
            "a breakpoint or a watchpoint did not fire once"
        );
    }
    write!("mdscr_el1", 0);
}
