//! What the user types, on its way to the guest: Ctrl-A starts a command of the runner, and byte 0 is escaped.

use crate::wire::ESCAPE;

const PREFIX: u8 = 0x01;

/// Turns typed bytes into bytes for the serial line.
#[derive(Clone, Copy, Debug, Default)]
pub struct Keys {
    is_terminal: bool,
    is_framed: bool,
    is_after_prefix: bool,
}

impl Keys {
    /// Only a terminal has commands; a line with no hypervisor on it has no escape.
    pub const fn new(is_terminal: bool, is_framed: bool) -> Self {
        Self {
            is_terminal,
            is_framed,
            is_after_prefix: false,
        }
    }

    /// Appends what `typed` means to `line`; true when the user wants to leave (Ctrl-A x). Ctrl-A twice sends one.
    pub fn translate(&mut self, typed: &[u8], line: &mut Vec<u8>) -> bool {
        for byte in typed {
            let is_command = std::mem::take(&mut self.is_after_prefix);
            match *byte {
                b'x' | b'X' if is_command => return true,
                PREFIX if self.is_terminal && !is_command => self.is_after_prefix = true,
                ESCAPE if self.is_framed => line.extend([ESCAPE, ESCAPE]),
                other => line.push(other),
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_a_x_leaves() {
        let mut keys = Keys::new(true, true);
        let mut line = Vec::new();
        assert!(!keys.translate(b"ax\x01", &mut line));
        assert!(keys.translate(b"x", &mut line));
        assert_eq!(line, b"ax");
    }

    #[test]
    fn control_a_twice_is_one_for_the_guest() {
        let mut keys = Keys::new(true, true);
        let mut line = Vec::new();
        assert!(!keys.translate(b"\x01\x01x\x01b", &mut line));
        assert_eq!(line, b"\x01xb");
    }

    #[test]
    fn a_pipe_has_no_commands() {
        let mut line = Vec::new();
        assert!(!Keys::new(false, true).translate(b"\x01x\0", &mut line));
        assert_eq!(line, b"\x01x\0\0");
        line.clear();
        assert!(!Keys::new(false, false).translate(b"\0", &mut line));
        assert_eq!(line, b"\0");
    }
}
