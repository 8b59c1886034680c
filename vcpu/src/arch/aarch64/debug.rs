//! How debug registers get into the hardware: only those of a vCPU that debugs something.
//!
//! They are never taken out: no guest can read another's, and without MDSCR_EL1.MDE none of them fires. The hardware's OS lock
//! is open: what is locked for a guest is so in its own registers. Nothing fires at EL2, for which debug exceptions are off as long as MDCR_EL2.TDE is 0.
//! [DDI0487: Enabling debug exceptions from the current Exception level]

use super::switch::synchronize_context;
use crate::debug::{Comparators, DebugRegisters};

/// OSLSR_EL1.OSLK.
const LOCKED: u64 = 1 << 1;

/// The host's debug registers, from `hardware_enable` to `hardware_disable`.
#[derive(Debug)]
pub(crate) struct HostDebug {
    mdscr: u64,
    is_locked: bool,
    registers: DebugRegisters,
}

/// What this pCPU has, and what is in it.
#[derive(Debug)]
pub(crate) struct HardwareDebug {
    pub(crate) has: Comparators,
    /// MDSCR_EL1 as it is: comparing is cheaper than writing it.
    mdscr: u64,
}

/// Lists the comparators once. They are registers, not memory, so no index reaches them.
macro_rules! comparators {
    ($has:expr, $registers:expr, $access:ident: $($index:literal)*) => {
        $(
            if $index < $has.breakpoints {
                $access!(concat!("dbgbvr", $index, "_el1"), $registers.breakpoints[$index].value);
                $access!(concat!("dbgbcr", $index, "_el1"), $registers.breakpoints[$index].control);
            }
            if $index < $has.watchpoints {
                $access!(concat!("dbgwvr", $index, "_el1"), $registers.watchpoints[$index].value);
                $access!(concat!("dbgwcr", $index, "_el1"), $registers.watchpoints[$index].control);
            }
        )*
    };
}

macro_rules! store_into {
    ($name:expr, $place:expr) => {
        $place = read_sysreg!($name)
    };
}

fn store_comparators(registers: &mut DebugRegisters, has: Comparators) {
    comparators!(has, registers, store_into: 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
}

fn restore_comparators(registers: &DebugRegisters, has: Comparators) {
    comparators!(has, registers, write_sysreg: 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
}

impl HostDebug {
    /// Keeps what the host has, and turns everything off. What it left there is UNKNOWN after a reset.
    pub(crate) fn take_over(has: Comparators) -> Self {
        let mut host = Self {
            mdscr: read_sysreg!("mdscr_el1"),
            is_locked: read_sysreg!("oslsr_el1") & LOCKED != 0,
            registers: DebugRegisters::default(),
        };
        store_comparators(&mut host.registers, has);
        write_sysreg!("mdscr_el1", 0);
        restore_comparators(&DebugRegisters::default(), has);
        write_sysreg!("oslar_el1", 0);
        synchronize_context();
        host
    }

    /// Puts the host's values back. No vCPU is bound.
    pub(crate) fn give_back(&self, has: Comparators) {
        restore_comparators(&self.registers, has);
        write_sysreg!("mdscr_el1", self.mdscr);
        write_sysreg!("oslar_el1", u64::from(self.is_locked));
    }
}

impl HardwareDebug {
    /// As [`HostDebug::take_over`] leaves it.
    pub(crate) const fn new(has: Comparators) -> Self {
        Self { has, mdscr: 0 }
    }

    /// From now on the hardware does what `registers` say, those of the vCPU that is bound here. How many it copied.
    #[inline]
    pub(crate) fn follow(&mut self, registers: &DebugRegisters) -> u64 {
        if registers.effective_mdscr() == self.mdscr && !registers.are_comparators_on() {
            return 0;
        }
        self.load(registers)
    }

    #[cold]
    fn load(&mut self, registers: &DebugRegisters) -> u64 {
        self.mdscr = registers.effective_mdscr();
        write_sysreg!("mdscr_el1", self.mdscr);
        if !registers.are_comparators_on() {
            return 1;
        }
        restore_comparators(registers, self.has);
        1 + 2 * (self.has.breakpoints + self.has.watchpoints) as u64
    }
}
