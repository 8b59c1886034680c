//! A vCPU's self-hosted debug: its breakpoints, watchpoints, software step and OS lock.
//!
//! Pure. Every access of a guest traps (MDCR_EL2.TDA), so what it wrote is always here, and nothing is ever read back.
//! A switch to a vCPU that debugs nothing moves none of it. [DDI0487: Self-hosted debug]
//!
//! ```text
//! guest's MSR -> write -> effective_mdscr -- unlike the last vCPU's -> MDSCR_EL1
//!                                        '-- MDE -------------------> MDSCR_EL1, breakpoints and watchpoints
//!                                        '-- else ------------------> nothing: what another vCPU left cannot fire
//! ```

use crate::exit::SystemRegister;

/// The most breakpoints and watchpoints that there can be, of each. [DDI0487: ID_AA64DFR0_EL1]
pub const MOST: usize = 16;

/// DBGBCR: BT, LBN, SSC, HMC, BAS, PMC, E.
const BREAKPOINT_CONTROL: u64 = 0x00ff_e1e7;
/// DBGWCR: MASK, WT, LBN, SSC, HMC, BAS, LSC, PAC, E.
const WATCHPOINT_CONTROL: u64 = 0x1f1f_ffff;
/// DBGWVR\[1:0\] are RES0.
const WATCHPOINT_VALUE: u64 = !0b11;
/// MDSCR_EL1: SS, TDCC, KDE and MDE. Its other fields are an external debugger's, who is not the guest's.
const MDSCR: u64 = 1 << 15 | 1 << 13 | 1 << 12 | 1;
/// MDSCR_EL1.TDCC: EL0 cannot use the debug communication channel.
const MDSCR_TDCC: u64 = 1 << 12;
/// MDSCR_EL1.MDE: breakpoints and watchpoints are on.
const MDSCR_MDE: u64 = 1 << 15;
/// OSLSR_EL1.OSLM: there is an OS lock.
const OSLSR_IMPLEMENTED: u64 = 1 << 3;
/// OSLSR_EL1.OSLK: it is locked.
const OSLSR_LOCKED: u64 = 1 << 1;

/// A breakpoint or a watchpoint: DBGBVR and DBGBCR, or DBGWVR and DBGWCR.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Comparator {
    /// What it compares with.
    pub value: u64,
    /// When.
    pub control: u64,
}

/// How many comparators a pCPU has of each kind, 1 to [`MOST`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Comparators {
    /// Breakpoints.
    pub breakpoints: usize,
    /// Watchpoints.
    pub watchpoints: usize,
}

impl Comparators {
    /// By ID_AA64DFR0_EL1, whose fields hold one less.
    pub const fn new(id_aa64dfr0: u64) -> Self {
        Self {
            breakpoints: (id_aa64dfr0 >> 12 & 0xf) as usize + 1,
            watchpoints: (id_aa64dfr0 >> 20 & 0xf) as usize + 1,
        }
    }
}

/// The debug registers of a vCPU, as its guest sees them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DebugRegisters {
    mdscr: u64,
    is_locked: bool,
    /// DBGB\<n\>.
    pub breakpoints: [Comparator; MOST],
    /// DBGW\<n\>.
    pub watchpoints: [Comparator; MOST],
}

impl Default for DebugRegisters {
    /// As after a cold reset: all off, and the OS lock locked. What the architecture leaves UNKNOWN is zero.
    fn default() -> Self {
        Self {
            mdscr: 0,
            is_locked: true,
            breakpoints: [Comparator::default(); MOST],
            watchpoints: [Comparator::default(); MOST],
        }
    }
}

/// What a register of op0=2 is.
enum Place {
    Mdscr,
    LockAccess,
    LockStatus,
    BreakpointValue(usize),
    BreakpointControl(usize),
    WatchpointValue(usize),
    WatchpointControl(usize),
}

fn place(register: SystemRegister, has: Comparators) -> Option<Place> {
    const MDSCR_EL1: SystemRegister = SystemRegister::new(2, 0, 0, 2, 2);
    const OSLAR_EL1: SystemRegister = SystemRegister::new(2, 0, 1, 0, 4);
    const OSLSR_EL1: SystemRegister = SystemRegister::new(2, 0, 1, 1, 4);
    match register {
        MDSCR_EL1 => return Some(Place::Mdscr),
        OSLAR_EL1 => return Some(Place::LockAccess),
        OSLSR_EL1 => return Some(Place::LockStatus),
        _ => {}
    }
    // DBGBVR<n>_EL1 is S2_0_C0_C<n>_4, and the others follow it.
    let index = usize::from(register.bits() >> 3 & 0xf);
    let kind = register.bits() & 0b111;
    if register != SystemRegister::new(2, 0, 0, index as u8, kind as u8) {
        return None;
    }
    match kind {
        4 if index < has.breakpoints => Some(Place::BreakpointValue(index)),
        5 if index < has.breakpoints => Some(Place::BreakpointControl(index)),
        6 if index < has.watchpoints => Some(Place::WatchpointValue(index)),
        7 if index < has.watchpoints => Some(Place::WatchpointControl(index)),
        _ => None,
    }
}

impl DebugRegisters {
    /// What the guest reads; `None` if there is no such register, or if it can only be written.
    pub fn read(&self, register: SystemRegister, has: Comparators) -> Option<u64> {
        Some(match place(register, has)? {
            Place::Mdscr => self.mdscr,
            Place::LockAccess => return None,
            Place::LockStatus if self.is_locked => OSLSR_IMPLEMENTED | OSLSR_LOCKED,
            Place::LockStatus => OSLSR_IMPLEMENTED,
            Place::BreakpointValue(index) => self.breakpoints[index].value,
            Place::BreakpointControl(index) => self.breakpoints[index].control,
            Place::WatchpointValue(index) => self.watchpoints[index].value,
            Place::WatchpointControl(index) => self.watchpoints[index].control,
        })
    }

    /// The guest writes; `false` if there is no such register, or if it can only be read.
    pub fn write(&mut self, register: SystemRegister, value: u64, has: Comparators) -> bool {
        let Some(place) = place(register, has) else {
            return false;
        };
        match place {
            Place::Mdscr => self.mdscr = value & MDSCR,
            Place::LockAccess => self.is_locked = value & 1 != 0,
            Place::LockStatus => return false,
            Place::BreakpointValue(index) => self.breakpoints[index].value = value,
            Place::BreakpointControl(index) => {
                self.breakpoints[index].control = value & BREAKPOINT_CONTROL;
            }
            Place::WatchpointValue(index) => {
                self.watchpoints[index].value = value & WATCHPOINT_VALUE;
            }
            Place::WatchpointControl(index) => {
                self.watchpoints[index].control = value & WATCHPOINT_CONTROL;
            }
        }
        true
    }

    /// MDSCR_EL1 for the hardware, whose OS lock is open: a locked one lets nothing fire. [DDI0487: OSLSR_EL1.OSLK]
    #[inline]
    pub fn effective_mdscr(&self) -> u64 {
        if self.is_locked {
            self.mdscr & MDSCR_TDCC
        } else {
            self.mdscr
        }
    }

    /// Breakpoints and watchpoints can fire, so they are in the hardware while the vCPU is bound.
    #[inline]
    pub fn are_comparators_on(&self) -> bool {
        self.effective_mdscr() & MDSCR_MDE != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HAS: Comparators = Comparators {
        breakpoints: 6,
        watchpoints: 4,
    };
    const MDSCR_EL1: SystemRegister = SystemRegister::new(2, 0, 0, 2, 2);
    const OSLAR_EL1: SystemRegister = SystemRegister::new(2, 0, 1, 0, 4);
    const OSLSR_EL1: SystemRegister = SystemRegister::new(2, 0, 1, 1, 4);

    fn unlocked() -> DebugRegisters {
        let mut registers = DebugRegisters::default();
        assert!(registers.write(OSLAR_EL1, 0, HAS));
        registers
    }

    #[test]
    fn the_hardware_says_how_many_there_are() {
        // Cortex-A53: 6 and 4.
        assert_eq!(Comparators::new(0x1030_5106), HAS);
        let most = Comparators::new(u64::MAX);
        assert_eq!((most.breakpoints, most.watchpoints), (MOST, MOST));
    }

    #[test]
    fn each_comparator_holds_what_is_written_and_those_beyond_are_not_there() {
        let mut registers = unlocked();
        for index in 0..16 {
            for (kind, count, kept) in [
                (4, 6, u64::MAX),
                (5, 6, BREAKPOINT_CONTROL),
                (6, 4, WATCHPOINT_VALUE),
                (7, 4, WATCHPOINT_CONTROL),
            ] {
                let register = SystemRegister::new(2, 0, 0, index, kind);
                let is_there = index < count;
                assert_eq!(registers.read(register, HAS), is_there.then_some(0));
                assert_eq!(registers.write(register, u64::MAX, HAS), is_there);
                assert_eq!(registers.read(register, HAS), is_there.then_some(kept));
            }
        }
        assert_eq!(registers.read(MDSCR_EL1, HAS), Some(0));
    }

    #[test]
    fn nothing_else_is_a_debug_register() {
        let mut registers = unlocked();
        let others = (0..u16::MAX).map(|bits| {
            let [op0, op1, crn] = [bits >> 14, bits >> 11, bits >> 7].map(|field| field as u8);
            SystemRegister::new(op0, op1, crn, (bits >> 3) as u8, bits as u8)
        });
        let readable = others
            .clone()
            .filter(|&register| registers.read(register, HAS).is_some());
        assert_eq!(readable.count(), 2 * (6 + 4) + 2);
        let writable = others.filter(|&register| registers.write(register, 0, HAS));
        assert_eq!(writable.count(), 2 * (6 + 4) + 2);
    }

    #[test]
    fn the_lock_is_written_in_one_register_and_read_in_another() {
        let mut registers = DebugRegisters::default();
        assert_eq!(registers.read(OSLSR_EL1, HAS), Some(0b1010));
        assert_eq!(registers.read(OSLAR_EL1, HAS), None);
        assert!(!registers.write(OSLSR_EL1, 0, HAS));
        assert!(registers.write(OSLAR_EL1, 0, HAS));
        assert_eq!(registers.read(OSLSR_EL1, HAS), Some(0b1000));
    }

    #[test]
    fn only_what_can_fire_is_in_the_hardware() {
        let (mut registers, control) = (unlocked(), SystemRegister::new(2, 0, 0, 3, 5));
        assert!(registers.write(control, 1, HAS));
        assert!(!registers.are_comparators_on(), "MDE is off");
        assert!(registers.write(MDSCR_EL1, MDSCR_MDE, HAS));
        assert!(registers.are_comparators_on());
        assert!(registers.write(MDSCR_EL1, 1, HAS));
        assert!(!registers.are_comparators_on() && registers.effective_mdscr() == 1);
    }

    #[test]
    fn a_locked_os_lock_lets_nothing_fire_and_forgets_nothing() {
        let mut registers = unlocked();
        let all = MDSCR;
        assert!(registers.write(SystemRegister::new(2, 0, 0, 0, 7), 1, HAS));
        assert!(registers.write(MDSCR_EL1, u64::MAX, HAS));
        assert_eq!(registers.effective_mdscr(), all);
        assert!(registers.write(OSLAR_EL1, 1, HAS));
        assert_eq!(registers.effective_mdscr(), MDSCR_TDCC);
        assert!(!registers.are_comparators_on());
        assert_eq!(registers.read(MDSCR_EL1, HAS), Some(all));
    }
}
