//! A virtual CPU interface in software, with the guest's side of it. [IHI0069: Virtual interrupt handling]

use std::vec;
use std::vec::Vec;

use trapline_vcpu::interrupts::{ActivePriorities, TimerPpi, VirtualCpuInterface};

const PENDING: u64 = 1 << 62;
const ACTIVE: u64 = 1 << 63;
const STATE: u64 = PENDING | ACTIVE;
const HARDWARE: u64 = 1 << 61;
const TELLS_END: u64 = 1 << 41;
/// Both groups taken, everything beats the mask.
pub const OPEN: u64 = 0xff << 24 | 0b11;
/// ICH_VMCR_EL2.VEOIM.
pub const SPLIT_ENDS: u64 = 1 << 9;
/// What an acknowledge reads when there is nothing.
pub const SPURIOUS: u32 = 1023;

/// One pCPU.
pub struct Interface {
    pub list_registers: Vec<u64>,
    pub control: u64,
    pub machine_control: u64,
    pub active_priorities: ActivePriorities,
    /// The outputs of the bound vCPU's timers.
    pub timer_lines: [bool; 2],
    pub physical_active: [bool; 2],
    /// The physical shared interrupts that the guest has deactivated by ending its own.
    pub physical_ends: Vec<u32>,
    /// How often a list register was read or written.
    pub accesses: std::cell::Cell<usize>,
}

fn index_of(timer: TimerPpi) -> usize {
    TimerPpi::ALL
        .iter()
        .position(|&other| other == timer)
        .unwrap()
}

impl Interface {
    pub fn new(list_registers: usize) -> Self {
        Self {
            list_registers: vec![0; list_registers],
            control: 0,
            machine_control: 0,
            active_priorities: ActivePriorities::default(),
            timer_lines: [false; 2],
            physical_active: [false; 2],
            physical_ends: Vec::new(),
            accesses: 0.into(),
        }
    }

    fn running_bits(&self) -> u32 {
        self.active_priorities.group0[0] | self.active_priorities.group1[0]
    }

    /// The list register that would be signalled.
    fn most_urgent(&self) -> Option<usize> {
        let deliverable = |&index: &usize| {
            let value = self.list_registers[index];
            let priority = value >> 48 & 0xff;
            value & STATE == PENDING
                && self.machine_control >> (value >> 60 & 1) & 1 != 0
                && priority < self.machine_control >> 24 & 0xff
                && priority >> 3 < u64::from(self.running_bits().trailing_zeros())
        };
        let key = |&index: &usize| {
            let value = self.list_registers[index];
            (value >> 48 & 0xff, value as u32)
        };
        (0..self.list_registers.len())
            .filter(deliverable)
            .min_by_key(key)
    }

    pub fn is_signalled(&self) -> bool {
        self.control & 1 != 0 && self.most_urgent().is_some()
    }

    /// ICC_IAR of whichever group it is.
    pub fn acknowledge(&mut self) -> u32 {
        let Some(index) = self.most_urgent().filter(|_| self.control & 1 != 0) else {
            return SPURIOUS;
        };
        let value = &mut self.list_registers[index];
        *value = *value & !STATE | ACTIVE;
        let bit = 1 << (*value >> 51 & 31);
        let priorities = &mut self.active_priorities;
        let group = if *value >> 60 & 1 != 0 {
            &mut priorities.group1
        } else {
            &mut priorities.group0
        };
        group[0] |= bit;
        *value as u32
    }

    /// ICC_EOIR of the group of what runs.
    pub fn end(&mut self, intid: u32) {
        let running = self.running_bits();
        if running == 0 {
            return;
        }
        let lowest = running & running.wrapping_neg();
        self.active_priorities.group0[0] &= !lowest;
        self.active_priorities.group1[0] &= !lowest;
        if self.machine_control & SPLIT_ENDS == 0 {
            let priority = u64::from(lowest.trailing_zeros());
            self.deactivate_listed(intid, |value| value >> 51 & 31 == priority);
        }
    }

    /// ICC_DIR, when it is not trapped.
    pub fn deactivate(&mut self, intid: u32) {
        assert_eq!(self.control & 1 << 14, 0, "ICC_DIR is trapped");
        if self.machine_control & SPLIT_ENDS != 0 {
            self.deactivate_listed(intid, |_| true);
        }
    }

    fn deactivate_listed(&mut self, intid: u32, matches: impl Fn(u64) -> bool) {
        let found = |value: &&mut u64| **value as u32 == intid && **value & ACTIVE != 0;
        match self.list_registers.iter_mut().find(found) {
            None => self.control += 1 << 27,
            Some(value) if matches(*value) => {
                *value &= !ACTIVE;
                if *value & HARDWARE != 0 {
                    let physical = (*value >> 32 & 0x3ff) as u32;
                    match TimerPpi::ALL
                        .iter()
                        .position(|timer| timer.intid() == intid)
                    {
                        Some(timer) => {
                            assert_eq!(physical, intid);
                            self.physical_active[timer] = false;
                        }
                        None => self.physical_ends.push(physical),
                    }
                }
            }
            Some(_) => {}
        }
    }

    /// ICH_MISR_EL2 is not zero.
    pub fn needs_maintenance(&self) -> bool {
        let control = self.control;
        let enabled = |bit: u32| control >> bit & 1 != 0;
        let ended = |&value: &u64| value & (STATE | HARDWARE | TELLS_END) == TELLS_END;
        let no_pending = self
            .list_registers
            .iter()
            .all(|value| value & STATE != PENDING);
        let group_changed = (0..2).any(|group| {
            let is_on = self.machine_control >> group & 1 != 0;
            enabled(4 + 2 * group) && is_on || enabled(5 + 2 * group) && !is_on
        });
        enabled(0)
            && (self.list_registers.iter().any(ended)
                || enabled(1)
                    && self
                        .list_registers
                        .iter()
                        .filter(|&value| value & STATE != 0)
                        .count()
                        < 2
                || enabled(2) && control >> 27 != 0
                || enabled(3) && no_pending
                || group_changed)
    }

    /// What Trapline's side of a physical timer interrupt does: acknowledged, not deactivated. True if one fired.
    pub fn fire_timers(&mut self) -> bool {
        let mut fired = false;
        for (line, active) in self.timer_lines.iter().zip(&mut self.physical_active) {
            fired |= *line && !*active;
            *active |= *line;
        }
        fired
    }

    fn count_access(&self) {
        self.accesses.set(self.accesses.get() + 1);
    }
}

impl VirtualCpuInterface for Interface {
    fn list_register_count(&self) -> usize {
        self.list_registers.len()
    }

    fn list_register(&self, index: usize) -> u64 {
        self.count_access();
        self.list_registers[index]
    }

    fn set_list_register(&mut self, index: usize, value: u64) {
        self.count_access();
        if value & STATE != 0 && value & HARDWARE != 0 {
            assert_ne!(
                value & STATE,
                STATE,
                "a physical interrupt is never pending and active"
            );
        }
        self.list_registers[index] = value;
    }

    fn control(&self) -> u64 {
        self.control
    }

    fn set_control(&mut self, value: u64) {
        self.control = value;
    }

    fn machine_control(&self) -> u64 {
        self.machine_control
    }

    fn set_machine_control(&mut self, value: u64) {
        self.machine_control = value;
    }

    fn active_priorities(&self) -> ActivePriorities {
        self.active_priorities
    }

    fn set_active_priorities(&mut self, value: ActivePriorities) {
        self.active_priorities = value;
    }

    fn timer_line(&self, ppi: TimerPpi) -> bool {
        self.timer_lines[index_of(ppi)]
    }

    fn is_timer_active(&self, ppi: TimerPpi) -> bool {
        self.physical_active[index_of(ppi)]
    }

    fn deactivate_timer(&mut self, ppi: TimerPpi) {
        self.physical_active[index_of(ppi)] = false;
    }
}
