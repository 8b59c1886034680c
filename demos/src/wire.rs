//! What goes over the one serial line between the hypervisor and the runner.
//!
//! The stream is the guests' consoles, byte for byte, except that byte 0 starts a frame:
//!
//! ```text
//!   0x00 0x00                             a console byte that is zero
//!   0x00 channel length_lo length_hi ...  `length` bytes for that channel
//!   0x00 0x40+n 0x00 0x00                 what follows is guest n's console; guest 0's at the start
//! ```
//! Towards the hypervisor the line works the same way. What is typed for a guest has [`TYPED_ROOM`] there, and the hypervisor
//! says what of it has been taken, so that nothing waits in the line for a guest that does not read. [`Splitter`] takes the stream
//! apart on either side. A report frame holds one [`Report`] as text; [`Report::parse`] reads what its `Display` writes.

use core::fmt;

use serde::Serialize;

use crate::config::MAX_GUESTS;

/// The byte that starts a frame.
pub const ESCAPE: u8 = 0;

/// The most bytes that one frame carries.
pub const MAX_PAYLOAD: usize = u16::MAX as usize;

/// How many typed bytes the hypervisor keeps for each guest until it reads them.
pub const TYPED_ROOM: usize = 4096;

/// What [`Channel::Typed`] says: how many more bytes that were typed for `guest` have been taken.
pub const fn typed_payload(guest: u8, count: u16) -> [u8; 3] {
    let [low, high] = count.to_le_bytes();
    [guest, low, high]
}

/// The guest and the count in the payload of [`Channel::Typed`].
pub fn parse_typed(payload: &[u8]) -> Option<(usize, usize)> {
    let &[guest, low, high] = payload else {
        return None;
    };
    Some((guest.into(), u16::from_le_bytes([low, high]).into()))
}

/// The channel of guest 0's console; those of the others follow.
const CONSOLE_BASE: u8 = 0x40;
const CONSOLE_END: u8 = CONSOLE_BASE + MAX_GUESTS as u8;

/// Where a frame's payload goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Channel {
    /// One line of the hypervisor's log: UTF-8, no newline.
    Log,
    /// One [`Report`].
    Report,
    /// A part of the panic message, UTF-8.
    Panic,
    /// Trace events.
    Trace,
    /// Towards the hypervisor: a number and one command as text, no newline. From it: the number and one
    /// [`Part`](crate::control::Part) of the answer.
    Control,
    /// From the hypervisor: there is room again for what is typed for a guest; see [`typed_payload`].
    Typed,
    /// An empty frame: the console bytes after it are this guest's.
    Console(u8),
    /// A channel that this version does not know; its payload is skipped.
    Unknown(u8),
}

impl Channel {
    /// The channel's number on the wire.
    pub const fn number(self) -> u8 {
        match self {
            Self::Log => 1,
            Self::Report => 2,
            Self::Panic => 3,
            Self::Trace => 4,
            Self::Control => 5,
            Self::Typed => 6,
            Self::Console(guest) => CONSOLE_BASE + guest,
            Self::Unknown(number) => number,
        }
    }

    const fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Log,
            2 => Self::Report,
            3 => Self::Panic,
            4 => Self::Trace,
            5 => Self::Control,
            6 => Self::Typed,
            CONSOLE_BASE..CONSOLE_END => Self::Console(number - CONSOLE_BASE),
            other => Self::Unknown(other),
        }
    }
}

/// The four bytes before a payload of `length` bytes. Channel 0 has no frames: see [`ESCAPE`].
pub const fn frame_header(channel: Channel, length: u16) -> [u8; 4] {
    let [low, high] = length.to_le_bytes();
    [ESCAPE, channel.number(), low, high]
}

/// What [`Splitter::push`] found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Piece {
    /// A byte of the console.
    Console(u8),
    /// A byte of a frame's payload, and whether it is the last one.
    Payload(Channel, u8, bool),
    /// A frame with no payload.
    Empty(Channel),
}

/// Takes the stream apart, a byte at a time; it neither allocates nor fails.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Splitter {
    /// Between frames.
    #[default]
    Console,
    /// After [`ESCAPE`].
    Escaped,
    /// After the channel.
    Length(u8),
    /// After the low half of the length.
    LengthHigh(u8, u8),
    /// With this many bytes of payload to come.
    Payload(u8, u16),
}

impl Splitter {
    /// Takes the next byte of the stream.
    pub fn push(&mut self, byte: u8) -> Option<Piece> {
        let (next, piece) = match *self {
            Self::Console if byte == ESCAPE => (Self::Escaped, None),
            Self::Console => (Self::Console, Some(Piece::Console(byte))),
            Self::Escaped if byte == ESCAPE => (Self::Console, Some(Piece::Console(ESCAPE))),
            Self::Escaped => (Self::Length(byte), None),
            Self::Length(channel) => (Self::LengthHigh(channel, byte), None),
            Self::LengthHigh(channel, low) => match u16::from_le_bytes([low, byte]) {
                0 => (
                    Self::Console,
                    Some(Piece::Empty(Channel::from_number(channel))),
                ),
                length => (Self::Payload(channel, length), None),
            },
            Self::Payload(channel, left) => {
                let next = if left == 1 {
                    Self::Console
                } else {
                    Self::Payload(channel, left - 1)
                };
                let channel = Channel::from_number(channel);
                (next, Some(Piece::Payload(channel, byte, left == 1)))
            }
        };
        *self = next;
        piece
    }
}

/// One fact for the runner. The hypervisor sends all facts at the end of a run, [`Report::Exit`] last.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Report<'a> {
    /// The run is over: the status that the runner ends with, and one line that says why.
    Exit(ExitStatus, &'a str),
    /// How long the run took.
    Clock(ClockReport),
    /// How one guest ended: its number, its status, its name without white space, and one line that says why.
    Guest(u64, ExitStatus, &'a str, &'a str),
    /// What one vCPU did.
    Vcpu(VcpuReport),
    /// What one pCPU did.
    Pcpu(PcpuReport),
    /// Any other counter: a name without white space, and its value.
    Counter(&'a str, u64),
}

/// How a run ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ExitStatus {
    /// The guest powered itself off.
    PoweredOff,
    /// The guest crashed, or was stopped for cause.
    GuestFailed,
    /// The machine cannot do what the configuration asks for.
    BadInput,
    /// The hypervisor failed, or its configuration contradicts itself or the machine.
    HypervisorFailed,
}

impl ExitStatus {
    /// The status of the process that runs the hypervisor.
    pub const fn code(self) -> u8 {
        match self {
            Self::PoweredOff => 0,
            Self::GuestFailed => 1,
            Self::BadInput => 2,
            Self::HypervisorFailed => 3,
        }
    }

    const fn from_code(code: u64) -> Option<Self> {
        Some(match code {
            0 => Self::PoweredOff,
            1 => Self::GuestFailed,
            2 => Self::BadInput,
            3 => Self::HypervisorFailed,
            _ => return None,
        })
    }
}

/// Declares a record of counters that is written as `keyword field=value ...` and read back.
macro_rules! record {
    (
        $(#[$meta:meta])*
        $name:ident = $keyword:literal { $( $(#[$field_meta:meta])* $field:ident, )+ }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
        pub struct $name { $( $(#[$field_meta])* pub $field: u64, )+ }

        impl $name {
            const KEYWORD: &'static str = $keyword;

            /// Fields that the text does not have stay 0; those that this version does not know are skipped.
            fn parse(fields: &str) -> Option<Self> {
                let mut record = Self::default();
                for field in fields.split_ascii_whitespace() {
                    let (name, value) = field.split_once('=')?;
                    let value = value.parse().ok()?;
                    match name {
                        $( stringify!($field) => record.$field = value, )+
                        _ => {}
                    }
                }
                Some(record)
            }

            /// Adds what `other` counted, field by field.
            pub fn add(&mut self, other: &Self) {
                $( self.$field = self.$field.saturating_add(other.$field); )+
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(Self::KEYWORD)?;
                $( write!(f, " {}={}", stringify!($field), self.$field)?; )+
                Ok(())
            }
        }
    };
}

record! {
    /// How long the run took, and the unit of all times in ticks.
    ClockReport = "clock" {
        /// Ticks in a second. [CNTFRQ_EL0]
        frequency_hz,
        /// From the creation of the vCPUs to the end of the run.
        elapsed_ticks,
    }
}

record! {
    /// What one vCPU did. Its three times add up to its life.
    VcpuReport = "vcpu" {
        /// Its guest's number.
        guest,
        /// Its number within the guest.
        index,
        /// Time on a pCPU, its exits included.
        run_ticks,
        /// Time runnable and not running.
        ready_ticks,
        /// Time off, waiting or paused.
        blocked_ticks,
        /// How often it was put on a pCPU.
        switches,
        /// Moves to another pCPU while loaded.
        migrations_loaded,
        /// Moves to another pCPU while queued.
        migrations_queued,
        /// Moves to another pCPU while parked.
        migrations_parked,
        /// Exits by physical interrupts.
        exits_interrupt,
        /// Exits by HVC and SMC.
        exits_call,
        /// Exits by system registers.
        exits_register,
        /// Exits by device memory.
        exits_mmio,
        /// Exits by WFI and WFE.
        exits_wait,
        /// Exits by aborts that are not device accesses.
        exits_abort,
        /// Exits to get the FP registers.
        exits_fp,
        /// All other exits.
        exits_other,
    }
}

record! {
    /// What one pCPU did. Its two times add up to its life.
    PcpuReport = "pcpu" {
        /// Its number.
        index,
        /// Time with a vCPU on it.
        busy_ticks,
        /// Time without.
        idle_ticks,
        /// How often it put another vCPU on.
        switches,
        /// Kicks it sent to others.
        kicks_sent,
        /// Kicks it got.
        kicks_received,
        /// vCPUs it handed over to idle pCPUs.
        handed_over,
        /// Heap allocations while it handled an exit: there should be none.
        exit_allocations,
    }
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exit(status, reason) => write!(f, "exit {} {reason}", status.code()),
            Self::Clock(record) => record.fmt(f),
            Self::Guest(index, status, name, reason) => {
                write!(f, "guest {index} {} {name} {reason}", status.code())
            }
            Self::Vcpu(record) => record.fmt(f),
            Self::Pcpu(record) => record.fmt(f),
            Self::Counter(name, value) => write!(f, "counter {name}={value}"),
        }
    }
}

impl<'a> Report<'a> {
    /// Reads one report; `None` if it is not one.
    pub fn parse(text: &'a str) -> Option<Self> {
        let (keyword, rest) = text.split_once(' ').unwrap_or((text, ""));
        Some(match keyword {
            "exit" => {
                let (code, reason) = rest.split_once(' ').unwrap_or((rest, ""));
                Self::Exit(ExitStatus::from_code(code.parse().ok()?)?, reason)
            }
            "guest" => {
                let mut fields = rest.splitn(4, ' ');
                Self::Guest(
                    fields.next()?.parse().ok()?,
                    ExitStatus::from_code(fields.next()?.parse().ok()?)?,
                    fields.next()?,
                    fields.next()?,
                )
            }
            ClockReport::KEYWORD => Self::Clock(ClockReport::parse(rest)?),
            VcpuReport::KEYWORD => Self::Vcpu(VcpuReport::parse(rest)?),
            PcpuReport::KEYWORD => Self::Pcpu(PcpuReport::parse(rest)?),
            "counter" => {
                let (name, value) = rest.split_once('=')?;
                Self::Counter(name, value.parse().ok()?)
            }
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use alloc::{string::ToString, vec, vec::Vec};

    use super::*;

    fn split(stream: &[u8]) -> Vec<Piece> {
        let mut splitter = Splitter::default();
        stream
            .iter()
            .filter_map(|byte| splitter.push(*byte))
            .collect()
    }

    #[test]
    fn a_frame_leaves_no_byte_in_the_console() {
        let mut stream = b"a".to_vec();
        stream.extend(frame_header(Channel::Log, 2));
        stream.extend(b"\0z");
        stream.extend([ESCAPE, ESCAPE]);
        stream.extend(frame_header(Channel::Panic, 0));
        stream.push(b'b');
        let expected = vec![
            Piece::Console(b'a'),
            Piece::Payload(Channel::Log, 0, false),
            Piece::Payload(Channel::Log, b'z', true),
            Piece::Console(0),
            Piece::Empty(Channel::Panic),
            Piece::Console(b'b'),
        ];
        assert_eq!(split(&stream), expected);
    }

    #[test]
    fn a_frame_of_the_largest_size_ends_where_it_should() {
        let mut stream = frame_header(Channel::Unknown(200), u16::MAX).to_vec();
        stream.resize(stream.len() + MAX_PAYLOAD, ESCAPE);
        stream.push(b'c');
        let pieces = split(&stream);
        assert_eq!(pieces.len(), MAX_PAYLOAD + 1);
        assert_eq!(
            pieces[MAX_PAYLOAD - 1],
            Piece::Payload(Channel::Unknown(200), ESCAPE, true)
        );
        assert_eq!(pieces[MAX_PAYLOAD], Piece::Console(b'c'));
    }

    #[test]
    fn an_empty_frame_selects_a_console() {
        let last = Channel::Console(MAX_GUESTS as u8 - 1);
        let stream = frame_header(last, 0);
        assert_eq!(split(&stream), [Piece::Empty(last)]);
        let after = frame_header(Channel::Unknown(CONSOLE_END), 0);
        assert_eq!(split(&after), [Piece::Empty(Channel::Unknown(CONSOLE_END))]);
    }

    #[test]
    fn reports_read_back_as_written() {
        let vcpu = VcpuReport {
            index: 3,
            run_ticks: u64::MAX,
            exits_wait: 12,
            ..VcpuReport::default()
        };
        let pcpu = PcpuReport {
            index: 1,
            kicks_sent: 7,
            ..PcpuReport::default()
        };
        let clock = ClockReport {
            frequency_hz: 62_500_000,
            elapsed_ticks: 1,
        };
        for report in [
            Report::Exit(ExitStatus::GuestFailed, "vCPU 3: reset requested"),
            Report::Exit(ExitStatus::PoweredOff, ""),
            Report::Clock(clock),
            Report::Guest(31, ExitStatus::PoweredOff, "linux", "it powered off"),
            Report::Guest(0, ExitStatus::GuestFailed, "a", ""),
            Report::Vcpu(vcpu),
            Report::Pcpu(pcpu),
            Report::Counter("trace.lost", 9),
        ] {
            assert_eq!(Report::parse(&report.to_string()), Some(report));
        }
    }

    #[test]
    fn what_is_not_a_report_is_refused() {
        for text in [
            "",
            "exit",
            "exit x",
            "exit 9 why",
            "vcpu index",
            "guest 0 0 name",
            "guest 0 9 name why",
            "vcpu index=-1",
            "hello 1",
        ] {
            assert_eq!(Report::parse(text), None, "{text}");
        }
        assert_eq!(
            Report::parse("exit 3"),
            Some(Report::Exit(ExitStatus::HypervisorFailed, ""))
        );
    }
}
