//! The second CPU of a figure, and the short interrupt handlers that both use.
//!
//! The runtime's vectors store a whole frame; these store two registers, so that a figure is the machine's and not the guest's.
//! TPIDR_EL1 points to what the handler writes.

use core::{
    arch::{asm, global_asm, naked_asm},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use aarch64_cpu::{
    asm::barrier,
    registers::{TPIDR_EL1, VBAR_EL1, Writeable},
};
use trapline_demos::guest::{cpu, machine, sgi};

/// What the peer is to do; it reads this after each interrupt.
pub mod task {
    /// Wait in WFI.
    pub const WAIT: u64 = 0;
    /// Poll with YIELD.
    pub const POLL: u64 = 1;
    /// Wait in WFI and send an SGI back for each that comes.
    pub const REPLY: u64 = 2;
    /// The same, with an FP instruction each time.
    pub const REPLY_FP: u64 = 3;
}

static TASK: AtomicU64 = AtomicU64::new(task::WAIT);
static IS_READY: AtomicU64 = AtomicU64::new(u64::MAX);

/// A word on a cache line of its own that a handler writes: the INTID of an SGI, or when a timer's handler began.
#[repr(align(128))]
pub struct Flag(pub AtomicU64);

/// Written by the handler of each CPU.
pub static FLAGS: [Flag; 2] = [const { Flag(AtomicU64::new(0)) }; 2];

/// The SGI of all figures; not 0, so that writing it sets a flag.
pub const INTID: u32 = 1;

unsafe extern "C" {
    static sgi_vectors: u8;
    static timer_vectors: u8;
}

/// Which handler interrupts have.
#[derive(Clone, Copy)]
pub enum Handler {
    /// Writes the INTID to the CPU's flag.
    Sgi,
    /// Writes the counter to the CPU's flag and turns the virtual timer off.
    Timer,
}

/// Gives this CPU its flag and its handler; IRQs must be masked.
pub fn install(index: usize, handler: Handler) {
    TPIDR_EL1.set(FLAGS[index].0.as_ptr() as u64);
    let vectors = match handler {
        Handler::Sgi => &raw const sgi_vectors,
        Handler::Timer => &raw const timer_vectors,
    };
    VBAR_EL1.set(vectors as u64);
    barrier::isb(barrier::SY);
}

/// Has the peer do `task`, and returns once it does.
pub fn command(task: u64) {
    TASK.store(task, Relaxed);
    while IS_READY.load(Relaxed) != task {
        trapline_demos::guest::gic::v3::send_sgi(INTID, 1);
        settle();
    }
    // One that was sent on top may still be on its way.
    settle();
    FLAGS[0].0.store(0, Relaxed);
    FLAGS[1].0.store(0, Relaxed);
}

/// Long enough for the other CPU to come to rest.
pub fn settle() {
    let end = cpu::now() + cpu::microseconds(50);
    while cpu::now() < end {
        cpu::relax();
    }
}

/// The peer's life.
pub fn serve(index: usize) -> ! {
    install(index, Handler::Sgi);
    let reply = sgi::to_one(INTID, machine::mpidr(0));
    loop {
        let task = TASK.load(Relaxed);
        IS_READY.store(task, Relaxed);
        match task {
            task::POLL => poll(&TASK),
            task::REPLY => answer(&TASK, task, &FLAGS[index].0, reply),
            task::REPLY_FP => answer_fp(&TASK, task, &FLAGS[index].0, reply),
            _ => wait(&TASK),
        }
    }
}

/// Polls, IRQs unmasked, until the task is another.
fn poll(task: &AtomicU64) {
    // SAFETY: reads one word; handlers save what they use.
    unsafe {
        asm!(
            "msr     daifclr, #2",
            "1: yield",
            "ldr     {seen}, [{task}]",
            "cmp     {seen}, #1",
            "b.eq    1b",
            "msr     daifset, #2",
            task = in(reg) task.as_ptr(),
            seen = out(reg) _,
            options(nostack),
        );
    }
}

/// Waits in WFI, IRQs unmasked, until the task is another.
fn wait(task: &AtomicU64) {
    // SAFETY: reads one word; handlers save what they use.
    unsafe {
        asm!(
            "msr     daifclr, #2",
            "1: wfi",
            "ldr     {seen}, [{task}]",
            "cbz     {seen}, 1b",
            "msr     daifset, #2",
            task = in(reg) task.as_ptr(),
            seen = out(reg) _,
            options(nostack),
        );
    }
}

macro_rules! answering {
    ($(#[$documentation:meta])* $name:ident $(, $line:literal)*) => {
        $(#[$documentation])*
        #[unsafe(naked)]
        extern "C" fn $name(task: &AtomicU64, own: u64, flag: &AtomicU64, reply: u64) {
            naked_asm!(
                $($line,)*
                "1: ldr  x9, [x2]",
                "cbnz    x9, 2f",
                "wfi",
                "msr     daifclr, #2",
                "msr     daifset, #2",
                "ldr     x9, [x0]",
                "cmp     x9, x1",
                "b.eq    1b",
                "ret",
                "2: str  xzr, [x2]",
                $($line,)*
                "msr     icc_sgi1r_el1, x3",
                "isb",
                "b       1b",
            )
        }
    };
}

answering! {
    /// Answers each SGI with one, and waits in WFI in between, until the task is not `own`.
    answer
}
answering! {
    /// The same, with an FP instruction for each.
    answer_fp, ".arch_extension fp", "fmov d0, x3"
}

// An interrupt from the current level on SP_EL1 is at 0x280; nothing else is expected. The handler fits into its vector.
global_asm!(
    r#"
    .pushsection .text.bench_vectors, "ax"
    .balign 2048
    .global sgi_vectors
sgi_vectors:
    .rept 5
    .balign 128
    b       .
    .endr
    .balign 128
    stp     x0, x1, [sp, #-16]!
    mrs     x0, icc_iar1_el1
    mrs     x1, tpidr_el1
    str     x0, [x1]
    msr     icc_eoir1_el1, x0
    ldp     x0, x1, [sp], #16
    eret
    .rept 10
    .balign 128
    b       .
    .endr

    .balign 2048
    .global timer_vectors
timer_vectors:
    .rept 5
    .balign 128
    b       .
    .endr
    .balign 128
    stp     x0, x1, [sp, #-16]!
    mrs     x0, cntvct_el0
    mrs     x1, tpidr_el1
    str     x0, [x1]
    msr     cntv_ctl_el0, xzr
    isb
    mrs     x0, icc_iar1_el1
    msr     icc_eoir1_el1, x0
    ldp     x0, x1, [sp], #16
    eret
    .rept 10
    .balign 128
    b       .
    .endr
    .popsection
"#
);
