//! Which registers of a bound vCPU its handlers may touch: those whose writes HCR_EL2.TVM traps, until its caches are on,
//! and the debug registers, which always trap (MDCR_EL2.TDA).

use super::control::{translation_register_traps, without_taken_serror};
use super::debug::HardwareDebug;
use crate::debug::DebugRegisters;
use crate::dispatch::BoundRegisters;
use crate::exit::SystemRegister;

/// The registers of the vCPU that is bound on this pCPU.
pub(crate) struct HardwareRegisters<'a> {
    /// HCR_EL2 as the vCPU wants it wherever it runs.
    pub(crate) vcpu_hcr: &'a mut u64,
    /// HCR_EL2 as it is on this pCPU.
    pub(crate) hcr: &'a mut u64,
    /// The vCPU's debug registers.
    pub(crate) debug: &'a mut DebugRegisters,
    /// Where they go.
    pub(crate) hardware_debug: &'a mut HardwareDebug,
}

impl HardwareRegisters<'_> {
    fn write_debug(&mut self, register: SystemRegister, value: u64) -> bool {
        let is_there = self.debug.write(register, value, self.hardware_debug.has);
        self.hardware_debug.follow(self.debug);
        is_there
    }
}

/// Lists the registers once, for reading and for writing. [DDI0487: HCR_EL2.TVM]
macro_rules! reachable_registers {
    ($($name:literal = $op0:literal $op1:literal $crn:literal $crm:literal $op2:literal),* $(,)?) => {
        impl BoundRegisters for HardwareRegisters<'_> {
            fn read(&self, register: SystemRegister) -> Option<u64> {
                match register {
                    $(_ if register == const { SystemRegister::new($op0, $op1, $crn, $crm, $op2) } => {
                        Some(read_sysreg!($name))
                    })*
                    _ => self.debug.read(register, self.hardware_debug.has),
                }
            }

            fn write(&mut self, register: SystemRegister, value: u64) -> bool {
                match register {
                    $(_ if register == const { SystemRegister::new($op0, $op1, $crn, $crm, $op2) } => {
                        write_sysreg!($name, value);
                    })*
                    _ => return self.write_debug(register, value),
                }
                true
            }

            fn stop_trapping_translation_registers(&mut self) {
                *self.vcpu_hcr &= !translation_register_traps();
                let hcr = without_taken_serror(*self.hcr, read_sysreg!("hcr_el2"));
                *self.hcr = hcr & !translation_register_traps();
                write_sysreg!("hcr_el2", *self.hcr);
            }
        }
    };
}

reachable_registers! {
    "sctlr_el1" = 3 0 1 0 0,
    "ttbr0_el1" = 3 0 2 0 0,
    "ttbr1_el1" = 3 0 2 0 1,
    "tcr_el1" = 3 0 2 0 2,
    "afsr0_el1" = 3 0 5 1 0,
    "afsr1_el1" = 3 0 5 1 1,
    "esr_el1" = 3 0 5 2 0,
    "far_el1" = 3 0 6 0 0,
    "mair_el1" = 3 0 10 2 0,
    "amair_el1" = 3 0 10 3 0,
    "contextidr_el1" = 3 0 13 0 1,
}
