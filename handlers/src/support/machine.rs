//! A VM for host tests: vCPUs and RAM that are not real, and CPUs that exit as they are told.

use alloc::{string::ToString, sync::Arc, vec::Vec};
use core::ops::Range;
use std::collections::HashMap;
use std::sync::Mutex;

use trapline_sched::PcpuId;
use trapline_vcpu::{
    Action, Exit, TrapFrame,
    dispatch::{Activity, BoundGuest, BoundRegisters, Dispatch},
    exit::{Call, Conduit, Direction, MmioAccess, SystemRegister, SystemRegisterAccess},
};

use super::{interface::Interface, memory::FakeMemory, vcpu::FakeVcpu};
use crate::{
    affinity::affinity_of,
    dispatcher::Dispatcher,
    handler::ExitHandler,
    registry::{Claim, Registration, Registry},
    stolen_time::StolenTime,
    vcpu_states::VcpuStates,
    vgic::{Version, Vgic, VgicConfig},
    vm::{Vcpus, Vm, VmEnd, VmObserver, VmParts, VmVcpu},
};

/// A VM and what it is made of.
pub(crate) struct Machine {
    pub(crate) vm: Arc<Vm>,
    pub(crate) memory: Arc<FakeMemory>,
    pub(crate) vcpus: Vec<Arc<FakeVcpu>>,
    pub(crate) ends: Arc<Ends>,
}

impl Machine {
    /// A VM whose vCPUs are off, with an empty registry.
    pub(crate) fn with_vcpus(count: usize) -> Self {
        Self::with_stolen_time(count, None)
    }

    /// The same, whose guest is told what was stolen from it.
    pub(crate) fn with_stolen_time(count: usize, stolen_time: Option<Arc<StolenTime>>) -> Self {
        Self::with_pages(count, stolen_time, None)
    }

    /// The same, whose guest also sees which of its vCPUs run.
    pub(crate) fn with_pages(
        count: usize,
        stolen_time: Option<Arc<StolenTime>>,
        states: Option<Arc<VcpuStates>>,
    ) -> Self {
        let vcpus = (0..count as u16).map(FakeVcpu::new).map(Arc::new);
        let vcpus: Vec<_> = vcpus.collect();
        let controls = Vcpus::with_states(count, states);
        for (index, vcpu) in vcpus.iter().enumerate() {
            controls.attach(index, vcpu.clone());
        }
        let config = VgicConfig {
            affinities: (0..count).map(affinity_of).collect(),
            spi_count: 32,
            distributor_base: 0x800_0000,
            version: Version::V3 {
                redistributor_base: 0x80a_0000,
            },
        };
        let vgic = Vgic::new(config, controls.clone()).expect("the configuration is QEMU's");
        let memory = Arc::new(FakeMemory::default());
        let ends = Arc::new(Ends::default());
        let vm = Vm::new(VmParts {
            name: "guest".to_string(),
            vcpus: controls,
            vgic: Arc::new(vgic),
            memory: memory.clone(),
            registry: Registry::new(4),
            stolen_time,
            observer: ends.clone(),
        });
        Self {
            vm,
            memory,
            vcpus,
            ends,
        }
    }

    pub(crate) fn register(
        &self,
        claims: &[Claim],
        handler: impl ExitHandler + 'static,
    ) -> Registration {
        self.vm
            .registry()
            .register(claims, Arc::new(handler))
            .expect("the claims are free")
    }

    /// vCPU `index`, bound to a pCPU of its own.
    pub(crate) fn cpu(&self, index: usize) -> Cpu {
        Cpu {
            frame: TrapFrame::default(),
            vcpu: VmVcpu::new(self.vm.clone(), index).expect("the VM has the vCPU"),
            dispatcher: Dispatcher::new(PcpuId::new(index as u16 % 4).unwrap()),
            interface: Interface::new(4),
            registers: FakeRegisters::default(),
        }
    }
}

/// A vCPU whose guest does what a test says.
pub(crate) struct Cpu {
    frame: TrapFrame,
    pub(crate) vcpu: VmVcpu,
    pub(crate) dispatcher: Dispatcher,
    interface: Interface,
    registers: FakeRegisters,
}

impl Cpu {
    pub(crate) fn get(&self, index: u8) -> u64 {
        self.frame.gpr(index)
    }

    pub(crate) fn set(&mut self, index: u8, value: u64) {
        self.frame.set_gpr(index, value);
    }

    pub(crate) fn exit(&mut self, exit: Exit) -> Action {
        let pc = (self.frame.elr, self.frame.spsr);
        let mut guest = BoundGuest {
            frame: &mut self.frame,
            extension: &mut self.vcpu,
            interface: &mut self.interface,
            registers: &mut self.registers,
        };
        let action = self.dispatcher.dispatch(&mut guest, &exit);
        assert_eq!(
            pc,
            (self.frame.elr, self.frame.spsr),
            "no handler moves the PC"
        );
        action
    }

    /// `hvc #0`: what happens, and x0 after it.
    pub(crate) fn call(&mut self, function: u64, arguments: [u64; 3]) -> (Action, u64) {
        self.call_by(Conduit::Hvc, function, arguments)
    }

    pub(crate) fn call_by(
        &mut self,
        conduit: Conduit,
        function: u64,
        arguments: [u64; 3],
    ) -> (Action, u64) {
        self.set(0, function);
        (1..)
            .zip(arguments)
            .for_each(|(index, argument)| self.set(index, argument));
        let action = self.exit(Exit::Call(Call {
            conduit,
            immediate: 0,
        }));
        (action, self.get(0))
    }

    pub(crate) fn read_register(&mut self, register: SystemRegister) -> Action {
        self.exit(Exit::SystemRegister(SystemRegisterAccess {
            register,
            rt: 1,
            direction: Direction::Read,
        }))
    }

    pub(crate) fn write_register(&mut self, register: SystemRegister, value: u64) -> Action {
        let direction = Direction::Write(value);
        self.exit(Exit::SystemRegister(SystemRegisterAccess {
            register,
            rt: 1,
            direction,
        }))
    }

    pub(crate) fn mmio(&mut self, address: u64, width: u8, direction: Direction) -> Action {
        self.exit(Exit::Mmio(MmioAccess {
            address,
            width,
            direction,
            rt: 1,
            sign_extend: false,
            is_64bit: false,
        }))
    }

    /// Reads a device's register of 32 bits.
    pub(crate) fn load(&mut self, address: u64) -> u32 {
        match self.mmio(address, 4, Direction::Read) {
            Action::FinishRead(value) => value as u32,
            other => panic!("reading {address:#x}: {other:?}"),
        }
    }

    /// Writes one.
    pub(crate) fn store(&mut self, address: u64, value: u32) {
        let action = self.mmio(address, 4, Direction::Write(value.into()));
        assert_eq!(action, Action::Finish, "writing {address:#x}");
    }

    /// Reads and writes the device's `frame` at every address with every width, and gets an answer.
    pub(crate) fn access_everywhere(&mut self, frame: Range<u64>) {
        for address in frame.clone() {
            let fits = |width: &u8| address + u64::from(*width) <= frame.end;
            for width in [1, 2, 4, 8].into_iter().filter(fits) {
                let read = self.mmio(address, width, Direction::Read);
                assert!(matches!(read, Action::FinishRead(_)), "{address:#x}");
                let write = self.mmio(address, width, Direction::Write(u64::MAX));
                assert_eq!(write, Action::Finish, "{address:#x}");
            }
        }
    }

    pub(crate) fn bind(&mut self) {
        self.dispatcher.bind(&mut self.vcpu, &mut self.interface);
    }

    pub(crate) fn show(&mut self, activity: Activity) {
        self.dispatcher.show(&mut self.vcpu, activity);
    }

    pub(crate) fn unbind(&mut self) {
        self.dispatcher.unbind(&mut self.vcpu, &mut self.interface);
    }

    /// From now on the hardware has none of the registers that handlers reach.
    pub(crate) fn lose_registers(&mut self) {
        self.registers.are_lost = true;
    }

    pub(crate) fn traps_translation_registers(&self) -> bool {
        !self.registers.is_trapping_over
    }
}

/// The ends that an observer was told of.
#[derive(Default)]
pub(crate) struct Ends(Mutex<Vec<VmEnd>>);

impl Ends {
    pub(crate) fn seen(&self) -> Vec<VmEnd> {
        self.0.lock().unwrap().clone()
    }
}

impl VmObserver for Ends {
    fn ended(&self, _vm: &Vm, end: &VmEnd) {
        self.0.lock().unwrap().push(end.clone());
    }
}

#[derive(Default)]
struct FakeRegisters {
    values: HashMap<SystemRegister, u64>,
    /// There is no register at all.
    are_lost: bool,
    is_trapping_over: bool,
}

impl BoundRegisters for FakeRegisters {
    fn read(&self, register: SystemRegister) -> Option<u64> {
        (!self.are_lost).then(|| self.values.get(&register).copied().unwrap_or(0))
    }

    fn write(&mut self, register: SystemRegister, value: u64) -> bool {
        self.values.insert(register, value);
        !self.are_lost
    }

    fn stop_trapping_translation_registers(&mut self) {
        self.is_trapping_over = true;
    }
}
