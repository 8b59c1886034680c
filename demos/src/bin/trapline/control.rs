//! `trapline control`: commands to a run, from the command line or from stdin.

use std::io::{BufRead, IsTerminal, Write, stdin, stdout};

use trapline_demos::host::{
    control_socket::Client,
    failure::{Result, at},
    prompt::PROMPT,
};

use crate::cli::ControlOptions;

/// A command was refused.
const REFUSED: u8 = 1;

/// Gives the commands, and shows the answers; the status to end with.
pub fn control(options: &ControlOptions) -> Result<u8> {
    let mut client = Client::connect(&options.socket)?;
    let mut give = |command: &str| client.command(command, options.json, stdout());
    if !options.command.is_empty() {
        // A line is a command: what has several would be several.
        let command = options.command.join(" ").replace(['\r', '\n'], " ");
        return Ok(status(give(&command)?));
    }
    let is_terminal = stdin().is_terminal();
    let prompt = || {
        if is_terminal {
            // Whoever does not see it may type all the same.
            let _ = write!(stdout(), "{PROMPT}").and_then(|()| stdout().flush());
        }
    };
    let mut is_done = true;
    prompt();
    for line in stdin().lock().lines() {
        let line = line.map_err(at("stdin"))?;
        if !line.trim().is_empty() {
            is_done &= give(line.trim())?;
        }
        prompt();
    }
    Ok(status(is_done || is_terminal))
}

const fn status(is_done: bool) -> u8 {
    if is_done { 0 } else { REFUSED }
}
