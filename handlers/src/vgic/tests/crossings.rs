//! What several pCPUs do to one interrupt at once, in every order.

use std::sync::Arc as StdArc;

use loom::{
    model::Builder,
    sync::{
        Arc, Notify,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};
use trapline_vcpu::{
    Action,
    exit::{Direction, MmioAccess},
    interrupts::VirtualCpuInterface,
};

use super::interface::{Interface, OPEN};
use crate::vgic::{
    VcpuSignals, Version, Vgic, VgicConfig, VgicCpu,
    one_of_n::ASLEEP,
    record::{ANYBODY, Record},
    registers::Masked,
};

const GICD: u64 = 0x0800_0000;
/// The interrupts in play, in one word of the due sets: edge-triggered, group 1, enabled, routed to vCPU 0.
pub(super) const FIRST: u32 = 40;
const SECOND: u32 = 41;

/// How the owner brings its list registers up to date.
pub(super) type Look = fn(&Vgic, &mut VgicCpu, &mut dyn VirtualCpuInterface);
/// With everything folded first, and in one step for each list register.
pub(super) const LOOKS: [Look; 2] = [Vgic::synchronize, Vgic::refresh];

pub(super) struct Signals {
    woken: [AtomicBool; 2],
    syncs: AtomicBool,
    completed: Notify,
    /// vCPU 0 is loaded.
    loaded: AtomicBool,
}

impl VcpuSignals for Signals {
    fn wake(&self, vcpu: usize) {
        self.woken[vcpu].swap(true, Ordering::AcqRel);
    }

    fn request_sync(&self, vcpu: usize) -> bool {
        assert_eq!(vcpu, 0);
        let is_loaded = self.loaded.load(Ordering::Acquire);
        self.syncs.fetch_or(is_loaded, Ordering::AcqRel);
        is_loaded
    }

    fn complete(&self, vcpu: usize) {
        assert_eq!(vcpu, 1);
        self.completed.notify();
    }
}

/// A vCPU bound to a pCPU.
pub(super) struct Owner {
    pub(super) vgic: Arc<Vgic>,
    signals: StdArc<Signals>,
    pub(super) cpu: VgicCpu,
    pub(super) interface: Interface,
}

impl Owner {
    pub(super) fn bind(&mut self) {
        self.vgic.bind(&mut self.cpu, &mut self.interface);
        self.interface.set_machine_control(OPEN);
    }

    /// What the engine does before each entry.
    pub(super) fn refresh_if_woken(&mut self) {
        if self.signals.woken[self.cpu.index].swap(false, Ordering::AcqRel) {
            self.vgic.refresh(&mut self.cpu, &mut self.interface);
        }
    }

    /// How many list registers are pending for `intid`.
    pub(super) fn listed(&self, intid: u32) -> usize {
        let is_pending = |value: &&u64| **value >> 62 == 1 && **value as u32 == intid;
        self.interface
            .list_registers
            .iter()
            .filter(is_pending)
            .count()
    }
}

fn explore(model: impl Fn([Owner; 2]) + Send + Sync + 'static) {
    explore_with(|vgic| (vgic, ()), move |owners, ()| model(owners));
}

/// The same with a GICv2.
pub(super) fn explore_v2(model: impl Fn([Owner; 2]) + Send + Sync + 'static) {
    let version = Version::V2 {
        cpu_interface_base: 0x0801_0000,
    };
    explore_version(version, |vgic| (vgic, ()), move |owners, ()| model(owners));
}

/// `prepare` makes of the interrupt controller what the model wants, and what the model gets beside the vCPUs.
pub(super) fn explore_with<T>(
    prepare: impl Fn(Vgic) -> (Vgic, T) + Send + Sync + 'static,
    model: impl Fn([Owner; 2], T) + Send + Sync + 'static,
) {
    let version = Version::V3 {
        redistributor_base: 0x080a_0000,
    };
    explore_version(version, prepare, model);
}

fn explore_version<T>(
    version: Version,
    prepare: impl Fn(Vgic) -> (Vgic, T) + Send + Sync + 'static,
    model: impl Fn([Owner; 2], T) + Send + Sync + 'static,
) {
    let mut builder = Builder::new();
    builder.max_branches = 20_000;
    builder.preemption_bound = Some(5);
    builder.check(move || {
        let config = VgicConfig {
            affinities: std::vec![0, 1],
            spi_count: 32,
            distributor_base: GICD,
            version,
        };
        let signals = StdArc::new(Signals {
            woken: [AtomicBool::new(false), AtomicBool::new(false)],
            syncs: AtomicBool::new(false),
            completed: Notify::new(),
            loaded: AtomicBool::new(false),
        });
        let (vgic, more) = prepare(Vgic::new(config, signals.clone()).unwrap());
        let vgic = Arc::new(vgic);
        vgic.groups.store(0b10, Ordering::Relaxed);
        for intid in [FIRST, SECOND] {
            let set = |record: Record| record.set_group1(true).set_edge(true).set_enabled(true);
            vgic.change(None, intid, set);
        }
        let owners = [0, 1].map(|index| {
            let interface = Interface::new(2);
            Owner {
                cpu: vgic.cpu(index).unwrap(),
                vgic: vgic.clone(),
                signals: signals.clone(),
                interface,
            }
        });
        model(owners, more);
    });
}

#[test]
fn loom_what_is_raised_while_the_owner_looks_is_not_lost() {
    explore(|[mut owner, other]| {
        other.vgic.change(None, FIRST, Record::pulse);
        let device = thread::spawn(move || {
            other.vgic.change(None, SECOND, Record::pulse);
        });
        owner.bind();
        device.join().unwrap();
        owner.refresh_if_woken();
        assert_eq!((owner.listed(FIRST), owner.listed(SECOND)), (1, 1));
    });
}

#[test]
fn loom_an_edge_while_it_is_folded_is_not_lost() {
    for look in LOOKS {
        an_edge_while_it_is_folded_is_not_lost(look);
    }
}

fn an_edge_while_it_is_folded_is_not_lost(look: Look) {
    explore(move |[mut owner, other]| {
        other.vgic.change(None, FIRST, Record::pulse);
        owner.bind();
        assert_eq!(owner.interface.acknowledge(), FIRST);
        owner.interface.end(FIRST);
        let device = thread::spawn(move || {
            other.vgic.change(None, FIRST, Record::pulse);
        });
        look(&owner.vgic, &mut owner.cpu, &mut owner.interface);
        device.join().unwrap();
        owner.refresh_if_woken();
        assert_eq!(owner.listed(FIRST), 1);
    });
}

#[test]
fn loom_a_level_that_rises_while_it_is_folded_is_not_lost() {
    explore(|[mut owner, other]| {
        let vgic = owner.vgic.clone();
        vgic.change(None, FIRST, |record| record.set_edge(false).set_line(true));
        owner.bind();
        assert_eq!(owner.interface.acknowledge(), FIRST);
        vgic.change(None, FIRST, |record| record.set_line(false));
        owner.interface.end(FIRST);
        let device = thread::spawn(move || {
            other
                .vgic
                .change(None, FIRST, |record| record.set_line(true));
        });
        vgic.refresh(&mut owner.cpu, &mut owner.interface);
        device.join().unwrap();
        owner.refresh_if_woken();
        assert_eq!(owner.listed(FIRST), 1);
    });
}

#[test]
fn loom_what_is_retargeted_while_it_is_listed_goes_to_one() {
    explore(|[mut owner, mut other]| {
        other.vgic.change(None, FIRST, Record::pulse);
        let retargeter = thread::spawn(move || {
            other.bind();
            other
                .vgic
                .change(None, FIRST, |record| record.set_target(1));
            other.refresh_if_woken();
            other
        });
        owner.bind();
        owner.refresh_if_woken();
        let mut other = retargeter.join().unwrap();
        owner.refresh_if_woken();
        other.refresh_if_woken();
        assert_eq!((owner.listed(FIRST), other.listed(FIRST)), (0, 1));
    });
}

#[test]
fn loom_what_is_disabled_while_it_is_listed_stays_pending() {
    explore(|[mut owner, other]| {
        other.vgic.change(None, FIRST, Record::pulse);
        let vgic = owner.vgic.clone();
        let disabler = thread::spawn(move || {
            other
                .vgic
                .change(None, FIRST, |record| record.set_enabled(false));
        });
        owner.bind();
        disabler.join().unwrap();
        owner.refresh_if_woken();
        assert_eq!(owner.listed(FIRST), 0);
        assert!(vgic.record(None, FIRST).unwrap().load().is_pending());
    });
}

/// Once a write of GICD_ICENABLER is over, no guest has the interrupt in a list register, whether its owner is asked to
/// fold or goes away.
#[test]
fn loom_a_suspended_access_is_over_when_the_owner_has_folded() {
    explore(|[mut owner, mut other]| {
        other.vgic.change(None, FIRST, Record::pulse);
        owner.signals.loaded.store(true, Ordering::Release);
        owner.bind();
        let guest_sees = Arc::new(AtomicBool::new(owner.listed(FIRST) != 0));
        let seen = guest_sees.clone();
        let accessor = thread::spawn(move || {
            other.bind();
            let direction = Direction::Write(1 << (FIRST - 32));
            let address = GICD + 0x184;
            let access = MmioAccess {
                address,
                width: 4,
                direction,
                rt: 0,
                sign_extend: false,
                is_64bit: false,
            };
            let vgic = other.vgic.clone();
            while vgic.mmio(&mut other.cpu, &mut other.interface, &access) == Action::Suspend {
                other.signals.completed.wait();
            }
            assert!(!seen.load(Ordering::Acquire));
        });
        if owner.signals.syncs.swap(false, Ordering::AcqRel) {
            guest_sees.store(false, Ordering::Release);
            owner.vgic.synchronize(&mut owner.cpu, &mut owner.interface);
            guest_sees.store(owner.listed(FIRST) != 0, Ordering::Release);
        }
        guest_sees.store(false, Ordering::Release);
        owner.vgic.unbind(&mut owner.cpu, &mut owner.interface);
        owner.signals.loaded.store(false, Ordering::Release);
        accessor.join().unwrap();
    });
}

/// Whichever of two writes of GICD_IROUTER is last, the interrupt goes where the register says.
#[test]
fn loom_a_route_and_its_record_agree() {
    explore(|[owner, other]| {
        let vgic = owner.vgic.clone();
        let to = |affinity: u64| Masked {
            value: affinity,
            mask: u64::MAX,
        };
        let writer = thread::spawn(move || {
            other.vgic.set_route(FIRST - 32, to(1));
        });
        vgic.set_route(FIRST - 32, to(0));
        writer.join().unwrap();
        let route = vgic.routes[(FIRST - 32) as usize].load(Ordering::Acquire);
        let target = vgic.record(None, FIRST).unwrap().load().target();
        assert_eq!(u64::from(target), route);
    });
}

/// What is raised while its group is turned on is delivered, and what is listed while it is turned off is taken back.
#[test]
fn loom_a_group_is_turned_on_while_its_interrupt_is_raised() {
    explore(|[mut owner, other]| {
        let vgic = owner.vgic.clone();
        vgic.groups.store(0, Ordering::Relaxed);
        let control = vgic.clone();
        let writer = thread::spawn(move || {
            let changed = control.set_groups(0b10);
            control.tell_of_groups(None, FIRST, changed);
        });
        let device = thread::spawn(move || {
            other.vgic.change(None, FIRST, Record::pulse);
        });
        owner.bind();
        writer.join().unwrap();
        device.join().unwrap();
        owner.refresh_if_woken();
        assert_eq!(owner.listed(FIRST), 1);
    });
}

/// One of them at a time looks at the interrupts of the group; whoever is through knows that all have been told.
#[test]
fn loom_a_group_is_turned_on_by_two_at_once() {
    let turn_on = |owner: &mut Owner| {
        let access = MmioAccess {
            address: GICD,
            width: 4,
            direction: Direction::Write(0b10),
            rt: 0,
            sign_extend: false,
            is_64bit: false,
        };
        let action = owner
            .vgic
            .mmio(&mut owner.cpu, &mut owner.interface, &access);
        let is_told = owner.signals.woken[0].load(Ordering::Acquire);
        assert!(action != Action::Finish || is_told);
        action
    };
    explore(move |[mut owner, mut other]| {
        owner.vgic.groups.store(0, Ordering::Relaxed);
        owner.bind();
        other.bind();
        owner.vgic.change(None, FIRST, Record::pulse);
        let second = thread::spawn(move || {
            let _ = turn_on(&mut other);
            other
        });
        let _ = turn_on(&mut owner);
        let mut other = second.join().unwrap();
        // Whoever found the other one at it tries again.
        assert_eq!(turn_on(&mut other), Action::Finish);
        assert_eq!(turn_on(&mut owner), Action::Finish);
        owner.refresh_if_woken();
        assert_eq!(owner.listed(FIRST), 1);
    });
}

#[test]
fn loom_a_group_is_turned_off_while_its_interrupt_is_listed() {
    explore(|[mut owner, other]| {
        let vgic = owner.vgic.clone();
        let device = thread::spawn(move || {
            other.vgic.change(None, FIRST, Record::pulse);
        });
        let writer = thread::spawn(move || {
            let changed = vgic.set_groups(0);
            vgic.tell_of_groups(None, FIRST, changed);
        });
        owner.bind();
        device.join().unwrap();
        writer.join().unwrap();
        owner.refresh_if_woken();
        assert_eq!(owner.listed(FIRST), 0);
        let vgic = owner.vgic.clone();
        let changed = vgic.set_groups(0b10);
        vgic.tell_of_groups(None, FIRST, changed);
        owner.refresh_if_woken();
        assert_eq!(owner.listed(FIRST), 1);
    });
}

/// One that may go to any vCPU goes to one, whether it begins to take part before, after or while it is raised.
#[test]
fn loom_what_any_may_take_goes_to_one() {
    explore(|[mut owner, mut other]| {
        let vgic = owner.vgic.clone();
        vgic.use_anybody();
        vgic.change(None, FIRST, |record| record.set_target(ANYBODY));
        for vcpu in 0..2 {
            vgic.set_participation(vcpu, ASLEEP, 0);
        }
        owner.cpu.machine_control = OPEN;
        other.cpu.machine_control = OPEN;
        let device = thread::spawn(move || {
            vgic.change(None, FIRST, Record::pulse);
        });
        owner.bind();
        device.join().unwrap();
        other.bind();
        // Either may pass it to the other once.
        for _ in 0..2 {
            owner.refresh_if_woken();
            other.refresh_if_woken();
        }
        assert_eq!(owner.listed(FIRST) + other.listed(FIRST), 1);
    });
}
