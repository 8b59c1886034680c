//! The host's control registers: it has values of its own, which `hardware_disable` must give back.

use core::arch::asm;

use trapline_platform::gic;

/// Declares registers once, in a module: their names, and what the host has there, which differs from round to round so that
/// no value is right by chance.
macro_rules! host_registers {
    ($module:ident: $($name:literal: |$round:ident| $value:expr,)+) => {
        mod $module {
            use super::*;

            pub const NAMES: &[&str] = &[$($name),+];
            pub type Values = [u64; NAMES.len()];

            /// The host's registers, as they are now.
            pub fn read() -> Values {
                [$({
                    let value: u64;
                    // SAFETY: reading a control register changes nothing; the pCPU has those that the caller asks for.
                    unsafe { asm!(concat!("mrs {}, ", $name), out(reg) value, options(nomem, nostack, preserves_flags)) };
                    value
                }),+]
            }

            pub fn write(round: u64) {
                $({
                    let $round = round;
                    let value: u64 = $value;
                    // SAFETY: no guest is bound, and these values keep EL2 as it is: they only concern EL1 and EL0, except
                    // that interrupts come to EL2 and FP does not trap. The pCPU has the register, as for `read`.
                    unsafe { asm!(concat!("msr ", $name, ", {}"), in(reg) value, options(nomem, nostack, preserves_flags)) };
                })+
            }
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
    control:
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
}

// Of GICv3.
host_registers! {
    interface:
    "ich_vmcr_el2": |round| (round & 0x1f) << 27,
    "ich_hcr_el2": |round| (round & 1) << 10,
}

/// What the host had before `hardware_enable`.
pub struct HostControl {
    control: control::Values,
    /// None with a GICv2.
    interface: Option<interface::Values>,
    vectors: u64,
}

impl HostControl {
    /// Gives the registers the values of `round`, which they have until `hardware_enable`.
    pub fn set(round: u64) -> Self {
        control::write(round);
        let has_interface = gic::control_interface().is_none();
        if has_interface {
            interface::write(round);
        }
        // SAFETY: a barrier: the registers are in force, and read as what they hold.
        unsafe { asm!("isb", options(nostack, preserves_flags)) };
        Self {
            control: control::read(),
            interface: has_interface.then(interface::read),
            vectors: vectors(),
        }
    }

    /// All registers hold what they held.
    ///
    /// # Panics
    /// If one does not.
    pub fn expect_restored(&self) {
        expect_equal(control::NAMES, &self.control, &control::read());
        if let Some(before) = &self.interface {
            expect_equal(interface::NAMES, before, &interface::read());
        }
        assert!(vectors() == self.vectors, "the host's vectors were changed");
        assert!(
            !is_timer_armed(),
            "hardware_disable left the hypervisor timer armed"
        );
    }
}

fn expect_equal(names: &[&str], before: &[u64], now: &[u64]) {
    for ((name, before), now) in names.iter().zip(before).zip(now) {
        assert!(
            now == before,
            "hardware_disable left {name} at {now:#x}, the host had {before:#x}"
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
