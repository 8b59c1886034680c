//! What the calls answer, whom they let run, and what a guest reads.

use alloc::vec::Vec;
use std::sync::atomic::Ordering::SeqCst;

use trapline_sched::VcpuId;
use trapline_vcpu::{Action, Exit, YieldTo, dispatch::Activity, exit::WaitKind};

use super::*;
use crate::{
    smccc::NOT_SUPPORTED,
    support::{FakePlace, Machine},
    vcpu_states::VcpuStates,
    wait::WaitInstructions,
};

const ANYBODY: Action = Action::Yield(YieldTo::ANYBODY);
const TO_32: u64 = 0x8600_0021;
const TO_64: u64 = 0xc600_0021;
const STATE: u64 = 0xc600_0022;
const BASE: u64 = 0x90b_0000;

/// A VM whose vCPU 0 runs on pCPU 0, and the others are where `places` says.
fn machine(places: &[FakePlace]) -> Machine {
    let states = VcpuStates::new(BASE, places.len() + 1);
    let machine = Machine::with_pages(places.len() + 1, None, Some(states));
    machine.register(&OvercommitCalls::CLAIMS, OvercommitCalls);
    machine.register(&WaitInstructions::CLAIMS, WaitInstructions);
    let all = [FakePlace::running(0)]
        .into_iter()
        .chain(places.iter().copied());
    for (vcpu, place) in machine.vcpus.iter().zip(all) {
        *vcpu.place.lock().unwrap() = place;
    }
    machine
}

fn to(vcpu: u16) -> Action {
    Action::Yield(YieldTo::vcpu(VcpuId::new(vcpu)))
}

fn hurries(machine: &Machine) -> Vec<u64> {
    let hurries = machine.vcpus.iter();
    hurries.map(|vcpu| vcpu.hurries.load(SeqCst)).collect()
}

#[test]
fn a_yield_to_one_vcpu_depends_on_where_it_is() {
    let yielded = FakePlace {
        has_yielded: true,
        ..FakePlace::ready(0)
    };
    let machine = machine(&[
        FakePlace::ready(0),
        FakePlace::ready(3),
        FakePlace::running(1),
        FakePlace::default(),
        yielded,
    ]);
    let mut cpu = machine.cpu(0);
    #[rustfmt::skip] // read by column
    let cases: [(u64, (Action, u64)); 11] = [
        (0,       (Action::Finish, NOT_REQUIRED)),
        (1,       (to(1),          SUCCESS)),
        (2,       (ANYBODY,        SUCCESS)),
        (3,       (Action::Finish, NOT_REQUIRED)),
        (4,       (Action::Finish, NOT_REQUIRED)),
        (5,       (to(5),          SUCCESS)),
        (6,       (Action::Finish, INVALID_PARAMETER)),
        (0x10,    (Action::Finish, INVALID_PARAMETER)),
        (0x100,   (Action::Finish, INVALID_PARAMETER)),
        (1 << 24, (Action::Finish, INVALID_PARAMETER)),
        (1 << 31, (Action::Finish, INVALID_PARAMETER)),
    ];
    for (affinity, expected) in cases {
        for function in [TO_32, TO_64] {
            let answer = cpu.call(function, [affinity, 7, 7]);
            assert_eq!(answer, expected, "{function:#x}({affinity:#x})");
        }
    }
    let wide = 1 << 32 | 1;
    assert_eq!(cpu.call(TO_32, [wide, 0, 0]), (to(1), SUCCESS));
    assert_eq!(cpu.call(TO_64, [wide, 0, 0]).1, INVALID_PARAMETER);
    assert_eq!(cpu.call(TO_64, [u64::MAX, 0, 0]).1, INVALID_PARAMETER);
    assert_eq!(hurries(&machine), [0, 0, 2, 0, 0, 0]);
}

#[test]
fn a_yield_goes_to_preempted_siblings_of_this_pcpu_in_turns() {
    let yielded = FakePlace {
        has_yielded: true,
        ..FakePlace::ready(0)
    };
    let machine = machine(&[
        FakePlace::ready(0),
        yielded,
        FakePlace::ready(1),
        FakePlace::ready(0),
    ]);
    let mut cpu = machine.cpu(0);
    let wfe = Exit::Wait(WaitKind::Event);
    assert_eq!(cpu.call(0x8600_0020, [9; 3]), (to(1), SUCCESS));
    assert_eq!(cpu.exit(wfe), to(4));
    assert_eq!(cpu.exit(wfe), to(1));
    assert_eq!(cpu.call(0x8600_0020, [0; 3]), (to(4), SUCCESS));
    assert_eq!(hurries(&machine), [0; 5], "one here is enough");
}

#[test]
fn a_preempted_sibling_elsewhere_is_hurried_if_there_is_none_here() {
    let machine = machine(&[FakePlace::ready(1), FakePlace::ready(2)]);
    let mut cpu = machine.cpu(0);
    for _ in 0..4 {
        assert_eq!(cpu.exit(Exit::Wait(WaitKind::Event)), ANYBODY);
    }
    assert_eq!(hurries(&machine), [0, 2, 2], "in turns");
}

#[test]
fn one_yield_looks_at_few_siblings_and_the_next_at_others() {
    let far = 40;
    let place = |index| match index {
        39 => FakePlace::ready(0),
        _ => FakePlace::running(1),
    };
    let machine = machine(&(0..far).map(place).collect::<Vec<_>>());
    let mut cpu = machine.cpu(0);
    let yields: Vec<_> = (0..3)
        .map(|_| cpu.exit(Exit::Wait(WaitKind::Event)))
        .collect();
    assert_eq!(yields, [ANYBODY, ANYBODY, to(40)]);
}

#[test]
fn a_vm_of_one_vcpu_yields_to_anybody() {
    let machine = machine(&[]);
    assert_eq!(machine.cpu(0).exit(Exit::Wait(WaitKind::Event)), ANYBODY);
    assert_eq!(machine.cpu(0).call(TO_64, [0; 3]).1, NOT_REQUIRED);
}

#[test]
fn what_is_not_registered_or_no_function_is_not_supported() {
    let plain = Machine::with_vcpus(2);
    for function in [0x8600_0020, TO_32, TO_64, STATE] {
        assert_eq!(plain.cpu(0).call(function, [0; 3]).1, NOT_SUPPORTED);
    }
    plain.register(&OvercommitCalls::CLAIMS, OvercommitCalls);
    assert_eq!(
        plain.cpu(0).call(STATE, [0; 3]).1,
        NOT_SUPPORTED,
        "no pages"
    );
    let machine = machine(&[]);
    for function in [0xc600_0020, 0x8600_0022, 0x8600_001f, 0xc600_0023] {
        assert_eq!(machine.cpu(0).call(function, [0; 3]).1, NOT_SUPPORTED);
    }
}

#[test]
fn a_guest_reads_which_of_its_vcpus_run() {
    let machine = machine(&[FakePlace::default()]);
    let mut cpu = machine.cpu(1);
    assert_eq!(cpu.call(STATE, [0, 0, 0]).1, BASE);
    assert_eq!(cpu.call(STATE, [1, 0, 0]).1, BASE + 64);
    assert_eq!(cpu.call(STATE, [2, 0, 0]).1, INVALID_PARAMETER);
    let states = machine.vm.vcpu_states().unwrap();
    assert_eq!(states.activity(1), 2, "it is off");
    for (activity, word) in [
        (Activity::Running, 0),
        (Activity::Preempted, 1),
        (Activity::Waiting, 2),
        (Activity::Running, 0),
    ] {
        cpu.show(activity);
        assert_eq!(states.activity(1), word, "{activity:?}");
    }
    assert_eq!(states.activity(0), 2);
}
