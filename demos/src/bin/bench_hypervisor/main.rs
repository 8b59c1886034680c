//! What of a vCPU switch is scheduling, counted in instructions at EL2.
//!
//! Machine, policy, guest and vCPUs are those of the plain image, and so is the code of the scheduler; but no guest is entered. The
//! loop here plays two vCPUs that send something to each other and wait for it in turn, as those of `bench-guest` do, and the
//! hardware under the scheduler does nothing:
//!
//! ```text
//!  vCPU a has mail:  wake b -- schedule if asked to -- block a -- schedule --> vCPU b has mail, and so on
//!                    '---------- counted ---------'    '----- counted ----'
//! ```
//! Counted is what lies between two reads of CNTPCT_EL0, less what reading it takes: under `-icount shift=0` with
//! `cntfrq=1000000000` one instruction is one tick. Each count is taken twice, the second time with a [`Machine::bind`] that takes
//! [`SLOW_BIND`] ticks: a switch must then have cost as much more, or something else was counted.
#![no_std]
#![no_main]

extern crate alloc;

#[allow(dead_code, reason = "no guest runs here")]
#[path = "../../hypervisor/mod.rs"]
mod hypervisor;

use alloc::{sync::Arc, vec::Vec};
use core::hint;

use spin::Once;
use trapline_demos::wire::{ExitStatus, Report};
use trapline_platform::{BootInfo, channel, power, timer};
use trapline_sched::{BlockReason, Decision, LocalScheduler, Machine, Vcpu, VcpuHandle};

use hypervisor::GuestVcpu;

/// How often each vCPU gets mail; odd, so that the median is one of the samples.
const ROUNDS: usize = 101;
/// What a slow bind takes, in ticks, and a little more: it looks at the counter again and again.
const SLOW_BIND: u64 = 1000;

type Handles = Vec<Arc<VcpuHandle<GuestVcpu>>>;

static HANDLES: Once<Handles> = Once::new();

/// The boot pCPU comes here when the machine is set up.
#[unsafe(no_mangle)]
fn trapline_main(boot: BootInfo) -> ! {
    hypervisor::start(boot, |guest| {
        HANDLES.call_once(|| guest.handles.clone());
    });
    let (id, machine) = hypervisor::enlist();
    let handles = HANDLES.get().map_or(&[][..], Vec::as_slice);
    let [first, second, ..] = handles else {
        report_end(ExitStatus::BadInput, "a switch needs two vCPUs");
    };
    let mut pair = Pair {
        scheduler: machine.local_scheduler(id),
        vcpus: [first, second],
        has_mail: [true, false],
        spent: 0,
        reading: (0..16).map(|_| reading()).min().unwrap_or(0),
    };
    // The first one is on: the image has started the guest.
    second.claim_power_on().expect("it is off").commit();
    pair.attend(&mut Hardware { bind: 0 });
    for (name, bind) in [("scheduling", 0), ("scheduling_slow_bind", SLOW_BIND)] {
        let mut ticks: Vec<u64> = (0..ROUNDS)
            .map(|_| pair.round(&mut Hardware { bind }) / 2)
            .collect();
        ticks.sort_unstable();
        report(&Report::Counter(name, ticks[ROUNDS / 2]));
    }
    report_end(ExitStatus::PoweredOff, "all is counted")
}

/// Every other pCPU comes here.
#[unsafe(no_mangle)]
fn trapline_secondary(_id: u16) -> ! {
    loop {
        power::wait_for_interrupt();
    }
}

/// Two vCPUs, of which one has mail.
struct Pair<'a> {
    scheduler: LocalScheduler<GuestVcpu>,
    vcpus: [&'a Arc<VcpuHandle<GuestVcpu>>; 2],
    has_mail: [bool; 2],
    /// Ticks in the scheduler.
    spent: u64,
    /// Ticks that reading the counter takes.
    reading: u64,
}

impl Pair<'_> {
    /// What scheduling takes until the first vCPU has mail and the pCPU again: two switches.
    fn round(&mut self, hardware: &mut Hardware) -> u64 {
        self.spent = 0;
        loop {
            let loaded = self.loaded();
            self.step(loaded, hardware);
            if self.has_mail[0] && self.loaded() == 0 {
                return self.spent;
            }
        }
    }

    fn loaded(&mut self) -> usize {
        let loaded = self.scheduler.loaded().expect("a vCPU can always run");
        usize::from(loaded.handle().id() != self.vcpus[0].id())
    }

    /// The loaded vCPU sends its mail on, or waits for some.
    fn step(&mut self, loaded: usize, hardware: &mut Hardware) {
        let other = 1 - loaded;
        let sends = core::mem::take(&mut self.has_mail[loaded]);
        self.has_mail[other] |= sends;
        let start = timer::now();
        if sends {
            self.vcpus[other].wake();
        } else {
            // If it was woken, it has mail, which it looks at next.
            let _ = self.scheduler.block(BlockReason::Waiting);
        }
        self.attend(hardware);
        self.spent += (timer::now() - start).saturating_sub(self.reading);
    }

    /// What the scheduler does between an exit and the next entry.
    fn attend(&mut self, hardware: &mut Hardware) {
        loop {
            while self.scheduler.needs_attention() {
                let decision = self.scheduler.schedule(hardware);
                assert_eq!(decision, Decision::Run, "a vCPU can always run");
            }
            if !self.scheduler.take_wake() {
                return;
            }
        }
    }
}

/// The ticks between two reads of the counter.
fn reading() -> u64 {
    let start = timer::now();
    timer::now() - start
}

/// Hardware that nothing has to be moved into or out of.
struct Hardware {
    /// What a bind takes, in ticks.
    bind: u64,
}

impl Machine<GuestVcpu> for Hardware {
    #[inline]
    fn bind(&mut self, _: &mut GuestVcpu, _: bool) {
        if self.bind > 0 {
            let end = timer::now() + self.bind;
            while timer::now() < end {
                hint::spin_loop();
            }
        }
    }

    fn unbind(&mut self, _: &mut GuestVcpu) -> Option<u64> {
        None
    }

    fn set_exclusive(&mut self, _: &mut GuestVcpu, _: bool) {}

    fn sync(&mut self, _: &mut GuestVcpu) {}

    fn reset(&mut self, _: &mut GuestVcpu) {}

    fn set_timer(&mut self, _: Option<u64>) {}
}

fn report(report: &Report<'_>) {
    channel::report(format_args!("{report}"));
}

fn report_end(status: ExitStatus, why: &str) -> ! {
    report(&Report::Exit(status, why));
    power::off()
}
