//! What the calls answer, and what a guest reads in its records.

use std::sync::atomic::Ordering::SeqCst;

use super::*;
use crate::support::Machine;

const BASE: u64 = 0x90a_0000;
const ARCH_FEATURES: u64 = 0x8000_0001;

fn machine(vcpus: usize, frequency: u64) -> (Machine, Arc<StolenTime>) {
    let times = StolenTime::new(BASE, vcpus, frequency);
    let machine = Machine::with_stolen_time(vcpus, Some(times.clone()));
    machine.register(&StolenTimeCalls::CLAIMS, StolenTimeCalls);
    machine.register(
        &crate::smccc::ArchitectureCalls::CLAIMS,
        crate::smccc::ArchitectureCalls,
    );
    (machine, times)
}

#[test]
fn a_guest_finds_out_where_its_records_are() {
    let (machine, _) = machine(3, 1000);
    for index in 0..3 {
        let mut cpu = machine.cpu(index);
        let mut ask = |function, argument| cpu.call(function, [argument, 2, 3]).1;
        assert_eq!(ask(ARCH_FEATURES, 0xc500_0020), 0);
        assert_eq!(ask(0xc500_0020, 0xc500_0020), 0);
        assert_eq!(ask(0xc500_0020, 0xc500_0021), 0);
        assert_eq!(ask(0xc500_0020, 0xc500_0022), NOT_SUPPORTED);
        assert_eq!(ask(0xc500_0021, 0), BASE + 64 * index as u64);
        assert_eq!(ask(0x8500_0021, 0), NOT_SUPPORTED, "there is no SMC32");
    }
}

#[test]
fn a_vm_without_records_has_no_stolen_time() {
    let machine = Machine::with_vcpus(1);
    machine.register(&StolenTimeCalls::CLAIMS, StolenTimeCalls);
    let mut cpu = machine.cpu(0);
    for function in [0xc500_0020, 0xc500_0021] {
        assert_eq!(cpu.call(function, [0xc500_0021, 0, 0]).1, NOT_SUPPORTED);
    }
    cpu.bind();
}

#[test]
fn a_vcpu_that_is_bound_sees_what_was_stolen_from_it() {
    let (machine, times) = machine(2, 62_500_000);
    let read = |vcpu: usize| {
        times
            .records
            .get(vcpu)
            .unwrap()
            .stolen_nanoseconds
            .load(SeqCst)
    };
    let mut cpu = machine.cpu(1);
    machine.vcpus[1].ready.store(1_000_000, SeqCst);
    assert_eq!(read(1), 0);
    cpu.bind();
    assert_eq!((read(0), read(1)), (0, 16_000_000));
    machine.vcpus[1].ready.store(u64::MAX >> 5, SeqCst);
    cpu.unbind();
    cpu.bind();
    assert_eq!(read(1), (u64::MAX >> 5) * 16, "centuries later");
}

#[test]
fn a_record_has_the_layout_of_the_specification() {
    let times = StolenTime::new(BASE, 130, 1);
    times.publish(129, 5);
    let record = times.records.get(129).unwrap();
    assert_eq!(times.address(129), BASE + 0x2040);
    assert_eq!(record.stolen_nanoseconds.load(SeqCst), 5_000_000_000);
    assert_eq!(record.revision.load(SeqCst), 0);
    assert_eq!(record.attributes.load(SeqCst), 0);
    assert_eq!(core::mem::offset_of!(Record, stolen_nanoseconds), 8);
    times.publish(192, 5);
}
