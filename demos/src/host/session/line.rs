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

    /// Tells the hypervisor to do something, such as `pause NAME`. Nobody hears it where there is none.
    ///
    /// # Errors
    /// QEMU has gone.
    pub fn command(&self, command: &str) -> io::Result<()> {
        let Some(length) = u16::try_from(command.len()).ok().filter(|_| self.is_framed) else {
            return Ok(());
        };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut stream = frame_header(Channel::Control, length).to_vec();
        stream.extend(command.bytes());
        state.pipe.write_all(&stream)?;
        state.pipe.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(is_framed: bool, send: impl FnOnce(&Line<Vec<u8>>)) -> Vec<u8> {
        let line = Line::new(Vec::new(), is_framed);
        send(&line);
        line.state.into_inner().expect("nobody panicked").pipe
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
            line.command("pause a").expect("memory takes it");
        });
        assert_eq!(bytes, b"\0a");
    }

    #[test]
    fn a_command_is_one_frame() {
        let bytes = sent(true, |line| line.command("list").expect("memory takes it"));
        assert_eq!(bytes, b"\0\x05\x04\0list");
    }
}
