//! The host's control registers: it has values of its own, which `hardware_disable` must give back.

use core::arch::asm;

/// Declares the registers once: their names, and what the host has there, which differs from round to round so that no
/// value is right by chance.
macro_rules! host_registers {
    ($($name:literal: |$round:ident| $value:expr,)+) => {
        const NAMES: &[&str] = &[$($name),+];

        /// The host's registers, as they are now.
        fn read() -> [u64; NAMES.len()] {
            [$({
                let value: u64;
                // SAFETY: reading a control register changes nothing.
                unsafe { asm!(concat!("mrs {}, ", $name), out(reg) value, options(nomem, nostack, preserves_flags)) };
                value
            }),+]
        }

        fn write(round: u64) {
            $({
                let $round = round;
                let value: u64 = $value;
                // SAFETY: no guest is bound, and these values keep EL2 as it is: they only concern EL1 and EL0, except that
                // interrupts come to EL2 and FP does not trap.
                unsafe { asm!(concat!("msr ", $name, ", {}"), in(reg) value, options(nomem, nostack, preserves_flags)) };
            })+
        }
    };
}

/// RW, AMO, IMO, FMO: the host takes its interrupts at EL2. [DDI0487: HCR_EL2]
const HOST_HCR: u64 = 1 << 31 | 1 << 5 | 1 << 4 | 1 << 3;
/// The RES1 bits: nothing traps. [DDI0487: CPTR_EL2]
const HOST_CPTR: u64 = 0x33ff;
/// TSW, TCPAC, TDA: bits that a host may have either way.
const TSW: u32 = 22;
const TCPAC: u32 = 31;
const TDA: u32 = 9;

host_registers! {
    "hcr_el2": |round| HOST_HCR | (round & 1) << TSW,
    "vtcr_el2": |round| 1 << 31 | round & 0x3f,
    "vttbr_el2": |round| (round & 0xff) << 48 | 0x4000_5000,
    "cptr_el2": |round| HOST_CPTR | (round & 1) << TCPAC,
    "mdcr_el2": |round| (round & 1) << TDA,
    "cnthctl_el2": |round| round & 3,
    "cntvoff_el2": |round| round.wrapping_mul(0x1_0001),
    "hstr_el2": |round| round & 0xf,
    "vpidr_el2": |round| 0x410f_d000 | round & 0xf,
    "vmpidr_el2": |round| 1 << 31 | round & 0xff,
    "ich_vmcr_el2": |round| (round & 0x1f) << 27,
    "ich_hcr_el2": |round| (round & 1) << 10,
}

/// What the host had before `hardware_enable`.
pub struct HostControl {
    control: [u64; NAMES.len()],
    vectors: u64,
}

impl HostControl {
    /// Gives the registers the values of `round`, which they have until `hardware_enable`.
    pub fn set(round: u64) -> Self {
        write(round);
        // SAFETY: a barrier: the registers are in force, and read as what they hold.
        unsafe { asm!("isb", options(nostack, preserves_flags)) };
        Self {
            control: read(),
            vectors: vectors(),
        }
    }

    /// All registers hold what they held.
    ///
    /// # Panics
    /// If one does not.
    pub fn expect_restored(&self) {
        for ((name, &before), now) in NAMES.iter().zip(&self.control).zip(read()) {
            assert!(
                now == before,
                "hardware_disable left {name} at {now:#x}, the host had {before:#x}"
            );
        }
        assert!(vectors() == self.vectors, "the host's vectors were changed");
        assert!(
            !is_timer_armed(),
            "hardware_disable left the hypervisor timer armed"
        );
    }
}

fn vectors() -> u64 {
    let value: u64;
    // SAFETY: reading it changes nothing.
    unsafe { asm!("mrs {}, vbar_el2", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// CNTHP, which the host has no use for. [DDI0487: CNTHP_CTL_EL2.ENABLE]
fn is_timer_armed() -> bool {
    let value: u64;
    // SAFETY: reading it changes nothing.
    unsafe {
        asm!("mrs {}, cnthp_ctl_el2", out(reg) value, options(nomem, nostack, preserves_flags));
    }
    value & 1 != 0
}
