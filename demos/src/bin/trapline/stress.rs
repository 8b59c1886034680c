//! `trapline stress`: our own SMP guest that checks what it gets.

use std::time::Duration;

use trapline_demos::host::{failure::Result, request::GuestSource};

use crate::{
    cli::StressOptions,
    run::{GUEST_FAILED, Run, finish, request},
};

/// The guest prints its verdict in a line that starts so.
const VERDICT: &str = "STRESS ";
const PASS: &str = "STRESS PASS";
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
        has_input: false,
        shows_console: true,
        default_timeout: Some(patience.max(LEAST_PATIENCE)),
        markers: &[VERDICT],
    };
    let mut ended = run.execute(&request, &options.machine)?;
    let verdict = ended.marked.last();
    let has_passed = verdict.is_some_and(|line| line.starts_with(PASS));
    if ended.report.status == 0 && !has_passed {
        ended.report.status = GUEST_FAILED;
        ended.report.reason = verdict
            .cloned()
            .unwrap_or_else(|| "the stress guest gave no verdict".into());
    }
    finish(&ended, &options.machine)
}
