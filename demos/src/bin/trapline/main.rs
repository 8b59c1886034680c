//! The `trapline` command: guests under the Trapline hypervisor on QEMU.
//!
//! Status: 0 the guest powered off; 1 it crashed or was stopped for cause; 2 bad usage or bad input, nothing was started;
//! 3 the hypervisor failed; 124 timeout.

mod batch;
mod bench;
mod cli;
mod control;
mod images;
mod judge;
mod plan;
mod run;
mod sim;
mod stress;

use std::process::ExitCode;

use clap::Parser;
use cli::{Cli, Command};
use trapline_demos::host::failure::BAD_INPUT;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refuse(&error),
    };
    let result = match cli.command() {
        Command::Run(options) => run::run(&options),
        Command::Stress(options) => stress::stress(&options),
        Command::Control(options) => control::control(&options),
        Command::Sim(options) => sim::sim(&options),
        Command::Bench(options) => bench::bench(&options),
        Command::Images(options) => images::images(&options),
    };
    match result {
        Ok(status) => ExitCode::from(status),
        Err(failure) => {
            eprintln!("trapline: error: {failure}");
            ExitCode::from(failure.status)
        }
    }
}

/// Help and version are no errors; bad usage is one line.
fn refuse(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        // There is nobody left to tell if stdout has gone.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    let text = error.to_string();
    let paragraph = text.split("\n\n").next().unwrap_or_default();
    let words: Vec<&str> = paragraph.split_whitespace().collect();
    let what = words.join(" ");
    let what = what.strip_prefix("error: ").unwrap_or(&what);
    eprintln!("trapline: error: {what}: command line: see `trapline --help`");
    ExitCode::from(BAD_INPUT)
}
