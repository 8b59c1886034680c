//! What all pCPUs share, made from what the configuration asks for and what this machine is.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU16, AtomicU64, AtomicUsize};

use trapline_demos::config::{BootConfig, PoolPlan};
use trapline_handlers::pl031::WallTime;
use trapline_platform::{dt::Machine as Hardware, engine::SchedulerHost, timer};
use trapline_sched::{PcpuSet, Scheduler, SchedulerConfig};
use trapline_vcpu::{
    arch::aarch64::read_id_register,
    exit::SystemRegister,
    stage2::{Geometry, Stage2},
    vmid::VmidAllocator,
};

use super::{
    Customize, Machine, Refusal,
    control::Desk,
    devices,
    guest::{self, Identity},
    hotplug::Hotplug,
    life::Slot,
    memory::Staging,
    on_parked, on_policy_failed,
};

pub(super) fn prepare(
    config: BootConfig,
    hardware: &'static Hardware<'static>,
    customize: Customize,
) -> Result<Machine, Refusal> {
    let mmfr0 = read_id_register(SystemRegister::new(3, 0, 0, 7, 0));
    let mmfr1 = read_id_register(SystemRegister::new(3, 0, 0, 7, 1));
    let geometry = Geometry::from_id_registers(mmfr0, mmfr1)
        .ok_or_else(|| Refusal("the machine's stage 2 translation has no 4 KiB granule".into()))?;
    let max_vcpus = config.guests.iter().map(|guest| guest.vcpu_count).sum();
    let pcpus = PcpuSet::all(config.pcpu_count);
    let policy_of = |plan: &PoolPlan| {
        let pcpus = PcpuSet::from_bits(plan.pcpus);
        let policy = plan.policy.policy(max_vcpus, pcpus, timer::ticks_of_us);
        policy.map_err(|error| ("policy", error))
    };
    let (first, others) = config
        .pools
        .split_first()
        .ok_or(("pools", "there is none"))?;
    let scheduler = Scheduler::new(SchedulerConfig {
        name: first.name.clone(),
        pcpus,
        max_vcpus,
        policy: policy_of(first)?,
        fallback_slice: timer::ticks_of_us(first.policy.slice_us),
        host: Arc::new(SchedulerHost {
            on_parked,
            mpidrs: hardware.mpidrs(),
            on_policy_failed,
        }),
    })
    .map_err(|error| ("pool", error))?;
    for plan in others {
        let pcpus = PcpuSet::from_bits(plan.pcpus);
        scheduler
            .create_pool(&plan.name, pcpus, policy_of(plan)?)
            .map_err(|error| ("pool", error))?;
    }
    let desk = Desk::new(first.policy.clone());
    let pcpu_count = usize::from(config.pcpu_count);
    let staging = Staging::map(&config)?;
    let guests = config.guests.into_iter().enumerate();
    let slots = guests.map(|(index, guest)| {
        let settings = guest::settings(index, &guest, pcpus)?;
        Ok(Slot::new(index, guest, settings))
    });
    Ok(Machine {
        scheduler,
        vmids: Arc::new(VmidAllocator::new(geometry.vmid_bits(), pcpu_count)),
        geometry,
        pcpu_count,
        gic: &hardware.gic,
        desk,
        slots: slots.collect::<Result<_, Refusal>>()?,
        owners: (0..max_vcpus).map(|_| AtomicU16::new(0)).collect(),
        staging,
        nobody: Stage2::new(geometry, Identity),
        customize,
        timers: devices::timers(),
        boot_time: WallTime {
            unix_seconds: config.boot_time,
            ticks: timer::now(),
        },
        hotplug: Hotplug::new(pcpu_count),
        last_served: AtomicUsize::new(0),
        started_at: timer::now(),
        heap_at_start: AtomicU64::new(0),
    })
}
