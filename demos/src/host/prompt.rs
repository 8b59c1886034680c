//! The line in which a user at the guests' terminal types a command.

/// What stands before it.
pub const PROMPT: &str = "trapline> ";

const CTRL_C: u8 = 0x03;
const CTRL_D: u8 = 0x04;
const BACKSPACE: u8 = 0x08;
const CTRL_U: u8 = 0x15;
const CTRL_W: u8 = 0x17;
const ESCAPE: u8 = 0x1b;
const DELETE: u8 = 0x7f;
/// No command is longer.
const LONGEST: usize = 200;

/// What a typed byte does to the line.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Edit {
    /// The line is longer or shorter; the terminal shows it so after this.
    Show(String),
    /// It is a command.
    Run(String),
    /// The user wants none.
    Leave,
}

/// The line as it stands.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Prompt {
    line: String,
}

impl Prompt {
    /// What stands on the terminal, the prompt included.
    pub fn shown(&self) -> String {
        format!("{PROMPT}{}", self.line)
    }

    /// Takes a typed byte; `None` if it changes nothing.
    pub fn push(&mut self, byte: u8) -> Option<Edit> {
        match byte {
            b'\r' | b'\n' if self.line.trim().is_empty() => Some(Edit::Leave),
            b'\r' | b'\n' => Some(Edit::Run(std::mem::take(&mut self.line))),
            ESCAPE | CTRL_C => Some(Edit::Leave),
            CTRL_D if self.line.is_empty() => Some(Edit::Leave),
            BACKSPACE | DELETE => self.erase(1),
            CTRL_U => self.erase(self.line.len()),
            CTRL_W => {
                let words = self.line.trim_end().rsplit_once(' ');
                let kept = words.map_or(0, |(before, _)| before.len() + 1);
                self.erase(self.line.len() - kept)
            }
            b' '..=b'~' if self.line.len() < LONGEST => {
                self.line.push(char::from(byte));
                Some(Edit::Show(char::from(byte).to_string()))
            }
            _ => None,
        }
    }

    /// The line has nothing but ASCII, so a byte is a column.
    fn erase(&mut self, count: usize) -> Option<Edit> {
        let kept = self.line.len().saturating_sub(count);
        let gone = self.line.len() - kept;
        self.line.truncate(kept);
        (gone > 0).then(|| Edit::Show("\x08 \x08".repeat(gone)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(text: &str) -> (Prompt, Vec<Edit>) {
        let mut prompt = Prompt::default();
        let edits = text.bytes().filter_map(|byte| prompt.push(byte)).collect();
        (prompt, edits)
    }

    #[test]
    fn a_line_is_edited_and_run() {
        let (prompt, edits) = typed("lisx\x7ft\x00\r");
        assert_eq!(edits[4], Edit::Show("\x08 \x08".into()));
        assert_eq!(edits.last(), Some(&Edit::Run("list".into())));
        assert_eq!(prompt, Prompt::default());
        let (prompt, edits) = typed("\x7f\x15pause web now\x17\x17");
        assert_eq!(prompt.shown(), "trapline> pause ");
        assert_eq!(edits.len(), "pause web now".len() + 2);
        assert_eq!(typed("pause\x15").0, Prompt::default());
        assert_eq!(typed(&"x".repeat(300)).0.line.len(), LONGEST);
    }

    #[test]
    fn a_line_is_left() {
        for keys in ["\x1b", "\x03", "\x04", "\r", "  \n", "abc\x03"] {
            assert_eq!(typed(keys).1.last(), Some(&Edit::Leave), "{keys:?}");
        }
        assert_eq!(typed("a\x04").1.len(), 1, "only an empty line ends so");
    }
}
