//! Code below the program: where EL0 finds memory and devices, and how it is entered and left, in 64-bit and 32-bit state.
//!
//! ```text
//!  Visit::begin --ERET--> code at `pc` with `pstate` --any exception--> vectors below --> registers, vector, syndrome
//! ```
//! One CPU at a time may have code here. Interrupts that are unmasked below end a visit like any exception.

use core::{
    arch::{asm, naked_asm},
    cell::UnsafeCell,
};

use aarch64_cpu::registers::{TTBR0_EL1, Writeable};

use super::boot::flat_map;

/// Where EL0 finds what is at address 0: the devices.
pub const DEVICES: usize = 0x8000_0000;
/// Where EL0 finds the memory at 0x4000_0000, for reading and executing; 32-bit code reaches both.
pub const MEMORY: usize = 0xc000_0000;
const MEMORY_START: usize = 0x4000_0000;

/// PSTATE of 64-bit code at EL0 with everything masked.
pub const A64: u64 = 0b1111 << 6;
/// PSTATE of 32-bit code with A, I and F masked.
pub const A32: u64 = 0b111 << 6 | 1 << 4;
/// The same, in the short encoding.
pub const T32: u64 = A32 | 1 << 5;

/// The program's own map, and the two windows that EL0 may use.
#[repr(C, align(4096))]
struct Map([u64; 512]);

static MAP: Map = Map(map());

const fn map() -> [u64; 512] {
    const GIBIBYTE: usize = 1 << 30;
    const FROM_EL0: u64 = 1 << 6;
    const READ_ONLY: u64 = 1 << 7;
    let mut map = flat_map();
    map[DEVICES / GIBIBYTE] = map[0] | FROM_EL0;
    map[MEMORY / GIBIBYTE] = map[MEMORY_START / GIBIBYTE] | FROM_EL0 | READ_ONLY;
    map
}

/// Opens the windows, on the CPU that calls it; what was mapped there is not any more.
pub fn open() {
    TTBR0_EL1.set((&raw const MAP).addr() as u64);
    // SAFETY: the new map has all that the old one has, but for two windows that nobody uses.
    unsafe {
        asm!(
            "dsb ishst",
            "isb",
            "tlbi vmalle1",
            "dsb nsh",
            "isb",
            options(nostack, preserves_flags)
        )
    };
}

/// Where EL0 finds what is at `address` in the program.
pub const fn address_of(address: usize) -> u64 {
    let base = if address < MEMORY_START {
        DEVICES
    } else {
        MEMORY - MEMORY_START
    };
    (base + address) as u64
}

/// Where the program finds what EL0 finds at `address` in its memory.
pub const fn program_address(address: u64) -> u64 {
    address - (MEMORY - MEMORY_START) as u64
}

const CODE_BYTES: usize = 256;

/// The code that is visited.
#[repr(C, align(256))]
struct Code(UnsafeCell<[u8; CODE_BYTES]>);

// SAFETY: one CPU at a time has code here, by the contract of this module, and only `place` writes.
unsafe impl Sync for Code {}

static CODE: Code = Code(UnsafeCell::new([0; CODE_BYTES]));

/// Makes `words` the code that EL0 finds at the address returned; what was there is forgotten.
pub fn place(words: &[u32]) -> u64 {
    words
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .zip(0..)
        .for_each(write);
    publish()
}

/// The same for code in the short encoding.
pub fn place_short(halves: &[u16]) -> u64 {
    halves
        .iter()
        .flat_map(|half| half.to_le_bytes())
        .zip(0..)
        .for_each(write);
    publish()
}

fn write((byte, offset): (u8, usize)) {
    assert!(offset < CODE_BYTES, "code fits into its place");
    // SAFETY: inside of the code, which nobody else uses now.
    unsafe { CODE.0.get().cast::<u8>().add(offset).write(byte) }
}

/// Cleans the code to where instructions are fetched from. [DDI0487: Concurrent modification and execution of instructions]
fn publish() -> u64 {
    let start = CODE.0.get().addr();
    for line in (start..start + CODE_BYTES).step_by(16) {
        // SAFETY: maintenance of memory that this module owns.
        unsafe { asm!("dc cvau, {}", in(reg) line, options(nostack, preserves_flags)) };
    }
    // SAFETY: likewise.
    unsafe {
        asm!(
            "dsb ish",
            "ic iallu",
            "dsb ish",
            "isb",
            options(nostack, preserves_flags)
        )
    };
    address_of(start)
}

/// What code below the program starts with, and, after it, how it ended.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Visit {
    /// x0 to x30.
    pub registers: [u64; 31],
    /// Where it starts; where the exception returns to.
    pub pc: u64,
    /// Its PSTATE.
    pub pstate: u64,
    /// The offset of the vector by which it ended.
    pub vector: u64,
    /// Why. [DDI0487: ESR_EL1]
    pub esr: u64,
    /// The faulting address, for aborts.
    pub far: u64,
}

const _: () = assert!(size_of::<Visit>() == 288, "`enter` lays it out");

impl Visit {
    /// Starts at `pc` with `pstate` and registers that are zero.
    pub const fn new(pc: u64, pstate: u64) -> Self {
        Self {
            registers: [0; 31],
            pc,
            pstate,
            vector: 0,
            esr: 0,
            far: 0,
        }
    }

    /// The same with x0, x1 and so on.
    pub fn with(mut self, registers: &[u64]) -> Self {
        self.registers[..registers.len()].copy_from_slice(registers);
        self
    }

    /// Runs it to the exception that ends it.
    pub fn begin(mut self) -> Self {
        // SAFETY: whatever runs below can write to devices only; every exception comes to the vectors, which put back all that
        // the call must preserve.
        unsafe { enter(&mut self) };
        self
    }

    /// ESR_EL1.EC.
    pub const fn class(&self) -> u64 {
        self.esr >> 26 & 0x3f
    }
}

/// # Safety
/// 1. What runs below does no harm to the program.
#[unsafe(naked)]
unsafe extern "C" fn enter(visit: &mut Visit) {
    naked_asm!(
        "stp x29, x30, [sp, #-112]!",
        "stp x27, x28, [sp, #16]",
        "stp x25, x26, [sp, #32]",
        "stp x23, x24, [sp, #48]",
        "stp x21, x22, [sp, #64]",
        "stp x19, x20, [sp, #80]",
        "mrs x1, daif",
        "stp x0, x1, [sp, #96]",
        "msr daifset, #0xf",
        "adrp x1, {vectors}",
        "add x1, x1, :lo12:{vectors}",
        "msr vbar_el1, x1",
        "isb",
        "ldp x1, x2, [x0, #248]",
        "msr elr_el1, x1",
        "msr spsr_el1, x2",
        "ldr x30, [x0, #240]",
        "ldp x28, x29, [x0, #224]",
        "ldp x26, x27, [x0, #208]",
        "ldp x24, x25, [x0, #192]",
        "ldp x22, x23, [x0, #176]",
        "ldp x20, x21, [x0, #160]",
        "ldp x18, x19, [x0, #144]",
        "ldp x16, x17, [x0, #128]",
        "ldp x14, x15, [x0, #112]",
        "ldp x12, x13, [x0, #96]",
        "ldp x10, x11, [x0, #80]",
        "ldp x8, x9, [x0, #64]",
        "ldp x6, x7, [x0, #48]",
        "ldp x4, x5, [x0, #32]",
        "ldp x2, x3, [x0, #16]",
        "ldp x0, x1, [x0]",
        "eret",
        vectors = sym vectors,
    )
}

/// Every exception ends the visit.
#[unsafe(naked)]
#[unsafe(link_section = ".text.el0_vectors")]
extern "C" fn vectors() {
    naked_asm!(
        ".balign 2048",
        ".irp vector,0x000,0x080,0x100,0x180,0x200,0x280,0x300,0x380,0x400,0x480,0x500,0x580,0x600,0x680,0x700,0x780",
        ".balign 128",
        "stp x0, x1, [sp, #-16]!",
        "mov x0, #\\vector",
        "b {leave}",
        ".endr",
        leave = sym leave,
    )
}

/// The second half of `enter`: x0 is the vector, the visitor's x0 and x1 are on top of what `enter` pushed.
#[unsafe(naked)]
unsafe extern "C" fn leave() {
    naked_asm!(
        "ldr x1, [sp, #112]",
        "stp x2, x3, [x1, #16]",
        "stp x4, x5, [x1, #32]",
        "stp x6, x7, [x1, #48]",
        "stp x8, x9, [x1, #64]",
        "stp x10, x11, [x1, #80]",
        "stp x12, x13, [x1, #96]",
        "stp x14, x15, [x1, #112]",
        "stp x16, x17, [x1, #128]",
        "stp x18, x19, [x1, #144]",
        "stp x20, x21, [x1, #160]",
        "stp x22, x23, [x1, #176]",
        "stp x24, x25, [x1, #192]",
        "stp x26, x27, [x1, #208]",
        "stp x28, x29, [x1, #224]",
        "str x30, [x1, #240]",
        "ldp x2, x3, [sp], #16",
        "stp x2, x3, [x1]",
        "mrs x2, elr_el1",
        "mrs x3, spsr_el1",
        "stp x2, x3, [x1, #248]",
        "mrs x2, esr_el1",
        "stp x0, x2, [x1, #264]",
        "mrs x2, far_el1",
        "str x2, [x1, #280]",
        "adrp x2, guest_vectors",
        "add x2, x2, :lo12:guest_vectors",
        "msr vbar_el1, x2",
        "isb",
        "ldr x2, [sp, #104]",
        "msr daif, x2",
        "ldp x27, x28, [sp, #16]",
        "ldp x25, x26, [sp, #32]",
        "ldp x23, x24, [sp, #48]",
        "ldp x21, x22, [sp, #64]",
        "ldp x19, x20, [sp, #80]",
        "ldp x29, x30, [sp], #112",
        "ret",
    )
}
