//! A clock that tells the time of day: Arm's PL031, with its alarm. [DDI0224: PL031 r1p3]
//!
//! It counts seconds on the host's counter, so it goes on while the guest does not run. The alarm is the match register: when
//! the count gets there, the interrupt is raised, by the device's timer if nobody exits meanwhile.
//!
//! Locks: the device's state, for a few instructions, never while it drives the interrupt line.

#[cfg(all(test, not(loom)))]
mod tests;

use alloc::sync::{Arc, Weak};

use trapline_vcpu::{
    Action, Exit,
    exit::{Direction, MmioAccess},
};

use crate::{
    handler::{ExitHandler, GuestCpu},
    line::{self, Line},
    registry::Claim,
    sync::Mutex,
    timers::{Alarm, DeviceTimer, QueueFull, TimerQueue},
};

const DR: u64 = 0x000;
const MR: u64 = 0x004;
const LR: u64 = 0x008;
const CR: u64 = 0x00c;
const IMSC: u64 = 0x010;
const RIS: u64 = 0x014;
const MIS: u64 = 0x018;
const ICR: u64 = 0x01c;
const PERIPHERAL_ID: u64 = 0xfe0;

/// RTCPeriphID0 to 3 and RTCPCellID0 to 3: PL031 r1.
const IDENTIFICATION: [u8; 8] = [0x31, 0x10, 0x14, 0x00, 0x0d, 0xf0, 0x05, 0xb1];

/// RTCCR: the clock runs. It does from the start, and nothing but a reset stops it.
const RUNS: u32 = 1;

/// What time it was at one moment of the host's counter.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct WallTime {
    /// Seconds since 1970, UTC; the device shows the low 32 bits.
    pub unix_seconds: u64,
    /// The host's counter at that moment, in ticks.
    pub ticks: u64,
}

/// A PL031 at an address of the guest's.
pub struct Pl031 {
    base: u64,
    registers: Mutex<Registers>,
    timer: DeviceTimer,
    line: Arc<dyn Line>,
}

struct Registers {
    start: WallTime,
    /// What the guest has set the clock forward by.
    offset: u32,
    alarm: u32,
    load: u32,
    is_unmasked: bool,
    is_raised: bool,
    /// When the count gets to `alarm`, as a value of the host's counter, if it has not been there since `alarm` was set.
    deadline: Option<u64>,
    driven: bool,
}

impl Pl031 {
    /// How many bytes of addresses it takes.
    pub const SIZE: u64 = 0x1000;

    /// A clock whose registers start at `base`, which shows the time that follows from `start`. Its alarm is one of `queue`.
    ///
    /// # Errors
    /// The queue has no room for its timer.
    pub fn new(
        base: u64,
        start: WallTime,
        queue: &Arc<TimerQueue>,
        line: Arc<dyn Line>,
    ) -> Result<Arc<Self>, QueueFull> {
        let registers = Registers {
            start,
            offset: 0,
            alarm: 0,
            load: 0,
            is_unmasked: false,
            is_raised: false,
            deadline: None,
            driven: false,
        };
        let place = queue.reserve()?;
        Ok(Arc::new_cyclic(|device: &Weak<Self>| Self {
            base,
            registers: Mutex::new(registers),
            timer: place.timer_of(device.clone()),
            line,
        }))
    }

    /// The addresses that it answers.
    pub fn claims(&self) -> [Claim; 1] {
        [Claim::mmio(self.base, Self::SIZE)]
    }

    /// Drives the line to what the registers say.
    fn sync(&self) {
        let change = self.registers.lock().line_change();
        line::drive(&*self.line, change, || self.registers.lock().driven);
    }

    fn read(&self, offset: u64) -> u32 {
        let (now, frequency) = (self.timer.now(), self.timer.frequency());
        let registers = self.registers.lock();
        match offset {
            DR => registers.count(now, frequency),
            MR => registers.alarm,
            LR => registers.load,
            CR => RUNS,
            IMSC => registers.is_unmasked.into(),
            RIS => registers.is_raised.into(),
            MIS => registers.is_high().into(),
            _ => {
                let index = offset.wrapping_sub(PERIPHERAL_ID) / 4;
                let byte = usize::try_from(index)
                    .ok()
                    .and_then(|i| IDENTIFICATION.get(i));
                byte.copied().unwrap_or(0).into()
            }
        }
    }

    fn write(&self, offset: u64, value: u32) {
        let (now, frequency) = (self.timer.now(), self.timer.frequency());
        let mut registers = self.registers.lock();
        match offset {
            MR => registers.alarm = value,
            LR => {
                registers.load = value;
                let count = registers.count(now, frequency);
                registers.offset = registers.offset.wrapping_add(value.wrapping_sub(count));
            }
            IMSC => {
                registers.is_unmasked = value & 1 != 0;
                return;
            }
            ICR => {
                registers.is_raised &= value & 1 == 0;
                return;
            }
            _ => return,
        }
        registers.find_deadline(now, frequency);
        // With the lock held: of two writers the timer is the later one's.
        match registers.deadline {
            Some(deadline) => self.timer.arm(deadline),
            None => self.timer.disarm(),
        }
    }
}

impl Registers {
    /// Whole seconds since `start`.
    fn elapsed(&self, now: u64, frequency: u64) -> u64 {
        now.saturating_sub(self.start.ticks) / frequency
    }

    fn count(&self, now: u64, frequency: u64) -> u32 {
        let seconds = self.start.unix_seconds + self.elapsed(now, frequency);
        (seconds as u32).wrapping_add(self.offset)
    }

    /// The alarm or the count was set: raises the interrupt if they are the same, or finds out when they will be. The count
    /// wraps around, so that comes.
    fn find_deadline(&mut self, now: u64, frequency: u64) {
        let left = self.alarm.wrapping_sub(self.count(now, frequency));
        self.is_raised |= left == 0;
        self.deadline = (left != 0).then(|| {
            let seconds = self.elapsed(now, frequency) + u64::from(left);
            let ticks = seconds.saturating_mul(frequency);
            self.start.ticks.saturating_add(ticks)
        });
    }

    fn is_high(&self) -> bool {
        self.is_raised && self.is_unmasked
    }

    /// The level that RTCINTR must be driven to, if that has changed; from now on it is the one decided.
    fn line_change(&mut self) -> Option<bool> {
        let is_high = self.is_high();
        (core::mem::replace(&mut self.driven, is_high) != is_high).then_some(is_high)
    }
}

impl Alarm for Pl031 {
    fn expired(&self, now: u64) {
        let mut registers = self.registers.lock();
        // It may have been for a deadline that the guest has changed meanwhile, which has armed the timer anew.
        if registers.deadline.is_some_and(|deadline| deadline <= now) {
            registers.deadline = None;
            registers.is_raised = true;
        }
        drop(registers);
        self.sync();
    }
}

impl ExitHandler for Pl031 {
    fn name(&self) -> &str {
        "pl031"
    }

    fn handle(&self, _guest: &mut GuestCpu<'_>, exit: &Exit) -> Action {
        let Exit::Mmio(MmioAccess {
            address, direction, ..
        }) = *exit
        else {
            return Action::Decline;
        };
        // As for the PL011: registers are a word apart, and narrower accesses reach their low bytes.
        let offset = address.wrapping_sub(self.base);
        let is_register = offset.is_multiple_of(4);
        match direction {
            Direction::Read if is_register => return Action::FinishRead(self.read(offset).into()),
            Direction::Read => return Action::FinishRead(0),
            Direction::Write(value) if is_register => self.write(offset, value as u32),
            Direction::Write(_) => {}
        }
        self.sync();
        Action::Finish
    }
}
