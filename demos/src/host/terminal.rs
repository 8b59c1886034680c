//! The user's terminal while a guest has it: every key goes to the guest, and the old settings come back on every path.

use std::{
    io::{IsTerminal, stdin},
    panic,
    sync::Mutex,
};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

/// The settings to go back to, while they are changed.
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);

/// The terminal on stdin in raw mode, until the value goes or this program panics.
#[derive(Debug)]
pub struct RawTerminal(());

impl RawTerminal {
    /// `None` if stdin is not a terminal.
    pub fn enter() -> Option<Self> {
        if !stdin().is_terminal() {
            return None;
        }
        let saved = tcgetattr(stdin()).ok()?;
        let mut raw = saved.clone();
        raw.make_raw();
        *SAVED.lock().ok()? = Some(saved);
        let guard = Self(());
        let report = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            restore();
            report(info);
        }));
        tcsetattr(stdin(), OptionalActions::Flush, &raw).ok()?;
        Some(guard)
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        restore();
    }
}

fn restore() {
    let saved = SAVED.lock().ok().and_then(|mut saved| saved.take());
    if let Some(saved) = saved {
        // There is nobody left to tell if the terminal has gone.
        let _ = tcsetattr(stdin(), OptionalActions::Flush, &saved);
    }
}
