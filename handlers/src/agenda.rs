//! What a VM is asked to do with its life while others run, and that one pCPU at a time sees to it.
//!
//! Starting, ending and resetting a VM takes too long for an exit and belongs to no vCPU. Whoever wants it writes it down here,
//! on any pCPU and in any context, and wakes a pCPU that has the time ([`Agenda::ask`] says whether that is needed). That
//! pCPU takes what is written down, does a bounded piece of the work, and looks again.
//!
//! ```text
//!   ask, notice:  add to the word         -> true: nobody is at it, so somebody must be called
//!   claim:        take all, set BUSY      -> None: nothing is there, or another pCPU is at it
//!   release:      clear BUSY              -> true: more came meanwhile, or was left to do
//! ```
//! It is one word, so nothing falls between the look and the release. What the requests mean in which stage of the VM's life
//! is the embedder's to decide, who owns the memory that a VM is made of.

use crate::sync::atomic::{AtomicU32, Ordering};

/// What somebody wants of a VM.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Request {
    /// It is off: build it, and turn its first vCPU on.
    Start,
    /// End it, wherever it is.
    Stop,
    /// End it, and start it again.
    Reset,
    /// Keep its vCPUs from running, and its virtual time from passing.
    Pause,
    /// End a pause.
    Resume,
}

impl Request {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Start,
        Self::Stop,
        Self::Reset,
        Self::Pause,
        Self::Resume,
    ];

    /// The request that a command calls so: `start`, `stop`, `reset`, `pause` or `resume`.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|request| request.name() == name)
    }

    /// What commands and messages call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Reset => "reset",
            Self::Pause => "pause",
            Self::Resume => "resume",
        }
    }

    const fn bit(self) -> u32 {
        1 << self as u32
    }

    /// Earlier requests that this one makes void.
    const fn overrides(self) -> u32 {
        match self {
            // What comes after a stop that has not been seen yet starts from a VM that is off.
            Self::Start => 0,
            Self::Stop => {
                Self::Start.bit() | Self::Reset.bit() | Self::Pause.bit() | Self::Resume.bit()
            }
            Self::Reset => Self::Start.bit() | Self::Pause.bit() | Self::Resume.bit(),
            Self::Pause => Self::Resume.bit(),
            Self::Resume => Self::Pause.bit(),
        }
    }
}

/// What is to be seen to: some requests, or none if only something was noticed.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[must_use]
pub struct Requests(u32);

impl Requests {
    /// Somebody asked for this.
    pub const fn has(self, request: Request) -> bool {
        self.0 & request.bit() != 0
    }

    /// This one.
    pub const fn only(request: Request) -> Self {
        Self(request.bit())
    }

    /// These, and `later` ones on top: a later one makes void what it contradicts.
    pub fn then(self, later: Self) -> Self {
        // `later` contradicts itself no more: `Agenda::ask` has seen to that in the order of the asking.
        let void = Request::ALL
            .into_iter()
            .filter(|&request| later.has(request))
            .fold(0, |void, request| void | request.overrides());
        Self(self.0 & !void | later.0)
    }

    /// These without `request`.
    pub const fn without(self, request: Request) -> Self {
        Self(self.0 & !request.bit())
    }
}

const REQUESTS: u32 = (1 << Request::ALL.len()) - 1;
/// Something about the VM has changed, or a piece of work is left.
const NOTICE: u32 = 1 << 8;
/// A pCPU is at it.
const BUSY: u32 = 1 << 9;

/// The word of one VM.
#[derive(Debug)]
pub struct Agenda(AtomicU32);

impl Default for Agenda {
    fn default() -> Self {
        Self::new()
    }
}

impl Agenda {
    /// Nothing to do.
    pub fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// Writes `request` down, on any pCPU and in any context. `true`: nobody is at this VM and nobody has been called, so the
    /// caller must call a pCPU that claims.
    #[must_use = "somebody may have to be called"]
    pub fn ask(&self, request: Request) -> bool {
        self.update(|word| word & !request.overrides() | request.bit())
    }

    /// Something about the VM has changed: a vCPU has left its pCPU, or the VM has ended. The answer is as for
    /// [`Agenda::ask`].
    #[must_use = "somebody may have to be called"]
    pub fn notice(&self) -> bool {
        self.update(|word| word | NOTICE)
    }

    fn update(&self, change: impl Fn(u32) -> u32) -> bool {
        let mut current = self.0.load(Ordering::Relaxed);
        loop {
            match self.0.compare_exchange_weak(
                current,
                change(current),
                Ordering::AcqRel,
                Ordering::Relaxed,
            ) {
                Ok(before) => return before == 0,
                Err(actual) => current = actual,
            }
        }
    }

    /// Takes what is written down; the caller alone sees to this VM until it calls [`Agenda::release`]. `None`: there is
    /// nothing, or another pCPU is at it and looks again.
    pub fn claim(&self) -> Option<Requests> {
        let mut current = self.0.load(Ordering::Relaxed);
        loop {
            if current == 0 || current & BUSY != 0 {
                return None;
            }
            match self
                .0
                .compare_exchange_weak(current, BUSY, Ordering::AcqRel, Ordering::Relaxed)
            {
                Ok(_) => return Some(Requests(current & REQUESTS)),
                Err(actual) => current = actual,
            }
        }
    }

    /// The caller's piece of work is done. `has_more`: another one is left. `true`: somebody, perhaps the caller, must claim
    /// again, and nobody else has been called for it.
    #[must_use = "somebody must claim again"]
    pub fn release(&self, has_more: bool) -> bool {
        if has_more {
            self.0.fetch_or(NOTICE, Ordering::AcqRel);
        }
        let before = self.0.fetch_and(!BUSY, Ordering::AcqRel);
        before & !BUSY != 0 && !cfg!(mutant = "agenda_forget_late_request")
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn asked(requests: &[Request]) -> Requests {
        let agenda = Agenda::new();
        for (index, &request) in requests.iter().enumerate() {
            assert_eq!(agenda.ask(request), index == 0, "the first one calls");
        }
        agenda.claim().expect("somebody asked")
    }

    #[test]
    fn a_later_request_makes_void_what_it_contradicts() {
        use Request::{Pause, Reset, Resume, Start, Stop};
        let cases: [(&[Request], &[Request]); 6] = [
            (&[Start, Stop], &[Stop]),
            (&[Stop, Start], &[Stop, Start]),
            (&[Pause, Resume], &[Resume]),
            (&[Resume, Pause], &[Pause]),
            (&[Pause, Reset], &[Reset]),
            (&[Reset, Pause], &[Reset, Pause]),
        ];
        for (requests, left) in cases {
            let asked = asked(requests);
            for request in Request::ALL {
                assert_eq!(
                    asked.has(request),
                    left.contains(&request),
                    "{requests:?}: {request:?}"
                );
            }
        }
    }

    #[test]
    fn a_request_is_found_by_its_name() {
        for request in Request::ALL {
            assert_eq!(Request::by_name(request.name()), Some(request));
        }
        for name in ["", "Start", "stop ", "kill"] {
            assert_eq!(Request::by_name(name), None);
        }
    }

    #[test]
    fn requests_of_two_claims_add_up_as_if_asked_at_once() {
        use Request::{Pause, Start, Stop};
        let both = asked(&[Start, Pause]).then(asked(&[Stop]));
        assert_eq!(both, asked(&[Stop]));
        assert_eq!(
            asked(&[Stop]).then(asked(&[Start])).without(Stop),
            asked(&[Start])
        );
    }

    #[test]
    fn one_at_a_time_sees_to_it() {
        let agenda = Agenda::new();
        assert_eq!(agenda.claim(), None);
        assert!(agenda.notice());
        assert!(!agenda.notice(), "somebody has been called");
        assert_eq!(agenda.claim(), Some(Requests::default()));
        assert!(!agenda.ask(Request::Stop), "whoever is at it looks again");
        assert_eq!(agenda.claim(), None);
        assert!(agenda.release(false));
        assert!(agenda.claim().is_some_and(|asked| asked.has(Request::Stop)));
        assert!(agenda.release(true), "a piece is left");
        assert_eq!(agenda.claim(), Some(Requests::default()));
        assert!(!agenda.release(false));
    }
}

#[cfg(all(test, loom))]
mod loom_models {
    use loom::thread;

    use super::*;
    use crate::sync::{Arc, atomic::AtomicU32 as Counter};

    /// Two ask while two that were called see to it: both requests are seen, and never by two at a time.
    #[test]
    fn loom_agenda_loses_no_request() {
        loom::model(|| {
            let agenda = Arc::new(Agenda::new());
            let seen = Arc::new(Counter::new(0));
            let at_it = Arc::new(Counter::new(0));
            let threads = [Request::Pause, Request::Reset].map(|request| {
                let (agenda, seen, at_it) = (agenda.clone(), seen.clone(), at_it.clone());
                thread::spawn(move || {
                    let mut is_called = agenda.ask(request);
                    while is_called {
                        let Some(asked) = agenda.claim() else { break };
                        assert_eq!(at_it.fetch_add(1, Ordering::Relaxed), 0, "one at a time");
                        seen.fetch_or(asked.0, Ordering::Relaxed);
                        at_it.fetch_sub(1, Ordering::Relaxed);
                        is_called = agenda.release(false);
                    }
                })
            });
            for thread in threads {
                thread.join().unwrap();
            }
            let seen = seen.load(Ordering::Relaxed);
            assert_ne!(seen & Request::Reset.bit(), 0, "the reset is seen");
            assert_eq!(agenda.claim(), None, "nothing is left behind");
        });
    }
}
