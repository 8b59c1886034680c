//! QEMU's stdout, taken apart.

use std::{
    fs::File,
    io::{self, Read, Write, stderr, stdout},
    process::ChildStdout,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc::Sender},
    thread::{self, JoinHandle},
    time::Instant,
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Event, line::Line, requests::Requests};
use crate::{
    host::{consoles::Consoles, report::RunReport},
    wire::{Channel, Piece, Splitter, parse_typed},
};

/// Where each part of the stream goes.
pub struct Streams {
    /// There are frames in the stream.
    pub is_framed: bool,
    /// The console goes to stdout.
    pub shows_console: bool,
    /// The log goes to stderr.
    pub shows_log: bool,
    /// A raw terminal needs a carriage return too.
    pub line_end: &'static str,
    /// The log goes here.
    pub log: Option<File>,
    /// The guests' consoles.
    pub consoles: Arc<Mutex<Consoles>>,
    /// What goes the other way.
    pub line: Arc<Line>,
    /// Commands that wait for answers.
    pub requests: Arc<Requests>,
}

/// What was kept.
#[derive(Debug, Default)]
pub struct Output {
    /// All reports.
    pub report: RunReport,
    /// The panic report.
    pub panic: String,
    /// For each guest, the lines that were asked for.
    pub marked: Vec<Vec<String>>,
}

/// Reads `pipe` to its end.
pub fn spawn(pipe: ChildStdout, streams: Streams, events: Sender<Event>) -> JoinHandle<Output> {
    thread::spawn(move || {
        let mut reader = Reader {
            streams,
            events,
            splitter: Splitter::default(),
            frame: Vec::new(),
            console: Vec::new(),
            selected: 0,
            output: Output::default(),
        };
        reader.read(pipe);
        // Nobody waits any more if the run was ended from outside.
        let _ = reader.events.send(Event::Closed);
        reader.output
    })
}

/// Shows what the guests wrote.
pub fn show(consoles: &mut Consoles) -> io::Result<()> {
    let screen = consoles.take_screen();
    if screen.is_empty() {
        return Ok(());
    }
    stdout().write_all(&screen)?;
    stdout().flush()
}

/// Says `text`, which has its line ends, beside the consoles; later if the user is typing a command.
pub fn say(consoles: &mut Consoles, text: &str) {
    if !consoles.holds(text.as_bytes()) {
        // There is nobody left to tell if the terminal has gone.
        let _ = stderr().write_all(text.as_bytes());
    }
}

struct Reader {
    streams: Streams,
    events: Sender<Event>,
    splitter: Splitter,
    frame: Vec<u8>,
    /// Console bytes of the selected guest that are not sorted yet.
    console: Vec<u8>,
    /// Whose console the bytes are.
    selected: usize,
    output: Output,
}

impl Reader {
    fn read(&mut self, mut pipe: ChildStdout) {
        let mut bytes = vec![0; 64 << 10];
        loop {
            if !self.has_more(&pipe) {
                self.sort_console();
                self.show_console(|consoles| consoles.tick(Instant::now()));
                continue;
            }
            match pipe.read(&mut bytes) {
                Ok(0) | Err(_) => break,
                Ok(count) => bytes[..count].iter().for_each(|byte| self.take(*byte)),
            }
            self.sort_console();
            self.show_console(|_| {});
        }
        let mut marked = Vec::new();
        self.show_console(|consoles| marked = consoles.finish());
        self.output.marked = marked;
    }

    /// Waits for more to read, or its end, as long as the consoles have nothing to do.
    fn has_more(&self, pipe: &ChildStdout) -> bool {
        let due = self.consoles().due(Instant::now());
        let Some(timeout) = due.and_then(|due| Timespec::try_from(due).ok()) else {
            return true;
        };
        let mut pipes = [PollFd::new(pipe, PollFlags::IN)];
        !matches!(poll(&mut pipes, Some(&timeout)), Ok(0))
    }

    fn consoles(&self) -> MutexGuard<'_, Consoles> {
        let consoles = &self.streams.consoles;
        consoles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&mut self, byte: u8) {
        if !self.streams.is_framed {
            return self.console.push(byte);
        }
        match self.splitter.push(byte) {
            None => {}
            Some(Piece::Console(byte)) => self.console.push(byte),
            Some(Piece::Empty(channel)) => self.frame(channel, &[]),
            Some(Piece::Payload(channel, byte, is_last)) => {
                self.frame.push(byte);
                if is_last {
                    let frame = std::mem::take(&mut self.frame);
                    self.frame(channel, &frame);
                }
            }
        }
    }

    fn sort_console(&mut self) {
        if !self.console.is_empty() {
            let bytes = std::mem::take(&mut self.console);
            self.consoles().write(self.selected, &bytes, Instant::now());
        }
    }

    fn show_console(&mut self, change: impl FnOnce(&mut Consoles)) {
        let mut consoles = self.consoles();
        change(&mut consoles);
        if !self.streams.shows_console {
            consoles.take_screen();
            return;
        }
        let is_lost = show(&mut consoles).is_err();
        drop(consoles);
        if is_lost {
            self.streams.shows_console = false;
            // As in `spawn`.
            let _ = self.events.send(Event::OutputLost);
        }
    }

    fn frame(&mut self, channel: Channel, payload: &[u8]) {
        match channel {
            Channel::Console(guest) => {
                self.sort_console();
                self.selected = usize::from(guest);
            }
            Channel::Log => self.log(payload),
            Channel::Report => {
                if !self.output.report.add(payload) {
                    self.log(b"a report that this runner does not understand");
                    self.log(payload);
                }
                if self.output.report.exit.is_some() {
                    // As in `spawn`.
                    let _ = self.events.send(Event::Reported);
                }
            }
            Channel::Panic => self
                .output
                .panic
                .push_str(&String::from_utf8_lossy(payload)),
            Channel::Control => {
                if !self.streams.requests.receive(payload) {
                    self.log(b"an answer to nothing that was asked");
                    self.log(payload);
                }
            }
            Channel::Typed => {
                if let Some((guest, count)) = parse_typed(payload) {
                    self.streams.line.taken(guest, count);
                }
            }
            Channel::Trace | Channel::Unknown(_) => {}
        }
    }

    /// A log that cannot be written must not end the run.
    fn log(&mut self, line: &[u8]) {
        let line = String::from_utf8_lossy(line);
        if let Some(file) = &mut self.streams.log {
            let _ = writeln!(file, "{line}");
        } else if self.streams.shows_log {
            self.sort_console();
            self.show_console(|_| {});
            say(
                &mut self.consoles(),
                &format!("{line}{}", self.streams.line_end),
            );
        }
    }
}
