//! How an embedder puts the crates together: one guest on this machine, from boot to the last report.
//!
//! ```text
//!  launch (boot pCPU)                                        run_this_pcpu (every pCPU)
//!    configuration -> pool and policy -> guest                 engine: scheduler + Dispatcher
//!    start the other pCPUs, power vCPU 0 on      ------->      run until the guest has ended
//!                                                              boot pCPU: report, power off
//! ```
//! Each hypervisor image of this package includes this module and adds its own devices in `launch`.

mod console;
mod guest;
mod report;

use alloc::{format, string::String, sync::Arc};
use core::fmt;

use spin::Once;
use trapline_demos::{
    config::{self, BootConfig},
    wire::ExitStatus,
};
use trapline_handlers::{Dispatcher, vm::VmEnd};
use trapline_platform::{
    BootInfo,
    engine::{self, PoolHost},
    mmu::Access,
    panic, pcpu, power,
    ram::Ram,
    timer,
};
use trapline_sched::{PcpuId, PcpuSet, PolicyOptions, Pool, PoolConfig, VcpuId, policy_by_name};
use trapline_vcpu::{
    arch::aarch64::read_id_register, exit::SystemRegister, stage2::Geometry, vmid::VmidAllocator,
};

pub use guest::{Guest, GuestVcpu};

/// What all pCPUs share.
pub struct Machine {
    /// The vCPUs and the pCPUs that run them.
    pub pool: Arc<Pool<GuestVcpu>>,
    /// The guest.
    pub guest: Guest,
    /// Which VM has which VMID.
    pub vmids: Arc<VmidAllocator>,
    /// What stage 2 looks like here.
    pub geometry: Geometry,
    /// How many pCPUs run vCPUs, from pCPU 0.
    pub pcpu_count: usize,
    started_at: u64,
}

static MACHINE: Once<Machine> = Once::new();

/// Why the run does not begin: the configuration asks for what this machine cannot do.
struct Refusal(String);

impl<E: fmt::Display> From<(&str, E)> for Refusal {
    fn from((what, error): (&str, E)) -> Self {
        Self(format!("{what}: {error}"))
    }
}

/// Runs the guest that the configuration describes, and ends with the machine off. `customize` registers devices of its own
/// before the guest's first instruction.
pub fn launch(boot: BootInfo, customize: impl FnOnce(&Guest)) -> ! {
    start(boot, customize);
    run_this_pcpu()
}

/// As `launch`, for an image with a loop of its own: the guest is on when this returns, and the other pCPUs run.
pub fn start(boot: BootInfo, customize: impl FnOnce(&Guest)) {
    match prepare(&boot) {
        Ok(machine) => {
            customize(&machine.guest);
            let machine = MACHINE.call_once(|| machine);
            panic::set_panic_hook(report::describe_pcpus);
            console::listen();
            boot.start_secondaries();
            machine.guest.start();
        }
        Err(Refusal(why)) => report::end(ExitStatus::BadInput, &why),
    }
}

/// Runs vCPUs on this pCPU until the guest has ended. A pCPU that the configuration does not use stays idle.
pub fn run_this_pcpu() -> ! {
    let (id, machine) = enlist();
    let scheduler = machine.pool.local(id).expect("each pCPU comes here once");
    let engine = engine::engine(
        scheduler,
        Dispatcher::new(id),
        machine.geometry,
        machine.vmids.clone(),
    );
    engine::run(engine, |dispatcher| {
        dispatcher.release();
        if id.index() == 0 && machine.guest.has_stopped() {
            machine.finish();
        }
    })
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
    /// Reports on the guest, which has stopped, and ends the run.
    pub fn finish(&self) -> ! {
        report::finish(self)
    }
}

/// Each vCPU that stopped wakes the boot pCPU, which counts them.
fn on_stopped(_vcpu: VcpuId) {
    if pcpu::this_pcpu() != 0 {
        trapline_platform::gic::kick(0);
    }
}

fn prepare(boot: &BootInfo) -> Result<Machine, Refusal> {
    let config = read_config(boot)?;
    let pcpu_count = usize::from(config.pcpu_count);
    if pcpu_count == 0 || pcpu_count > boot.pcpu_count() {
        return Err(Refusal(format!(
            "{pcpu_count} pCPUs are configured, the machine has {}",
            boot.pcpu_count()
        )));
    }
    let mmfr0 = read_id_register(SystemRegister::new(3, 0, 0, 7, 0));
    let mmfr1 = read_id_register(SystemRegister::new(3, 0, 0, 7, 1));
    let geometry = Geometry::from_id_registers(mmfr0, mmfr1)
        .ok_or_else(|| Refusal("the machine's stage 2 translation has no 4 KiB granule".into()))?;

    let [guest] = config.guests.as_slice() else {
        return Err(Refusal(format!(
            "{} guests are configured, this image runs one",
            config.guests.len()
        )));
    };
    let slice_ticks = u64::from(config.slice_us) * timer::frequency() / 1_000_000;
    let policy = policy_by_name(&config.policy, PolicyOptions { slice_ticks })
        .map_err(|error| ("policy", error))?;
    let pool = Pool::new(PoolConfig {
        pcpus: PcpuSet::all(config.pcpu_count),
        max_vcpus: guest.vcpu_count,
        policy,
        host: Arc::new(PoolHost { on_stopped }),
    })
    .map_err(|error| ("pool", error))?;
    let vmids = Arc::new(VmidAllocator::new(geometry.vmid_bits(), pcpu_count));
    let guest = Guest::new(boot, guest, &pool, geometry, pcpu_count)?;
    Ok(Machine {
        pool,
        guest,
        vmids,
        geometry,
        pcpu_count,
        started_at: timer::now(),
    })
}

/// Reads the blob that the bootargs name.
fn read_config(boot: &BootInfo) -> Result<BootConfig, Refusal> {
    let place = config::locate(boot.machine.bootargs).ok_or_else(|| {
        Refusal(format!(
            "the bootargs lack {}=ADDRESS,LENGTH",
            config::BOOTARGS_KEY
        ))
    })?;
    let pages = guest::whole_pages(place.address, place.length);
    if !boot.is_free(&pages) {
        return Err(Refusal(format!(
            "the configuration at {:#x} is not in free RAM",
            place.address
        )));
    }
    let ram = Ram::map(pages.clone(), Access::ReadOnly)
        .map_err(|error| Refusal(format!("configuration: {error:?}")))?;
    let mut blob = alloc::vec![0; place.length as usize];
    ram.read(place.address - pages.start, &mut blob)
        .map_err(|error| Refusal(format!("configuration: {error:?}")))?;
    BootConfig::decode(&blob).map_err(|error| Refusal(format!("configuration: {error:?}")))
}

/// The status and the words for how the guest ended.
fn outcome(end: &VmEnd) -> (ExitStatus, String) {
    match end {
        VmEnd::PowerOff => (ExitStatus::PoweredOff, "the guest powered off".into()),
        VmEnd::Reset => (
            ExitStatus::PoweredOff,
            "the guest asked for a reset, which ends the run".into(),
        ),
        VmEnd::Crash(why) => (ExitStatus::GuestFailed, format!("the guest crashed: {why}")),
        VmEnd::Stopped(why) => (
            ExitStatus::GuestFailed,
            format!("the guest was stopped: {why}"),
        ),
    }
}
