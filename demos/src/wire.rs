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
//! apart on either side. A report frame holds one [`Report`] as text.

mod report;

use crate::config::MAX_GUESTS;

pub use report::{ClockReport, ExitStatus, PcpuReport, Report, VcpuReport};

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

#[cfg(test)]
mod tests {
    use alloc::{vec, vec::Vec};

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
}
