//! Figures with interrupts: SGIs to oneself and to the peer, switches, timers.

use core::{
    arch::{asm, naked_asm},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use trapline_demos::guest::{cpu, gic, machine, sgi, timer::Timer};

use crate::{
    calls::counter_overhead,
    peer::{self, FLAGS, Handler, INTID, task},
    samples::report,
};

/// From arming a timer to its deadline: all exits on the way to waiting are over by then.
const TIMER_DELAY_US: u64 = 100;

/// SGIs to oneself, and timers.
pub fn alone() {
    let overhead = counter_overhead();
    peer::install(0, Handler::Sgi);
    let to_self = sgi::to_one(INTID, machine::mpidr(0));
    report("sgi_self", 11, overhead, 1, || send_and_poll(to_self));
    peer::install(0, Handler::Timer);
    gic::enable(Timer::Virtual.intid());
    report("timer_running", 2, 0, 1, || lateness(spin));
    report("timer_waiting", 2, 0, 1, || lateness(wait));
    gic::disable(Timer::Virtual.intid());
}

/// A timer, for a CPU that waits; others may have its pCPU meanwhile.
pub fn wake() {
    peer::install(0, Handler::Timer);
    gic::enable(Timer::Virtual.intid());
    report("wake", 2, 0, 1, || lateness(wait));
    gic::disable(Timer::Virtual.intid());
}

/// Waits for so many milliseconds of the guest's time, if these are not over.
pub fn wait_until(milliseconds: u64) {
    peer::install(0, Handler::Timer);
    gic::enable(Timer::Virtual.intid());
    taken_at(cpu::microseconds(milliseconds.saturating_mul(1000)), wait);
    gic::disable(Timer::Virtual.intid());
}

/// SGIs to the peer, which runs or waits; the peer's handler writes a flag that this CPU polls.
pub fn with_peer() {
    let overhead = counter_overhead();
    peer::install(0, Handler::Sgi);
    let to_peer = sgi::to_one(INTID, machine::mpidr(1));
    peer::command(task::POLL);
    report("sgi_running", 16, overhead, 1, || {
        peer::settle();
        send_and_poll_peer(to_peer)
    });
    peer::command(task::WAIT);
    report("sgi_waiting", 15, overhead, 1, || {
        peer::settle();
        send_and_poll_peer(to_peer)
    });
}

/// Both CPUs send and wait in turn: one round is two switches if they share a pCPU.
pub fn switch() {
    let overhead = counter_overhead();
    peer::install(0, Handler::Sgi);
    let to_peer = sgi::to_one(INTID, machine::mpidr(1));
    command_waiting(task::REPLY, to_peer);
    report("vcpu_switch", 19, overhead, 2, || {
        send_and_wait(to_peer, &FLAGS[0].0)
    });
    command_waiting(task::REPLY_FP, to_peer);
    report("vcpu_switch_fp", 20, overhead, 2, || {
        send_and_wait_fp(to_peer, &FLAGS[0].0)
    });
}

/// Has the peer reply from now on. What was sent to get it there may be answered late; a few rounds absorb that.
fn command_waiting(task: u64, to_peer: u64) {
    peer::command(task);
    for _ in 0..4 {
        send_and_wait(to_peer, &FLAGS[0].0);
    }
}

/// From sending an SGI to oneself until its handler is done.
fn send_and_poll(register: u64) -> u64 {
    let flag = &FLAGS[0].0;
    flag.store(0, Relaxed);
    let (start, end): (u64, u64);
    // SAFETY: sends an SGI whose handler saves what it uses, and reads a flag.
    unsafe {
        asm!(
            "msr     daifclr, #2",
            "isb",
            "mrs     {start}, cntvct_el0",
            "msr     icc_sgi1r_el1, {register}",
            "isb",
            "1: ldr  {seen}, [{flag}]",
            "cbz     {seen}, 1b",
            "mrs     {end}, cntvct_el0",
            "msr     daifset, #2",
            register = in(reg) register,
            flag = in(reg) flag.as_ptr(),
            seen = out(reg) _,
            start = out(reg) start,
            end = out(reg) end,
            options(nostack),
        );
    }
    end - start
}

/// From sending an SGI to the peer until this CPU sees its flag. It gives way while it polls: under icount that is what lets the
/// peer run.
fn send_and_poll_peer(register: u64) -> u64 {
    let flag = &FLAGS[1].0;
    flag.store(0, Relaxed);
    let (start, end): (u64, u64);
    // SAFETY: sends an SGI, and reads a flag.
    unsafe {
        asm!(
            "isb",
            "mrs     {start}, cntvct_el0",
            "msr     icc_sgi1r_el1, {register}",
            "isb",
            "1: yield",
            "ldr     {seen}, [{flag}]",
            "cbz     {seen}, 1b",
            "mrs     {end}, cntvct_el0",
            register = in(reg) register,
            flag = in(reg) flag.as_ptr(),
            seen = out(reg) _,
            start = out(reg) start,
            end = out(reg) end,
            options(nostack),
        );
    }
    end - start
}

macro_rules! sending_and_waiting {
    ($(#[$documentation:meta])* $name:ident $(, $line:literal)*) => {
        $(#[$documentation])*
        #[unsafe(naked)]
        extern "C" fn $name(register: u64, flag: &AtomicU64) -> u64 {
            naked_asm!(
                $($line,)*
                "msr     daifset, #2",
                "isb",
                "mrs     x2, cntvct_el0",
                $($line,)*
                "msr     icc_sgi1r_el1, x0",
                "isb",
                "1: ldr  x9, [x1]",
                "cbnz    x9, 2f",
                "wfi",
                "msr     daifclr, #2",
                "msr     daifset, #2",
                "b       1b",
                "2: str  xzr, [x1]",
                "mrs     x3, cntvct_el0",
                "sub     x0, x3, x2",
                "ret",
            )
        }
    };
}

sending_and_waiting! {
    /// From sending an SGI until the peer's has come back, in WFI meanwhile.
    send_and_wait
}
sending_and_waiting! {
    /// The same, with an FP instruction.
    send_and_wait_fp, ".arch_extension fp", "fmov d0, x0"
}

/// From a deadline of the virtual timer to its handler, while `until_flagged` passes the time.
fn lateness(until_flagged: impl Fn(&AtomicU64)) -> u64 {
    let deadline = cpu::now() + cpu::microseconds(TIMER_DELAY_US);
    taken_at(deadline, until_flagged) - deadline
}

/// When the handler runs whose timer expires at `deadline`.
fn taken_at(deadline: u64, until_flagged: impl Fn(&AtomicU64)) -> u64 {
    let flag = &FLAGS[0].0;
    flag.store(0, Relaxed);
    Timer::Virtual.arm(deadline);
    until_flagged(flag);
    flag.load(Relaxed)
}

fn spin(flag: &AtomicU64) {
    cpu::unmask_interrupts();
    while flag.load(Relaxed) == 0 {}
    cpu::mask_interrupts();
}

fn wait(flag: &AtomicU64) {
    cpu::unmask_interrupts();
    while flag.load(Relaxed) == 0 {
        cpu::wait_for_interrupt();
    }
    cpu::mask_interrupts();
}
