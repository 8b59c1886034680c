//! A host that owns its vectors, its interrupts, its FP registers and its loop, and runs Trapline's vCPUs in between.
//!
//! ```text
//!  turn:  step -> the host's own work, interrupts taken by its own vector -> hand over -> a beat to the neighbour
//!  every few turns:  drain -> step until Drained -> hardware_disable -> compare -> hardware_enable -> undrain
//! ```
//! It boots as the other images do and then replaces the platform's vector table by its own (`vectors`). What it owns is in
//! one file each: `interrupts`, `control`, `floating_point`. A register that `hardware_disable` does not give back ends the
//! run as a failure of the hypervisor.
#![no_std]
#![no_main]

extern crate alloc;

mod control;
mod floating_point;
#[allow(
    dead_code,
    reason = "the loop below stands for that of the other images"
)]
#[path = "../../hypervisor/mod.rs"]
mod hypervisor;
mod interrupts;
mod vectors;

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use trapline_demos::{config::MAX_PCPUS, wire::Report};
use trapline_handlers::Dispatcher;
use trapline_platform::{BootInfo, channel, gic, power, timer};
use trapline_sched::PcpuId;
use trapline_vcpu::{Aarch64PerCpu, Step, dispatch::Dispatch as _};

use control::HostControl;
use hypervisor::Machine;
use interrupts::{BEAT, ForeignHost};

/// A turn of the host's loop takes a thousandth of a second or less.
const TURNS_PER_SECOND: u64 = 1000;
/// Every so many turns a pCPU gives its hardware back and takes it again.
const TURNS_PER_ROUND_TRIP: u64 = 4;

/// How often each pCPU gave its hardware back.
static ROUND_TRIPS: [AtomicU64; MAX_PCPUS] = [const { AtomicU64::new(0) }; MAX_PCPUS];

/// The boot pCPU comes here when the machine is set up.
#[unsafe(no_mangle)]
fn trapline_main(boot: BootInfo) -> ! {
    hypervisor::start(boot, |_guest| {});
    run_host()
}

/// Every other pCPU comes here.
#[unsafe(no_mangle)]
fn trapline_secondary(_id: u16) -> ! {
    run_host()
}

/// The host's loop.
fn run_host() -> ! {
    let (id, machine) = hypervisor::enlist();
    let mut host = ForeignPcpu::new(id, machine);
    loop {
        host.turn();
        if host.turns.is_multiple_of(TURNS_PER_ROUND_TRIP) {
            host.round_trip();
        }
        while machine.attend(&mut host.engine) {}
        if id.index() == 0 {
            // Often enough for devices whose timers nobody else keeps; what is left over has the next turn.
            machine.timers.run();
        }
        if id.index() == 0 && machine.has_ended() {
            report(machine);
        }
    }
}

/// One pCPU of this host.
struct ForeignPcpu {
    id: PcpuId,
    machine: &'static Machine,
    engine: Aarch64PerCpu<Dispatcher, ForeignHost>,
    control: HostControl,
    turns: u64,
}

impl ForeignPcpu {
    fn new(id: PcpuId, machine: &'static Machine) -> Self {
        vectors::install();
        gic::enable_private(BEAT);
        let scheduler = machine.local_scheduler(id);
        let mut host = Self {
            id,
            machine,
            engine: Aarch64PerCpu::new(
                scheduler,
                Dispatcher::new(id),
                ForeignHost,
                machine.geometry,
                machine.vmids.clone(),
            ),
            control: HostControl::set(0),
            turns: 0,
        };
        host.enable();
        host
    }

    /// Lets vCPUs run for a while, then the host.
    fn turn(&mut self) {
        self.turns += 1;
        match self.step() {
            Step::Idle | Step::Drained => {
                self.engine.dispatch_mut().release();
                power::wait_for_interrupt();
            }
            Step::HostInterrupt | Step::Expired => {}
        }
        self.work();
        let neighbour = (self.id.index() + 1) % self.machine.pcpu_count;
        gic::send(BEAT, neighbour as u16);
    }

    fn step(&mut self) -> Step {
        let end = timer::now() + timer::frequency() / TURNS_PER_SECOND;
        self.engine.step(Some(end))
    }

    /// What the host is there for. Its interrupts come meanwhile, and some of Trapline's, which is told of them afterwards.
    fn work(&mut self) {
        vectors::with_interrupts(|| floating_point::compute(self.turns));
        interrupts::hand_over(&mut self.engine);
    }

    /// Gives the hardware back as the host had it, works with it, and takes it again. The vCPUs go elsewhere meanwhile.
    fn round_trip(&mut self) {
        self.machine.scheduler.drain(self.id);
        while self.step() != Step::Drained {
            self.work();
        }
        self.engine
            .hardware_disable()
            .expect("a drained pCPU has no vCPU loaded");
        self.control.expect_restored();
        self.work();
        let round = ROUND_TRIPS[self.id.index()].fetch_add(1, Relaxed) + 1;
        self.control = HostControl::set(round);
        self.enable();
        self.machine.scheduler.undrain(self.id);
    }

    fn enable(&mut self) {
        // SAFETY:
        // 1. The platform enters `run_host` at EL2 with E2H=0 and interrupts masked, on the pCPU whose scheduler this is.
        //    They are unmasked only in `work`, which calls nothing of the engine.
        // 2. `vectors` has the four branches, and is this pCPU's table.
        // 3. The address is the platform's, which maps GICH and leaves it alone.
        let enabled = unsafe { self.engine.hardware_enable() };
        enabled.expect("it is disabled here");
    }
}

/// Says what was counted on each pCPU, and ends the run.
fn report(machine: &Machine) -> ! {
    for (index, round_trips) in ROUND_TRIPS.iter().enumerate().take(machine.pcpu_count) {
        let interrupts = interrupts::of(index);
        let counters = [
            ("round_trips", round_trips),
            ("beats", &interrupts.beats),
            ("host_vector", &interrupts.taken),
        ];
        for (name, counter) in counters {
            let name = alloc::format!("{name}_pcpu{index}");
            channel::report(format_args!(
                "{}",
                Report::Counter(&name, counter.load(Relaxed))
            ));
        }
    }
    machine.finish()
}
