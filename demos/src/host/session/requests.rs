//! Commands on their way to the hypervisor, and the answers that come back.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{self, Receiver},
    },
};

use super::line::Line;
use crate::control::{LISTENING, LONGEST, Part, Reply, number_and_text};

/// What an answer is given to when it is whole.
type Answered = Box<dyn FnOnce(Reply) + Send>;

/// Who asked what; the numbers tell the answers apart.
pub struct Requests {
    line: Arc<Line>,
    state: Mutex<State>,
}

struct State {
    last: u32,
    open: HashMap<u32, (Reply, Answered)>,
    /// Nobody answers any more.
    is_over: bool,
}

/// How many may wait for their answers: as many commands as the hypervisor has room for.
const OPEN_LIMIT: usize = 32;

/// The run has ended before there was an answer.
const OVER: &str = "the run has ended";

impl Requests {
    /// Nobody has asked anything yet.
    pub fn new(line: Arc<Line>) -> Self {
        let state = Mutex::new(State {
            last: LISTENING,
            open: HashMap::new(),
            is_over: false,
        });
        Self { line, state }
    }

    /// Sends `command`; the answer is given to `answered`, which is soon done, once it is whole. One that cannot be sent is
    /// answered at once.
    pub fn send(&self, command: &str, answered: impl FnOnce(Reply) + Send + 'static) {
        if let Some(number) = self.open(command, Box::new(answered))
            && self.line.command(number, command).is_err()
        {
            self.answer(number, Part::Refused(OVER));
        }
    }

    /// The same, for somebody who waits for the answer.
    pub fn ask(&self, command: &str) -> Receiver<Reply> {
        let (sender, receiver) = mpsc::channel();
        self.send(command, move |reply| {
            // Whoever asked may have gone.
            let _ = sender.send(reply);
        });
        receiver
    }

    /// The number of a request that is to be sent now.
    fn open(&self, command: &str, answered: Answered) -> Option<u32> {
        let mut state = self.state();
        let number = state.last.wrapping_add(1);
        let length = format!("{number} {command}").len();
        let why = if !self.line.is_framed() {
            "there is no hypervisor".to_owned()
        } else if state.is_over {
            OVER.to_owned()
        } else if state.open.len() >= OPEN_LIMIT {
            format!("{OPEN_LIMIT} commands wait for their answers already")
        } else if length > LONGEST {
            format!("a command of {} bytes is too long", command.len())
        } else {
            state.last = number;
            state.open.insert(number, (Reply::default(), answered));
            return Some(number);
        };
        drop(state);
        answered(Reply::refused(why));
        None
    }

    /// Takes what came from the hypervisor; false if it is no part of an answer that is waited for.
    pub fn receive(&self, frame: &[u8]) -> bool {
        let text = str::from_utf8(frame).ok();
        let parts = text.and_then(number_and_text);
        let part = parts.and_then(|(number, text)| Some((number, Part::parse(text)?)));
        part.is_some_and(|(number, part)| self.answer(number, part))
    }

    fn answer(&self, number: u32, part: Part<'_>) -> bool {
        if number == LISTENING {
            return part == Part::Done && self.line.listen();
        }
        let mut state = self.state();
        let Some((reply, _)) = state.open.get_mut(&number) else {
            return false;
        };
        if reply.add(part)
            && let Some((reply, answered)) = state.open.remove(&number)
        {
            drop(state);
            answered(reply);
        }
        true
    }

    /// The run has ended: all who still wait are told so.
    pub fn close(&self) {
        let mut state = self.state();
        state.is_over = true;
        let open = std::mem::take(&mut state.open);
        drop(state);
        for (_, (mut reply, answered)) in open {
            reply.add(Part::Refused(OVER));
            answered(reply);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests(is_framed: bool) -> Requests {
        Requests::new(Arc::new(Line::new(1, is_framed)))
    }

    #[test]
    fn answers_find_who_asked() {
        let requests = requests(true);
        assert!(requests.receive(b"0 ok"));
        let [first, second] = ["list", "pause a"].map(|command| requests.ask(command));
        assert!(requests.receive(b"1 columns a\tb"));
        assert!(requests.receive(b"2 error no"));
        assert!(requests.receive(b"1 row 1\t2"));
        assert!(first.try_recv().is_err(), "it is not whole");
        assert!(requests.receive(b"1 ok"));
        let rows = first.recv().map(|reply| reply.rows);
        assert_eq!(rows, Ok(vec![vec!["1".into(), "2".into()]]));
        assert_eq!(second.recv(), Ok(Reply::refused("no")));
        for nonsense in [&b"1 ok"[..], b"0 ok", b"3 ok", b"x", b"\xff", b"2 what"] {
            assert!(!requests.receive(nonsense), "{nonsense:?}");
        }
    }

    #[test]
    fn nothing_is_sent_before_the_hypervisor_listens() {
        let requests = requests(true);
        let early = requests.ask("list");
        assert_eq!(requests.line.sent(), b"");
        assert!(requests.receive(b"0 ok"));
        assert_eq!(requests.line.sent(), b"\0\x05\x06\x001 list");
        assert!(requests.receive(b"1 ok"));
        assert_eq!(early.recv(), Ok(Reply::default()));
    }

    #[test]
    fn nobody_waits_for_ever() {
        let requests = requests(true);
        let early = requests.ask("list");
        assert!(requests.receive(b"0 ok"));
        let waiting = requests.ask("stop a");
        requests.close();
        for answer in [early, waiting, requests.ask("list")] {
            assert_eq!(answer.recv(), Ok(Reply::refused(OVER)));
        }
    }

    #[test]
    fn more_than_the_hypervisor_has_room_for_is_refused() {
        let requests = requests(true);
        let open = [(); OPEN_LIMIT].map(|()| requests.ask("list"));
        let refused = requests
            .ask("list")
            .recv()
            .ok()
            .and_then(|reply| reply.error);
        assert!(refused.is_some_and(|why| why.starts_with("32 commands wait")));
        assert!(requests.receive(b"0 ok"));
        assert!(requests.receive(b"1 ok"));
        assert_eq!(open[0].recv(), Ok(Reply::default()));
        assert!(
            requests.ask("list").try_recv().is_err(),
            "there is room for one"
        );
    }

    #[test]
    fn what_nobody_would_understand_is_not_sent() {
        let long = requests(true).ask(&"x".repeat(300)).recv();
        assert_eq!(
            long,
            Ok(Reply::refused("a command of 300 bytes is too long"))
        );
        let bare = requests(false).ask("list").recv();
        assert_eq!(bare, Ok(Reply::refused("there is no hypervisor")));
    }
}
