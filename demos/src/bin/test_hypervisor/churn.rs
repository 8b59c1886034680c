//! A device that comes and goes while vCPUs read it.
//!
//! The pCPU that no vCPU may use registers and removes the device [`ROUNDS`] times, each time a new one, and then waits until
//! all of them are dropped. It begins when the guest first asks by [`IS_OVER`] whether it is over; when the answer is yes, the
//! counters have been reported.

use alloc::sync::{Arc, Weak};
use core::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use spin::Once;
use trapline_demos::{config::MAX_PCPUS, wire::Report};
use trapline_handlers::{Claim, ExitHandler, GuestCpu, Vm};
use trapline_platform::{channel, heap, relax::relax};
use trapline_sched::{PcpuId, PcpuSet};
use trapline_vcpu::{Action, Exit, exit::Direction};

use crate::hypervisor::Guest;

/// How many devices come and go.
const ROUNDS: u64 = 10_000;
/// Where the device is, one page.
const BASE: u64 = 0x0b00_0000;
const SIZE: u64 = 0x1000;
/// What every register of the device reads as.
const ANSWER: u64 = 0x5452_4150;
/// What is left in a device that has been dropped.
const DROPPED: u64 = 0xdead_dead;
/// How many lengths of pause there are.
const PAUSES: u64 = 32;
const YIELDS_PER_PAUSE: u64 = 8;
/// Returns 1 once the device has gone for good, else 0.
const IS_OVER: u32 = 0xc600_0004;

struct Churn {
    /// The guest may end and start again.
    vm: Weak<Vm>,
    /// The pCPUs that run vCPUs.
    used: PcpuSet,
    is_asked_for: AtomicBool,
    is_over: AtomicBool,
    answers: AtomicU64,
    dropped: AtomicU64,
}

static CHURN: Once<Churn> = Once::new();

struct Device {
    churn: &'static Churn,
    answer: AtomicU64,
}

impl ExitHandler for Device {
    fn name(&self) -> &str {
        "churn"
    }

    fn handle(&self, _guest: &mut GuestCpu<'_>, exit: &Exit) -> Action {
        match exit {
            Exit::Mmio(access) if access.direction == Direction::Read => {
                self.churn.answers.fetch_add(1, Relaxed);
                Action::FinishRead(self.answer.load(Relaxed))
            }
            _ => Action::Decline,
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.answer.store(DROPPED, Relaxed);
        self.churn.dropped.fetch_add(1, Relaxed);
    }
}

/// Answers [`IS_OVER`].
struct Question(&'static Churn);

impl ExitHandler for Question {
    fn name(&self) -> &str {
        "churn-question"
    }

    fn handle(&self, guest: &mut GuestCpu<'_>, _exit: &Exit) -> Action {
        self.0.is_asked_for.store(true, Release);
        guest.set_register(0, self.0.is_over.load(Acquire).into());
        Action::Finish
    }
}

/// Prepares the churn of `guest`, if it is the first one.
pub fn register(guest: &Guest) {
    if guest.index != 0 || CHURN.is_completed() {
        return;
    }
    let affinities = guest.handles.iter().map(|handle| handle.affinity().bits());
    let churn = CHURN.call_once(|| Churn {
        vm: Arc::downgrade(&guest.vm),
        used: PcpuSet::from_bits(affinities.fold(0, |used, set| used | set)),
        is_asked_for: AtomicBool::new(false),
        is_over: AtomicBool::new(false),
        answers: AtomicU64::new(0),
        dropped: AtomicU64::new(0),
    });
    let claims = [Claim::Calls(IS_OVER..=IS_OVER)];
    let registered = guest
        .vm
        .registry()
        .register(&claims, Arc::new(Question(churn)));
    registered.expect("nobody else claims calls of this owner");
}

/// Does what this file is for if no vCPU may use pCPU `id`, the caller's. At most one such pCPU exists.
pub fn run_if_spare(id: u16) {
    let churn = CHURN
        .get()
        .expect("register comes before the start of the other pCPUs");
    let id = PcpuId::new(id).expect("the platform numbers its pCPUs from 0");
    if churn.used.contains(id) {
        return;
    }
    while !churn.is_asked_for.load(Acquire) {
        relax();
    }
    (0..ROUNDS).for_each(|round| churn.come_and_go(round));
    while churn.dropped.load(Relaxed) < ROUNDS {
        churn.vm().registry().reap();
        relax();
    }
    churn.report();
    churn.is_over.store(true, Release);
}

impl Churn {
    fn vm(&self) -> Arc<Vm> {
        self.vm
            .upgrade()
            .expect("the guest that asked waits for the answer")
    }

    fn come_and_go(&'static self, round: u64) {
        let device = Arc::new(Device {
            churn: self,
            answer: AtomicU64::new(ANSWER),
        });
        let vm = self.vm();
        let registered = vm.registry().register(&[Claim::mmio(BASE, SIZE)], device);
        let registration = registered.expect("the one before was removed");
        // At times long enough for each vCPU to find it, at times gone before anybody can.
        pause(round % PAUSES);
        assert!(vm.registry().remove(registration), "it was registered");
        pause(round / PAUSES % PAUSES);
    }

    fn report(&self) {
        let pcpus = 0..MAX_PCPUS as u16;
        let exit_frees = pcpus.map(|id| heap::counts(id).frees_on_exit_path).sum();
        for (name, value) in [
            ("churn_registered", ROUNDS),
            ("churn_dropped", self.dropped.load(Relaxed)),
            ("churn_answers", self.answers.load(Relaxed)),
            ("churn_exit_frees", exit_frees),
        ] {
            channel::report(format_args!("{}", Report::Counter(name, value)));
        }
    }
}

fn pause(length: u64) {
    (0..length * YIELDS_PER_PAUSE).for_each(|_| relax());
}
