//! What exits, interrupts and switches cost, counted in instructions.
//!
//! Under `-icount shift=0` with `cntfrq=1000000000` one executed instruction, on whichever CPU, is one tick of the virtual
//! counter: the figures are exact and the same on every run. Each is the median of many samples, less what reading the counter
//! costs. `floor` is what the guest's own instructions cost on bare QEMU, where the figure equals it.
//!
//! Parameters: `figures=` is one of
//! - `machine` (default; two vCPUs on two pCPUs): exits, SGIs, timers;
//! - `switch` (two vCPUs on ONE pCPU): each sends an SGI to the other and waits in WFI; a figure is for one switch. With `after=` it
//!   waits until so many milliseconds are over before it begins;
//! - `wake` (one vCPU): from a deadline to its handler, for a CPU that waits in WFI, `after=` as above;
//! - `periods` (one vCPU): `work_us=` microseconds of computing each `period_us=`, `count=` times; says how often it was late;
//! - `work`: all CPUs compute for `milliseconds=` (default 200), from `after=` on; says how much they got done.
//! - `spin`: likewise, they take one lock again and again; `lock=` is `ticket` or `test-and-set`, `wait=` is `spin`, `yield`,
//!   `directed` or `state`, and `hold=` and `think=` are instructions with the lock and without it.
//!
//! Each figure is one line: `BENCH name=.. instructions=.. floor=.. least=.. most=..`, or for `work` and `spin`
//! `WORK cpus=.. iterations=.. least=.. most=.. late_us=..`, with the least and the most that one CPU did, and how long after `after=`
//! they began. The last line is `BENCH END`.
#![no_std]
#![no_main]

mod calls;
mod interrupts;
mod peer;
mod periods;
mod samples;
mod spin;
mod work;

use spin::Contention;
use trapline_demos::{
    guest::{
        boot::Entry,
        exceptions::{self, Frame},
        gic, hypervisor, machine, power,
    },
    guest_println, guest_program,
};

guest_program! { main: main, secondary: secondary, interrupt: interrupt, exception: exceptions::report }

/// What a secondary is started for.
mod role {
    /// To answer SGIs.
    pub const PEER: u64 = 1;
    /// To compute.
    pub const WORKER: u64 = 2;
    /// To contend for a lock.
    pub const SPINNER: u64 = 3;
}

fn main() -> ! {
    let parameters = machine::parameters();
    let milliseconds = parameters.number("milliseconds", 200);
    let after = parameters.number("after", 0);
    match parameters.text("figures").unwrap_or("machine") {
        "machine" => {
            calls::run();
            interrupts::alone();
            if machine::cpu_count() > 1 {
                start(1, role::PEER);
                interrupts::with_peer();
            }
        }
        "switch" if machine::cpu_count() > 1 => {
            start(1, role::PEER);
            if after > 0 {
                interrupts::wait_until(after);
            }
            interrupts::switch();
        }
        "wake" => {
            if after > 0 {
                interrupts::wait_until(after);
            }
            interrupts::wake();
        }
        "periods" => periods::run(
            parameters.number("work_us", 1000),
            parameters.number("period_us", 10_000),
            parameters.number("count", 50),
        ),
        "work" => {
            start_all(role::WORKER);
            work::run("WORK", work::compute, milliseconds, after);
        }
        "spin" => match contention() {
            Some(contention) => {
                start_all(role::SPINNER);
                let job = |index, end| contention.contend(index, end);
                let sum = work::run("SPIN", job, milliseconds, after);
                if sum != spin::counted() {
                    guest_println!("BENCH ERROR the lock counted {}", spin::counted());
                }
            }
            None => guest_println!("BENCH ERROR lock= or wait= names nothing that there is"),
        },
        other => guest_println!("BENCH ERROR figures={other} is unknown or needs a second CPU"),
    }
    guest_println!("BENCH END");
    power::system_off()
}

/// How the CPUs contend; `None` if the parameters or the hypervisor do not know such a thing.
fn contention() -> Option<Contention> {
    let contention = Contention::of(machine::parameters())?;
    (!contention.needs_states() || hypervisor::find_states()).then_some(contention)
}

fn start_all(role: u64) {
    (1..machine::cpu_count()).for_each(|index| start(index, role));
}

fn start(index: usize, role: u64) {
    let result = power::start_cpu(index, role);
    assert_eq!(result, power::status::SUCCESS, "CPU_ON of CPU {index}");
}

fn secondary(entry: Entry) -> ! {
    gic::enable_cpu();
    match entry.cookie {
        role::WORKER => work::join(entry.index, work::compute),
        role::SPINNER => {
            let contention = Contention::of(machine::parameters());
            let contention = contention.expect("the boot CPU has read them");
            work::join(entry.index, |index, end| contention.contend(index, end))
        }
        _ => peer::serve(entry.index),
    }
}

fn interrupt(_: &mut Frame) {
    let intid = gic::v3::acknowledge();
    panic!("interrupt {intid} came through the runtime's vectors");
}
