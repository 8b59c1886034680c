//! When a pCPU must look up from its guest, and when somebody must kick it so that it does.
//!
//! One word per pCPU. A post or a request is first put where the pCPU will find it, then announced here; the outcome says
//! whether to kick. The pCPU clears the word first and looks afterwards, so nothing falls between.
//!
//! ```text
//!   post:   push the box, then MAIL;     kick unless KICKED, or ARMED (the slice timer brings it here soon) and not urgent
//!   nudge:  change what it is about, then REQUESTS, WORK, TURN or nothing; kick unless KICKED
//!           neither kicks if POLLING: the owner looks at the word all the time, and will before it waits for an interrupt
//!   owner:  take (clears all but ARMED), then look
//!   disarm: clears ARMED, then looks: mail may have come without a kick
//!   wait:   clears POLLING, then looks: anything may have come without a kick
//!   close:  CLOSED if nothing is raised: the owner looks no more, nobody kicks it, and who posts or asks something
//!           sends on what is in its inbox
//!   open:   clears CLOSED, then looks
//!   hold:   HELD unless CLOSED: while somebody brings the owner back into service, it does not close
//! ```

use crate::sync::{AtomicU32, Ordering};

const MAIL: u32 = 1 << 0;
const REQUESTS: u32 = 1 << 1;
const KICKED: u32 = 1 << 2;
const ARMED: u32 = 1 << 3;
const WORK: u32 = 1 << 4;
const TURN: u32 = 1 << 5;
const CLOSED: u32 = 1 << 6;
const POLLING: u32 = 1 << 7;
const HELD: u32 = 1 << 8;
const RAISED: u32 = MAIL | REQUESTS | KICKED | WORK | TURN;

/// What a nudge is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub(crate) enum About {
    /// A box in its inbox.
    Mail = MAIL,
    /// The vCPU that is loaded there.
    Loaded = 0,
    /// Any of the vCPUs there.
    Requests = REQUESTS,
    /// Some pCPU idles and asks for a vCPU.
    Work = WORK,
    /// The turn of the vCPU that is loaded there, which is to end.
    Turn = TURN,
}

impl About {
    const fn bit(self) -> u32 {
        self as u32
    }
}

/// What the owner has to look at.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Raised(u32);

impl Raised {
    pub(crate) const fn mail(self) -> bool {
        self.0 & MAIL != 0
    }

    pub(crate) const fn requests(self) -> bool {
        self.0 & REQUESTS != 0
    }

    pub(crate) const fn work(self) -> bool {
        self.0 & WORK != 0
    }

    pub(crate) const fn turn(self) -> bool {
        self.0 & TURN != 0
    }
}

/// Whether the caller must send the kick.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use]
pub(crate) enum Kick {
    Send,
    NotNeeded,
    /// The pCPU polls, and sees it by itself.
    Seen,
    /// Nor would it help: the pCPU looks no more, until it is open again.
    Closed,
}

/// The attention word of one pCPU.
pub(crate) struct Attention(AtomicU32);

impl Attention {
    pub(crate) fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// The owner has something to look at. Cheap: called before every guest entry.
    #[inline]
    pub(crate) fn is_raised(&self) -> bool {
        self.0.load(Ordering::Acquire) & RAISED != 0
    }

    /// A box is in the inbox. `is_urgent`: it may have to run at once.
    pub(crate) fn post(&self, is_urgent: bool) -> Kick {
        self.announce(MAIL, is_urgent)
    }

    /// A box has been posted, and the owner has not looked yet.
    pub(crate) fn has_mail(&self) -> bool {
        self.0.load(Ordering::Acquire) & MAIL != 0
    }

    /// Something was asked that concerns any vCPU there, and the owner has not looked yet.
    pub(crate) fn has_requests(&self) -> bool {
        self.0.load(Ordering::Acquire) & REQUESTS != 0
    }

    /// Something there has changed, and the owner must look now.
    pub(crate) fn nudge(&self, about: About) -> Kick {
        self.announce(about.bit(), true)
    }

    fn announce(&self, bits: u32, is_urgent: bool) -> Kick {
        let mut current = self.0.load(Ordering::Relaxed);
        loop {
            let is_closed = current & CLOSED != 0 && !cfg!(mutant = "post_to_closed");
            let is_kick =
                current & KICKED == 0 && (is_urgent || current & ARMED == 0) && !is_closed;
            let next = current | bits | if is_kick { KICKED } else { 0 };
            match self
                .0
                .compare_exchange_weak(current, next, Ordering::AcqRel, Ordering::Relaxed)
            {
                Ok(_) if is_closed => return Kick::Closed,
                Ok(_) if is_kick && current & POLLING != 0 => return Kick::Seen,
                Ok(_) if is_kick && !cfg!(mutant = "drop_kick") => return Kick::Send,
                Ok(_) => return Kick::NotNeeded,
                Err(actual) => current = actual,
            }
        }
    }

    /// The owner reminds itself to call `schedule`.
    pub(crate) fn remind(&self, about: About) {
        self.0.fetch_or(KICKED | about.bit(), Ordering::AcqRel);
    }

    /// The owner puts a box into its own inbox.
    pub(crate) fn post_to_self(&self) {
        self.0.fetch_or(MAIL, Ordering::AcqRel);
    }

    /// The owner takes what is raised, and looks afterwards.
    pub(crate) fn take(&self) -> Raised {
        if self.is_raised() {
            Raised(self.0.fetch_and(!RAISED, Ordering::AcqRel))
        } else {
            Raised(0)
        }
    }

    /// The owner looks no more; false if there is something that it has to look at before.
    pub(crate) fn close(&self) -> bool {
        let closed = self
            .0
            .compare_exchange(0, CLOSED, Ordering::AcqRel, Ordering::Relaxed);
        closed.is_ok()
    }

    /// The owner does not close until [`Self::release`]; false if it looks no more. One caller at a time.
    pub(crate) fn hold(&self) -> bool {
        if cfg!(mutant = "plug_without_hold") {
            return self.0.load(Ordering::Acquire) & CLOSED == 0;
        }
        let held = self
            .0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
                (word & CLOSED == 0).then_some(word | HELD)
            });
        held.is_ok()
    }

    /// The owner may close, if nothing else keeps it from that.
    pub(crate) fn release(&self) {
        self.0.fetch_and(!HELD, Ordering::AcqRel);
    }

    /// The owner looks again: at what came meanwhile, first of all.
    pub(crate) fn open(&self) {
        self.0.fetch_and(!CLOSED, Ordering::AcqRel);
    }

    /// The owner looks at the word again and again from now on: nobody kicks it.
    pub(crate) fn poll(&self) {
        self.0.fetch_or(POLLING, Ordering::AcqRel);
    }

    /// The owner is about to wait for an interrupt; false if something is raised, perhaps without a kick, and it must look instead.
    #[must_use]
    pub(crate) fn wait(&self) -> bool {
        self.0.fetch_and(!POLLING, Ordering::AcqRel) & RAISED == 0
    }

    /// From now on the slice timer brings the owner here.
    pub(crate) fn arm(&self) {
        self.0.fetch_or(ARMED, Ordering::AcqRel);
    }

    /// The slice timer no longer does. Mail may have come meanwhile without a kick: the owner must see whether anything is
    /// raised afterwards.
    pub(crate) fn disarm(&self) {
        self.0.fetch_and(!ARMED, Ordering::AcqRel);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn an_armed_pcpu_is_kicked_for_a_nudge_but_not_for_a_post() {
        let attention = Attention::new();
        attention.arm();
        assert_eq!(attention.post(false), Kick::NotNeeded);
        assert_eq!(attention.nudge(About::Loaded), Kick::Send);
        assert_eq!(
            attention.nudge(About::Requests),
            Kick::NotNeeded,
            "it is on its way"
        );
        let raised = attention.take();
        assert!(raised.mail() && raised.requests() && !raised.work());
        assert!(!attention.is_raised());
    }

    #[test]
    fn a_closed_pcpu_is_kicked_for_nothing_and_finds_it_when_it_opens() {
        let attention = Attention::new();
        assert_eq!(attention.post(false), Kick::Send);
        assert!(!attention.close(), "there is mail to look at");
        assert!(attention.take().mail());
        assert!(attention.close());
        assert_eq!(attention.post(true), Kick::Closed);
        assert_eq!(attention.nudge(About::Requests), Kick::Closed);
        attention.open();
        let raised = attention.take();
        assert!(raised.mail() && raised.requests());
        assert_eq!(attention.post(false), Kick::Send);
    }

    #[test]
    fn a_pcpu_that_polls_is_kicked_for_nothing_and_looks_before_it_waits() {
        let attention = Attention::new();
        attention.poll();
        assert!(attention.wait(), "nothing has come");
        assert_eq!(attention.nudge(About::Loaded), Kick::Send);
        let _ = attention.take();
        attention.poll();
        assert_eq!(attention.nudge(About::Loaded), Kick::Seen);
        assert_eq!(attention.post(true), Kick::NotNeeded);
        assert!(attention.is_raised());
        assert!(!attention.wait(), "it must look");
        assert_eq!(attention.post(true), Kick::NotNeeded, "it is about to");
        assert!(attention.take().mail());
        assert_eq!(attention.post(false), Kick::Send);
    }

    #[test]
    fn a_pcpu_that_is_held_does_not_close_and_a_closed_one_is_not_held() {
        let attention = Attention::new();
        assert!(attention.hold());
        assert!(!attention.is_raised(), "that is nothing to look at");
        assert!(!attention.close());
        attention.release();
        assert!(attention.close());
        assert!(!attention.hold());
        attention.open();
        assert!(attention.hold());
    }

    #[test]
    fn mail_that_came_without_a_kick_is_seen_when_the_timer_is_disarmed() {
        let attention = Attention::new();
        attention.arm();
        assert_eq!(attention.post(false), Kick::NotNeeded);
        attention.disarm();
        assert!(attention.is_raised());
        assert_eq!(
            attention.post(false),
            Kick::Send,
            "nothing else brings it here now"
        );
    }
}
