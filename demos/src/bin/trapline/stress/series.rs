//! Many machines, one after the other: progress on stderr, and of each that fails the consoles and a report in a directory.

use std::{
    fmt::Write,
    fs,
    io::{IsTerminal, stderr},
    path::{Path, PathBuf},
    time::Duration,
};

use indicatif::ProgressBar;
use trapline_demos::host::{
    consoles::Target,
    failure::{Result, at},
    launch::Inputs,
    places,
    request::Request,
    session::Ended,
    table,
};

use crate::{
    batch::{Signals, progress_bar},
    cli::MachineOptions,
    judge::Judge,
    run::{GUEST_FAILED, Run},
};

/// One of many machines.
pub struct Trial {
    /// For the user, as in `cortex-a72, 8 vCPUs on 4 pCPUs`.
    pub name: String,
    /// For the file system.
    pub file_name: String,
    /// What runs.
    pub request: Request,
    /// The machine's options, as in `request`.
    pub options: MachineOptions,
    /// What is expected of each guest.
    pub judge: Judge,
    /// How long it may take, if the user does not say.
    pub deadline: Duration,
    /// The arguments that run it once more.
    pub replay: String,
}

/// How a machine ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// It did what is expected.
    pub is_good: bool,
    /// From its start to its end.
    pub seconds: f64,
}

/// Many machines, one after the other.
pub struct Series {
    count: usize,
    done: usize,
    /// On a terminal.
    bar: Option<ProgressBar>,
    is_quiet: bool,
    /// All machines are made of the same.
    inputs: Inputs,
    /// What is said of each that failed.
    failures: Vec<String>,
    signals: Signals,
}

impl Series {
    /// `count` machines that are made of `inputs`.
    pub fn new(count: usize, inputs: Inputs, is_quiet: bool) -> Result<Self> {
        Ok(Self {
            count,
            done: 0,
            bar: (!is_quiet && stderr().is_terminal()).then(|| progress_bar(count as u64)),
            is_quiet,
            inputs,
            failures: Vec::new(),
            signals: Signals::catch()?,
        })
    }

    /// Runs the next machine to its end; `None` if the user wants no more.
    ///
    /// # Errors
    /// It could not be started.
    pub fn run(&mut self, trial: Trial) -> Result<Option<Outcome>> {
        if self.signals.has_come() {
            return Ok(None);
        }
        if let Some(bar) = &self.bar {
            bar.set_message(trial.name.clone());
        }
        let root = places::cache().join("failures");
        fs::create_dir_all(&root).map_err(at(root.display()))?;
        let directory = tempfile::Builder::new()
            .prefix(&format!("{}-", trial.file_name))
            .tempdir_in(&root)
            .map_err(at(root.display()))?;
        let options = MachineOptions {
            quiet: true,
            log: Some(directory.path().join("log")),
            ..trial.options.clone()
        };
        let guests = trial.request.guests.iter().enumerate();
        let console = |name: &str| Target::File(directory.path().join(format!("{name}.console")));
        let run = Run {
            default_timeout: Some(trial.deadline),
            judges: vec![trial.judge; trial.request.guests.len()],
            consoles: guests
                .map(|(index, guest)| (index, console(&guest.name)))
                .collect(),
            ..Run::default()
        };
        let ended = run.execute_with(&trial.request, &options, &mut self.inputs)?;
        if self.signals.has_come() {
            return Ok(None);
        }
        let outcome = Outcome {
            is_good: ended.report.status == 0,
            seconds: ended.report.wall_seconds,
        };
        self.done += 1;
        if !outcome.is_good {
            let kept = directory.keep();
            write_report(&kept, &ended, &trial)?;
            self.failures.push(complaint(&kept, &ended, &trial));
        }
        self.show(&trial, &ended);
        Ok(Some(outcome))
    }

    fn show(&self, trial: &Trial, ended: &Ended) {
        let seconds = ended.report.wall_seconds;
        let verdict = match ended.report.status {
            0 => format!("ok, {seconds:.1} s"),
            _ => format!("FAIL, {seconds:.1} s: {}", ended.report.reason),
        };
        let line = format!(
            "trapline: {} of {}: {}: {verdict}",
            self.done, self.count, trial.name
        );
        match &self.bar {
            Some(bar) => {
                if ended.report.status != 0 {
                    bar.suspend(|| eprintln!("{line}"));
                }
                bar.inc(1);
            }
            None if !self.is_quiet => eprintln!("{line}"),
            None => {}
        }
    }

    /// Says on stdout `summary`, what failed, and how to run it once more; the status to end with.
    pub fn conclude(&self, summary: &str) -> u8 {
        // It would draw over what is printed.
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        print!("{summary}");
        for failure in &self.failures {
            print!("\n{failure}");
        }
        if self.done < self.count {
            eprintln!("trapline: stopped after {} of {}", self.done, self.count);
        }
        if !self.failures.is_empty() {
            eprintln!(
                "trapline: error: {} of {} failed",
                self.failures.len(),
                self.done
            );
            GUEST_FAILED
        } else {
            self.signals.status()
        }
    }
}

fn complaint(kept: &Path, ended: &Ended, trial: &Trial) -> String {
    format!(
        "FAIL {}: {}\n  console and log: {}\n  again: cargo run -- {}\n",
        trial.name,
        ended.report.reason,
        kept.display(),
        trial.replay
    )
}

/// What a run alone shows at its end.
fn write_report(kept: &Path, ended: &Ended, trial: &Trial) -> Result<()> {
    let mut text = complaint(kept, ended, trial);
    for end in &ended.report.guests {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}: status {}: {}", end.name, end.status, end.reason);
    }
    text += ended.panic.as_deref().unwrap_or_default();
    text += &table::render(&ended.report);
    let path: PathBuf = kept.join("report");
    fs::write(&path, text).map_err(at(path.display()))
}
