//! What all that takes long has: a bar that shows how far it is, and signals that end it in good order.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    flag,
};
use trapline_demos::host::failure::{Result, at};

/// The status of a process that a signal ends, less the signal's number.
const SIGNALLED: usize = 128;

/// The signals that ask the command to end. One that comes between two steps counts too.
#[derive(Clone, Debug)]
pub struct Signals(Arc<AtomicUsize>);

impl Signals {
    /// From here on they no longer end the process.
    ///
    /// # Errors
    /// The system does not allow it.
    pub fn catch() -> Result<Self> {
        let signal = Arc::new(AtomicUsize::new(0));
        for number in [SIGINT, SIGTERM, SIGHUP] {
            flag::register_usize(number, signal.clone(), number.unsigned_abs() as usize)
                .map_err(at("a signal"))?;
        }
        Ok(Self(signal))
    }

    /// The number of the one that came last, 0 before one comes.
    pub fn number(&self) -> &AtomicUsize {
        &self.0
    }

    /// One has come.
    pub fn has_come(&self) -> bool {
        self.0.load(Relaxed) != 0
    }

    /// The status to end with: 0 if none has come.
    pub fn status(&self) -> u8 {
        match self.0.load(Relaxed) {
            0 => 0,
            number => u8::try_from(SIGNALLED + number).unwrap_or(u8::MAX),
        }
    }
}

/// A bar for `count` steps, which is drawn on stderr.
pub fn progress_bar(count: u64) -> ProgressBar {
    let bar = ProgressBar::new(count);
    let template = "trapline: [{bar:30}] {pos} of {len}, {elapsed} gone, {eta} to go: {msg}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}
