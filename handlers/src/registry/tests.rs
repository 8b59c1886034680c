//! What the registry promises, by host tests and under load.

use alloc::{string::ToString, sync::Arc, vec, vec::Vec};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;

use trapline_vcpu::{
    Action, Exit, GuestFault,
    exit::{Direction, SystemRegister},
};

use trapline_vcpu::dispatch::Dispatch as _;

use super::*;
use crate::{handler::GuestCpu, support::Machine};

const PAGE: u64 = 0x1000;

/// Answers with a constant, declines what is above its limit, and tells of its end.
struct Constant {
    name: &'static str,
    value: u64,
    declines: bool,
    drops: Arc<AtomicU64>,
}

impl Constant {
    fn new(name: &'static str, value: u64) -> Self {
        Self {
            name,
            value,
            declines: false,
            drops: Arc::default(),
        }
    }

    fn declining(name: &'static str) -> Self {
        let mut declining = Self::new(name, 0);
        declining.declines = true;
        declining
    }
}

impl Drop for Constant {
    fn drop(&mut self) {
        self.drops.fetch_add(1, SeqCst);
    }
}

impl ExitHandler for Constant {
    fn name(&self) -> &str {
        self.name
    }

    fn handle(&self, _guest: &mut GuestCpu<'_>, _exit: &Exit) -> Action {
        if self.declines {
            Action::Decline
        } else {
            Action::FinishRead(self.value)
        }
    }
}

fn read(machine: &Machine, address: u64, width: u8) -> Action {
    machine.cpu(0).mmio(address, width, Direction::Read)
}

const ABORT: Action = Action::Fault(GuestFault::ExternalAbort);

#[test]
fn each_address_reaches_its_claimant() {
    let machine = Machine::with_vcpus(1);
    machine.register(&[Claim::mmio(3 * PAGE, PAGE)], Constant::new("third", 3));
    machine.register(
        &[Claim::mmio(PAGE, PAGE), Claim::mmio(5 * PAGE, 8)],
        Constant::new("first", 1),
    );
    machine.register(
        &[Claim::Mmio(u64::MAX - 7..=u64::MAX)],
        Constant::new("last", 9),
    );
    #[rustfmt::skip] // read by column
    let cases = [
        (0,                1, ABORT),
        (PAGE - 1,         1, ABORT),
        (PAGE,             8, Action::FinishRead(1)),
        (2 * PAGE - 8,     8, Action::FinishRead(1)),
        (2 * PAGE - 4,     8, ABORT),
        (2 * PAGE,         4, ABORT),
        (3 * PAGE,         4, Action::FinishRead(3)),
        (4 * PAGE - 1,     1, Action::FinishRead(3)),
        (5 * PAGE,         8, Action::FinishRead(1)),
        (5 * PAGE + 1,     8, ABORT),
        (u64::MAX - 7,     8, Action::FinishRead(9)),
        (u64::MAX,         1, Action::FinishRead(9)),
        (u64::MAX,         8, ABORT),
    ];
    for (address, width, expected) in cases {
        assert_eq!(
            read(&machine, address, width),
            expected,
            "{width} bytes at {address:#x}"
        );
    }
    // One CPU, which remembers where the last one was found.
    let mut cpu = machine.cpu(0);
    for (address, width, expected) in cases.into_iter().rev() {
        assert_eq!(
            cpu.mmio(address, width, Direction::Read),
            expected,
            "{width} bytes at {address:#x}"
        );
    }
}

#[test]
fn overlaps_are_refused_with_both_names() {
    let machine = Machine::with_vcpus(1);
    let register = SystemRegister::new(3, 3, 4, 4, 4);
    machine.register(
        &[
            Claim::mmio(PAGE, PAGE),
            Claim::system_register(register),
            Claim::Calls(0x8600_0000..=0x8600_00ff),
        ],
        Constant::new("owner", 0),
    );
    let refused = [
        Claim::mmio(PAGE, 1),
        Claim::mmio(2 * PAGE - 1, 1),
        Claim::mmio(0, 3 * PAGE),
        Claim::system_register(register),
        Claim::Calls(0x8600_00ff..=0x8600_0100),
    ];
    for claim in refused {
        let free = Claim::mmio(100 * PAGE, PAGE);
        let answer = machine
            .vm
            .registry()
            .register(&[free, claim.clone()], Arc::new(Constant::new("late", 0)));
        let expected = RegisterError::Overlap {
            handler: "late".to_string(),
            owner: "owner".to_string(),
            claim,
        };
        assert_eq!(answer, Err(expected));
    }
    assert_eq!(
        read(&machine, 100 * PAGE, 4),
        ABORT,
        "a refused handler gets none of its claims"
    );
    for claim in [
        Claim::mmio(0, PAGE),
        Claim::mmio(2 * PAGE, 1),
        Claim::Calls(0x8600_0100..=0x8600_0100),
    ] {
        machine.register(&[claim], Constant::new("neighbour", 0));
    }
}

#[test]
fn empty_claims_are_refused() {
    let machine = Machine::with_vcpus(1);
    #[allow(clippy::reversed_empty_ranges)] // that is what is tested
    let claims = [
        vec![],
        vec![Claim::Mmio(5..=4)],
        vec![Claim::mmio(0, 1), Claim::Calls(1..=0)],
    ];
    for claims in claims {
        let answer = machine
            .vm
            .registry()
            .register(&claims, Arc::new(Constant::new("nothing", 0)));
        assert_eq!(
            answer,
            Err(RegisterError::Nothing {
                handler: "nothing".to_string()
            })
        );
    }
}

#[test]
fn a_handler_cannot_claim_the_same_twice() {
    let machine = Machine::with_vcpus(1);
    for claims in [
        [Claim::mmio(0, 2), Claim::mmio(1, 1)],
        [Claim::Class(ExitClass::Mmio), Claim::Class(ExitClass::Mmio)],
    ] {
        let answer = machine
            .vm
            .registry()
            .register(&claims, Arc::new(Constant::new("twice", 0)));
        assert!(matches!(answer, Err(RegisterError::Overlap { .. })));
    }
}

#[test]
fn a_declined_exit_falls_through_the_class_in_order() {
    let machine = Machine::with_vcpus(1);
    machine.register(&[Claim::mmio(PAGE, PAGE)], Constant::declining("device"));
    machine.register(
        &[Claim::Class(ExitClass::Mmio)],
        Constant::declining("first"),
    );
    assert_eq!(read(&machine, PAGE, 4), ABORT);
    let second = machine.register(&[Claim::Class(ExitClass::Mmio)], Constant::new("second", 2));
    machine.register(&[Claim::Class(ExitClass::Mmio)], Constant::new("third", 3));
    assert_eq!(read(&machine, PAGE, 4), Action::FinishRead(2));
    assert_eq!(read(&machine, 7 * PAGE, 4), Action::FinishRead(2));
    assert!(machine.vm.registry().remove(second));
    assert_eq!(read(&machine, PAGE, 4), Action::FinishRead(3));
    let calls: Vec<_> = machine
        .vm
        .registry()
        .calls()
        .into_iter()
        .map(|calls| (calls.name, calls.calls))
        .collect();
    assert_eq!(
        calls,
        [
            ("device".to_string(), 3),
            ("first".to_string(), 4),
            ("third".to_string(), 1)
        ]
    );
}

#[test]
fn a_removed_handler_answers_no_more() {
    let machine = Machine::with_vcpus(1);
    let mut cpu = machine.cpu(0);
    let registration = machine.register(&[Claim::mmio(PAGE, PAGE)], Constant::new("device", 1));
    assert_eq!(cpu.mmio(PAGE, 4, Direction::Read), Action::FinishRead(1));
    assert!(machine.vm.registry().remove(registration));
    assert_eq!(cpu.mmio(PAGE, 4, Direction::Read), ABORT);
    machine.register(&[Claim::mmio(PAGE, PAGE)], Constant::new("other", 2));
    assert_eq!(cpu.mmio(PAGE, 4, Direction::Read), Action::FinishRead(2));
}

#[test]
fn a_handler_is_dropped_by_a_writer_and_never_by_a_pcpu() {
    let machine = Machine::with_vcpus(1);
    let registry = machine.vm.registry();
    let handler = Constant::new("device", 1);
    let drops = handler.drops.clone();
    let registration = machine.register(&[Claim::mmio(PAGE, PAGE)], handler);
    let mut cpu = machine.cpu(0);
    assert_eq!(cpu.mmio(PAGE, 4, Direction::Read), Action::FinishRead(1));
    assert!(registry.remove(registration));
    assert_eq!(drops.load(SeqCst), 0, "a pCPU may still be in it");
    assert_eq!(cpu.mmio(PAGE, 4, Direction::Read), ABORT);
    assert_eq!(
        drops.load(SeqCst),
        0,
        "the pCPU has moved on, and left the work to others"
    );
    registry.reap();
    assert_eq!(drops.load(SeqCst), 1);
    assert_eq!(registry.table().retired_count(), 0);
}

#[test]
fn a_pcpu_that_unbinds_or_idles_holds_no_handler() {
    let machine = Machine::with_vcpus(1);
    for leave in [
        crate::support::Cpu::unbind,
        |cpu: &mut crate::support::Cpu| cpu.dispatcher.release(),
    ] {
        let handler = Constant::new("device", 1);
        let drops = handler.drops.clone();
        let registration = machine.register(&[Claim::mmio(PAGE, PAGE)], handler);
        let mut cpu = machine.cpu(0);
        cpu.bind();
        assert_eq!(cpu.mmio(PAGE, 4, Direction::Read), Action::FinishRead(1));
        leave(&mut cpu);
        assert!(machine.vm.registry().remove(registration));
        assert_eq!(drops.load(SeqCst), 1);
        assert_eq!(
            cpu.mmio(PAGE, 4, Direction::Read),
            ABORT,
            "it looks again when it is back"
        );
    }
}

#[test]
fn a_registration_of_another_registry_is_refused() {
    let (one, other) = (Machine::with_vcpus(1), Machine::with_vcpus(1));
    let registration = one.register(&[Claim::mmio(0, 1)], Constant::new("device", 1));
    other.register(&[Claim::mmio(0, 1)], Constant::new("device", 2));
    assert!(!other.vm.registry().remove(registration));
    assert_eq!(read(&other, 0, 1), Action::FinishRead(2));
}

/// Four pCPUs access a device while it is registered and removed 10,000 times: each access gets the device's answer or an
/// abort, and each device is dropped once.
#[test]
fn handlers_come_and_go_under_load() {
    const ROUNDS: u64 = 10_000;
    let machine = Machine::with_vcpus(4);
    let (done, drops, answers) = (
        AtomicBool::new(false),
        Arc::new(AtomicU64::new(0)),
        AtomicU64::new(0),
    );
    thread::scope(|scope| {
        for index in 0..4 {
            let (machine, done, answers) = (&machine, &done, &answers);
            scope.spawn(move || {
                let mut cpu = machine.cpu(index);
                cpu.bind();
                let mut last = 0;
                while !done.load(SeqCst) {
                    match cpu.mmio(PAGE, 4, Direction::Read) {
                        Action::FinishRead(round) => {
                            assert!(round >= last, "an old handler came back");
                            last = round;
                            answers.fetch_add(1, SeqCst);
                        }
                        other => assert_eq!(other, ABORT),
                    }
                }
                cpu.unbind();
            });
        }
        for round in 1..=ROUNDS {
            let mut handler = Constant::new("device", round);
            handler.drops = drops.clone();
            let registration = machine.register(&[Claim::mmio(PAGE, PAGE)], handler);
            if round % 1000 == 0 {
                let before = answers.load(SeqCst);
                while answers.load(SeqCst) < before + 4 {
                    thread::yield_now();
                }
            }
            assert!(machine.vm.registry().remove(registration));
            assert!(
                machine.vm.registry().table().retired_count() <= 8,
                "retired tables do not pile up"
            );
        }
        done.store(true, SeqCst);
    });
    machine.vm.registry().reap();
    assert_eq!(drops.load(SeqCst), ROUNDS);
    assert!(answers.load(SeqCst) >= 40);
}
