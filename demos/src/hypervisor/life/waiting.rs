//! Who gave a command and waits for what it brings about: the answer goes out when it has come, or when it is certain that it
//! will not.

use alloc::{format, string::String};
use core::mem;

use trapline_demos::control::Part;
use trapline_handlers::{Request, Requests};

use super::{Life, Next, Outcome, Pause, Slot, Stage};
use crate::hypervisor::{control, report::LastWord};

/// Somebody who gave a command and waits for what it brings about.
pub(super) struct Waiting {
    /// The command's.
    number: u32,
    request: Request,
    /// How many lives had begun when it was given.
    begun: u32,
    /// How many could not begin.
    refused: u32,
}

impl Slot {
    /// Writes `request` down, for which whoever gave command `number` waits. True if a pCPU must be called for it. Between steps.
    pub(in crate::hypervisor) fn ask(&self, request: Request, number: u32) -> bool {
        let life = &mut *self.life.lock();
        life.asked = mem::take(&mut life.asked).then(Requests::only(request));
        life.waiting.push(Waiting {
            number,
            request,
            begun: life.begun,
            refused: life.refused,
        });
        self.agenda.notice()
    }

    /// The run is over: answers those who still wait. Nobody but the caller, who has the last word, ends it meanwhile.
    pub(in crate::hypervisor) fn dismiss(&self, _: &LastWord) {
        let waiting = mem::take(&mut self.life.lock().waiting);
        for waiting in waiting {
            waiting.dismiss();
        }
    }
}

impl Life {
    /// Tells whoever waits for something that has come, or that will not come any more. `name` is the guest's.
    pub(super) fn answer_those_who_wait(&mut self, name: &str) {
        let mut waiting = mem::take(&mut self.waiting);
        waiting.retain(|waiting| match self.verdict(waiting) {
            Some(verdict) => {
                waiting.answer(verdict.map_err(|why| format!("{name} {why}")));
                false
            }
            None => true,
        });
        self.waiting = waiting;
    }

    /// Whether what somebody waits for has come, or why it will not; `None` as long as it may.
    fn verdict(&self, waiting: &Waiting) -> Option<Result<(), String>> {
        let Waiting { request, begun, .. } = *waiting;
        // A refusal of an earlier start is no answer to this one.
        let refusal = match &self.outcome {
            Outcome::Refused(why) if self.refused != waiting.refused => Some(why),
            _ => None,
        };
        if self.asked.has(request) {
            return None;
        }
        let is_it = match (&self.stage, request) {
            (Stage::On(_, Pause::Begins), Request::Pause) => return None,
            (Stage::On(_, pause), Request::Pause) => matches!(pause, Pause::Since(_)),
            (Stage::On(_, pause), Request::Resume) => matches!(pause, Pause::No),
            (Stage::On(..), Request::Start) => true,
            (Stage::On(..), Request::Reset) => self.begun != begun,
            (Stage::Off, Request::Stop) => true,
            // It is about to begin anew.
            (Stage::Off, Request::Start | Request::Reset) if self.asked.has(Request::Start) => {
                return None;
            }
            (Stage::Off, Request::Start | Request::Reset) => match refusal {
                Some(why) => return Some(Err(format!("does not start: {why}"))),
                None => false,
            },
            (Stage::On(..), Request::Stop)
            | (Stage::Off | Stage::Loading(..), Request::Pause | Request::Resume) => false,
            (Stage::Loading(..), Request::Start | Request::Reset | Request::Stop) => return None,
            (
                Stage::Ending(_, next)
                | Stage::LettingGo(_, _, next)
                | Stage::Scrubbing(_, _, next),
                request,
            ) => match request {
                Request::Stop => return None,
                Request::Start | Request::Reset if *next == Next::Start => return None,
                Request::Start | Request::Reset => match refusal {
                    Some(why) => return Some(Err(format!("does not start: {why}"))),
                    None => false,
                },
                _ => false,
            },
        };
        Some(
            is_it
                .then_some(())
                .ok_or_else(|| format!("is {}", self.word())),
        )
    }
}

impl Waiting {
    fn answer(&self, verdict: Result<(), String>) {
        let part = match &verdict {
            Ok(()) => Part::Done,
            Err(why) => Part::Refused(why),
        };
        control::answer(self.number, part);
    }

    /// The run ends: whoever wanted a stop has it.
    fn dismiss(&self) {
        let is_done = self.request == Request::Stop;
        self.answer(is_done.then_some(()).ok_or_else(|| "the run ends".into()));
    }
}
