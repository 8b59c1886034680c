//! stdin and pseudo-terminals to QEMU.

use std::{
    io::{Read, Write, stderr, stdin},
    process::ChildStdin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc::Sender},
    thread,
};

use super::{
    Event,
    line::Line,
    output::{say, show},
    requests::Requests,
};
use crate::host::{
    consoles::{Consoles, Keyboard},
    keys::{Action, HELP, Keys},
    prompt::{Edit, PROMPT},
};

/// What the user's keys act on.
pub struct Input {
    /// The way to the guests.
    pub line: Arc<Line<ChildStdin>>,
    /// Commands on that way.
    pub requests: Arc<Requests<ChildStdin>>,
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
            let mut actions = actions.into_iter();
            if actions.try_for_each(|action| input.act(action)).is_err() {
                return;
            }
            if let Some(prompt) = keys.prompt() {
                input.consoles().show_prompt(prompt);
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
                    self.press(if is_paused { "pause" } else { "resume" }, guest);
                }
            }
            Action::Start | Action::Reset => {
                if let Some(guest) = focus {
                    let is_start = action == Action::Start;
                    // One that is on and paused stays so: there is nothing to start.
                    self.is_paused[guest] &= is_start;
                    self.press(if is_start { "start" } else { "reset" }, guest);
                }
            }
            Action::Button => {
                if let Some(guest) = focus {
                    self.press("button", guest);
                }
            }
            Action::Prompt => {
                self.consoles().show_prompt(PROMPT.into());
                echo(&format!("\r\n{PROMPT}"));
            }
            Action::Edit(Edit::Show(text)) => echo(&text),
            Action::Edit(Edit::Run(command)) => {
                self.close_prompt();
                self.give(&command);
            }
            Action::Edit(Edit::Leave) => self.close_prompt(),
            Action::Help => self.say(HELP),
            Action::Leave => {}
        }
        Ok(())
    }

    /// Does what a key stands for; the log has what comes of it.
    fn press(&self, verb: &str, guest: usize) {
        let name = self.consoles().name(guest).unwrap_or_default().to_owned();
        let command = format!("{verb} {name}");
        self.say(&command);
        let consoles = self.consoles.clone();
        self.requests.send(&command, move |reply| {
            if let Some(why) = reply.error {
                let text = format!("trapline: error: {why}\r\n");
                say(&mut lock(&consoles), &text);
            }
        });
    }

    /// Gives a typed command, and shows the answer.
    fn give(&self, command: &str) {
        let consoles = self.consoles.clone();
        self.requests.send(command, move |reply| {
            let text = reply.to_string().replace('\n', "\r\n");
            say(&mut lock(&consoles), &text);
        });
    }

    fn close_prompt(&self) {
        echo("\r\n");
        let mut consoles = self.consoles();
        let said = consoles.close_prompt();
        say(&mut consoles, &String::from_utf8_lossy(&said));
        // As in `move_focus`.
        let _ = show(&mut consoles);
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
        let _ = show(&mut self.consoles());
    }

    fn consoles(&self) -> MutexGuard<'_, Consoles> {
        lock(&self.consoles)
    }

    fn say(&self, text: &str) {
        say(&mut self.consoles(), &format!("\r\ntrapline: {text}\r\n"));
    }
}

fn lock(consoles: &Mutex<Consoles>) -> MutexGuard<'_, Consoles> {
    consoles.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Shows what the user types.
fn echo(text: &str) {
    // There is nobody left to tell if the terminal has gone.
    let _ = stderr().write_all(text.as_bytes());
}
