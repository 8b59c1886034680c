//! `trapline stress`: our own SMP guest that checks what it gets.

use std::time::Duration;

use trapline_demos::host::{failure::Result, request::GuestSource};

use crate::{
    cli::StressOptions,
    judge::Judge,
    run::{Run, finish, request},
};

/// A guest that counts instructions, or whose host is busy, takes many times its own seconds.
const PATIENCE: u32 = 60;
const LEAST_PATIENCE: Duration = Duration::from_secs(300);

/// Runs the stress guest; the status to end with.
pub fn stress(options: &StressOptions) -> Result<u8> {
    // Strict is what QEMU's own firmware is not.
    let strict = u8::from(!options.machine.bare);
    let bootargs = format!(
        "seconds={} seed={} strict={strict}",
        options.seconds, options.seed
    );
    let request = request(
        GuestSource::Own("stress-guest".into()),
        bootargs,
        &options.machine,
    );
    let patience = Duration::from_secs(options.seconds.into()) * PATIENCE;
    let run = Run {
        shows_console: true,
        default_timeout: Some(patience.max(LEAST_PATIENCE)),
        judges: vec![Judge::Stress],
        ..Run::default()
    };
    let ended = run.execute(&request, &options.machine)?;
    finish(&ended, &options.machine)
}
