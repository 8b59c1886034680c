//! What the registers of a PL011 hold, and how its interrupts follow from them. [DDI0183: Summary of registers]

/// How deep the receive FIFO is, as the revision in PeriphID2 tells.
pub(super) const FIFO_DEPTH: usize = 16;

const DR: u64 = 0x000;
const FR: u64 = 0x018;
const ILPR: u64 = 0x020;
const IBRD: u64 = 0x024;
const FBRD: u64 = 0x028;
const LCR_H: u64 = 0x02c;
const CR: u64 = 0x030;
const IFLS: u64 = 0x034;
const IMSC: u64 = 0x038;
const RIS: u64 = 0x03c;
const MIS: u64 = 0x040;
const ICR: u64 = 0x044;
const DMACR: u64 = 0x048;
const PERIPHERAL_ID: u64 = 0xfe0;

/// UARTPeriphID0 to 3 and UARTPCellID0 to 3: PL011 r1p4, whose FIFOs hold 16 bytes.
const IDENTIFICATION: [u8; 8] = [0x11, 0x10, 0x14, 0x00, 0x0d, 0xf0, 0x05, 0xb1];

/// UARTFR: the transmit FIFO is empty.
const FLAG_TRANSMIT_EMPTY: u32 = 1 << 7;
/// UARTFR: the receive FIFO is full.
const FLAG_RECEIVE_FULL: u32 = 1 << 6;
/// UARTFR: the receive FIFO is empty.
const FLAG_RECEIVE_EMPTY: u32 = 1 << 4;

/// UARTLCR_H.FEN.
const FIFOS_ON: u32 = 1 << 4;

/// Bits of UARTIMSC, UARTRIS, UARTMIS and UARTICR.
const RECEIVE: u32 = 1 << 4;
const TRANSMIT: u32 = 1 << 5;
const RECEIVE_TIMEOUT: u32 = 1 << 6;
const INTERRUPTS: u32 = 0x7ff;

/// What a write asks the device to do, once its lock is free.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Effect {
    None,
    /// Send this byte.
    Send(u8),
    /// There is room for more input.
    Room,
}

#[derive(Debug)]
pub(super) struct Registers {
    fifo: [u8; FIFO_DEPTH],
    first: usize,
    count: usize,
    low_power_divisor: u32,
    integer_divisor: u32,
    fractional_divisor: u32,
    line_control: u32,
    control: u32,
    fifo_levels: u32,
    mask: u32,
    raw: u32,
    dma: u32,
    driven: bool,
}

impl Default for Registers {
    fn default() -> Self {
        Self {
            fifo: [0; FIFO_DEPTH],
            first: 0,
            count: 0,
            low_power_divisor: 0,
            integer_divisor: 0,
            fractional_divisor: 0,
            line_control: 0,
            control: 0x300,
            fifo_levels: 0x12,
            mask: 0,
            raw: 0,
            dma: 0,
            driven: false,
        }
    }
}

impl Registers {
    /// The register at `offset`, and whether reading it took a byte out of the FIFO.
    pub(super) fn read(&mut self, offset: u64) -> (u32, bool) {
        let value = match offset {
            DR => return self.take(),
            FR => self.flags(),
            ILPR => self.low_power_divisor,
            IBRD => self.integer_divisor,
            FBRD => self.fractional_divisor,
            LCR_H => self.line_control,
            CR => self.control,
            IFLS => self.fifo_levels,
            IMSC => self.mask,
            RIS => self.raw,
            MIS => self.raw & self.mask,
            DMACR => self.dma,
            _ => {
                let index = offset.wrapping_sub(PERIPHERAL_ID) / 4;
                usize::try_from(index)
                    .ok()
                    .and_then(|index| IDENTIFICATION.get(index))
                    .copied()
                    .unwrap_or(0)
                    .into()
            }
        };
        (value, false)
    }

    pub(super) fn write(&mut self, offset: u64, value: u32) -> Effect {
        match offset {
            DR => {
                // The byte is gone at once, so the FIFO passes its trigger level downwards.
                self.raw |= TRANSMIT;
                return Effect::Send(value as u8);
            }
            ILPR => self.low_power_divisor = value & 0xff,
            IBRD => self.integer_divisor = value & 0xffff,
            FBRD => self.fractional_divisor = value & 0x3f,
            LCR_H => return self.set_line_control(value & 0xff),
            CR => self.control = value & 0xff87,
            IFLS => self.fifo_levels = value & 0x3f,
            IMSC => self.mask = value & INTERRUPTS,
            ICR => self.raw &= !value,
            DMACR => self.dma = value & 0x7,
            _ => {}
        }
        Effect::None
    }

    fn set_line_control(&mut self, value: u32) -> Effect {
        let switches_fifos = (self.line_control ^ value) & FIFOS_ON != 0;
        self.line_control = value;
        if !switches_fifos {
            return Effect::None;
        }
        self.count = 0;
        self.raw &= !(RECEIVE | RECEIVE_TIMEOUT);
        Effect::Room
    }

    /// How many bytes the receive FIFO holds at most: one holding register while FIFOs are off.
    fn depth(&self) -> usize {
        if self.line_control & FIFOS_ON != 0 {
            FIFO_DEPTH
        } else {
            1
        }
    }

    /// From how many bytes on the receive interrupt is raised. [UARTIFLS.RXIFLSEL]
    fn receive_trigger(&self) -> usize {
        if self.line_control & FIFOS_ON == 0 {
            return 1;
        }
        match self.fifo_levels >> 3 & 7 {
            0 => FIFO_DEPTH / 8,
            1 => FIFO_DEPTH / 4,
            2 => FIFO_DEPTH / 2,
            3 => FIFO_DEPTH * 3 / 4,
            _ => FIFO_DEPTH * 7 / 8,
        }
    }

    fn flags(&self) -> u32 {
        let full = if self.has_room() {
            0
        } else {
            FLAG_RECEIVE_FULL
        };
        let empty = if self.count == 0 {
            FLAG_RECEIVE_EMPTY
        } else {
            0
        };
        FLAG_TRANSMIT_EMPTY | full | empty
    }

    pub(super) fn has_room(&self) -> bool {
        self.count < self.depth()
    }

    /// Puts a byte into the FIFO, which has room.
    pub(super) fn receive(&mut self, byte: u8) {
        if let Some(place) = self
            .fifo
            .get_mut((self.first + self.count) % FIFO_DEPTH)
            .filter(|_| self.count < FIFO_DEPTH)
        {
            *place = byte;
            self.count += 1;
        }
        if cfg!(mutant = "pl011_no_rx_interrupt") {
            return;
        }
        if self.count >= self.receive_trigger() {
            self.raw |= RECEIVE;
        }
        // The time-out comes when nothing more has for 32 bit times. Those pass at once here: the guest need not wait for
        // what the trigger level leaves in the FIFO.
        self.raw |= RECEIVE_TIMEOUT;
    }

    fn take(&mut self) -> (u32, bool) {
        if self.count == 0 {
            return (0, false);
        }
        let byte = self.fifo.get(self.first).copied().unwrap_or(0);
        self.first = (self.first + 1) % FIFO_DEPTH;
        self.count -= 1;
        if self.count < self.receive_trigger() {
            self.raw &= !RECEIVE;
        }
        if self.count == 0 {
            self.raw &= !RECEIVE_TIMEOUT;
        }
        (byte.into(), true)
    }

    /// The level that UARTINTR must be driven to, if that has changed; from now on it is the one decided.
    pub(super) fn line_change(&mut self) -> Option<bool> {
        let is_high = self.raw & self.mask != 0;
        (core::mem::replace(&mut self.driven, is_high) != is_high).then_some(is_high)
    }

    /// The level of UARTINTR that was decided last.
    pub(super) fn driven(&self) -> bool {
        self.driven
    }
}
