//! How several channels share the one serial line to the runner.
//!
//! ```text
//! guest console: raw bytes | 0x00 0x00 = one 0x00 byte | 0x00 channel len_lo len_hi payload = a frame
//! ```
//! An empty frame of a console's channel says that the raw bytes after it are that console's; at the start they are console
//! 0's. Towards the hypervisor the line is the same: [`Decoder`] takes it apart. What a report, a trace or a command says is
//! the embedder's business.

/// The byte that starts a frame.
pub const ESCAPE: u8 = 0;

/// The longest payload of one frame, in bytes.
pub const MAX_PAYLOAD: usize = u16::MAX as usize;

/// How many consoles the line can tell apart.
pub const CONSOLES: u8 = 32;

/// The number of console 0's channel; those of the others follow.
const CONSOLE_BASE: u8 = 0x40;
const CONSOLE_END: u8 = CONSOLE_BASE + CONSOLES;
const CONTROL: u8 = 5;

/// Who a frame is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Channel {
    /// One line of the hypervisor's log, UTF-8, with no newline.
    Log,
    /// One record of results: text, with no newline.
    Report,
    /// A part of a panic message, UTF-8.
    Panic,
    /// Trace events.
    Trace,
    /// Towards the hypervisor: one command as text, with no newline. From it: a part of an answer.
    Control,
    /// To the runner: there is room again for what is typed for a console, in the embedder's form.
    Typed,
    /// The console of this number, below [`CONSOLES`].
    Console(u8),
}

impl Channel {
    /// The channel's number on the line.
    pub const fn number(self) -> u8 {
        match self {
            Self::Log => 1,
            Self::Report => 2,
            Self::Panic => 3,
            Self::Trace => 4,
            Self::Control => CONTROL,
            Self::Typed => 6,
            Self::Console(console) => CONSOLE_BASE + console,
        }
    }
}

/// The four bytes in front of a payload of `length` bytes.
pub const fn header(channel: Channel, length: u16) -> [u8; 4] {
    let [low, high] = length.to_le_bytes();
    [ESCAPE, channel.number(), low, high]
}

/// What came over the line towards the hypervisor.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Received {
    /// A byte for the console of this number.
    Console(u8, u8),
    /// What follows is for the console of this number.
    Selected(u8),
    /// A byte of a command, and whether it is the last one.
    Control(u8, bool),
}

/// Takes the stream towards the hypervisor apart; frames of channels that it does not know are skipped.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Decoder {
    state: State,
    console: u8,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum State {
    #[default]
    Console,
    Escaped,
    LengthLow(u8),
    LengthHigh(u8, u8),
    Payload(u8, u16),
}

impl Decoder {
    /// A decoder at the start of a stream.
    pub const fn new() -> Self {
        Self {
            state: State::Console,
            console: 0,
        }
    }

    /// The console that the next byte would be for, if it is one of a console.
    pub const fn console(&self) -> u8 {
        self.console
    }

    /// Takes the next byte of the stream; returns what it completes, if anything.
    pub fn push(&mut self, byte: u8) -> Option<Received> {
        let (state, received) = match self.state {
            State::Console if byte == ESCAPE => (State::Escaped, None),
            State::Console => (State::Console, Some(Received::Console(self.console, byte))),
            State::Escaped if byte == ESCAPE => (
                State::Console,
                Some(Received::Console(self.console, ESCAPE)),
            ),
            State::Escaped => (State::LengthLow(byte), None),
            State::LengthLow(channel) => (State::LengthHigh(channel, byte), None),
            State::LengthHigh(channel, low) => match u16::from_le_bytes([low, byte]) {
                0 => (State::Console, self.select(channel)),
                length => (State::Payload(channel, length), None),
            },
            State::Payload(channel, left) => {
                let is_last = left == 1;
                let next = if is_last {
                    State::Console
                } else {
                    State::Payload(channel, left - 1)
                };
                let received = (channel == CONTROL).then_some(Received::Control(byte, is_last));
                (next, received)
            }
        };
        self.state = state;
        received
    }

    fn select(&mut self, channel: u8) -> Option<Received> {
        if !(CONSOLE_BASE..CONSOLE_END).contains(&channel) {
            return None;
        }
        self.console = channel - CONSOLE_BASE;
        Some(Received::Selected(self.console))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn console(stream: &[u8]) -> Vec<u8> {
        let mut of_console_0 = Vec::new();
        for received in receive(stream) {
            match received {
                Received::Console(0, byte) => of_console_0.push(byte),
                other => panic!("{other:?} is not for console 0"),
            }
        }
        of_console_0
    }

    fn receive(stream: &[u8]) -> Vec<Received> {
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

    #[test]
    fn an_empty_frame_selects_a_console() {
        let mut stream = b"a".to_vec();
        stream.extend(header(Channel::Console(31), 0));
        stream.extend(b"b\0\0");
        stream.extend(header(Channel::Console(0), 0));
        stream.push(b'c');
        let expected = [
            Received::Console(0, b'a'),
            Received::Selected(31),
            Received::Console(31, b'b'),
            Received::Console(31, 0),
            Received::Selected(0),
            Received::Console(0, b'c'),
        ];
        assert_eq!(receive(&stream), expected);
    }

    #[test]
    fn what_is_no_console_selects_none() {
        assert_eq!(console(&[0, 0x60, 0, 0, b'a', 0, 0x3f, 0, 0, b'b']), b"ab");
        // A console's frame with a payload is none that anybody sends.
        assert_eq!(console(&[0, 0x41, 1, 0, b'x', b'a']), b"a");
    }

    #[test]
    fn a_command_comes_byte_by_byte() {
        let mut stream = header(Channel::Control, 2).to_vec();
        stream.extend(b"\0z");
        let expected = [Received::Control(0, false), Received::Control(b'z', true)];
        assert_eq!(receive(&stream), expected);
        assert_eq!(receive(&header(Channel::Control, 0)), []);
    }
}
