//! A user of the control socket, who knows nothing but what the guide says of it.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

/// A machine with more vCPUs than the host has CPUs may answer late.
const PATIENCE: Duration = Duration::from_secs(600);

/// The socket of a run.
pub struct Control(PathBuf);

/// A connection to it.
pub struct Client(BufReader<UnixStream>);

/// An answer: its lines, and the last one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Answer {
    pub lines: Vec<String>,
    pub end: String,
}

impl Control {
    /// Waits until there is a socket at `path`, or `has_ended` says that the run, which may have to wait for its turn, is over.
    pub fn wait(path: &Path, has_ended: &AtomicBool) -> Self {
        while !path.exists() {
            assert!(!has_ended.load(Ordering::Relaxed), "no socket appears");
            thread::sleep(Duration::from_millis(10));
        }
        Self(path.to_owned())
    }

    /// Ends the run, whose deadline is far away, after something has failed.
    pub fn end(&self) {
        let mut client = self.connect();
        for vm in client.column("list", "vm") {
            client.give(&format!("stop {vm}"));
        }
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn connect(&self) -> Client {
        let stream = UnixStream::connect(&self.0).expect("the run serves its socket");
        stream.set_read_timeout(Some(PATIENCE)).expect("ours");
        Client(BufReader::new(stream))
    }
}

impl Client {
    /// Gives `command`, and waits for the answer.
    pub fn give(&mut self, command: &str) -> Answer {
        writeln!(self.0.get_mut(), "{command}").expect("the run reads");
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            let count = self.0.read_line(&mut line).expect("the run answers");
            assert_ne!(count, 0, "no answer to `{command}`");
            let line = line.trim_end().to_owned();
            if line == "ok" || line.starts_with("error: ") {
                return Answer { lines, end: line };
            }
            lines.push(line);
        }
    }

    /// The same with a command that is obeyed; the lines of the answer.
    #[track_caller]
    pub fn done(&mut self, command: &str) -> Vec<String> {
        let answer = self.give(command);
        assert_eq!(answer.end, "ok", "{command}");
        answer.lines
    }

    /// The cells of `column` in the table that `command` shows, from the top.
    #[track_caller]
    pub fn column(&mut self, command: &str, column: &str) -> Vec<String> {
        let lines = self.done(command);
        let cells = |line: &String| {
            line.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let mut rows = lines.iter().map(cells);
        let names = rows.next().unwrap_or_default();
        let place = names.iter().position(|name| name == column);
        let place = place.unwrap_or_else(|| panic!("`{command}` shows no {column}: {names:?}"));
        rows.map(|row| row[place].clone()).collect()
    }

    /// Gives `command` again and again until `column` is as expected, or much time has passed.
    #[track_caller]
    pub fn until(&mut self, command: &str, column: &str, is_expected: impl Fn(&[String]) -> bool) {
        let limit = Instant::now() + Duration::from_secs(60);
        loop {
            let cells = self.column(command, column);
            if is_expected(&cells) {
                return;
            }
            assert!(
                Instant::now() < limit,
                "`{command}` keeps saying {column}: {cells:?}"
            );
            thread::sleep(Duration::from_millis(20));
        }
    }
}
