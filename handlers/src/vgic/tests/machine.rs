//! A VM whose vCPUs run on pCPUs in software: it does what the engine does with wakes, syncs and maintenance interrupts.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::vec::Vec;

use trapline_vcpu::{
    Action,
    exit::{Direction, MmioAccess, SystemRegister, SystemRegisterAccess},
};

use super::{
    board::Board,
    interface::{Interface, OPEN},
};
use crate::vgic::{InterruptLine, PhysicalLine, VcpuSignals, Version, Vgic, VgicConfig, VgicCpu};
use trapline_sched::PcpuId;

pub const GICD: u64 = 0x0800_0000;
pub const GICR: u64 = 0x080a_0000;
/// The SGI frame within a redistributor.
pub const SGI_FRAME: u64 = 0x1_0000;
pub const DIR: SystemRegister = SystemRegister::new(3, 0, 12, 11, 1);
pub const SGI1R: SystemRegister = SystemRegister::new(3, 0, 12, 11, 5);

/// Bit n: of vCPU n.
#[derive(Default)]
pub struct Signals {
    pub woken: AtomicU64,
    pub syncs: AtomicU64,
    pub completed: AtomicU64,
    pub bound: AtomicU64,
    /// The pCPU where each vCPU is, or was last.
    pub pcpus: Mutex<BTreeMap<usize, PcpuId>>,
}

impl VcpuSignals for Signals {
    fn wake(&self, vcpu: usize) {
        self.woken.fetch_or(1 << vcpu, Ordering::SeqCst);
    }

    fn request_sync(&self, vcpu: usize) -> bool {
        let is_bound = self.bound.load(Ordering::SeqCst) >> vcpu & 1 != 0;
        self.syncs
            .fetch_or(u64::from(is_bound) << vcpu, Ordering::SeqCst);
        is_bound
    }

    fn complete(&self, vcpu: usize) {
        self.completed.fetch_or(1 << vcpu, Ordering::SeqCst);
    }

    fn pcpu(&self, vcpu: usize) -> Option<PcpuId> {
        self.pcpus.lock().unwrap().get(&vcpu).copied()
    }
}

/// The VM, and as many pCPUs as vCPUs.
pub struct Machine {
    pub vgic: Arc<Vgic>,
    pub signals: Arc<Signals>,
    pub cpus: Vec<VgicCpu>,
    pub pcpus: Vec<Interface>,
    /// Which pCPU each vCPU is bound to.
    pub places: Vec<Option<usize>>,
    /// The outputs of each vCPU's timers.
    pub timers: Vec<[bool; 2]>,
    /// Bit n: vCPU n has been made to look at its interrupts.
    pub looked: u64,
    /// The physical interrupts, and the guest's part in them.
    pub board: Arc<Board>,
    pub physical: Vec<PhysicalLine>,
}

pub fn config(vcpus: usize) -> VgicConfig {
    VgicConfig {
        affinities: (0..vcpus as u64)
            .map(|vcpu| ((vcpu / 16) << 8) | (vcpu % 16))
            .collect(),
        spi_count: 96,
        distributor_base: GICD,
        version: Version::V3 {
            redistributor_base: GICR,
        },
    }
}

impl Machine {
    /// All vCPUs bound, each to its pCPU, with both groups on everywhere, all private interrupts and SPIs in group 1 with
    /// priority 0x80, disabled.
    pub fn new(vcpus: usize, list_registers: usize) -> Self {
        Self::with(vcpus, list_registers, |vgic| vgic)
    }

    /// The same, with an interrupt controller that has more.
    pub fn with(vcpus: usize, list_registers: usize, extend: impl FnOnce(Vgic) -> Vgic) -> Self {
        let mut machine = Self::at_rest(config(vcpus), list_registers, extend);
        for vcpu in 0..vcpus {
            let frame = GICR + 0x2_0000 * vcpu as u64 + SGI_FRAME;
            machine.write(vcpu, frame + 0x80, 4, 0xffff_ffff);
            for intid in 0..32 {
                machine.write(vcpu, frame + 0x400 + intid, 1, 0x80);
            }
        }
        for intid in 32..128 {
            machine.write(0, GICD + 0x400 + intid, 1, 0x80);
        }
        for word in 1..4 {
            machine.write(0, GICD + 0x80 + 4 * word, 4, 0xffff_ffff);
        }
        machine.write(0, GICD, 4, 0b11);
        machine
    }

    /// With an interrupt controller as reset leaves it; but all vCPUs are on and bound, with their CPU interfaces open.
    pub fn at_rest(
        config: VgicConfig,
        list_registers: usize,
        extend: impl FnOnce(Vgic) -> Vgic,
    ) -> Self {
        let vcpus = config.affinities.len();
        let signals = Arc::new(Signals::default());
        let board = Arc::new(Board::default());
        let vgic = Vgic::new(config, signals.clone()).unwrap();
        let vgic = vgic.with_physical_interrupts(board.clone());
        let vgic = Arc::new(extend(vgic));
        let cpus = (0..vcpus).map(|index| vgic.cpu(index).unwrap()).collect();
        let pcpus = (0..vcpus).map(|_| Interface::new(list_registers)).collect();
        let (places, timers) = (
            (0..vcpus).map(|_| None).collect(),
            (0..vcpus).map(|_| [false; 2]).collect(),
        );
        let mut machine = Self {
            vgic,
            signals,
            cpus,
            pcpus,
            places,
            timers,
            looked: 0,
            board,
            physical: Vec::new(),
        };
        for vcpu in 0..vcpus {
            machine.bind(vcpu, vcpu);
            machine.interface(vcpu).machine_control = OPEN;
        }
        machine
    }

    pub fn interface(&mut self, vcpu: usize) -> &mut Interface {
        &mut self.pcpus[self.places[vcpu].expect("the vCPU is bound")]
    }

    pub fn bind(&mut self, vcpu: usize, pcpu: usize) {
        assert!(!self.places.contains(&Some(pcpu)), "the pCPU is free");
        self.places[vcpu] = Some(pcpu);
        self.signals.bound.fetch_or(1 << vcpu, Ordering::SeqCst);
        self.pcpus[pcpu].timer_lines = self.timers[vcpu];
        let place = PcpuId::new(pcpu as u16).unwrap();
        self.signals.pcpus.lock().unwrap().insert(vcpu, place);
        self.vgic.bind(&mut self.cpus[vcpu], &mut self.pcpus[pcpu]);
        self.settle();
    }

    pub fn unbind(&mut self, vcpu: usize) {
        let pcpu = self.places[vcpu].take().expect("the vCPU is bound");
        let interface = &mut self.pcpus[pcpu];
        self.vgic.unbind(&mut self.cpus[vcpu], interface);
        interface.timer_lines = [false; 2];
        assert!(
            interface.list_registers.iter().all(|&value| value == 0),
            "list registers are empty"
        );
        assert_eq!(
            interface.physical_active, [false; 2],
            "a timer interrupt is left active"
        );
        assert_eq!(interface.control, 0);
        self.signals.bound.fetch_and(!(1 << vcpu), Ordering::SeqCst);
    }

    /// Moves a vCPU to another pCPU, or off and on again.
    pub fn migrate(&mut self, vcpu: usize, pcpu: usize) {
        self.unbind(vcpu);
        self.bind(vcpu, pcpu);
    }

    pub fn set_timer(&mut self, vcpu: usize, timer: usize, line: bool) {
        self.timers[vcpu][timer] = line;
        if let Some(pcpu) = self.places[vcpu] {
            self.pcpus[pcpu].timer_lines = self.timers[vcpu];
        }
        self.settle();
    }

    /// Lets every pCPU take its physical interrupts and do what it has been asked for, until nothing is left.
    pub fn settle(&mut self) {
        for _round in 0..50 {
            let mut did = self.board.settle(&mut self.pcpus, &self.physical);
            let woken = self.signals.woken.load(Ordering::SeqCst);
            let syncs = self.signals.syncs.swap(0, Ordering::SeqCst);
            for (vcpu, cpu) in self.cpus.iter_mut().enumerate() {
                let Some(pcpu) = self.places[vcpu] else {
                    continue;
                };
                let interface = &mut self.pcpus[pcpu];
                if syncs >> vcpu & 1 != 0 {
                    self.vgic.synchronize(cpu, interface);
                    did = true;
                }
                let fired = interface.fire_timers();
                if woken >> vcpu & 1 != 0 || fired || interface.needs_maintenance() {
                    self.signals.woken.fetch_and(!(1 << vcpu), Ordering::SeqCst);
                    self.looked |= 1 << vcpu;
                    self.vgic.refresh(cpu, interface);
                    did = true;
                }
            }
            if !did {
                return;
            }
        }
        panic!("maintenance interrupts do not end");
    }

    /// One access of `vcpu`, tried until it is done.
    fn access(&mut self, vcpu: usize, address: u64, width: u8, direction: Direction) -> Action {
        let access = MmioAccess {
            address,
            width,
            direction,
            rt: 0,
            sign_extend: false,
            is_64bit: true,
        };
        let mut tries = 0;
        while tries < 3 {
            let pcpu = self.places[vcpu].expect("the vCPU is bound");
            let action = self
                .vgic
                .mmio(&mut self.cpus[vcpu], &mut self.pcpus[pcpu], &access);
            if action == Action::Retry {
                self.settle();
                continue;
            }
            tries += 1;
            if action != Action::Suspend {
                self.settle();
                return action;
            }
            self.signals
                .completed
                .fetch_and(!(1 << vcpu), Ordering::SeqCst);
            self.settle();
            assert_ne!(
                self.signals.completed.load(Ordering::SeqCst) >> vcpu & 1,
                0,
                "a suspended vCPU is left"
            );
        }
        panic!("an access is suspended for ever");
    }

    pub fn write(&mut self, vcpu: usize, address: u64, width: u8, value: u64) {
        assert_eq!(
            self.access(vcpu, address, width, Direction::Write(value)),
            Action::Finish
        );
    }

    pub fn read(&mut self, vcpu: usize, address: u64, width: u8) -> u64 {
        match self.access(vcpu, address, width, Direction::Read) {
            Action::FinishRead(value) => value,
            other => panic!("a read gives {other:?}"),
        }
    }

    /// Where `vcpu` finds the bit of `intid` in a bit array register at `offset`, the same in both frames.
    fn bit_of(&self, vcpu: usize, offset: u64, intid: u32) -> (u64, u64) {
        let base = if intid < 32 {
            GICR + 0x2_0000 * vcpu as u64 + SGI_FRAME
        } else {
            GICD
        };
        (base + offset + u64::from(intid / 32 * 4), 1 << (intid % 32))
    }

    pub fn set_bit(&mut self, vcpu: usize, offset: u64, intid: u32) {
        let (address, bit) = self.bit_of(vcpu, offset, intid);
        self.write(vcpu, address, 4, bit);
    }

    pub fn bit(&mut self, vcpu: usize, offset: u64, intid: u32) -> bool {
        let (address, bit) = self.bit_of(vcpu, offset, intid);
        self.read(vcpu, address, 4) & bit != 0
    }

    pub fn enable(&mut self, vcpu: usize, intid: u32) {
        self.set_bit(vcpu, 0x100, intid);
    }

    pub fn is_pending(&mut self, vcpu: usize, intid: u32) -> bool {
        self.bit(vcpu, 0x200, intid)
    }

    pub fn is_active(&mut self, vcpu: usize, intid: u32) -> bool {
        self.bit(vcpu, 0x300, intid)
    }

    pub fn set_priority(&mut self, vcpu: usize, intid: u32, priority: u8) {
        let (base, _) = self.bit_of(vcpu, 0x400, 0);
        let base = if intid < 32 { base } else { GICD + 0x400 };
        self.write(vcpu, base + u64::from(intid), 1, priority.into());
    }

    /// Makes an SPI edge-triggered.
    pub fn set_edge(&mut self, intid: u32) {
        let address = GICD + 0xc00 + u64::from(intid / 16 * 4);
        let value = self.read(0, address, 4) | 0b10 << (intid % 16 * 2);
        self.write(0, address, 4, value);
    }

    pub fn route(&mut self, intid: u32, vcpu: usize) {
        self.write(0, GICD + 0x6000 + 8 * u64::from(intid), 8, vcpu as u64);
    }

    pub fn line(&self, intid: u32) -> InterruptLine {
        InterruptLine::claim(&self.vgic, intid).unwrap()
    }

    pub fn acknowledge(&mut self, vcpu: usize) -> u32 {
        let intid = self.interface(vcpu).acknowledge();
        self.settle();
        intid
    }

    pub fn end(&mut self, vcpu: usize, intid: u32) {
        self.interface(vcpu).end(intid);
        self.settle();
    }

    /// ICC_DIR_EL1, trapped or not.
    pub fn deactivate(&mut self, vcpu: usize, intid: u32) {
        if self.interface(vcpu).control & 1 << 14 == 0 {
            self.interface(vcpu).deactivate(intid);
            self.settle();
        } else {
            self.write_register(vcpu, DIR, intid.into());
        }
    }

    pub fn write_register(&mut self, vcpu: usize, register: SystemRegister, value: u64) {
        let access = SystemRegisterAccess {
            register,
            rt: 0,
            direction: Direction::Write(value),
        };
        for _try in 0..3 {
            let pcpu = self.places[vcpu].expect("the vCPU is bound");
            let action =
                self.vgic
                    .system_register(&mut self.cpus[vcpu], &mut self.pcpus[pcpu], &access);
            self.settle();
            if action == Action::Finish {
                return;
            }
            assert_eq!(action, Action::Suspend);
        }
        panic!("a system register access is suspended for ever");
    }

    pub fn has_deliverable(&mut self, vcpu: usize) -> bool {
        let pcpu = self.places[vcpu].expect("the vCPU is bound");
        self.vgic
            .has_deliverable(&mut self.cpus[vcpu], &mut self.pcpus[pcpu])
    }

    pub fn was_woken(&self, vcpu: usize) -> bool {
        self.signals.woken.load(Ordering::SeqCst) >> vcpu & 1 != 0
    }
}
