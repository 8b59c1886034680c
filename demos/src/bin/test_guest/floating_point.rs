//! FP/SIMD registers and pointer authentication keys across switches.

use core::{
    arch::asm,
    sync::atomic::{AtomicU64, Ordering::SeqCst},
};

use aarch64_cpu::registers::{ID_AA64ISAR1_EL1, Readable};
use trapline_demos::guest::{cpu, gic, machine, patterns, timer::Timer};

use crate::support::{self, check, on_interrupt};

/// How long each CPU holds patterns.
const MILLISECONDS: u64 = 500;
/// How often each CPU checks its key, about 2 ms apart.
const SIGNATURES: u64 = 60;
static ROUNDS: AtomicU64 = AtomicU64::new(0);

/// All CPUs hold patterns of their own in all FP/SIMD registers at the same time: running, and in WFI.
pub fn patterns() {
    support::start_all();
    on_interrupt(|intid| {
        Timer::Virtual.set_control(0);
        gic::end(intid);
    });
    (1..machine::cpu_count()).for_each(|index| support::run_on(index, hold_patterns));
    hold_patterns();
    (1..machine::cpu_count()).for_each(support::join);
    support::say(format_args!("rounds={}", ROUNDS.load(SeqCst)));
}

fn hold_patterns() {
    gic::enable(Timer::Virtual.intid());
    let end = cpu::now() + cpu::microseconds(MILLISECONDS * 1000);
    let mut round = 0;
    while cpu::now() < end {
        let seed = (cpu::index() as u64) << 56 | round << 16 | 0x5a5a;
        patterns::fill(seed);
        if round % 2 == 0 {
            wait_for_timer();
        } else {
            let until = cpu::now() + cpu::microseconds(300);
            while cpu::now() < until {}
        }
        if let Some(register) = patterns::changed(seed) {
            support::fail(format_args!(
                "{register} changed; the pattern was {seed:#x}"
            ));
        }
        round += 1;
        ROUNDS.fetch_add(1, SeqCst);
    }
}

fn wait_for_timer() {
    Timer::Virtual.arm(cpu::now() + cpu::microseconds(200));
    while Timer::Virtual.control() != 0 {
        cpu::wait_for_interrupt();
        cpu::unmask_interrupts();
        cpu::mask_interrupts();
    }
}

/// Where the ID registers name pointer authentication, signing works, and the key stays the CPU's own.
pub fn pointer_authentication() {
    // APA, API, GPA, GPI.
    if ID_AA64ISAR1_EL1.get() & 0xff00_0ff0 == 0 {
        support::say(format_args!("keys=none"));
        return;
    }
    support::start_all();
    on_interrupt(|intid| {
        Timer::Virtual.set_control(0);
        gic::end(intid);
    });
    (1..machine::cpu_count()).for_each(|index| support::run_on(index, sign_and_check));
    sign_and_check();
    (1..machine::cpu_count()).for_each(support::join);
    support::say(format_args!("signatures={}", ROUNDS.load(SeqCst)));
}

fn sign_and_check() {
    let index = cpu::index() as u64;
    gic::enable(Timer::Virtual.intid());
    set_key(0x0123_4567_89ab_cdef ^ index << 32, !index);
    let pointer = pointer_authentication as *const () as u64;
    let signed = sign(pointer);
    check!(signed != pointer, "a signed pointer is the pointer itself");
    for round in 0..SIGNATURES {
        if round % 4 == 0 {
            wait_for_timer();
        } else {
            support::pause();
        }
        check!(
            sign(pointer) == signed,
            "the signature changed: the key is not this CPU's"
        );
        check!(
            authenticate(signed) == pointer,
            "the signature does not authenticate"
        );
        ROUNDS.fetch_add(1, SeqCst);
    }
}

/// Sets the instruction key A and turns it on. [SCTLR_EL1.EnIA]
fn set_key(low: u64, high: u64) {
    // SAFETY: this program is built without return address signing.
    unsafe {
        asm!(
            ".arch_extension pauth",
            "msr apiakeylo_el1, {low}",
            "msr apiakeyhi_el1, {high}",
            "mrs {low}, sctlr_el1",
            "orr {low}, {low}, #0x80000000",
            "msr sctlr_el1, {low}",
            "isb",
            low = inout(reg) low => _,
            high = in(reg) high,
        );
    }
}

/// As `paciasp` does for a return address, but with a modifier that is not the stack pointer.
fn sign(pointer: u64) -> u64 {
    let signed: u64;
    // SAFETY: changes one register.
    unsafe {
        asm!(".arch_extension pauth", "pacia {0}, {1}", inout(reg) pointer => signed, in(reg) 0x42_u64)
    };
    signed
}

fn authenticate(signed: u64) -> u64 {
    let pointer: u64;
    // SAFETY: changes one register; a wrong signature makes an address that is compared, not used.
    unsafe {
        asm!(".arch_extension pauth", "autia {0}, {1}", inout(reg) signed => pointer, in(reg) 0x42_u64)
    };
    pointer
}
