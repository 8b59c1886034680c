//! stdin and pseudo-terminals to QEMU.

use std::{
    io::{Read, Write, stderr, stdin},
    process::ChildStdin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc::Sender},
    thread,
};

use super::{Event, line::Line};
use crate::host::{
    consoles::{Consoles, Keyboard},
    keys::{Action, HELP, Keys},
};

/// What the user's keys act on.
pub struct Input {
    /// The way to the guests.
    pub line: Arc<Line<ChildStdin>>,
    /// The guests' consoles, with the focus.
    pub consoles: Arc<Mutex<Consoles>>,
    /// On a pipe, the guest that gets everything; on a terminal the focus says who.
    pub guest: Option<usize>,
    /// stdin is a terminal, in raw mode.
    pub is_terminal: bool,
    /// For each guest: it was told to pause.
    pub is_paused: Vec<bool>,
    /// Where to say that the user wants to leave.
    pub events: Sender<Event>,
}

/// Sends stdin to the guests until either ends. The thread is left behind when the run is over: a read of a terminal cannot
/// be called off, and the process ends soon after.
pub fn spawn(mut input: Input) {
    thread::spawn(move || {
        let mut keys = Keys::new(input.is_terminal);
        let mut typed = [0; 4096];
        loop {
            let count = match stdin().read(&mut typed) {
                Ok(0) | Err(_) => return,
                Ok(count) => count,
            };
            let actions = keys.translate(&typed[..count]);
            // Leaving must not wait for a guest that does not read.
            if actions.contains(&Action::Leave) {
                // Nobody waits any more if the run is over already.
                let _ = input.events.send(Event::Left);
                return;
            }
            if actions
                .into_iter()
                .try_for_each(|action| input.act(action))
                .is_err()
            {
                return;
            }
        }
    });
}

/// Sends what is typed on a pseudo-terminal to `guest`, until either ends.
pub fn spawn_keyboard(mut keyboard: Keyboard, guest: usize, line: Arc<Line<ChildStdin>>) {
    thread::spawn(move || {
        let mut typed = [0; 4096];
        while let Ok(count) = keyboard.read(&mut typed) {
            if line.type_to(guest, &typed[..count]).is_err() {
                return;
            }
        }
    });
}

impl Input {
    fn act(&mut self, action: Action) -> std::io::Result<()> {
        let focus = self.guest.or_else(|| self.consoles().focus());
        match action {
            Action::Type(bytes) => {
                if let Some(guest) = focus {
                    self.line.type_to(guest, &bytes)?;
                }
            }
            Action::FocusNext => {
                let next = self.consoles().next();
                self.move_focus(next);
            }
            Action::Focus(guest) => self.move_focus(Some(guest)),
            Action::Pause => {
                if let Some(guest) = focus {
                    let is_paused = !self.is_paused[guest];
                    self.is_paused[guest] = is_paused;
                    self.command(if is_paused { "pause" } else { "resume" }, guest)?;
                }
            }
            Action::Start | Action::Reset => {
                if let Some(guest) = focus {
                    let is_start = action == Action::Start;
                    // One that is on and paused stays so: there is nothing to start.
                    self.is_paused[guest] &= is_start;
                    self.command(if is_start { "start" } else { "reset" }, guest)?;
                }
            }
            Action::Button => {
                if let Some(guest) = focus {
                    self.command("button", guest)?;
                }
            }
            Action::Help => self.say(HELP),
            Action::Leave => {}
        }
        Ok(())
    }

    fn command(&self, command: &str, guest: usize) -> std::io::Result<()> {
        let name = self.consoles().name(guest).unwrap_or_default().to_owned();
        self.say(&format!("{command} {name}"));
        self.line.command(&format!("{command} {name}"))
    }

    fn move_focus(&self, guest: Option<usize>) {
        let mut consoles = self.consoles();
        let Some(guest) = guest.filter(|guest| consoles.set_focus(*guest)) else {
            drop(consoles);
            return self.say("there is no such console on this terminal");
        };
        let name = consoles.name(guest).unwrap_or_default().to_owned();
        drop(consoles);
        self.say(&format!("console of {name}"));
        // What the guest left on its line comes below; nobody reads stdout if that fails, which the output notices.
        let _ = super::output::show(&mut self.consoles());
    }

    fn consoles(&self) -> MutexGuard<'_, Consoles> {
        self.consoles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say(&self, text: &str) {
        // There is nobody left to tell if the terminal has gone.
        let _ = write!(stderr(), "\r\ntrapline: {text}\r\n");
    }
}
