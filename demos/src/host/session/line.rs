//! The way to the hypervisor: what is typed for each guest, and commands.

use std::{
    io::{self, Write},
    sync::{Mutex, PoisonError},
};

use crate::wire::{Channel, ESCAPE, frame_header};

/// QEMU's end of the serial line.
pub struct Line<W> {
    state: Mutex<State<W>>,
    /// A hypervisor listens there, and takes frames.
    is_framed: bool,
}

struct State<W> {
    pipe: W,
    /// Whose console the bytes are.
    selected: usize,
}

impl<W: Write> Line<W> {
    /// A line on which guest 0 is selected.
    pub const fn new(pipe: W, is_framed: bool) -> Self {
        let selected = 0;
        Self {
            state: Mutex::new(State { pipe, selected }),
            is_framed,
        }
    }

    /// A hypervisor listens there.
    pub const fn is_framed(&self) -> bool {
        self.is_framed
    }

    /// Types `bytes` on the console of `guest`.
    ///
    /// # Errors
    /// QEMU has gone.
    pub fn type_to(&self, guest: usize, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut stream = Vec::with_capacity(bytes.len());
        if self.is_framed {
            if state.selected != guest {
                state.selected = guest;
                let channel = Channel::Console(u8::try_from(guest).unwrap_or(u8::MAX));
                stream.extend(frame_header(channel, 0));
            }
            for byte in bytes {
                match *byte {
                    ESCAPE => stream.extend([ESCAPE, ESCAPE]),
                    other => stream.push(other),
                }
            }
        } else {
            stream.extend(bytes);
        }
        state.pipe.write_all(&stream)?;
        state.pipe.flush()
    }

    /// Gives the hypervisor `command`, of [`crate::control::LONGEST`] bytes at most with `number`, which the answer will have.
    ///
    /// # Errors
    /// QEMU has gone.
    pub fn command(&self, number: u32, command: &str) -> io::Result<()> {
        let text = format!("{number} {command}");
        let length = u16::try_from(text.len()).map_err(io::Error::other)?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut stream = frame_header(Channel::Control, length).to_vec();
        stream.extend(text.bytes());
        state.pipe.write_all(&stream)?;
        state.pipe.flush()
    }
}

#[cfg(test)]
impl Line<Vec<u8>> {
    /// What has gone over it.
    pub fn sent(&self) -> Vec<u8> {
        self.state.lock().expect("nobody panicked").pipe.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(is_framed: bool, send: impl FnOnce(&Line<Vec<u8>>)) -> Vec<u8> {
        let line = Line::new(Vec::new(), is_framed);
        send(&line);
        line.sent()
    }

    #[test]
    fn typed_bytes_go_to_the_guest_that_is_selected() {
        let bytes = sent(true, |line| {
            for (guest, text) in [(0, &b"a"[..]), (2, b"b\0"), (2, b"c"), (0, b"d")] {
                line.type_to(guest, text).expect("memory takes it");
            }
        });
        assert_eq!(bytes, b"a\0\x42\0\0b\0\0c\0\x40\0\0d");
    }

    #[test]
    fn a_line_without_hypervisor_has_no_frames() {
        let bytes = sent(false, |line| {
            line.type_to(0, b"\0a").expect("memory takes it");
        });
        assert_eq!(bytes, b"\0a");
    }

    #[test]
    fn a_command_is_one_frame() {
        let give = |line: &Line<Vec<u8>>| line.command(17, "list").expect("memory takes it");
        assert_eq!(sent(true, give), b"\0\x05\x07\x0017 list");
    }
}
