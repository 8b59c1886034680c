//! `trapline stress`: our own SMP guest that checks what it gets; once, on all sizes of machine, or Linux many times over.

mod boots;
mod matrix;
mod series;

use std::time::Duration;

use trapline_demos::host::{
    failure::Result,
    request::{GuestSource, Request},
};

use crate::{
    cli::{MachineOptions, StressOptions},
    judge::Judge,
    run::{self, Run},
};

/// A guest that counts instructions, or whose host is busy, takes many times its own seconds.
const PATIENCE: u32 = 60;
const LEAST_PATIENCE: Duration = Duration::from_secs(300);

/// Runs the stress guest, or what else was asked for; the status to end with.
pub fn stress(options: &StressOptions) -> Result<u8> {
    if options.matrix {
        return matrix::matrix(options);
    }
    if let Some(boots) = options.boots {
        return boots::boots(boots, options);
    }
    let request = request(options.seconds, options.seed, &options.machine);
    let run = Run {
        shows_console: true,
        default_timeout: Some(patience(options.seconds)),
        judges: vec![Judge::Stress],
        ..Run::default()
    };
    let ended = run.execute(&request, &options.machine)?;
    run::finish(&ended, &options.machine)
}

/// The stress guest for `seconds` of its own time, on the machine that `options` describe.
fn request(seconds: u32, seed: u64, options: &MachineOptions) -> Request {
    // Strict is what QEMU's own firmware is not.
    let strict = u8::from(!options.bare);
    let bootargs = format!("seconds={seconds} seed={seed} strict={strict}");
    run::request(GuestSource::Own("stress-guest".into()), bootargs, options)
}

/// How long the stress guest may take for `seconds` of its own.
fn patience(seconds: u32) -> Duration {
    (Duration::from_secs(seconds.into()) * PATIENCE).max(LEAST_PATIENCE)
}
