//! stdin and pseudo-terminals to QEMU.

use std::{
    collections::BTreeSet,
    io::{Read, Write, stderr, stdin},
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc::Sender},
    thread,
};

use super::{
    Event,
    line::Line,
    output::{say, show},
    requests::Requests,
};
use crate::control::Reply;
use crate::host::{
    consoles::{Consoles, Keyboard},
    keys::{Action, HELP, Keys},
    prompt::{Edit, PROMPT},
};

/// What the user's keys act on.
pub struct Input {
    /// The way to the guests.
    pub line: Arc<Line>,
    /// Commands on that way.
    pub requests: Arc<Requests>,
    /// The guests' consoles, with the focus.
    pub consoles: Arc<Mutex<Consoles>>,
    /// On a pipe, the guest that gets everything; on a terminal the focus says who.
    pub guest: Option<usize>,
    /// stdin is a terminal, in raw mode.
    pub is_terminal: bool,
    /// Guests for which something was dropped, and nothing has fitted whole since: the user has been told.
    pub dropped_for: BTreeSet<usize>,
    /// Guests that are about to pause or to go on at a key.
    pub at_pause: Arc<Mutex<BTreeSet<usize>>>,
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
pub fn spawn_keyboard(mut keyboard: Keyboard, guest: usize, line: Arc<Line>) {
    thread::spawn(move || {
        let mut typed = [0; 4096];
        while let Ok(count) = keyboard.read(&mut typed) {
            if line.type_to(guest, &typed[..count], true).is_err() {
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
                    self.type_to(guest, &bytes)?;
                }
            }
            Action::FocusNext => {
                let next = self.consoles().next();
                self.move_focus(next);
            }
            Action::Focus(guest) => self.move_focus(Some(guest)),
            Action::Pause => {
                if let Some(guest) = focus {
                    self.pause_or_resume(guest);
                }
            }
            Action::Start | Action::Reset => {
                if let Some(guest) = focus {
                    let is_start = action == Action::Start;
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

    fn type_to(&mut self, guest: usize, bytes: &[u8]) -> std::io::Result<()> {
        // At a terminal the keys that leave must still be read.
        let is_patient = !self.is_terminal;
        if self.line.type_to(guest, bytes, is_patient)? == bytes.len() {
            self.dropped_for.remove(&guest);
        } else if self.dropped_for.insert(guest) {
            let name = self.name(guest);
            self.say(&format!(
                "{name} does not read what is typed: some is dropped"
            ));
        }
        Ok(())
    }

    /// Does what a key stands for; the log has what comes of it.
    fn press(&self, verb: &str, guest: usize) {
        let name = self.name(guest);
        let consoles = self.consoles.clone();
        press(
            &self.requests,
            &consoles.clone(),
            verb,
            &name,
            move |reply| {
                complain(&consoles, &reply);
            },
        );
    }

    /// Pauses `guest`, or lets it go on if it is paused, by whoever: the machine says whether it is.
    fn pause_or_resume(&self, guest: usize) {
        // The key counts once until that is done.
        if !lock(&self.at_pause).insert(guest) {
            return;
        }
        let name = self.name(guest);
        let (requests, consoles) = (self.requests.clone(), self.consoles.clone());
        let at_pause = self.at_pause.clone();
        self.requests.send("list vms", move |reply| {
            if reply.error.is_some() {
                lock(&at_pause).remove(&guest);
                return complain(&consoles, &reply);
            }
            let verb = match reply.cell("vm", &name, "state") {
                Some("paused") => "resume",
                _ => "pause",
            };
            press(&requests, &consoles.clone(), verb, &name, move |reply| {
                lock(&at_pause).remove(&guest);
                complain(&consoles, &reply);
            });
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

    fn name(&self, guest: usize) -> String {
        self.consoles().name(guest).unwrap_or_default().to_owned()
    }

    fn consoles(&self) -> MutexGuard<'_, Consoles> {
        lock(&self.consoles)
    }

    fn say(&self, text: &str) {
        say(&mut self.consoles(), &format!("\r\ntrapline: {text}\r\n"));
    }
}

/// Gives the command that a key stands for, and says so.
fn press(
    requests: &Requests,
    consoles: &Mutex<Consoles>,
    verb: &str,
    name: &str,
    answered: impl FnOnce(Reply) + Send + 'static,
) {
    let command = format!("{verb} {name}");
    say(&mut lock(consoles), &format!("\r\ntrapline: {command}\r\n"));
    requests.send(&command, answered);
}

/// Says why what a key stands for was not done.
fn complain(consoles: &Mutex<Consoles>, reply: &Reply) {
    if let Some(why) = &reply.error {
        say(&mut lock(consoles), &format!("trapline: error: {why}\r\n"));
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Shows what the user types.
fn echo(text: &str) {
    // There is nobody left to tell if the terminal has gone.
    let _ = stderr().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::host::consoles::Sink;

    /// A user at the terminal of guests `a` and `b`; `a` has the focus, and what is said is kept.
    fn input() -> Input {
        let guests = ["a", "b"].map(|name| (name.to_owned(), Sink::Screen));
        let mut consoles = Consoles::new(guests.into(), Vec::new(), "\r\n");
        consoles.set_focus(0);
        consoles.show_prompt(PROMPT.into());
        let line = Arc::new(Line::new(2, true));
        let requests = Arc::new(Requests::new(line.clone()));
        assert!(requests.receive(b"0 ok"), "the hypervisor listens");
        Input {
            line,
            requests,
            consoles: Arc::new(Mutex::new(consoles)),
            guest: None,
            is_terminal: true,
            dropped_for: BTreeSet::new(),
            at_pause: Arc::default(),
            events: mpsc::channel().0,
        }
    }

    impl Input {
        fn does(&mut self, action: Action) {
            self.act(action).expect("QEMU is there");
        }

        /// What was said since this was asked last.
        fn said(&mut self) -> String {
            let mut consoles = self.consoles();
            let said = consoles.close_prompt();
            consoles.show_prompt(PROMPT.into());
            String::from_utf8(said).expect("it is text")
        }

        /// The commands that were given since this was asked last.
        fn given(&self) -> String {
            String::from_utf8(self.line.sent()).expect("it is text")
        }

        fn focus(&mut self, guest: usize) {
            assert!(self.consoles().set_focus(guest));
        }

        fn answers(&self, parts: &[&str]) {
            for part in parts {
                assert!(self.requests.receive(part.as_bytes()), "{part}");
            }
        }
    }

    #[test]
    fn who_does_not_read_is_named_once_until_it_reads() {
        let mut input = input();
        let many = || Action::Type(vec![7; 100_000]);
        input.does(many());
        let told =
            |name| format!("\r\ntrapline: {name} does not read what is typed: some is dropped\r\n");
        assert_eq!(input.said(), told("a"));
        input.does(many());
        input.does(Action::Type(b"x".into()));
        assert_eq!(input.said(), "");
        input.focus(1);
        input.does(many());
        assert_eq!(input.said(), told("b"));
        input.focus(0);
        assert!(!input.line.sent().is_empty());
        input.does(Action::Type(b"x".into()));
        assert_eq!(input.said(), "", "that had room");
        input.does(many());
        assert_eq!(input.said(), told("a"));
    }

    #[test]
    fn the_key_pauses_one_guest_while_another_is_about_to_pause() {
        let mut input = input();
        input.does(Action::Pause);
        input.does(Action::Pause);
        assert_eq!(
            input.given(),
            "\0\x05\x0a\x001 list vms",
            "the key counts once"
        );
        input.focus(1);
        input.does(Action::Pause);
        assert_eq!(input.given(), "\0\x05\x0a\x002 list vms");
        let answer = ["2 columns vm\tstate", "2 row b\ton", "2 ok"];
        input.answers(&answer);
        assert_eq!(input.given(), "\0\x05\x09\x003 pause b");
        input.does(Action::Pause);
        assert_eq!(input.given(), "", "it is not done yet");
        input.answers(&["3 ok"]);
        input.does(Action::Pause);
        assert_eq!(input.given(), "\0\x05\x0a\x004 list vms");
        input.focus(0);
        input.answers(&["1 error no"]);
        input.does(Action::Pause);
        assert_eq!(input.given(), "\0\x05\x0a\x005 list vms");
    }

    #[test]
    fn the_key_lets_go_on_whom_the_table_calls_paused_wherever_it_says_so() {
        let columns = ["vm\tpool\tstate", "pool\tstate\tvm"];
        let rows = [["b\t0\ton", "a\t0\tpaused"], ["0\ton\tb", "0\tpaused\ta"]];
        for (columns, [first, second]) in columns.into_iter().zip(rows) {
            let mut input = input();
            input.does(Action::Pause);
            input.given();
            let answer = [
                format!("columns {columns}"),
                format!("row {first}"),
                format!("row {second}"),
                "ok".into(),
            ];
            let answer = answer.map(|part| format!("1 {part}"));
            input.answers(&answer.each_ref().map(String::as_str));
            assert_eq!(input.given(), "\0\x05\x0a\x002 resume a");
        }
    }
}
