//! How a guest's machine is made: RAM, vCPUs, interrupt controller, handlers, console.

use alloc::{format, sync::Arc, vec::Vec};

use trapline_demos::config::{GuestConfig, StagedImage, guest_machine, whole_pages};
use trapline_handlers::{
    IdRegisters, Registry, SHARED_PAGE_SIZE, StolenTime, TimerQueue, VcpuStates, Vcpus, Vm, VmEnd,
    VmObserver, VmParts, VmVcpu,
    manager::{Settings, VcpuSettings},
    overcommit::OvercommitCalls,
    pl011::Pl011,
    standard,
    vgic::{CPU_INTERFACE_MAPPED_SIZE, InterruptLine, Version, Vgic, VgicConfig},
};
use trapline_platform::{
    dt::{Gic, GicV2},
    timer,
};
use trapline_sched::{PcpuSet, PoolId, VcpuHandle};
use trapline_vcpu::{
    Aarch64VCpu,
    arch::aarch64::{GuestTlb, read_id_register},
    stage2::{Attributes, PhysicalAddress, Stage2, TlbMaintenance},
    vcpu::{AddressSpace, VcpuShared},
    vmid::VmVmid,
};

use super::{
    Machine, Refusal,
    console::Console,
    memory::GuestRam,
    passed::{self, Passed, SharedInterrupts},
};

/// A vCPU of a guest.
pub type GuestVcpu = Aarch64VCpu<VmVcpu>;

/// How many shared interrupts the guest's interrupt controller has.
const SPI_COUNT: u32 = 256;
/// Data that only the hypervisor writes.
const READ_ONLY: Attributes = Attributes {
    is_executable: false,
    ..Attributes::ROM
};

/// A guest, from its first vCPU to its last.
pub struct Guest {
    /// Its number on the wire: its place in the configuration.
    #[allow(dead_code, reason = "only some images tell guests apart")]
    pub index: usize,
    /// The VM: registry, memory, interrupt controller, vCPUs by index.
    pub vm: Arc<Vm>,
    /// Its vCPUs by index, as the scheduler knows them.
    pub handles: Vec<Arc<VcpuHandle<GuestVcpu>>>,
    /// For its devices.
    pub timers: Arc<TimerQueue>,
    space: Arc<AddressSpace>,
    /// Walked by the hardware while the guest lives.
    stage2: Stage2<Identity>,
    ram: Arc<GuestRam>,
    /// The devices of the machine that it drives itself.
    passed: Vec<Passed>,
    entry: u64,
    device_tree: u64,
}

/// The vCPUs of a guest that has ended, which no pCPU gets again.
pub(super) struct RetiredVcpus(Vec<GuestVcpu>);

/// EL2 maps its memory to itself.
pub(super) struct Identity;

impl PhysicalAddress for Identity {
    fn physical_address(&self, address: usize) -> u64 {
        address as u64
    }
}

impl Guest {
    /// Guest `index`, that of `config`, with its images in `ram` and all its vCPUs off, which get what `settings` say.
    pub(super) fn new(
        machine: &Machine,
        (index, config): (usize, &GuestConfig),
        settings: &Settings,
        console: &Arc<Console>,
        ram: Arc<GuestRam>,
    ) -> Result<Self, Refusal> {
        let (geometry, pcpu_count) = (machine.geometry, machine.pcpu_count);
        let tlb = GuestTlb {
            vmid: &VmVmid::default(),
        };
        let mut stage2 = Stage2::new(geometry, Identity);
        stage2
            .map(
                config.ram_base,
                config.ram.address,
                config.ram.length,
                Attributes::RAM,
                &tlb,
            )
            .map_err(|error| Refusal(format!("guest RAM: {error:?}")))?;
        for rom in &config.roms {
            map_rom(&mut stage2, rom)?;
        }
        for page in passed::pages(&config.devices) {
            stage2
                .map(
                    page.start,
                    page.start,
                    page.end - page.start,
                    Attributes::DEVICE,
                    &tlb,
                )
                .map_err(|error| Refusal(format!("a device's registers: {error:?}")))?;
        }

        let vcpu_count = usize::from(config.vcpu_count);
        let stolen_time = StolenTime::new(
            guest_machine::STOLEN_TIME_BASE,
            vcpu_count,
            timer::frequency(),
        );
        let states = VcpuStates::new(guest_machine::VCPU_STATES_BASE, vcpu_count);
        for (guest_address, address) in stolen_time.pages().chain(states.pages()) {
            let size = SHARED_PAGE_SIZE as u64;
            stage2
                .map(guest_address, address as u64, size, READ_ONLY, &tlb)
                .map_err(|error| Refusal(format!("stolen time and vCPU states: {error:?}")))?;
        }
        let vcpus = Vcpus::with_states(vcpu_count, Some(states));
        let affinities: Vec<u64> = (0..vcpu_count).map(guest_machine::mpidr_affinity).collect();
        if let Gic::V2(gic) = machine.gic {
            map_cpu_interface(&mut stage2, gic)?;
        }
        let vgic = interrupt_controller(machine.gic, &affinities, &vcpus, &ram)?;
        // A guest without devices of the machine does not look for them at every switch.
        let vgic = Arc::new(if config.devices.is_empty() {
            vgic
        } else {
            vgic.with_physical_interrupts(Arc::new(SharedInterrupts))
        });
        let passed = config.devices.iter();
        let passed = passed.map(|&device| Passed::give(device, &vgic));
        let passed = passed.collect::<Result<Vec<_>, Refusal>>()?;
        let line = InterruptLine::claim(&vgic, guest_machine::UART_INTID)
            .map_err(|error| Refusal(format!("console: {error:?}")))?;
        let uart = Arc::new(Pl011::new(
            guest_machine::UART.start,
            console.clone(),
            Arc::new(line),
        ));

        let vm = Vm::new(VmParts {
            name: config.name.clone(),
            vcpus: vcpus.clone(),
            vgic,
            memory: ram.clone(),
            registry: Registry::new(pcpu_count),
            stolen_time: Some(stolen_time),
            observer: Arc::new(Observer(index)),
        });
        let id_registers =
            IdRegisters::from_hardware(read_id_register, geometry.guest_size().ilog2() as u8);
        standard::register(&vm, id_registers).map_err(|error| ("standard handlers", error))?;
        vm.registry()
            .register(&OvercommitCalls::CLAIMS, Arc::new(OvercommitCalls))
            .map_err(|error| ("overcommit", error))?;
        vm.registry()
            .register(&uart.claims(), uart.clone())
            .map_err(|error| ("console", error))?;
        let space = Arc::new(AddressSpace::new(&stage2, timer::now(), index as u16));
        let handles = create_vcpus(machine, index, settings, (&vm, &vcpus), &space)?;
        console.connect(uart);
        Ok(Self {
            index,
            vm,
            handles,
            timers: machine.timers.clone(),
            space,
            stage2,
            ram,
            passed,
            entry: config.entry,
            device_tree: config.device_tree,
        })
    }

    /// Turns the first vCPU on.
    pub(super) fn start(&self) {
        let result = self.vm.power_on(0, self.entry, self.device_tree);
        assert_eq!(result, Some(Ok(())), "the boot vCPU of a new VM is off");
    }

    /// The vCPUs run again after a pause of `ticks`, which the guest's virtual time leaves out.
    pub(super) fn resume_after(&self, ticks: u64) {
        self.space.take_out_of_virtual_time(ticks);
        self.vm.resume();
    }

    /// Takes the vCPUs, which are parked, and off or stopped, out of the scheduler.
    pub(super) fn retire(&self) -> RetiredVcpus {
        retire(&self.handles)
    }

    /// Stops the devices that the guest drove itself; false if one of them may still reach its RAM. Its vCPUs are retired.
    pub(super) fn stop_devices(&self) -> bool {
        let mut passed = self.passed.iter();
        passed.all(Passed::make_silent)
    }

    /// Frees all that the guest was made of but its RAM, which is left as the guest left it. Every pCPU has let go of it, and
    /// its devices are stopped.
    pub(super) fn dismantle(self, vcpus: RetiredVcpus) -> Arc<GuestRam> {
        let RetiredVcpus(vcpus) = vcpus;
        drop(vcpus);
        let tlb = GuestTlb {
            vmid: &self.space.vmid,
        };
        // No TLB of any pCPU leads into the tables or the RAM any more when this returns.
        tlb.invalidate(0..self.stage2.geometry().guest_size());
        drop(self.passed);
        self.ram
    }
}

/// What the vCPUs of guest `index`, that of `config`, get on a machine with `pcpus` as long as nobody says otherwise.
pub(super) fn settings(
    index: usize,
    config: &GuestConfig,
    pcpus: PcpuSet,
) -> Result<Settings, Refusal> {
    let entitlement = config
        .entitlement
        .entitlement(index as u16, timer::ticks_of_us)
        .ok_or(("entitlement", "a value is out of range"))?;
    let pool = PoolId::new(config.pool.into()).ok_or(("pool", "there can be no such pool"))?;
    let soft_affinity = PcpuSet::from_bits(config.soft_affinity).intersection(pcpus);
    let vcpu = |vcpu: usize| VcpuSettings {
        entitlement,
        affinity: match config.affinity.get(vcpu) {
            Some(&bits) => PcpuSet::from_bits(bits).intersection(pcpus),
            None => pcpus,
        },
        soft_affinity,
    };
    let vcpus = (0..usize::from(config.vcpu_count)).map(vcpu);
    Ok(Settings::new(pool, vcpus))
}

/// The vCPUs of guest `index`, all off. If one cannot be made, those before it are taken back: a vCPU and its VM keep each other
/// alive.
fn create_vcpus(
    machine: &Machine,
    index: usize,
    settings: &Settings,
    (vm, vcpus): (&Arc<Vm>, &Vcpus),
    space: &Arc<AddressSpace>,
) -> Result<Vec<Arc<VcpuHandle<GuestVcpu>>>, Refusal> {
    let mut handles = Vec::with_capacity(vcpus.count());
    for (vcpu, own) in settings.vcpus().iter().enumerate() {
        let extension = VmVcpu::new(vm.clone(), vcpu).expect("the VM has as many vCPUs");
        let (affinity, space) = (guest_machine::mpidr_affinity(vcpu), space.clone());
        let make = move |handle| Aarch64VCpu::new(handle, affinity, space, extension);
        let shared = VcpuShared::default();
        let (pool, entitlement) = (settings.pool(), &own.entitlement);
        let created =
            machine
                .scheduler
                .restore_vcpu_in(pool, own.affinity, entitlement, make, shared);
        match created {
            Ok(handle) => {
                handle
                    .set_soft_affinity(own.soft_affinity)
                    .expect("the machine has all that it names");
                machine.own(handle.id(), index);
                vcpus.attach(vcpu, handle.clone());
                handles.push(handle);
            }
            Err(error) => {
                retire(&handles);
                return Err(("vCPU", error).into());
            }
        }
    }
    Ok(handles)
}

fn retire(handles: &[Arc<VcpuHandle<GuestVcpu>>]) -> RetiredVcpus {
    let retire = |handle: &Arc<VcpuHandle<GuestVcpu>>| {
        let vcpu = handle.retire();
        *vcpu.expect(
            "a vCPU that never ran, or whose guest has ended, is parked, and off or stopped",
        )
    };
    RetiredVcpus(handles.iter().map(retire).collect())
}

/// Shows the guest `rom` where it is staged: nobody writes it, so it is the same after a restart.
fn map_rom(stage2: &mut Stage2<Identity>, rom: &StagedImage) -> Result<(), Refusal> {
    let pages = whole_pages(rom.source.address, rom.source.length);
    let tlb = GuestTlb {
        vmid: &VmVmid::default(),
    };
    let length = pages.end - pages.start;
    stage2
        .map(rom.destination, pages.start, length, Attributes::ROM, &tlb)
        .map_err(|error| Refusal(format!("the ROM at {:#x}: {error:?}", rom.destination)))
}

/// Shows the guest the hardware's virtual CPU interface, that of whichever pCPU it runs on.
fn map_cpu_interface(stage2: &mut Stage2<Identity>, gic: &GicV2) -> Result<(), Refusal> {
    let tlb = GuestTlb {
        vmid: &VmVmid::default(),
    };
    stage2
        .map(
            guest_machine::GICC.start,
            gic.virtual_interface.start,
            CPU_INTERFACE_MAPPED_SIZE,
            Attributes::DEVICE,
            &tlb,
        )
        .map_err(|error| Refusal(format!("GIC CPU interface: {error:?}")))
}

/// The interrupt controller of a new guest, like the machine's.
fn interrupt_controller(
    gic: &Gic,
    affinities: &[u64],
    vcpus: &Arc<Vcpus>,
    ram: &Arc<GuestRam>,
) -> Result<Vgic, Refusal> {
    let version = match gic {
        Gic::V2(_) => Version::V2 {
            cpu_interface_base: guest_machine::GICC.start,
        },
        Gic::V3(_) => Version::V3 {
            redistributor_base: guest_machine::GICR_BASE,
        },
    };
    let config = VgicConfig {
        version,
        affinities: affinities.to_vec(),
        spi_count: SPI_COUNT,
        distributor_base: guest_machine::GICD.start,
    };
    let vgic = Vgic::new(config, vcpus.clone());
    let vgic = vgic.and_then(|vgic| match gic {
        Gic::V2(_) => Ok(vgic),
        Gic::V3(_) => vgic.with_its(guest_machine::GITS.start, ram.clone()),
    });
    vgic.map_err(|error| Refusal(format!("interrupt controller: {error:?}")))
}

/// Tells that a VM has ended.
struct Observer(usize);

impl VmObserver for Observer {
    fn ended(&self, _vm: &Vm, _end: &VmEnd) {
        super::notice(self.0);
    }
}
