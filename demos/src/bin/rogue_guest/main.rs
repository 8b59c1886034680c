//! A guest that does what no guest should: for the hypervisor to go on, and for its neighbours not to notice.
//!
//! `test=NAME` selects what it does, `seed=` where its random numbers start, `ms=` how long it takes where it never ends by
//! itself. It says `ROGUE NAME END`, with how often it did what, and turns the machine off; that it still can is all that it
//! checks.
#![no_std]
#![no_main]

mod calls;
mod code;
mod devices;
mod nowhere;
mod registers;
mod storms;
mod words;
mod words32;

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use trapline_demos::{
    guest::{
        boot::Entry,
        console, cpu,
        exceptions::{Frame, Kind},
        gic, machine, power,
        random::Random,
    },
    guest_program,
};

guest_program! { main: main, secondary: secondary, interrupt: storms::interrupt, exception: exception }

/// What it can do: a name, what the boot CPU does, and what the others do, which need not end.
type Mischief = (&'static str, fn(), fn());

#[rustfmt::skip] // read by column
const MISCHIEF: &[Mischief] = &[
    ("devices",        devices::everywhere,         devices::everywhere),
    ("register-reads", registers::read_all,         registers::read_all),
    ("register-writes", registers::write_most,      registers::write_most),
    ("calls",          calls::random,               calls::random),
    ("semihosting",    calls::semihosting,          calls::semihosting),
    ("storms",         storms::boot_cpu,            storms::others),
    ("nowhere",        wait,                        nowhere::get_lost),
    ("words",          wait,                        words::run_for_ever),
    ("words32",        words32::run,                || ()),
];

/// Exceptions that were taken, and things that were done.
static EXCEPTIONS: AtomicU64 = AtomicU64::new(0);
static DONE: AtomicU64 = AtomicU64::new(0);

fn mischief() -> &'static Mischief {
    let name = machine::parameters().text("test").unwrap_or("");
    let found = MISCHIEF.iter().find(|mischief| mischief.0 == name);
    found.expect("test= names what this guest can do")
}

fn main() -> ! {
    let (name, run, _) = mischief();
    for index in 1..machine::cpu_count() {
        power::start_cpu(index, 1);
    }
    run();
    cpu::mask_interrupts();
    console::last_line(format_args!(
        "ROGUE {name} END done={} exceptions={}",
        DONE.load(Relaxed),
        EXCEPTIONS.load(Relaxed)
    ));
    power::system_off()
}

fn secondary(_: Entry) -> ! {
    gic::enable_cpu();
    let (_, _, run) = mischief();
    run();
    loop {
        cpu::wait_for_interrupt();
    }
}

/// The random numbers of this CPU.
fn random() -> Random {
    Random::new(machine::parameters().number("seed", 1), cpu::index() as u64)
}

/// When what never ends is over, in ticks of the counter.
fn deadline() -> u64 {
    cpu::now() + cpu::microseconds(1000 * machine::parameters().number("ms", 1000))
}

/// The boot CPU's part where only the others misbehave.
fn wait() {
    let end = deadline();
    while cpu::now() < end {
        cpu::relax();
    }
}

/// Whatever it was, it is over: execution goes on behind it.
fn exception(kind: Kind, frame: &mut Frame) {
    const INSTRUCTION_ABORT: u64 = 0x21;
    EXCEPTIONS.fetch_add(1, Relaxed);
    if kind != Kind::Synchronous {
        return;
    }
    if frame.class() == INSTRUCTION_ABORT {
        frame.elr = frame.registers[30];
    } else {
        frame.skip();
    }
}
