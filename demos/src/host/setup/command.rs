//! Runs the programs of the set-up: quietly, with a deadline, and with their last words when they fail.

use std::{
    ffi::OsStr,
    io::Read,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// How a program ended, with all that it printed.
#[derive(Debug)]
pub struct Ended {
    /// It ended by itself, with status 0.
    pub is_success: bool,
    /// What it printed on stdout.
    pub stdout: String,
    /// What it printed on stderr.
    pub stderr: String,
}

impl Ended {
    /// The end of what it printed, for an error message of one line.
    pub fn last_words(&self) -> String {
        let lines = self.stderr.lines().chain(self.stdout.lines());
        let errors: Vec<&str> = lines.filter(|line| !line.trim().is_empty()).collect();
        let worst = errors
            .iter()
            .find(|line| line.starts_with("E:") || line.starts_with("error"));
        worst
            .or(errors.last())
            .map_or("it said nothing", |line| line.trim())
            .to_owned()
    }
}

/// Runs `command` with no input until it ends or `limit` has passed; then it is killed.
pub fn run(command: &mut Command, limit: Duration) -> std::io::Result<Ended> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let stdout = child.stdout.take().map(collect);
    let stderr = child.stderr.take().map(collect);
    let is_success = wait(&mut child, limit)?;
    let text = |reader: Option<thread::JoinHandle<String>>| {
        reader
            .and_then(|reader| reader.join().ok())
            .unwrap_or_default()
    };
    Ok(Ended {
        is_success,
        stdout: text(stdout),
        stderr: text(stderr),
    })
}

/// What cargo sets for the programs that it starts, and flags meant for the build that started this process.
const FROM_CARGO: [&str; 11] = [
    "CARGO_MANIFEST_",
    "CARGO_PKG_",
    "CARGO_BIN_",
    "CARGO_CRATE_",
    "CARGO_PRIMARY_",
    "CARGO_TARGET_",
    "CARGO_BUILD_",
    "CARGO_ENCODED_",
    "RUSTC",
    "RUSTFLAGS",
    "LD_LIBRARY_PATH",
];

/// A command that does not know which cargo and flags started this process.
pub fn outside_cargo(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env_remove("CARGO");
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if FROM_CARGO.iter().any(|prefix| text.starts_with(prefix)) {
            command.env_remove(&name);
        }
    }
    command
}

fn collect(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read before an error is still worth showing.
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn wait(child: &mut Child, limit: Duration) -> std::io::Result<bool> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status.success());
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            return Ok(false);
        }
        thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_hangs_is_ended() {
        let started = Instant::now();
        let ended =
            run(Command::new("sleep").arg("60"), Duration::from_millis(100)).expect("sleep runs");
        assert!(!ended.is_success);
        assert!(started.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn the_worst_line_is_what_is_told() {
        let ended = run(
            Command::new("sh").args([
                "-c",
                "echo start; echo 'E: no disk' >&2; echo bye >&2; exit 1",
            ]),
            Duration::from_secs(20),
        )
        .expect("sh runs");
        assert!(!ended.is_success);
        assert_eq!(ended.last_words(), "E: no disk");
    }
}
