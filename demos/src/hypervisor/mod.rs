//! How an embedder puts the crates together: guests on this machine, from boot to the last report.
//!
//! ```text
//!  launch (boot pCPU)                                        run_this_pcpu (every pCPU)
//!    configuration -> pool and policy -> guests                engine: scheduler + Dispatcher
//!    start the other pCPUs, power vCPU 0s on     ------->      run until all guests have ended
//!                                                              boot pCPU: report, power off
//! ```
//! Each hypervisor image of this package includes this module and adds its own devices in `launch`.

mod configuration;
mod console;
mod guest;
mod report;

use alloc::{format, string::String, sync::Arc, vec::Vec};
use core::fmt;

use spin::Once;
use trapline_demos::wire::ExitStatus;
use trapline_handlers::Dispatcher;
use trapline_platform::{
    BootInfo,
    engine::{self, PoolHost},
    panic, pcpu, power, timer,
};
use trapline_sched::{PcpuId, PcpuSet, PolicyOptions, Pool, PoolConfig, VcpuId, policy_by_name};
use trapline_vcpu::{
    arch::aarch64::read_id_register, exit::SystemRegister, stage2::Geometry, vmid::VmidAllocator,
};

use console::Console;
use guest::Workshop;
pub use guest::{Guest, GuestVcpu};

/// What all pCPUs share.
pub struct Machine {
    /// The vCPUs and the pCPUs that run them.
    pub pool: Arc<Pool<GuestVcpu>>,
    /// The guests, by their numbers.
    pub guests: Vec<Guest>,
    /// Which VM has which VMID.
    pub vmids: Arc<VmidAllocator>,
    /// What stage 2 looks like here.
    pub geometry: Geometry,
    /// How many pCPUs run vCPUs, from pCPU 0.
    pub pcpu_count: usize,
    /// The guests' ends of the line, by the same numbers.
    consoles: Vec<Arc<Console>>,
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

/// Runs the guests that the configuration describes, and ends with the machine off. `customize` registers devices of its own
/// with each guest before its first instruction.
pub fn launch(boot: BootInfo, customize: impl Fn(&Guest)) -> ! {
    start(boot, customize);
    run_this_pcpu()
}

/// As `launch`, for an image with a loop of its own: the guests are on when this returns, and the other pCPUs run.
pub fn start(boot: BootInfo, customize: impl Fn(&Guest)) {
    match prepare(&boot) {
        Ok(machine) => {
            machine.guests.iter().for_each(customize);
            let machine = MACHINE.call_once(|| machine);
            panic::set_panic_hook(report::describe_pcpus);
            console::listen();
            boot.start_secondaries();
            machine.guests.iter().for_each(Guest::start);
        }
        Err(Refusal(why)) => report::end(ExitStatus::BadInput, &why),
    }
}

/// Runs vCPUs on this pCPU until all guests have ended. A pCPU that the configuration does not use stays idle.
pub fn run_this_pcpu() -> ! {
    let (id, machine) = enlist();
    let scheduler = machine.pool.local(id).expect("each pCPU comes here once");
    let engine = engine::engine(
        scheduler,
        Dispatcher::new(id),
        machine.geometry,
        machine.vmids.clone(),
    );
    engine::run(engine, |engine, now| {
        if now.is_idle {
            engine.dispatch_mut().release();
        }
        if now.is_asked && machine.has_ended() {
            machine.finish();
        }
        None
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
    /// All guests have ended, and all vCPUs are parked.
    pub fn has_ended(&self) -> bool {
        self.guests.iter().all(Guest::has_stopped)
    }

    /// Reports on the guests, which have ended, and ends the run.
    pub fn finish(&self) -> ! {
        report::finish(self)
    }
}

/// Each vCPU that stopped makes the boot pCPU look whether it was the last one.
fn on_stopped(_vcpu: VcpuId) {
    engine::call_attention(0);
}

fn prepare(boot: &BootInfo) -> Result<Machine, Refusal> {
    let config = configuration::read(boot)?;
    let mmfr0 = read_id_register(SystemRegister::new(3, 0, 0, 7, 0));
    let mmfr1 = read_id_register(SystemRegister::new(3, 0, 0, 7, 1));
    let geometry = Geometry::from_id_registers(mmfr0, mmfr1)
        .ok_or_else(|| Refusal("the machine's stage 2 translation has no 4 KiB granule".into()))?;
    let slice_ticks = u64::from(config.slice_us) * timer::frequency() / 1_000_000;
    let policy = policy_by_name(&config.policy, PolicyOptions { slice_ticks })
        .map_err(|error| ("policy", error))?;
    let pool = Pool::new(PoolConfig {
        pcpus: PcpuSet::all(config.pcpu_count),
        max_vcpus: config.guests.iter().map(|guest| guest.vcpu_count).sum(),
        policy,
        host: Arc::new(PoolHost { on_stopped }),
    })
    .map_err(|error| ("pool", error))?;
    let pcpu_count = usize::from(config.pcpu_count);
    let consoles: Vec<_> = (0..config.guests.len() as u8).map(Console::new).collect();
    let workshop = Workshop {
        pool: &pool,
        geometry,
        pcpu_count,
    };
    let mut guests = Vec::with_capacity(config.guests.len());
    for (index, guest) in config.guests.iter().enumerate() {
        guests.push(Guest::new(boot, index, guest, &consoles[index], &workshop)?);
    }
    Ok(Machine {
        vmids: Arc::new(VmidAllocator::new(geometry.vmid_bits(), pcpu_count)),
        pool,
        guests,
        geometry,
        pcpu_count,
        consoles,
        started_at: timer::now(),
    })
}
