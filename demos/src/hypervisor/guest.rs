//! How a guest's machine is made: RAM, vCPUs, interrupt controller, handlers, console.

use alloc::{format, sync::Arc, vec::Vec};
use core::ops::Range;

use trapline_demos::config::{GuestConfig, guest_machine};
use trapline_handlers::{
    IdRegisters, Registry, Vcpus, Vm, VmEnd, VmObserver, VmParts, VmVcpu,
    memory::{GuestMemory, NotRam},
    pl011::Pl011,
    standard,
    vgic::{InterruptLine, Vgic, VgicConfig},
};
use trapline_platform::{BootInfo, mmu::Access, ram::Ram, timer};
use trapline_sched::{PcpuSet, Pool, VcpuHandle};
use trapline_vcpu::{
    Aarch64VCpu,
    arch::aarch64::{GuestTlb, read_id_register},
    stage2::{Attributes, Geometry, PhysicalAddress, Stage2},
    vcpu::{AddressSpace, VcpuShared},
    vmid::VmVmid,
};

use super::{Refusal, console::Console};

/// A vCPU of a guest.
pub type GuestVcpu = Aarch64VCpu<VmVcpu>;

/// How many shared interrupts the guest's interrupt controller has.
const SPI_COUNT: u32 = 256;
/// Stage 2 maps whole pages.
const PAGE: u64 = 0x1000;

/// A guest, and what its end is measured by.
pub struct Guest {
    /// Its number on the wire: its place in the configuration.
    pub index: usize,
    /// The VM: registry, memory, interrupt controller, vCPUs by index.
    pub vm: Arc<Vm>,
    /// Its vCPUs by index, as the scheduler knows them.
    pub handles: Vec<Arc<VcpuHandle<GuestVcpu>>>,
    /// Walked by the hardware while the guest lives.
    _stage2: Stage2<Identity>,
    entry: u64,
    device_tree: u64,
}

/// What all guests' machines are made with.
pub(super) struct Workshop<'a> {
    pub(super) pool: &'a Arc<Pool<GuestVcpu>>,
    pub(super) geometry: Geometry,
    pub(super) pcpu_count: usize,
}

/// EL2 maps its memory to itself.
struct Identity;

impl PhysicalAddress for Identity {
    fn physical_address(&self, address: usize) -> u64 {
        address as u64
    }
}

impl Guest {
    /// Guest `index`, that of `config`, loaded, with all its vCPUs off.
    pub(super) fn new(
        boot: &BootInfo,
        index: usize,
        config: &GuestConfig,
        console: &Arc<Console>,
        workshop: &Workshop<'_>,
    ) -> Result<Self, Refusal> {
        let &Workshop {
            pool,
            geometry,
            pcpu_count,
        } = workshop;
        let ram = load(boot, config)?;
        let mut stage2 = Stage2::new(geometry, Identity);
        stage2
            .map(
                guest_machine::RAM_BASE,
                config.ram.address,
                config.ram.length,
                Attributes::RAM,
                &GuestTlb {
                    vmid: &VmVmid::default(),
                },
            )
            .map_err(|error| Refusal(format!("guest RAM: {error:?}")))?;

        let vcpu_count = usize::from(config.vcpu_count);
        let vcpus = Vcpus::new(vcpu_count);
        let affinities: Vec<u64> = (0..vcpu_count).map(guest_machine::mpidr_affinity).collect();
        let vgic = Vgic::new(
            VgicConfig {
                affinities: affinities.clone(),
                spi_count: SPI_COUNT,
                distributor_base: guest_machine::GICD.start,
                redistributor_base: guest_machine::GICR_BASE,
            },
            vcpus.clone(),
        )
        .map_err(|error| Refusal(format!("interrupt controller: {error:?}")))?;
        let vgic = Arc::new(vgic);
        let line = InterruptLine::claim(&vgic, guest_machine::UART_INTID)
            .map_err(|error| Refusal(format!("console: {error:?}")))?;
        let uart = Arc::new(Pl011::new(
            guest_machine::UART.start,
            console.clone(),
            Arc::new(line),
        ));
        console.connect(uart.clone());

        let vm = Vm::new(VmParts {
            name: config.name.clone(),
            vcpus: vcpus.clone(),
            vgic,
            memory: Arc::new(ram),
            registry: Registry::new(pcpu_count),
            observer: Arc::new(NoObserver),
        });
        let id_registers =
            IdRegisters::from_hardware(read_id_register, geometry.guest_size().ilog2() as u8);
        standard::register(&vm, id_registers).map_err(|error| ("standard handlers", error))?;
        vm.registry()
            .register(&uart.claims(), uart.clone())
            .map_err(|error| ("console", error))?;
        let space = Arc::new(AddressSpace::new(&stage2, timer::now(), index as u16));
        let mut handles = Vec::with_capacity(vcpu_count);
        for (vcpu, &affinity) in affinities.iter().enumerate() {
            let pcpus = PcpuSet::from_bits(config.affinity.get(vcpu).copied().unwrap_or(u64::MAX))
                .intersection(PcpuSet::all(pcpu_count as u16));
            let extension = VmVcpu::new(vm.clone(), vcpu).expect("the VM has as many vCPUs");
            let space = space.clone();
            let make = move |handle| Aarch64VCpu::new(handle, affinity, space, extension);
            let handle = pool
                .create_vcpu(pcpus, make, VcpuShared::default())
                .map_err(|error| ("vCPU", error))?;
            vcpus.attach(vcpu, handle.clone());
            handles.push(handle);
        }
        Ok(Self {
            index,
            vm,
            handles,
            _stage2: stage2,
            entry: config.entry,
            device_tree: config.device_tree,
        })
    }

    /// Turns the first vCPU on.
    pub(super) fn start(&self) {
        let result = self.vm.power_on(0, self.entry, self.device_tree);
        assert_eq!(result, Some(Ok(())), "the boot vCPU of a new VM is off");
    }

    /// The guest has ended and all its vCPUs are parked.
    pub fn has_stopped(&self) -> bool {
        self.vm.end().is_some() && self.handles.iter().all(|handle| handle.is_parked())
    }
}

/// The whole pages that hold `length` bytes from `address` on.
pub(super) fn whole_pages(address: u64, length: u64) -> Range<u64> {
    let end = address.saturating_add(length).saturating_add(PAGE - 1);
    address & !(PAGE - 1)..end & !(PAGE - 1)
}

/// Claims the guest's RAM and copies its images there.
fn load(boot: &BootInfo, config: &GuestConfig) -> Result<GuestRam, Refusal> {
    let place = config.ram.address..config.ram.address.saturating_add(config.ram.length);
    if !boot.is_free(&place) {
        return Err(Refusal(format!(
            "the RAM of guest {} at {:#x} is not free RAM of the machine",
            config.name, place.start
        )));
    }
    let ram = Ram::map(place, Access::ReadWrite)
        .map_err(|error| Refusal(format!("guest RAM: {error:?}")))?;
    for image in &config.images {
        let pages = whole_pages(image.source.address, image.source.length);
        let refuse = |why: &dyn core::fmt::Debug| {
            Refusal(format!(
                "the image for guest address {:#x}: {why:?}",
                image.destination
            ))
        };
        let source = Ram::map(pages.clone(), Access::ReadOnly).map_err(|error| refuse(&error))?;
        let offset = image.destination.wrapping_sub(guest_machine::RAM_BASE);
        ram.copy_from(
            offset,
            &source,
            image.source.address - pages.start,
            image.source.length,
        )
        .map_err(|error| refuse(&error))?;
    }
    let start = guest_machine::RAM_BASE;
    Ok(GuestRam {
        range: start..start + config.ram.length,
        ram,
    })
}

/// The guest's RAM, one range of it.
struct GuestRam {
    range: Range<u64>,
    ram: Ram,
}

impl GuestMemory for GuestRam {
    fn ranges(&self) -> &[Range<u64>] {
        core::slice::from_ref(&self.range)
    }

    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), NotRam> {
        self.ram
            .read(address.wrapping_sub(self.range.start), bytes)
            .map_err(|_| NotRam)
    }

    fn write(&self, address: u64, bytes: &[u8]) -> Result<(), NotRam> {
        self.ram
            .write(address.wrapping_sub(self.range.start), bytes)
            .map_err(|_| NotRam)
    }

    fn clean_and_invalidate(&self, range: Range<u64>) {
        let base = self.range.start;
        self.ram
            .clean_and_invalidate(range.start.saturating_sub(base)..range.end.saturating_sub(base));
    }
}

/// The VM's end is read from the VM once its vCPUs have stopped.
struct NoObserver;

impl VmObserver for NoObserver {
    fn ended(&self, _vm: &Vm, _end: &VmEnd) {}
}
