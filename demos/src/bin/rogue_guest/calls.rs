//! Calls that make no sense.

use core::sync::atomic::Ordering::Relaxed;

use trapline_demos::guest::{
    machine,
    power::{self, Conduit},
    random::Random,
};

use crate::{DONE, code};

/// Those that would end this CPU or the machine: function numbers without their width.
const ENDS: [u32; 6] = [
    power::CPU_OFF,
    power::SYSTEM_OFF,
    power::SYSTEM_RESET,
    // CPU_SUSPEND, SYSTEM_SUSPEND and SYSTEM_RESET2: they come back with registers reset, or not at all.
    0x8400_0001,
    0x8400_000e,
    0x8400_0012,
];
const WIDE: u32 = 1 << 30;

/// Calls with random numbers and arguments, many of them near functions that exist.
pub fn random() {
    let mut random = crate::random();
    for _ in 0..machine::parameters().number("count", 5_000) {
        let function = match random.below(4) {
            0 => random.next() as u32,
            1 => 0x8000_0000 | random.below(0x20) as u32 | (random.next() as u32 & WIDE),
            2 => 0x8600_0000 | random.below(0x4_0000) as u32,
            _ => 0x8400_0000 | random.below(0x20) as u32 | (random.next() as u32 & WIDE),
        };
        if ENDS.contains(&(function & !WIDE)) {
            continue;
        }
        let conduit = if random.below(2) == 0 {
            Conduit::Hvc
        } else {
            Conduit::Smc
        };
        let arguments = [
            argument(&mut random),
            argument(&mut random),
            argument(&mut random),
        ];
        power::call_registers(conduit, function, arguments);
        DONE.fetch_add(1, Relaxed);
    }
}

/// Affinities, addresses, small numbers, and none of these.
fn argument(random: &mut Random) -> u64 {
    match random.below(4) {
        0 => random.below(machine::cpu_count() as u64 + 2),
        1 => 0x4000_0000 + random.below(1 << 30),
        2 => u64::MAX << random.below(64),
        _ => random.next(),
    }
}

/// `hlt #0xf000` asks a debugger to end the machine, and much else. [Arm: Semihosting for AArch64, SYS_EXIT]
pub fn semihosting() {
    const HALT: u32 = 0xd45e_0000;
    const EXIT: u64 = 0x18;
    code::execute(HALT, EXIT);
    DONE.fetch_add(1, Relaxed);
}
