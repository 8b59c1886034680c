//! One run of QEMU from start to end: its streams, its deadline, the user's signals, and what its end means.
//!
//! ```text
//!  stdin, ptys --Keys--> Line --> QEMU --Splitter--> Consoles: stdout, files, ptys
//!                                              +---> log: stderr or a file
//!                                              +---> report, panic: kept for the end
//! ```
//! Whatever happens, QEMU is gone when [`Session::run`] returns, and only the QEMU that it started is ever killed.

mod input;
mod line;
mod output;
mod requests;

use std::{
    collections::BTreeSet,
    fs::File,
    io::Read,
    path::Path,
    process::{Child, Command, ExitStatus as ProcessStatus, Stdio},
    sync::{
        Arc, Mutex,
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};

use self::{
    input::Input,
    line::Line,
    output::{Output, Streams},
    requests::Requests,
};
use super::{
    consoles::{Consoles, Keyboard, Sink},
    control_socket::{ControlSocket, Served},
    failure::{HYPERVISOR_FAILED, Result, TIMEOUT, at},
    keys::HELP,
    report::{GuestEnd, RunReport},
    symbolise,
    terminal::RawTerminal,
};

/// After its last report the hypervisor switches the machine off at once.
const SWITCH_OFF_LIMIT: Duration = Duration::from_secs(10);
/// The status of a process that a signal ends, less the signal's number.
const SIGNALLED: u8 = 128;
const FAR_AWAY: Duration = Duration::from_secs(24 * 3600 * 365);

/// What to run, and what to do with what it says.
#[derive(Debug)]
pub struct Session<'a> {
    /// QEMU, with all its arguments.
    pub command: Command,
    /// The guests' names, and where their consoles go.
    pub guests: Vec<(String, Sink)>,
    /// The guest that gets stdin. On a terminal it has the focus at first, and the user's keys can move it.
    pub input: Option<usize>,
    /// The longest that it may take.
    pub timeout: Option<Duration>,
    /// A hypervisor runs there: the line has frames.
    pub is_framed: bool,
    /// The consoles that share the screen go to stdout.
    pub shows_console: bool,
    /// The hypervisor's log goes to stderr if there is no file for it.
    pub shows_log: bool,
    /// Where the hypervisor's log goes.
    pub log: Option<File>,
    /// Console lines that start with one of these, after Linux's time stamp, are kept.
    pub markers: &'a [&'a str],
    /// Where other programs give commands.
    pub control: Option<ControlSocket>,
    /// The hypervisor's file with symbols, to make a panic report readable.
    pub elf: Option<&'a Path>,
}

/// How a run ended.
#[derive(Clone, Debug, Default)]
pub struct Ended {
    /// All that was reported, with the status and the reason.
    pub report: RunReport,
    /// For each guest, the console lines that were asked for.
    pub marked: Vec<Vec<String>>,
    /// The hypervisor's panic report, with names for its addresses.
    pub panic: Option<String>,
}

/// What can happen while QEMU runs.
enum Event {
    /// The hypervisor sent its last report.
    Reported,
    /// QEMU closed its output: it ends.
    Closed,
    /// Our own stdout is gone.
    OutputLost,
    /// The user wants to leave.
    Left,
    /// A signal for us.
    Signal(i32),
}

/// Why we stopped waiting.
enum End {
    Closed,
    Left,
    Signal(i32),
    OutputLost,
    TimedOut,
    StuckAfterReport,
}

impl Session<'_> {
    /// Runs QEMU to its end.
    ///
    /// # Errors
    /// QEMU could not be started. How the run itself went is in the result.
    pub fn run(mut self) -> Result<Ended> {
        let (events, inbox) = mpsc::channel();
        let program = self.command.get_program().to_string_lossy().into_owned();
        self.command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let signals = watch_signals(events.clone());
        let guests = std::mem::take(&mut self.guests);
        let names: Vec<String> = guests.iter().map(|(name, _)| name.clone()).collect();
        let keyboards = keyboards(&guests)?;
        let started = Instant::now();
        let mut child = self.command.spawn().map_err(at(&program))?;
        let terminal = self.input.and_then(|_| RawTerminal::enter());
        let line_end = if terminal.is_some() { "\r\n" } else { "\n" };
        let markers = self.markers.iter().map(|marker| (*marker).to_owned());
        let mut consoles = Consoles::new(guests, markers.collect(), line_end);
        if let (Some(guest), true) = (self.input, terminal.is_some()) {
            consoles.set_focus(guest);
            if self.shows_log {
                eprint!("trapline: {HELP}{line_end}");
            }
        }
        let consoles = Arc::new(Mutex::new(consoles));
        // The pipe stays open even with no input: an end of file there means nothing to QEMU, but keeps it polling.
        let pipe = child.stdin.take().expect("QEMU's stdin is a pipe");
        let line = Arc::new(Line::new(names.len(), self.is_framed));
        let writer = line::spawn_writer(line.clone(), pipe);
        let requests = Arc::new(Requests::new(line.clone()));
        let streams = Streams {
            is_framed: self.is_framed,
            shows_console: self.shows_console,
            shows_log: self.shows_log,
            line_end,
            log: self.log.take(),
            consoles: consoles.clone(),
            line: line.clone(),
            requests: requests.clone(),
        };
        let output = child
            .stdout
            .take()
            .map(|pipe| output::spawn(pipe, streams, events.clone()));
        let complaints = child.stderr.take().map(collect);
        let control = self.control.take();
        let served = control.map(|socket| serve(socket, &requests));
        for (guest, keyboard) in keyboards {
            input::spawn_keyboard(keyboard, guest, line.clone());
        }
        if let Some(guest) = self.input {
            input::spawn(Input {
                line: line.clone(),
                requests: requests.clone(),
                consoles,
                guest: terminal.is_none().then_some(guest),
                is_terminal: terminal.is_some(),
                dropped_for: BTreeSet::new(),
                at_pause: Arc::default(),
                events,
            });
        }
        let end = wait(&inbox, started, self.timeout);
        let process = stop(&mut child, matches!(end, End::Closed));
        requests.close();
        line.close();
        drop(served);
        drop(terminal);
        if let Some(signals) = signals {
            signals.close();
        }
        let output = output
            .and_then(|thread| thread.join().ok())
            .unwrap_or_default();
        // QEMU has gone, so it does not wait for that any more.
        let _ = writer.join();
        let complaints = complaints
            .and_then(|thread| thread.join().ok())
            .unwrap_or_default();
        let mut ended = self.conclude(end, process, output, &complaints, started.elapsed());
        name_guests(&mut ended, &names);
        Ok(ended)
    }

    fn conclude(
        &self,
        end: End,
        process: Option<ProcessStatus>,
        output: Output,
        complaints: &str,
        wall: Duration,
    ) -> Ended {
        let mut report = output.report;
        report.wall_seconds = wall.as_secs_f64();
        let panic = (!output.panic.is_empty()).then(|| match self.elf {
            Some(elf) => symbolise::annotate(&output.panic, elf),
            None => output.panic.clone(),
        });
        let (status, reason) = match (end, report.exit) {
            (End::Closed | End::StuckAfterReport, Some(exit)) => (exit.code(), None),
            (End::Closed, None) => self.unreported(process, panic.is_some(), complaints),
            (End::StuckAfterReport, None) => (
                HYPERVISOR_FAILED,
                Some("the machine did not switch off".into()),
            ),
            (End::Left, _) => (0, Some("left by the user".into())),
            (End::OutputLost, _) => (
                SIGNALLED + 13,
                Some("nobody reads the guest's console".into()),
            ),
            (End::Signal(signal), _) => {
                let number = u8::try_from(signal).unwrap_or(0);
                (
                    SIGNALLED + number,
                    Some(format!("ended by signal {signal}")),
                )
            }
            (End::TimedOut, _) => (
                TIMEOUT,
                Some(format!("no end after {:.0} s", wall.as_secs_f64())),
            ),
        };
        report.status = status;
        if let Some(reason) = reason {
            report.reason = reason;
        }
        Ended {
            report,
            marked: output.marked,
            panic,
        }
    }

    /// QEMU ended, and no hypervisor said how its guest did.
    fn unreported(
        &self,
        process: Option<ProcessStatus>,
        has_panicked: bool,
        complaints: &str,
    ) -> (u8, Option<String>) {
        let is_success = process.is_some_and(|status| status.success());
        if !self.is_framed && is_success {
            return (0, Some("the guest powered off".into()));
        }
        let what = match (has_panicked, process) {
            (true, _) => "the hypervisor panicked".to_owned(),
            (_, Some(status)) => {
                format!("QEMU ended without a report of the hypervisor ({status})")
            }
            (_, None) => "QEMU was lost".to_owned(),
        };
        let complaint = complaints.lines().rfind(|line| !line.trim().is_empty());
        let reason = complaint.map_or(what.clone(), |complaint| format!("{what}: {complaint}"));
        (HYPERVISOR_FAILED, Some(reason))
    }
}

/// Lets clients of `socket` give commands.
fn serve(socket: ControlSocket, requests: &Arc<Requests>) -> Served {
    let requests = requests.clone();
    let answer = move |command: &str| {
        let reply = requests.ask(command).recv();
        reply.expect("every request is answered")
    };
    socket.serve(Arc::new(answer))
}

/// What is typed on the pseudo-terminals among the consoles.
fn keyboards(guests: &[(String, Sink)]) -> Result<Vec<(usize, Keyboard)>> {
    let mut keyboards = Vec::new();
    for (guest, (name, sink)) in guests.iter().enumerate() {
        if let Sink::Pty(pty) = sink {
            eprintln!("trapline: console of {name}: {}", pty.path.display());
            keyboards.push((guest, pty.keyboard().map_err(at(pty.path.display()))?));
        }
    }
    Ok(keyboards)
}

/// Each guest has its end and its marked lines, even if the hypervisor did not come to say how it did.
fn name_guests(ended: &mut Ended, names: &[String]) {
    ended.marked.resize(names.len(), Vec::new());
    let report = &mut ended.report;
    for (guest, name) in names.iter().enumerate() {
        let guest = guest as u64;
        if report.guests.iter().all(|end| end.guest != guest) {
            report.guests.push(GuestEnd {
                guest,
                name: name.clone(),
                status: report.status,
                reason: report.reason.clone(),
            });
        }
    }
    report.guests.sort_by_key(|end| end.guest);
}

fn wait(inbox: &Receiver<Event>, started: Instant, timeout: Option<Duration>) -> End {
    let deadline = started + timeout.unwrap_or(FAR_AWAY);
    let mut switch_off = None;
    loop {
        let next = switch_off.unwrap_or(deadline).min(deadline);
        match inbox.recv_timeout(next.saturating_duration_since(Instant::now())) {
            Ok(Event::Reported) => switch_off = Some(Instant::now() + SWITCH_OFF_LIMIT),
            Ok(Event::Closed) | Err(RecvTimeoutError::Disconnected) => return End::Closed,
            Ok(Event::OutputLost) => return End::OutputLost,
            Ok(Event::Left) => return End::Left,
            Ok(Event::Signal(signal)) => return End::Signal(signal),
            Err(RecvTimeoutError::Timeout) if switch_off.is_some() => return End::StuckAfterReport,
            Err(RecvTimeoutError::Timeout) => return End::TimedOut,
        }
    }
}

/// Ends the child, and waits for it. One that closed its output gets a moment to end by itself.
fn stop(child: &mut Child, is_ending: bool) -> Option<ProcessStatus> {
    let limit = if is_ending {
        SWITCH_OFF_LIMIT
    } else {
        Duration::ZERO
    };
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) => thread::sleep(Duration::from_millis(5)),
            Err(_) => break,
        }
    }
    // It may have ended meanwhile, which is as good.
    let _ = child.kill();
    child.wait().ok()
}

fn watch_signals(events: Sender<Event>) -> Option<signal_hook::iterator::Handle> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).ok()?;
    let handle = signals.handle();
    thread::spawn(move || {
        for signal in signals.forever() {
            if events.send(Event::Signal(signal)).is_err() {
                return;
            }
        }
    });
    Some(handle)
}

fn collect(mut pipe: impl Read + Send + 'static) -> JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read before an error is still worth showing.
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

#[cfg(test)]
mod tests;
