//! QEMU's stdout, taken apart.

use std::{
    fs::File,
    io::{Read, Write, stderr, stdout},
    process::ChildStdout,
    sync::mpsc::Sender,
    thread::{self, JoinHandle},
};

use super::Event;
use crate::{
    host::report::RunReport,
    wire::{Channel, Piece, Splitter},
};

/// A console line longer than this is no marker.
const LONGEST_MARKED: usize = 4096;

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
    /// Console lines to keep.
    pub markers: Vec<String>,
}

/// What was kept.
#[derive(Debug, Default)]
pub struct Output {
    /// All reports.
    pub report: RunReport,
    /// The panic report.
    pub panic: String,
    /// The lines that were asked for.
    pub marked: Vec<String>,
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
            line: Vec::new(),
            output: Output::default(),
        };
        reader.read(pipe);
        // Nobody waits any more if the run was ended from outside.
        let _ = reader.events.send(Event::Closed);
        reader.output
    })
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

struct Reader {
    streams: Streams,
    events: Sender<Event>,
    splitter: Splitter,
    frame: Vec<u8>,
    /// Console bytes that are not shown yet.
    console: Vec<u8>,
    /// The console's current line, as far as it could be a marked one.
    line: Vec<u8>,
    output: Output,
}

impl Reader {
    fn read(&mut self, mut pipe: ChildStdout) {
        let mut bytes = vec![0; 64 << 10];
        loop {
            match pipe.read(&mut bytes) {
                Ok(0) | Err(_) => break,
                Ok(count) => bytes[..count].iter().for_each(|byte| self.take(*byte)),
            }
            self.show_console();
        }
        self.end_line();
    }

    fn take(&mut self, byte: u8) {
        if !self.streams.is_framed {
            return self.console(byte);
        }
        match self.splitter.push(byte) {
            None => {}
            Some(Piece::Console(byte)) => self.console(byte),
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

    fn console(&mut self, byte: u8) {
        self.console.push(byte);
        if byte == b'\n' {
            self.end_line();
        } else if self.line.len() < LONGEST_MARKED {
            self.line.push(byte);
        }
    }

    fn end_line(&mut self) {
        let line = String::from_utf8_lossy(&self.line);
        let line = without_time(line.trim());
        if self
            .streams
            .markers
            .iter()
            .any(|marker| line.starts_with(marker))
        {
            self.output.marked.push(line.to_owned());
        }
        self.line.clear();
    }

    fn show_console(&mut self) {
        let is_lost = self.streams.shows_console
            && stdout()
                .write_all(&self.console)
                .and_then(|()| stdout().flush())
                .is_err();
        self.console.clear();
        if is_lost {
            self.streams.shows_console = false;
            // As in `spawn`.
            let _ = self.events.send(Event::OutputLost);
        }
    }

    fn frame(&mut self, channel: Channel, payload: &[u8]) {
        match channel {
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
            Channel::Trace | Channel::Control | Channel::Console(_) | Channel::Unknown(_) => {}
        }
    }

    /// A log that cannot be written must not end the run.
    fn log(&mut self, line: &[u8]) {
        let line = String::from_utf8_lossy(line);
        if let Some(file) = &mut self.streams.log {
            let _ = writeln!(file, "{line}");
        } else if self.streams.shows_log {
            self.show_console();
            let _ = write!(stderr(), "{line}{}", self.streams.line_end);
        }
    }
}
