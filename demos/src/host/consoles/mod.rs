//! Several guests' consoles on one screen.
//!
//! ```text
//!  focused guest   byte for byte
//!  the others      [name] one whole line          between the focused guest's lines, or when it is quiet
//!  elsewhere       a file or a pseudo-terminal    byte for byte
//! ```
//! With one guest, or where a terminal chooses, one has the focus. Elsewhere none has: all lines carry a name. The time is
//! passed in; [`Consoles::due`] says when [`Consoles::tick`] has something to do.

mod pty;

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

pub use self::pty::{Keyboard, Pty};

/// A guest that has written nothing for so long may be waiting for somebody to read its line.
const QUIET: Duration = Duration::from_millis(150);
/// A line that is longer is shown in parts, and is no marker.
const LONGEST_LINE: usize = 4096;
/// How much waits for the end of a command that is being typed, in bytes.
const MOST_HELD: usize = 256 << 10;
/// To the start of the line, and nothing on it. [ECMA-48: EL]
const CLEAR_LINE: &[u8] = b"\r\x1b[K";

/// Where a console goes that does not go to the screen.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Target {
    /// Into this file.
    File(PathBuf),
    /// To a new pseudo-terminal.
    Pty,
}

impl Target {
    /// `pty`, or the name of a file, relative to `base`.
    pub fn parse(text: &str, base: &Path) -> Self {
        match text {
            "pty" => Self::Pty,
            path => Self::File(base.join(path)),
        }
    }
}

/// Where a console goes, opened.
#[derive(Debug)]
pub enum Sink {
    /// To the screen that all share.
    Screen,
    /// Into a file.
    File(File),
    /// To a pseudo-terminal.
    Pty(Pty),
}

struct Console {
    name: String,
    sink: Sink,
    /// What it wrote since its last newline, unless it has the focus.
    line: Vec<u8>,
    wrote_at: Option<Instant>,
    /// What it wrote since its last newline, for the markers.
    candidate: Vec<u8>,
    marked: Vec<String>,
}

/// The consoles of all guests.
pub struct Consoles {
    consoles: Vec<Console>,
    markers: Vec<String>,
    line_end: &'static str,
    focus: Option<usize>,
    /// The focused guest's line so far, as it stands on the screen.
    tail: Vec<u8>,
    /// Whole lines of others, until the focused guest is at the start of a line.
    waiting: Vec<u8>,
    /// What has to go to the screen.
    screen: Vec<u8>,
    /// The line in which the user types a command: the screen stands still meanwhile.
    prompt: Option<Held>,
}

/// What waits until the user has typed a command.
struct Held {
    /// The line as it stands.
    shown: String,
    /// The focused guest's line when the prompt came.
    tail: Vec<u8>,
    /// What others have to say.
    said: Vec<u8>,
}

impl Consoles {
    /// The consoles of guests with these names. A lone guest has the focus from the start. Console lines that start with one
    /// of `markers`, after Linux's time stamp, are kept.
    pub fn new(guests: Vec<(String, Sink)>, markers: Vec<String>, line_end: &'static str) -> Self {
        let is_alone = guests.len() == 1 && matches!(guests[0].1, Sink::Screen);
        let console = |(name, sink)| Console {
            name,
            sink,
            line: Vec::new(),
            wrote_at: None,
            candidate: Vec::new(),
            marked: Vec::new(),
        };
        Self {
            consoles: guests.into_iter().map(console).collect(),
            markers,
            line_end,
            focus: is_alone.then_some(0),
            tail: Vec::new(),
            waiting: Vec::new(),
            screen: Vec::new(),
            prompt: None,
        }
    }

    /// A command is being typed, and its line stands so, below what the guests have written.
    pub fn show_prompt(&mut self, shown: String) {
        match &mut self.prompt {
            Some(held) => held.shown = shown,
            None => {
                let (tail, said) = (self.tail.clone(), Vec::new());
                self.prompt = Some(Held { shown, tail, said });
            }
        }
    }

    /// The command has been typed, or the user does not want one. Returns what was said meanwhile.
    pub fn close_prompt(&mut self) -> Vec<u8> {
        let Some(held) = self.prompt.take() else {
            return Vec::new();
        };
        self.screen.splice(0..0, held.tail);
        held.said
    }

    /// Keeps `text`, which is not for the screen, while a command is being typed; false if none is, and it can be said.
    pub fn holds(&mut self, text: &[u8]) -> bool {
        let held = self.prompt.as_mut();
        held.map(|held| held.said.extend(text)).is_some()
    }

    /// Who has the focus.
    pub const fn focus(&self) -> Option<usize> {
        self.focus
    }

    /// Guest `guest` is called so.
    pub fn name(&self, guest: usize) -> Option<&str> {
        self.consoles
            .get(guest)
            .map(|console| console.name.as_str())
    }

    /// The next guest after the focused one whose console is on the screen.
    pub fn next(&self) -> Option<usize> {
        let count = self.consoles.len();
        let first = self.focus.map_or(0, |focus| focus + 1);
        let mut others = (0..count).map(|step| (first + step) % count);
        others.find(|guest| self.is_on_screen(*guest))
    }

    /// Gives `guest` the focus, if its console is on the screen.
    pub fn set_focus(&mut self, guest: usize) -> bool {
        if !self.is_on_screen(guest) {
            return false;
        }
        if self.focus != Some(guest) {
            self.end_tail();
            self.focus = Some(guest);
            let line = std::mem::take(&mut self.consoles[guest].line);
            self.screen.extend(&line);
            self.tail = line;
        }
        true
    }

    fn is_on_screen(&self, guest: usize) -> bool {
        let console = self.consoles.get(guest);
        console.is_some_and(|console| matches!(console.sink, Sink::Screen))
    }

    /// Takes what `guest` wrote. Bytes of a guest that does not exist are lost.
    pub fn write(&mut self, guest: usize, bytes: &[u8], now: Instant) {
        let Some(console) = self.consoles.get_mut(guest) else {
            return;
        };
        console.mark(bytes, &self.markers);
        console.wrote_at = Some(now);
        match &mut console.sink {
            // A console that cannot be written must not end the run.
            Sink::File(file) => drop(file.write_all(bytes)),
            Sink::Pty(pty) => pty.write(bytes),
            Sink::Screen if self.focus == Some(guest) => self.write_focused(bytes),
            Sink::Screen => {
                for byte in bytes {
                    let line = &mut self.consoles[guest].line;
                    line.push(*byte);
                    if *byte == b'\n' || line.len() >= LONGEST_LINE {
                        self.end_line(guest);
                    }
                }
            }
        }
    }

    fn write_focused(&mut self, bytes: &[u8]) {
        self.screen.extend(bytes);
        match bytes.iter().rposition(|byte| *byte == b'\n') {
            Some(newline) => self.tail = bytes[newline + 1..].to_vec(),
            None => self.tail.extend(bytes),
        }
        let excess = self.tail.len().saturating_sub(LONGEST_LINE);
        self.tail.drain(..excess);
        if self.tail.is_empty() {
            self.screen.append(&mut self.waiting);
        }
    }

    /// Shows a line of `guest`, which does not have the focus, when the screen is at the start of one.
    fn end_line(&mut self, guest: usize) {
        let console = &mut self.consoles[guest];
        let line = plain(&std::mem::take(&mut console.line));
        let text = format!("[{}] {line}{}", console.name, self.line_end);
        if self.tail.is_empty() {
            self.screen.extend(text.bytes());
        } else {
            self.waiting.extend(text.bytes());
        }
    }

    /// Leaves the focused guest's line, and shows what waited for its end.
    fn end_tail(&mut self) {
        if !self.tail.is_empty() {
            self.tail.clear();
            self.screen.extend(self.line_end.bytes());
        }
        self.screen.append(&mut self.waiting);
    }

    /// How long after `now` [`Consoles::tick`] has something to do; `None` if nothing waits.
    pub fn due(&self, now: Instant) -> Option<Duration> {
        let writers = self.consoles.iter().enumerate().filter(|(guest, console)| {
            !console.line.is_empty() || (self.focus == Some(*guest) && !self.waiting.is_empty())
        });
        let times = writers.filter_map(|(_, console)| console.wrote_at);
        let due = times.min().map(|wrote_at| wrote_at + QUIET);
        due.map(|due| due.saturating_duration_since(now))
    }

    /// Shows what has waited for long enough.
    pub fn tick(&mut self, now: Instant) {
        let is_quiet = |console: &Console| {
            let wrote_at = console.wrote_at;
            wrote_at.is_some_and(|wrote_at| now.saturating_duration_since(wrote_at) >= QUIET)
        };
        for guest in 0..self.consoles.len() {
            if !self.consoles[guest].line.is_empty() && is_quiet(&self.consoles[guest]) {
                self.end_line(guest);
            }
        }
        let focused = self.focus.and_then(|guest| self.consoles.get(guest));
        if !self.waiting.is_empty() && focused.is_some_and(is_quiet) {
            // The line that is interrupted, often a prompt, stands below once more.
            let tail = std::mem::take(&mut self.tail);
            self.screen.extend(self.line_end.bytes());
            self.screen.append(&mut self.waiting);
            self.screen.extend(&tail);
            self.tail = tail;
        }
    }

    /// What has to go to the screen now. While a command is being typed that is nothing, unless very much waits.
    pub fn take_screen(&mut self) -> Vec<u8> {
        let screen = std::mem::take(&mut self.screen);
        let Some(held) = &mut self.prompt else {
            return screen;
        };
        if screen.len() < MOST_HELD {
            self.screen = screen;
            return Vec::new();
        }
        let tail = std::mem::replace(&mut held.tail, self.tail.clone());
        let line_end = self.line_end.as_bytes();
        let parts = [CLEAR_LINE, &tail, &screen, line_end, held.shown.as_bytes()];
        parts.concat()
    }

    /// Nothing comes any more: shows what is left, and returns the marked lines of each guest.
    pub fn finish(&mut self) -> Vec<Vec<String>> {
        for guest in 0..self.consoles.len() {
            if !self.consoles[guest].line.is_empty() {
                self.end_line(guest);
            }
            let Self {
                consoles, markers, ..
            } = self;
            consoles[guest].end_candidate(markers);
        }
        if !self.waiting.is_empty() {
            self.end_tail();
        }
        let consoles = self.consoles.iter_mut();
        consoles
            .map(|console| std::mem::take(&mut console.marked))
            .collect()
    }
}

impl Console {
    fn mark(&mut self, bytes: &[u8], markers: &[String]) {
        for byte in bytes {
            if *byte == b'\n' {
                self.end_candidate(markers);
            } else if self.candidate.len() < LONGEST_LINE {
                self.candidate.push(*byte);
            }
        }
    }

    fn end_candidate(&mut self, markers: &[String]) {
        let line = String::from_utf8_lossy(&self.candidate);
        let line = without_time(line.trim());
        if markers.iter().any(|marker| line.starts_with(marker)) {
            self.marked.push(line.to_owned());
        }
        self.candidate.clear();
    }
}

/// Linux starts its lines with `[    1.234567] `.
fn without_time(line: &str) -> &str {
    match line
        .strip_prefix('[')
        .and_then(|rest| rest.split_once("] "))
    {
        Some((_, rest)) => rest,
        None => line,
    }
}

/// A line without what would move the cursor or make the terminal answer. [ECMA-48: CSI]
fn plain(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let mut characters = text.chars().peekable();
    let mut plain = String::new();
    while let Some(character) = characters.next() {
        if character == '\x1b' && characters.next_if_eq(&'[').is_some() {
            let _ = characters.find(|end| ('@'..='~').contains(end));
        } else if character == '\t' || !character.is_control() {
            plain.push(character);
        }
    }
    plain
}

#[cfg(test)]
mod tests;
