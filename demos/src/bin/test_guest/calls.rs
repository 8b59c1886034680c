//! Calls that nobody answers, and many calls that are answered.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

use trapline_demos::guest::{
    exceptions::{Frame, Kind},
    machine,
    power::{self, Conduit, status},
};

use crate::support::{self, check, is_strict, on_exception};

const UNDEFINED_CLASS: u64 = 0;
static UNDEFINED: AtomicU64 = AtomicU64::new(0);

/// Counts an undefined call and goes on after it; x0 becomes NOT_SUPPORTED, as if it had been answered.
pub fn tolerate_undefined(kind: Kind, frame: &mut Frame) {
    check!(
        kind == Kind::Synchronous && frame.class() == UNDEFINED_CLASS,
        "{kind:?} exception, esr {:#x} at {:#x}",
        frame.esr,
        frame.elr
    );
    UNDEFINED.fetch_add(1, SeqCst);
    frame.registers[0] = status::NOT_SUPPORTED as u64;
    frame.skip();
}

/// A call with an immediate: x0, and how many of the instructions right after it were executed.
macro_rules! call_with {
    ($instruction:literal, $immediate:literal) => {{
        let (result, after): (u64, u64);
        // SAFETY: at worst the call is undefined, which the handler steps over.
        unsafe {
            asm!(
                "mov     x4, #0",
                concat!($instruction, " #", $immediate),
                "add     x4, x4, #1",
                inout("x0") 0xc200_1234_u64 => result,
                out("x1") _, out("x2") _, out("x3") _, out("x4") after,
            );
        }
        (result, after)
    }};
}

/// Functions that do not exist return NOT_SUPPORTED and leave the other registers alone; HVC and SMC with an immediate are
/// undefined or not supported, and do not skip anything.
pub fn unknown() {
    on_exception(tolerate_undefined);
    // Fast calls of every owner: Arm, CPU, SiP, OEM, standard secure and hypervisor, vendor hypervisor, trusted.
    let owners = [
        0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0xb0, 0xb2, 0xbf, 0xc0, 0xc1, 0xc4, 0xc6,
        0xff_u32,
    ];
    for function in owners.map(|owner| owner << 24 | 0xfe13) {
        let registers = power::call_registers(Conduit::of_machine(), function, [1, 2, 3]);
        let result = registers[0] as i32;
        check!(
            i64::from(result) == status::NOT_SUPPORTED,
            "function {function:#x} returned {result}"
        );
        for (number, &value) in registers.iter().enumerate().skip(4) {
            let expected = power::UNTOUCHED + number as u64;
            check!(
                value == expected,
                "function {function:#x} left {value:#x} in x{number}"
            );
        }
    }
    let with_immediates = [
        (1, call_with!("hvc", 1)),
        (0x4242, call_with!("hvc", 0x4242)),
        (0xffff, call_with!("hvc", 0xffff)),
        (1, call_with!("smc", 1)),
        (0x4242, call_with!("smc", 0x4242)),
        (0xffff, call_with!("smc", 0xffff)),
    ];
    for (immediate, (result, after)) in with_immediates {
        check!(
            result as i32 as i64 == status::NOT_SUPPORTED,
            "a call with #{immediate:#x} returned {result:#x}"
        );
        check!(
            after == 1,
            "{after} instructions after a call with #{immediate:#x} were executed, instead of 1"
        );
    }
    if is_strict() {
        check!(
            UNDEFINED.load(SeqCst) == 6,
            "{} calls with an immediate were undefined",
            UNDEFINED.load(SeqCst)
        );
    }
    support::say(format_args!("undefined={}", UNDEFINED.load(SeqCst)));
}

/// All CPUs call PSCI_VERSION `calls=` times (default 1,000), and do nothing else.
pub fn many() {
    support::start_all();
    (1..machine::cpu_count()).for_each(|index| support::run_on(index, call_many));
    call_many();
    (1..machine::cpu_count()).for_each(support::join);
}

fn call_many() {
    let version = power::call(power::VERSION, [0; 3]);
    for _ in 1..machine::parameters().number("calls", 1_000) {
        let again = power::call(power::VERSION, [0; 3]);
        check!(
            again == version,
            "PSCI_VERSION is {version:#x}, then {again:#x}"
        );
    }
}
