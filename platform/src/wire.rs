//! How several channels share the one serial line to the runner.
//!
//! ```text
//! guest console: raw bytes | 0x00 0x00 = one 0x00 byte | 0x00 channel len_lo len_hi payload = a frame
//! ```
//! Towards the hypervisor the line is the same: [`Decoder`] takes the console's bytes out of it. What a
//! report or a trace says is the embedder's business.

/// The byte that starts a frame.
pub const ESCAPE: u8 = 0;

/// The longest payload of one frame, in bytes.
pub const MAX_PAYLOAD: usize = u16::MAX as usize;

/// Who a frame is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Channel {
    /// One line of the hypervisor's log, UTF-8, with no newline.
    Log = 1,
    /// One record of results: text, with no newline.
    Report = 2,
    /// A part of a panic message, UTF-8.
    Panic = 3,
    /// Trace events.
    Trace = 4,
}

/// The four bytes in front of a payload of `length` bytes.
pub const fn header(channel: Channel, length: u16) -> [u8; 4] {
    let [low, high] = length.to_le_bytes();
    [ESCAPE, channel as u8, low, high]
}

/// Takes the console's bytes out of the stream towards the hypervisor; frames are skipped, none is defined yet.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Decoder {
    state: State,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum State {
    #[default]
    Console,
    Escaped,
    LengthLow,
    LengthHigh(u8),
    Payload(u16),
}

impl Decoder {
    /// A decoder at the start of a stream.
    pub const fn new() -> Self {
        Self {
            state: State::Console,
        }
    }

    /// Takes the next byte of the stream; returns the byte that the console gets, if it completes one.
    pub fn push(&mut self, byte: u8) -> Option<u8> {
        let (state, console) = match self.state {
            State::Console if byte == ESCAPE => (State::Escaped, None),
            State::Console => (State::Console, Some(byte)),
            State::Escaped if byte == ESCAPE => (State::Console, Some(ESCAPE)),
            State::Escaped => (State::LengthLow, None),
            State::LengthLow => (State::LengthHigh(byte), None),
            State::LengthHigh(low) => (State::payload(u16::from_le_bytes([low, byte])), None),
            State::Payload(left) => (State::payload(left - 1), None),
        };
        self.state = state;
        console
    }
}

impl State {
    const fn payload(left: u16) -> Self {
        if left == 0 {
            Self::Console
        } else {
            Self::Payload(left)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn console(stream: &[u8]) -> Vec<u8> {
        let mut decoder = Decoder::new();
        stream.iter().filter_map(|&b| decoder.push(b)).collect()
    }

    #[test]
    fn a_header_holds_channel_and_length() {
        assert_eq!(header(Channel::Panic, 0x1234), [0, 3, 0x34, 0x12]);
    }

    #[test]
    fn plain_bytes_are_the_console() {
        assert_eq!(console(b"ls\r\n"), b"ls\r\n");
    }

    #[test]
    fn an_escaped_zero_is_a_zero() {
        assert_eq!(console(&[b'a', 0, 0, b'b']), [b'a', 0, b'b']);
    }

    #[test]
    fn frames_are_skipped_even_with_zeros_inside() {
        assert_eq!(console(&[b'a', 0, 9, 2, 0, 0, 0, b'b']), *b"ab");
        assert_eq!(console(&[0, 9, 0, 0, b'b']), *b"b");
    }

    #[test]
    fn a_frame_may_be_as_long_as_its_length_field_allows() {
        let mut stream = vec![0, 9, 0xff, 0xff];
        stream.extend(vec![7; MAX_PAYLOAD]);
        stream.push(b'x');
        assert_eq!(console(&stream), *b"x");
    }
}
