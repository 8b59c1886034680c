//! What exits get that nobody answers, and what stock guests get.

use alloc::vec::Vec;

use trapline_vcpu::exit::{Abort, Call, Conduit, Direction, SystemRegister, WaitKind};

use super::*;
use crate::{
    GuestMemory, registry::ExitClass, smccc::NOT_SUPPORTED, standard, support::Machine,
    sysregs::IdRegisters,
};

const ABORT: Abort = Abort {
    esr: 0,
    virtual_address: None,
    address: None,
    is_table_walk: false,
};

#[test]
fn an_unanswered_exit_gets_what_the_hardware_would_give() {
    use GuestFault::{ExternalAbort, SError, Undefined};
    let machine = Machine::with_vcpus(1);
    let call = |conduit, immediate| Exit::Call(Call { conduit, immediate });
    let walk = Abort {
        is_table_walk: true,
        ..ABORT
    };
    #[rustfmt::skip] // read by column
    let cases = [
        (call(Conduit::Hvc, 0),                          Action::Finish),
        (call(Conduit::Smc, 0),                          Action::Finish),
        (call(Conduit::Hvc, 1),                          Action::Fault(Undefined)),
        (call(Conduit::Smc, 0xffff),                     Action::Fault(Undefined)),
        (Exit::DataAbort(ABORT),                         Action::Decline),
        (Exit::DataAbort(walk),                          Action::Decline),
        (Exit::InstructionAbort(ABORT),                  Action::Fault(ExternalAbort)),
        (Exit::Wait(WaitKind::Interrupt),                Action::Finish),
        (Exit::Wait(WaitKind::Event),                    Action::Finish),
        (Exit::SError { esr: 0 },                        Action::Fault(SError)),
        (Exit::ConditionFailed,                          Action::Finish),
        (Exit::Other { class: 0x19, esr: 0 },            Action::Fault(Undefined)),
        (Exit::Other { class: 0x3f, esr: 0 },            Action::Fault(Undefined)),
    ];
    for (exit, expected) in cases {
        let mut cpu = machine.cpu(0);
        assert_eq!(cpu.exit(exit), expected, "{exit:?}");
        let answer = if expected == Action::Finish && exit.class().index() <= ExitClass::Smc.index()
        {
            NOT_SUPPORTED
        } else {
            0
        };
        assert_eq!(cpu.get(0), answer, "{exit:?}");
    }
    let mut cpu = machine.cpu(0);
    assert_eq!(
        cpu.mmio(0, 4, Direction::Read),
        Action::Fault(ExternalAbort)
    );
    assert_eq!(
        cpu.mmio(u64::MAX, 8, Direction::Write(0)),
        Action::Fault(ExternalAbort)
    );
    assert_eq!(
        cpu.read_register(SystemRegister::new(3, 7, 15, 15, 7)),
        Action::Fault(Undefined)
    );
    assert_eq!(
        cpu.write_register(SystemRegister::new(0, 0, 0, 0, 0), 0),
        Action::Fault(Undefined)
    );
}

#[test]
fn an_instruction_comes_from_ram_and_is_little_endian() {
    let machine = Machine::with_vcpus(1);
    let ram = machine.memory.ranges()[0].clone();
    let cpu = machine.cpu(0);
    let instruction = |address| cpu.dispatcher.instruction(&cpu.vcpu, address);
    assert_eq!(instruction(ram.start + 4), Some(0x0706_0504));
    assert_eq!(instruction(ram.end - 2), None);
    assert_eq!(instruction(u64::MAX - 3), None);
}

fn standard_machine(vcpus: usize) -> Machine {
    let machine = Machine::with_vcpus(vcpus);
    standard::register(&machine.vm, IdRegisters::from_hardware(|_| 0, 40))
        .expect("no claims overlap");
    machine
}

#[test]
fn the_standard_handlers_answer_what_stock_guests_use() {
    let machine = standard_machine(2);
    let mut cpu = machine.cpu(0);
    cpu.bind();
    assert_eq!(cpu.call(0x8400_0000, [0; 3]), (Action::Finish, 0x1_0001));
    assert_eq!(cpu.call(0x8000_0000, [0; 3]), (Action::Finish, 0x1_0002));
    assert_eq!(cpu.exit(Exit::Wait(WaitKind::Interrupt)), Action::Wait);
    let icc_sre = SystemRegister::new(3, 0, 12, 12, 5);
    assert!(matches!(cpu.read_register(icc_sre), Action::FinishRead(_)));
    let (gicd_typer, last_gicr_typer) = (0x800_0004, 0x80a_0000 + 0x2_0008);
    assert!(matches!(
        cpu.mmio(gicd_typer, 4, Direction::Read),
        Action::FinishRead(_)
    ));
    assert!(
        matches!(cpu.mmio(last_gicr_typer, 8, Direction::Read), Action::FinishRead(value) if value & 1 << 4 != 0)
    );
    assert_eq!(
        cpu.mmio(0x80e_0000, 4, Direction::Read),
        Action::Fault(GuestFault::ExternalAbort),
        "there is no third redistributor"
    );
    cpu.unbind();
}

#[test]
fn an_sgi_to_a_vcpu_wakes_it() {
    use core::sync::atomic::Ordering::SeqCst;
    let machine = standard_machine(17);
    let mut cpu = machine.cpu(0);
    cpu.bind();
    let (gicd_ctlr, gicr16_isenabler0) = (0x800_0000, 0x80a_0000 + 16 * 0x2_0000 + 0x1_0100);
    assert_eq!(
        cpu.mmio(gicd_ctlr, 4, Direction::Write(0b10)),
        Action::Finish
    );
    let gicr16_igroupr0 = gicr16_isenabler0 - 0x80;
    assert_eq!(
        cpu.mmio(gicr16_igroupr0, 4, Direction::Write(u64::from(u32::MAX))),
        Action::Finish
    );
    assert_eq!(
        cpu.mmio(gicr16_isenabler0, 4, Direction::Write(1 << 5)),
        Action::Finish
    );
    let before: Vec<u64> = machine
        .vcpus
        .iter()
        .map(|vcpu| vcpu.wakes.load(SeqCst))
        .collect();
    let icc_sgi1r = SystemRegister::new(3, 0, 12, 11, 5);
    let cluster_1_target_0 = 1 << 16 | 5 << 24 | 1;
    assert_eq!(
        cpu.write_register(icc_sgi1r, cluster_1_target_0),
        Action::Finish
    );
    let woken: Vec<usize> = (0..17)
        .filter(|&vcpu| machine.vcpus[vcpu].wakes.load(SeqCst) != before[vcpu])
        .collect();
    assert_eq!(woken, [16]);
    cpu.unbind();
}
