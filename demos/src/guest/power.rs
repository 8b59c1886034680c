//! Starting and stopping CPUs and the machine. [DEN0022: PSCI; DEN0028: SMCCC]
//!
//! The numbers are written out here: a guest that took them from the crate that the hypervisor uses could not see a wrong one.

use core::arch::asm;

use super::{boot, cpu, machine};

/// PSCI_VERSION.
pub const VERSION: u32 = 0x8400_0000;
/// CPU_SUSPEND, 64-bit.
pub const CPU_SUSPEND: u32 = 0xc400_0001;
/// CPU_OFF.
pub const CPU_OFF: u32 = 0x8400_0002;
/// CPU_ON, 32-bit.
pub const CPU_ON_32: u32 = 0x8400_0003;
/// CPU_ON, 64-bit.
pub const CPU_ON: u32 = 0xc400_0003;
/// AFFINITY_INFO, 32-bit.
pub const AFFINITY_INFO_32: u32 = 0x8400_0004;
/// AFFINITY_INFO, 64-bit.
pub const AFFINITY_INFO: u32 = 0xc400_0004;
/// MIGRATE_INFO_TYPE.
pub const MIGRATE_INFO_TYPE: u32 = 0x8400_0006;
/// SYSTEM_OFF.
pub const SYSTEM_OFF: u32 = 0x8400_0008;
/// SYSTEM_RESET.
pub const SYSTEM_RESET: u32 = 0x8400_0009;
/// PSCI_FEATURES.
pub const FEATURES: u32 = 0x8400_000a;
/// SYSTEM_SUSPEND.
pub const SYSTEM_SUSPEND: u32 = 0xc400_000e;
/// SMCCC_VERSION.
pub const SMCCC_VERSION: u32 = 0x8000_0000;

/// What a PSCI function returns in x0.
pub mod status {
    /// It is done.
    pub const SUCCESS: i64 = 0;
    /// There is no such function.
    pub const NOT_SUPPORTED: i64 = -1;
    /// An argument names nothing that exists.
    pub const INVALID_PARAMETERS: i64 = -2;
    /// It may not be done now.
    pub const DENIED: i64 = -3;
    /// The CPU is on.
    pub const ALREADY_ON: i64 = -4;
    /// Somebody else is turning the CPU on.
    pub const ON_PENDING: i64 = -5;
    /// The entry point is no address at which the CPU could start.
    pub const INVALID_ADDRESS: i64 = -9;
}

/// What AFFINITY_INFO returns.
pub mod affinity {
    /// The CPU is on.
    pub const ON: i64 = 0;
    /// The CPU is off.
    pub const OFF: i64 = 1;
    /// The CPU was turned on and has not got there.
    pub const ON_PENDING: i64 = 2;
}

/// The instruction that calls the firmware, or what stands for it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Conduit {
    /// `hvc #0`.
    Hvc,
    /// `smc #0`.
    Smc,
}

impl Conduit {
    /// The one that the device tree names.
    pub fn of_machine() -> Self {
        if machine::calls_by_smc() {
            Self::Smc
        } else {
            Self::Hvc
        }
    }
}

/// Before a call, x4 to x17 hold this plus their number: a call must not change them. [DEN0028: SMC64 and HVC64 register usage]
pub const UNTOUCHED: u64 = 0x5a5a_0000_0000_0000;

/// Calls `function` with three arguments; x0 to x17 as the call left them.
pub fn call_registers(conduit: Conduit, function: u32, arguments: [u64; 3]) -> [u64; 18] {
    let mut registers: [u64; 18] = core::array::from_fn(|index| UNTOUCHED + index as u64);
    registers[0] = u64::from(function);
    registers[1..4].copy_from_slice(&arguments);
    macro_rules! call {
        ($instruction:literal) => {
            // SAFETY: by SMCCC a call preserves x18 to x30 and the stack. What starts a CPU or ends this one acts on memory as
            // it is told, and no `nomem` says otherwise.
            unsafe {
                asm!(
                    $instruction,
                    inout("x0") registers[0],
                    inout("x1") registers[1],
                    inout("x2") registers[2],
                    inout("x3") registers[3],
                    inout("x4") registers[4],
                    inout("x5") registers[5],
                    inout("x6") registers[6],
                    inout("x7") registers[7],
                    inout("x8") registers[8],
                    inout("x9") registers[9],
                    inout("x10") registers[10],
                    inout("x11") registers[11],
                    inout("x12") registers[12],
                    inout("x13") registers[13],
                    inout("x14") registers[14],
                    inout("x15") registers[15],
                    inout("x16") registers[16],
                    inout("x17") registers[17],
                    options(nostack),
                )
            }
        };
    }
    match conduit {
        Conduit::Hvc => call!("hvc #0"),
        Conduit::Smc => call!("smc #0"),
    }
    registers
}

/// Calls `function` by the machine's conduit; x0 as a signed number. 32-bit functions return one of 32 bits.
pub fn call(function: u32, arguments: [u64; 3]) -> i64 {
    let result = call_registers(Conduit::of_machine(), function, arguments)[0];
    if function & 1 << 30 == 0 {
        i64::from(result as i32)
    } else {
        result as i64
    }
}

/// Turns the CPU at `index` on: it enters the program's `secondary` with `cookie`, of which 56 bits travel.
pub fn start_cpu(index: usize, cookie: u64) -> i64 {
    call(
        CPU_ON,
        [
            machine::mpidr(index),
            boot::secondary_entry(),
            boot::context(index, cookie),
        ],
    )
}

/// The power state of the CPU at `index`: one of [`affinity`], or an error.
pub fn state_of(index: usize) -> i64 {
    call(AFFINITY_INFO, [machine::mpidr(index), 0, 0])
}

/// Turns this CPU off. IRQs stay masked: what is pending cannot delay it.
pub fn stop_this_cpu() -> ! {
    cpu::mask_interrupts();
    let result = call(CPU_OFF, [0; 3]);
    panic!("CPU_OFF returned {result}");
}

/// Turns the machine off.
pub fn system_off() -> ! {
    call(SYSTEM_OFF, [0; 3]);
    // The machine may take a moment to go.
    loop {
        cpu::relax();
    }
}

/// Resets the machine.
pub fn system_reset() -> ! {
    call(SYSTEM_RESET, [0; 3]);
    loop {
        cpu::relax();
    }
}
