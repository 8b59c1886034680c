//! SGIs from all CPUs to all, each with mail.
//!
//! The GIC merges SGIs with the same INTID and target, so each such pair has one mailbox: a sender claims it, fills it, and sends;
//! the target empties it. An SGI that finds no mail was doubled or invented; mail that stays was an SGI lost.
//!
//! ```text
//!  FREE --claim--> CLAIMED --fill, send SGI--> mail --handler--> FREE
//!    ^                |
//!    +---- target is leaving
//! ```

use core::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Acquire, Relaxed, Release, SeqCst},
};

use trapline_demos::guest::{MAX_CPUS, cpu, gic, machine, random::Random};

use crate::state::{self, Doing, cpu_state, fail};

/// INTIDs with mailboxes; the last SGI is for replies.
const MAIL_INTIDS: usize = 15;
const REPLY_INTID: u32 = 15;

const FREE: u64 = 0;
const CLAIMED: u64 = u64::MAX;
/// The sender wants a reply. The sender's index + 1 is in the low byte, a random number in bits 62:15.
const WANTS_REPLY: u64 = 1 << 8;
/// Mail has this bit clear, so a question that was answered, which is the complement of the mail, has it set.
const ANSWERED: u64 = 1 << 63;

/// What others may put down for one CPU.
struct Inbox {
    is_open: AtomicBool,
    mail: [AtomicU64; MAIL_INTIDS],
    /// Written before the mail, without any ordering but that of sending an SGI.
    copies: [AtomicU64; MAIL_INTIDS],
    /// The mail that this CPU wants answered; its complement once it is; FREE once the reply's SGI was taken.
    question: AtomicU64,
}

static INBOXES: [Inbox; MAX_CPUS] = [const {
    Inbox {
        is_open: AtomicBool::new(false),
        mail: [const { AtomicU64::new(FREE) }; MAIL_INTIDS],
        copies: [const { AtomicU64::new(FREE) }; MAIL_INTIDS],
        question: AtomicU64::new(FREE),
    }
}; MAX_CPUS];

/// This CPU takes mail from now on.
pub fn open(index: usize) {
    INBOXES[index].is_open.store(true, SeqCst);
}

/// Nobody sends mail to this CPU any more; returns once it has taken what was on its way.
pub fn close(index: usize) {
    let inbox = &INBOXES[index];
    // SeqCst against `post`: either the sender sees it closed, or this sees the mailbox claimed.
    inbox.is_open.store(false, SeqCst);
    while inbox.mail.iter().any(|mail| mail.load(SeqCst) != FREE) {
        cpu::relax();
    }
}

/// Nothing is on its way to anybody.
pub fn is_quiet() -> bool {
    INBOXES
        .iter()
        .all(|inbox| inbox.mail.iter().all(|mail| mail.load(Acquire) == FREE))
        && state::sum(|state| &state.sgis_sent) == state::sum(|state| &state.sgis_taken)
}

/// Sends mail to somebody, perhaps to this CPU, and goes on. Says nothing if the mailbox is taken.
pub fn send(index: usize, random: &mut Random) {
    let target = random.below(machine::cpu_count() as u64) as usize;
    let intid = random.below(MAIL_INTIDS as u64) as usize;
    cpu_state(index).enter(Doing::Sending, (target << 8 | intid) as u64);
    post(index, target, intid, mail_from(index, random));
}

/// Sends mail to somebody and waits in WFI for the reply.
pub fn ask(index: usize, random: &mut Random) {
    let target = random.below(machine::cpu_count() as u64) as usize;
    let intid = random.below(MAIL_INTIDS as u64) as usize;
    let mail = mail_from(index, random) | WANTS_REPLY;
    let question = &INBOXES[index].question;
    question.store(mail, Relaxed);
    cpu_state(index).enter(Doing::AwaitingReply, target as u64);
    if post(index, target, intid, mail) {
        loop {
            // With IRQs masked, a reply between the check and WFI still ends the WFI.
            cpu::mask_interrupts();
            if question.load(Acquire) == FREE {
                break;
            }
            cpu::wait_for_interrupt();
            cpu::unmask_interrupts();
        }
    } else {
        question.store(FREE, Relaxed);
    }
    cpu::unmask_interrupts();
}

fn mail_from(index: usize, random: &mut Random) -> u64 {
    (random.next() << 16 >> 1) | (index as u64 + 1)
}

fn post(index: usize, target: usize, intid: usize, mail: u64) -> bool {
    let inbox = &INBOXES[target];
    let mailbox = &inbox.mail[intid];
    if mailbox
        .compare_exchange(FREE, CLAIMED, SeqCst, Relaxed)
        .is_err()
    {
        return false;
    }
    if !inbox.is_open.load(SeqCst) {
        mailbox.store(FREE, Release);
        return false;
    }
    inbox.copies[intid].store(mail, Relaxed);
    mailbox.store(mail, Relaxed);
    cpu_state(index).sgis_sent.fetch_add(1, Relaxed);
    gic::send_sgi(intid as u32, target);
    true
}

/// The handler of all SGIs.
pub fn take(intid: u32) {
    let index = cpu::index();
    if intid == REPLY_INTID {
        take_reply(index);
    } else {
        take_mail(index, intid as usize);
    }
    cpu_state(index).sgis_taken.fetch_add(1, Relaxed);
}

fn take_mail(index: usize, intid: usize) {
    let inbox = &INBOXES[index];
    let mail = inbox.mail[intid].load(Acquire);
    let copy = inbox.copies[intid].load(Relaxed);
    if mail == FREE || mail == CLAIMED {
        fail(format_args!(
            "SGI {intid} came without mail ({mail:#x}): doubled, or nobody sent it"
        ));
    }
    if copy != mail {
        fail(format_args!(
            "SGI {intid} came before its mail: {copy:#x} instead of {mail:#x}"
        ));
    }
    inbox.mail[intid].store(FREE, SeqCst);
    if mail & WANTS_REPLY != 0 {
        let sender = (mail & 0xff) as usize - 1;
        let question = &INBOXES[sender].question;
        if question
            .compare_exchange(mail, !mail, Release, Relaxed)
            .is_err()
        {
            fail(format_args!(
                "CPU {sender} does not await the reply to {mail:#x}"
            ));
        }
        cpu_state(index).sgis_sent.fetch_add(1, Relaxed);
        gic::send_sgi(REPLY_INTID, sender);
    }
}

fn take_reply(index: usize) {
    let question = &INBOXES[index].question;
    let answered = question.load(Acquire);
    if answered & ANSWERED == 0 {
        fail(format_args!(
            "SGI {REPLY_INTID} came, but the question is {answered:#x}: doubled, or nobody replied"
        ));
    }
    question.store(FREE, Relaxed);
}

/// Every SGI sent was taken.
pub fn check_sums() {
    let sent = state::sum(|state| &state.sgis_sent);
    let taken = state::sum(|state| &state.sgis_taken);
    if sent != taken {
        fail(format_args!("SGIs: {sent} were sent, {taken} were taken"));
    }
}
