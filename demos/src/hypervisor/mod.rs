//! How an embedder puts the crates together: guests on this machine, from boot to the last report.
//!
//! ```text
//!  launch (boot pCPU)                                        run_this_pcpu (every pCPU)
//!    configuration -> scheduler, pools -> guests               engine: scheduler + Dispatcher
//!    start the other pCPUs, power vCPU 0s on     ------->      run until all guests have ended
//!                                                              boot pCPU: report, power off
//! ```
//! Each hypervisor image of this package includes this module and adds its own devices in `launch`.

mod between;
mod configuration;
mod console;
mod control;
mod devices;
mod guest;
mod hotplug;
mod life;
mod memory;
mod passed;
mod prepare;
mod report;
mod watchdog;

use alloc::{boxed::Box, format, string::String, sync::Arc, vec::Vec};
use core::{
    fmt,
    sync::atomic::{AtomicU16, AtomicU64, AtomicUsize, Ordering::Relaxed},
};

use spin::Once;
use trapline_demos::{config::BootConfig, wire::ExitStatus};
use trapline_handlers::{Dispatcher, Request, TimerQueue, pl031::WallTime};
use trapline_platform::{BootInfo, dt::Gic, engine, heap, panic, pcpu, power};
use trapline_sched::{LocalScheduler, PcpuId, PolicyFailure, Scheduler, VcpuId};
use trapline_vcpu::{
    stage2::{Geometry, Stage2},
    vmid::VmidAllocator,
};

use control::Desk;
use devices::Keeper;
use guest::Identity;
use hotplug::Hotplug;
use life::Slot;
use memory::Staging;
use prepare::prepare;

pub use guest::{Guest, GuestVcpu};
#[allow(unused_imports, reason = "only some images unplug pCPUs")]
pub use hotplug::{PcpuPower, PlugError, UnplugError};

/// What all pCPUs share.
pub struct Machine {
    /// The vCPUs and the pCPUs that run them.
    pub scheduler: Arc<Scheduler<GuestVcpu>>,
    /// Which VM has which VMID.
    pub vmids: Arc<VmidAllocator>,
    /// What stage 2 looks like here.
    pub geometry: Geometry,
    /// How many pCPUs run vCPUs, from pCPU 0.
    pub pcpu_count: usize,
    /// The interrupt controller; the guests' are like it.
    gic: &'static Gic,
    /// Where the user's commands come in.
    desk: Desk,
    /// The guests' places, by their numbers.
    slots: Vec<Slot>,
    /// By vCPU number, whose it is.
    owners: Box<[AtomicU16]>,
    staging: Staging,
    /// What pCPUs walk that have let go of a guest and run no other: it maps nothing.
    nobody: Stage2<Identity>,
    customize: Customize,
    /// The timers of the guests' devices. An image with a loop of its own runs them on one pCPU.
    pub timers: Arc<TimerQueue>,
    boot_time: WallTime,
    hotplug: Hotplug,
    /// The slot that was worked on last.
    last_served: AtomicUsize,
    started_at: u64,
    /// How much of the heap was in use when the first guests were there and nothing ran yet, in bytes.
    heap_at_start: AtomicU64,
}

/// Registers an image's own devices with each guest that is built.
type Customize = Box<dyn Fn(&Guest) + Send + Sync>;

static MACHINE: Once<Machine> = Once::new();

/// Why the run does not begin: the configuration asks for what this machine cannot do.
struct Refusal(String);

impl<E: fmt::Display> From<(&str, E)> for Refusal {
    fn from((what, error): (&str, E)) -> Self {
        Self(format!("{what}: {error}"))
    }
}

/// Runs the guests that the configuration describes, and ends with the machine off. `customize` registers devices of its own
/// with each guest before its first instruction; a guest that starts again is another guest.
#[allow(dead_code, reason = "some images have something to do in between")]
pub fn launch(boot: BootInfo, customize: impl Fn(&Guest) + Send + Sync + 'static) -> ! {
    start(boot, customize);
    run_this_pcpu()
}

/// As `launch`, for an image that goes on by itself: the guests are on when this returns, and the other pCPUs run.
pub fn start(boot: BootInfo, customize: impl Fn(&Guest) + Send + Sync + 'static) {
    // The user's input was checked before: who put this into memory has made a mistake.
    let config = configuration::read(&boot)
        .unwrap_or_else(|Refusal(why)| report::end(ExitStatus::HypervisorFailed, &why));
    if let Err(Refusal(why)) = try_start(boot, config, Box::new(customize)) {
        report::end(ExitStatus::BadInput, &why);
    }
}

fn try_start(boot: BootInfo, config: BootConfig, customize: Customize) -> Result<(), Refusal> {
    let machine = prepare(config, boot.machine, customize)?;
    let machine = MACHINE.call_once(|| machine);
    let first = || machine.slots.iter().filter(|slot| slot.config.starts);
    first().try_for_each(|slot| slot.build(machine))?;
    machine.heap_at_start.store(heap::bytes_in_use(), Relaxed);
    panic::set_panic_hook(report::describe_pcpus);
    console::listen();
    boot.start_secondaries();
    first().for_each(Slot::start);
    Ok(())
}

/// Runs vCPUs on this pCPU until all guests have ended. A pCPU that the configuration does not use stays idle.
#[allow(dead_code, reason = "some images do something besides")]
pub fn run_this_pcpu() -> ! {
    run_this_pcpu_and(|_| None)
}

/// The same, and one pCPU at a time, the same as long as it is on, calls `besides` between two steps, first when it begins. It
/// returns when it wants to be called again, a value of the host's counter.
pub fn run_this_pcpu_and(mut besides: impl FnMut(&'static Machine) -> Option<u64>) -> ! {
    let (id, machine) = enlist();
    let scheduler = machine.local_scheduler(id);
    let engine = engine::engine(
        scheduler,
        Dispatcher::new(id),
        machine.geometry,
        machine.vmids.clone(),
    );
    let mut is_at_work = false;
    let mut keeper = Keeper::new(id, &machine.timers);
    engine::run(engine, |engine, now| {
        let alarm = keeper.keep(now.is_asked);
        let besides = keeper.is_at_it().then(|| besides(machine)).flatten();
        let work = machine.work(engine, now, &mut is_at_work);
        let leave = machine.leave_if_asked(engine);
        [alarm, besides, work, leave].into_iter().flatten().min()
    })
}

/// What all pCPUs share, once the boot pCPU has made it.
#[allow(dead_code, reason = "only some images look at it")]
pub fn machine() -> Option<&'static Machine> {
    MACHINE.get()
}

/// What this pCPU is and works with, as soon as the boot pCPU has made it. A pCPU that the configuration does not use stays
/// here, idle.
pub fn enlist() -> (PcpuId, &'static Machine) {
    let machine = wait_for_machine();
    let id = PcpuId::new(pcpu::this_pcpu()).expect("the platform numbers its pCPUs from 0");
    if id.index() >= machine.pcpu_count {
        loop {
            power::wait_for_interrupt();
        }
    }
    (id, machine)
}

fn wait_for_machine() -> &'static Machine {
    loop {
        if let Some(machine) = MACHINE.get() {
            return machine;
        }
        trapline_platform::relax::relax();
    }
}

impl Machine {
    /// The scheduler of pCPU `pcpu`, the caller's own, once: from now on it may be asked to leave.
    pub fn local_scheduler(&self, pcpu: PcpuId) -> LocalScheduler<GuestVcpu> {
        let scheduler = self
            .scheduler
            .local(pcpu)
            .expect("each pCPU comes here once");
        self.hotplug.arrive(pcpu);
        scheduler
    }

    /// Asks for a change in the life of guest `index`, on any pCPU and in any context. It is made soon, and the log says so.
    /// False if there is no such guest.
    pub fn request(&self, index: usize, request: Request) -> bool {
        let slot = self.slots.get(index);
        if slot.is_some_and(|slot| slot.agenda.ask(request)) {
            self.call();
        }
        slot.is_some()
    }

    /// How many guests there are, those that are off included.
    #[allow(dead_code, reason = "only some images ask")]
    pub fn guest_count(&self) -> usize {
        self.slots.len()
    }

    /// The same for guest `index`, which exists, and whoever gave command `number` is told what came of it. Between steps.
    fn ask(&self, index: usize, request: Request, number: u32) {
        if self.slots[index].ask(request, number) {
            self.call();
        }
    }

    /// Takes a byte of a command of the user's.
    fn take_command(&self, byte: u8, is_last: bool) {
        if self.desk.take(byte, is_last) {
            self.call();
        }
    }

    /// What guest `index` does now, in a word; `None` if there is no such guest. Waits for whoever works at the guest.
    #[allow(dead_code, reason = "only some images ask")]
    pub fn state(&self, index: usize) -> Option<&'static str> {
        self.slots.get(index).map(Slot::word)
    }

    /// Presses the power key of guest `index`, on any pCPU and in any context; false if there is no such guest, or it is off.
    pub fn press_power_key(&self, index: usize) -> bool {
        let slot = self.slots.get(index);
        slot.is_some_and(|slot| slot.lasting.press_power_key())
    }

    /// All guests have ended, and their vCPUs are parked.
    pub fn has_ended(&self) -> bool {
        self.slots.iter().all(Slot::is_over)
    }

    /// Reports on the guests, which have ended, and ends the run.
    pub fn finish(&self) -> ! {
        report::finish(self)
    }

    /// vCPU `vcpu` is guest `index`'s from now on.
    fn own(&self, vcpu: VcpuId, index: usize) {
        self.owners[vcpu.index()].store(index as u16, Relaxed);
    }
}

/// Something about guest `index` has changed. On any pCPU, perhaps in the middle of an exit.
fn notice(index: usize) {
    if let Some(machine) = MACHINE.get()
        && machine.slots[index].agenda.notice()
    {
        machine.call();
    }
}

/// A vCPU that was stopped or paused is parked.
fn on_parked(vcpu: VcpuId) {
    if let Some(machine) = MACHINE.get() {
        notice(machine.owners[vcpu.index()].load(Relaxed).into());
    }
}

/// A pool's policy has broken its promise; the log says so as soon as a pCPU has the time.
fn on_policy_failed(failure: PolicyFailure) {
    watchdog::note(failure);
    if let Some(machine) = MACHINE.get() {
        machine.call();
    }
}
