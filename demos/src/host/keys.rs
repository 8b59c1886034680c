//! What the user types: bytes for the guest that has the focus, and commands of the runner after Ctrl-A.

use super::prompt::{Edit, Prompt};

const PREFIX: u8 = 0x01;
const ESCAPE: u8 = 0x1b;

/// What the keys are, for the user.
pub const HELP: &str = "Ctrl-A x quits, Ctrl-A n and Ctrl-A 1..9 choose the console, Ctrl-A s starts its guest, \
                        Ctrl-A p pauses and resumes it, Ctrl-A r resets it, Ctrl-A b presses its power key, Ctrl-A c asks for a command (try help), Ctrl-A Ctrl-A sends Ctrl-A, Ctrl-A ? is this help";

/// What typed keys mean.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Action {
    /// The guest gets these bytes.
    Type(Vec<u8>),
    /// The user wants to leave.
    Leave,
    /// The next guest gets the focus.
    FocusNext,
    /// The guest with this number, from 0, gets the focus.
    Focus(usize),
    /// The focused guest starts, if it is off.
    Start,
    /// The focused guest pauses, or goes on.
    Pause,
    /// The focused guest starts again.
    Reset,
    /// The focused guest's power key is pressed.
    Button,
    /// The user wants to type a command.
    Prompt,
    /// The user types one.
    Edit(Edit),
    /// The user wants to know the keys.
    Help,
}

/// Finds out what keys mean.
#[derive(Clone, Debug, Default)]
pub struct Keys {
    is_terminal: bool,
    is_after_prefix: bool,
    /// The command that is being typed.
    prompt: Option<Prompt>,
}

impl Keys {
    /// Only a terminal has commands.
    pub const fn new(is_terminal: bool) -> Self {
        Self {
            is_terminal,
            is_after_prefix: false,
            prompt: None,
        }
    }

    /// The command that is being typed, as it stands on the terminal.
    pub fn prompt(&self) -> Option<String> {
        self.prompt.as_ref().map(Prompt::shown)
    }

    /// What `typed` means, in its order. Ctrl-A twice is one for the guest, and so is a key that is no command.
    pub fn translate(&mut self, typed: &[u8]) -> Vec<Action> {
        let mut actions = Vec::new();
        let mut bytes = typed.iter().peekable();
        while let Some(byte) = bytes.next() {
            if let Some(prompt) = &mut self.prompt {
                // A key such as an arrow comes as one piece, Esc alone.
                if *byte == ESCAPE && bytes.next_if(|next| matches!(next, b'[' | b'O')).is_some() {
                    let _ = bytes.find(|end| matches!(end, b'@'..=b'~'));
                    continue;
                }
                let edit = match *byte {
                    PREFIX => Some(Edit::Leave),
                    other => prompt.push(other),
                };
                self.is_after_prefix = *byte == PREFIX;
                if !matches!(edit, None | Some(Edit::Show(_))) {
                    self.prompt = None;
                }
                actions.extend(edit.map(Action::Edit));
                continue;
            }
            let is_command = std::mem::take(&mut self.is_after_prefix);
            let action = match *byte {
                PREFIX if self.is_terminal && !is_command => {
                    self.is_after_prefix = true;
                    continue;
                }
                b'x' | b'X' if is_command => Action::Leave,
                b'n' | b'N' if is_command => Action::FocusNext,
                b's' | b'S' if is_command => Action::Start,
                b'p' | b'P' if is_command => Action::Pause,
                b'r' | b'R' if is_command => Action::Reset,
                b'b' | b'B' if is_command => Action::Button,
                b'c' | b'C' if is_command => {
                    self.prompt = Some(Prompt::default());
                    Action::Prompt
                }
                b'?' | b'h' if is_command => Action::Help,
                digit @ b'1'..=b'9' if is_command => Action::Focus(usize::from(digit - b'1')),
                other => {
                    if let Some(Action::Type(bytes)) = actions.last_mut() {
                        bytes.push(other);
                        continue;
                    }
                    Action::Type(vec![other])
                }
            };
            actions.push(action);
        }
        actions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_a_starts_a_command() {
        let mut keys = Keys::new(true);
        assert_eq!(keys.translate(b"ab\x01"), [Action::Type(b"ab".into())]);
        assert_eq!(keys.translate(b"x"), [Action::Leave]);
        let actions = keys.translate(b"\x01n\x013c\x01s\x01p\x01r\x01b\x01?");
        let expected = [
            Action::FocusNext,
            Action::Focus(2),
            Action::Type(b"c".into()),
            Action::Start,
            Action::Pause,
            Action::Reset,
            Action::Button,
            Action::Help,
        ];
        assert_eq!(actions, expected);
    }

    #[test]
    fn control_a_twice_is_one_for_the_guest() {
        let actions = Keys::new(true).translate(b"\x01\x01x\x01z");
        assert_eq!(actions, [Action::Type(b"\x01xz".into())]);
    }

    #[test]
    fn a_command_is_typed_after_control_a_and_c() {
        let mut keys = Keys::new(true);
        let show = |text: &str| Action::Edit(Edit::Show(text.into()));
        let (run, leave) = (
            Action::Edit(Edit::Run("ab".into())),
            Action::Edit(Edit::Leave),
        );
        let actions = keys.translate(b"x\x01ca\x1b[Ab");
        let x = Action::Type(b"x".into());
        assert_eq!(actions, [x.clone(), Action::Prompt, show("a"), show("b")]);
        assert_eq!(keys.prompt().as_deref(), Some("trapline> ab"));
        assert_eq!(keys.translate(b"\rx"), [run, x.clone()]);
        assert_eq!(keys.prompt(), None);
        assert_eq!(
            keys.translate(b"\x01c\x1bx"),
            [Action::Prompt, leave.clone(), x]
        );
        assert_eq!(
            keys.translate(b"\x01c\x01x"),
            [Action::Prompt, leave, Action::Leave]
        );
    }

    #[test]
    fn a_pipe_has_no_commands() {
        let actions = Keys::new(false).translate(b"\x01x\x01n");
        assert_eq!(actions, [Action::Type(b"\x01x\x01n".into())]);
    }
}
