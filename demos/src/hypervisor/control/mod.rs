//! What the user tells the machine while guests run: commands come in over the line, and answers go out.
//!
//! ```text
//!  UART interrupt --bytes--> Desk::take --whole commands--> queue
//!                                                             |   between steps of a pCPU, a piece at a time
//!  the line <--parts of the answer-- Job <--obey-- Command <--'
//!                '-- what a life brings about, when it has come: Waiting (see life)
//! ```
//! Taking a command allocates nothing, and obeying it is on no exit path. One pCPU at a time is at it, so commands are obeyed
//! in the order in which they came.

mod manage;
mod obey;
mod tables;

use alloc::{format, string::String};

use crossbeam_queue::ArrayQueue;
use trapline_demos::{
    config::PolicyConfig,
    control::{Command, LISTENING, LONGEST, Part, number_and_text},
};
use trapline_handlers::Agenda;
use trapline_platform::{channel, relax::Lock, wire::Channel};

use super::{Machine, report::LastWord};
use tables::Table;

/// How many commands wait to be obeyed. The runner sends a client's next one when the last one is answered.
const WAITING: usize = 32;

/// Why commands are not obeyed any more.
const THE_END: &str = "the run ends";

/// Where commands come in.
pub(super) struct Desk {
    intake: Lock<Intake>,
    queue: ArrayQueue<Coming>,
    /// Whether there is something to do, and that one pCPU at a time does it.
    agenda: Agenda,
    job: Lock<Option<Job>>,
    /// The options of policies for which none are given.
    policy: PolicyConfig,
}

/// What comes in.
struct Intake {
    coming: Coming,
    /// The run ends.
    is_closed: bool,
}

/// A command whose bytes are coming in, or have come.
#[derive(Clone, Copy)]
struct Coming {
    bytes: [u8; LONGEST],
    /// How many have come, more than there is room for included.
    length: usize,
}

/// An answer of several parts that has begun.
struct Job {
    number: u32,
    rest: Table,
}

/// Says that commands are taken from now on.
pub(super) fn listen() {
    channel::control(format_args!("{LISTENING} {}", Part::Done));
}

/// Says a part of the answer to command `number`.
pub(super) fn answer(number: u32, part: Part<'_>) {
    channel::send(Channel::Control, format!("{number} {part}").as_bytes());
}

impl Desk {
    /// A desk of a machine whose configuration has `policy`.
    pub(super) fn new(policy: PolicyConfig) -> Self {
        Self {
            intake: Lock::new(Intake {
                coming: Coming::NOTHING,
                is_closed: false,
            }),
            queue: ArrayQueue::new(WAITING),
            agenda: Agenda::new(),
            job: Lock::new(None),
            policy,
        }
    }

    /// Takes the next byte of a command; true if it is the last one, and a pCPU must be called for it.
    pub(super) fn take(&self, byte: u8, is_last: bool) -> bool {
        let mut intake = self.intake.lock();
        let coming = &mut intake.coming;
        if let Some(place) = coming.bytes.get_mut(coming.length) {
            *place = byte;
        }
        coming.length += 1;
        if !is_last {
            return false;
        }
        let command = core::mem::replace(coming, Coming::NOTHING);
        let refused = match intake.is_closed {
            true => Some((command, THE_END)),
            false => {
                let pushed = self.queue.push(command);
                let why = "too many commands at once: give it again";
                pushed.err().map(|command| (command, why))
            }
        };
        drop(intake);
        let Some((command, why)) = refused else {
            return self.agenda.notice();
        };
        command.refuse(why);
        false
    }

    /// Does a piece of what there is to do, on a pCPU between two of its steps; true if there may be more.
    pub(super) fn attend(&self, machine: &Machine) -> bool {
        if self.agenda.claim().is_none() {
            return false;
        }
        let mut job = self.job.lock();
        let (next, has_more) = match job.take() {
            Some(begun) => (begun.go_on(machine), true),
            None => match self.queue.pop() {
                Some(command) => (self.obey(machine, &command), true),
                None => (None, false),
            },
        };
        *job = next;
        drop(job);
        // Whoever has come meanwhile is seen at the next call, which the answer asks for.
        let _ = self.agenda.release(has_more);
        true
    }

    /// The run ends: nobody obeys anything any more, and who waits for that is told.
    pub(super) fn close(&self, _: &LastWord) {
        self.intake.lock().is_closed = true;
        let job = self.job.lock();
        if let Some(job) = &*job {
            answer(job.number, Part::Refused(THE_END));
        }
        core::mem::forget(job);
        while let Some(command) = self.queue.pop() {
            command.refuse(THE_END);
        }
    }

    fn obey(&self, machine: &Machine, command: &Coming) -> Option<Job> {
        let text = match command.text() {
            Ok(text) => text,
            Err(why) => {
                log::warn!("control: {why}");
                return None;
            }
        };
        let Some((number, text)) = number_and_text(text) else {
            log::warn!("control: a command without a number: {text:?}");
            return None;
        };
        let begun = Command::parse(text).map_err(|error| error.0);
        match begun.and_then(|command| obey::obey(machine, number, &command)) {
            Ok(rest) => rest.map(|rest| Job { number, rest }),
            Err(why) => {
                answer(number, Part::Refused(&why));
                None
            }
        }
    }
}

impl Job {
    /// Says the next part of the answer.
    fn go_on(mut self, machine: &Machine) -> Option<Self> {
        let has_more = self.rest.show(machine, self.number);
        if !has_more {
            answer(self.number, Part::Done);
        }
        has_more.then_some(self)
    }
}

impl Coming {
    const NOTHING: Self = Self {
        bytes: [0; LONGEST],
        length: 0,
    };

    /// Says that it is not obeyed, and why.
    fn refuse(&self, why: &str) {
        if let Some((number, _)) = self.text().ok().and_then(number_and_text) {
            channel::control(format_args!("{number} {}", Part::Refused(why)));
        }
    }

    fn text(&self) -> Result<&str, String> {
        let bytes = self.bytes.get(..self.length);
        let bytes = bytes.ok_or_else(|| {
            format!(
                "a command of {} bytes, and there can be {LONGEST}",
                self.length
            )
        })?;
        str::from_utf8(bytes).map_err(|_| "a command that is no text".into())
    }
}
