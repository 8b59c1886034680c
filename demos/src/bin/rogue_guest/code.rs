//! Instructions that are made up while the guest runs.

use core::{arch::asm, slice};

use trapline_demos::guest::cpu;

/// `ret` and `brk #0`.
pub const RET: u32 = 0xd65f_03c0;
pub const BRK: u32 = 0xd420_0000;

/// RAM that nothing else uses, further away from this program than a branch reaches.
const PLACES: usize = 0x4a00_0000;
/// Each CPU's place is a cache line of its own.
const PLACE_BYTES: usize = 64;

/// Makes `words` the code of CPU `cpu`, which calls this itself; the address where it starts.
pub fn write(cpu: usize, words: &[u32]) -> usize {
    let place = PLACES + cpu * PLACE_BYTES;
    assert!(
        size_of_val(words) <= PLACE_BYTES,
        "code fits into its place"
    );
    // SAFETY:
    // 1. This is RAM outside of all that the linker gave to Rust, and only this CPU writes to its place.
    // 2. The code is cleaned to where instructions are fetched from, and old copies of it are dropped. [DDI0487: Concurrent
    //    modification and execution of instructions]
    unsafe {
        slice::from_raw_parts_mut(place as *mut u32, words.len()).copy_from_slice(words);
        asm!(
            "dc cvau, {place}", "dsb ish", "ic ivau, {place}", "dsb ish", "isb",
            place = in(reg) place,
            options(nostack),
        );
    }
    place
}

/// Executes one `word` on this CPU with `value` in x0, and returns; x0 afterwards.
pub fn execute(word: u32, value: u64) -> u64 {
    execute_all(&[word, RET], value)
}

/// Executes `words`, the last of which is [`RET`], on this CPU with `value` in x0; x0 afterwards. They take neither the stack nor
/// the translation away, and an exception steps over the word that caused it.
pub fn execute_all(words: &[u32], value: u64) -> u64 {
    let start = write(cpu::index(), words);
    let mut result = value;
    // SAFETY: the words have x0 to x2 as their operands, by the callers, and what they change in the system is theirs to judge;
    // the call destroys what `clobber_abi` says.
    unsafe {
        asm!("blr {start}", start = in(reg) start, inout("x0") result, clobber_abi("C"));
    }
    result
}
