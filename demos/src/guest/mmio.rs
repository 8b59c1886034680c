//! Accesses to device registers, each one plain load or store.
//!
//! A compiler may turn a volatile access into one with writeback, whose syndrome describes nothing to a hypervisor (ISV=0): the
//! instruction is therefore written out. [DDI0487: ESR_EL2.ISS.ISV]

use core::arch::asm;

/// Reads a 32-bit register.
#[inline(always)]
pub fn read32(address: usize) -> u32 {
    let value: u32;
    // SAFETY: a program passes addresses of device registers, outside of all memory that Rust knows.
    unsafe {
        asm!("ldr {value:w}, [{address}]", value = out(reg) value, address = in(reg) address, options(nostack))
    };
    value
}

/// Writes a 32-bit register.
#[inline(always)]
pub fn write32(address: usize, value: u32) {
    // SAFETY: a program passes addresses of device registers, outside of all memory that Rust knows.
    unsafe {
        asm!("str {value:w}, [{address}]", value = in(reg) value, address = in(reg) address, options(nostack))
    };
}

/// Reads a 64-bit register.
#[inline(always)]
pub fn read64(address: usize) -> u64 {
    let value: u64;
    // SAFETY: a program passes addresses of device registers, outside of all memory that Rust knows.
    unsafe {
        asm!("ldr {value}, [{address}]", value = out(reg) value, address = in(reg) address, options(nostack))
    };
    value
}

/// Writes a 64-bit register.
#[inline(always)]
pub fn write64(address: usize, value: u64) {
    // SAFETY: a program passes addresses of device registers, outside of all memory that Rust knows.
    unsafe {
        asm!("str {value}, [{address}]", value = in(reg) value, address = in(reg) address, options(nostack))
    };
}

/// Reads an 8-bit register.
#[inline(always)]
pub fn read8(address: usize) -> u8 {
    let value: u32;
    // SAFETY: a program passes addresses of device registers, outside of all memory that Rust knows.
    unsafe {
        asm!("ldrb {value:w}, [{address}]", value = out(reg) value, address = in(reg) address, options(nostack))
    };
    value as u8
}

/// Writes an 8-bit register.
#[inline(always)]
pub fn write8(address: usize, value: u8) {
    // SAFETY: a program passes addresses of device registers, outside of all memory that Rust knows.
    unsafe {
        asm!("strb {value:w}, [{address}]", value = in(reg) u32::from(value), address = in(reg) address, options(nostack))
    };
}
