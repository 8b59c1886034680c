//! Each PSCI function, its errors, and the races between vCPUs that turn each other on and off.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread;

use trapline_vcpu::exit::{Call, Conduit, Direction};

use super::*;
use crate::{
    support::{Cpu, Machine},
    vgic::Frame,
};

const RAM: u64 = 0x4000_0000;
const HIGH_RAM: u64 = 0x1_0000_0000;

const VERSION: u64 = 0x8400_0000;
const CPU_SUSPEND: u64 = 0xc400_0001;
const CPU_OFF: u64 = 0x8400_0002;
const CPU_ON: u64 = 0xc400_0003;
const CPU_ON_32: u64 = 0x8400_0003;
const AFFINITY_INFO: u64 = 0xc400_0004;
const SYSTEM_OFF: u64 = 0x8400_0008;
const SYSTEM_RESET: u64 = 0x8400_0009;
const SYSTEM_SUSPEND: u64 = 0xc400_000e;
const SYSTEM_RESET2: u64 = 0xc400_0012;
const FEATURES: u64 = 0x8400_000a;

const SUCCESS: u64 = 0;
const NOT_SUPPORTED: u64 = -1i64 as u64;
const INVALID_PARAMETERS: u64 = -2i64 as u64;
const ALREADY_ON: u64 = -4i64 as u64;
const DENIED: u64 = -3i64 as u64;
const ON_PENDING: u64 = -5i64 as u64;
const INVALID_ADDRESS: u64 = -9i64 as u64;

/// vCPU 0 is on, the others are off.
fn machine(vcpus: usize) -> Machine {
    let machine = Machine::with_vcpus(vcpus);
    machine.register(&Psci::CLAIMS, Psci);
    assert_eq!(machine.vm.power_on(0, RAM, 0), Some(Ok(())));
    machine.vcpus[0].enter();
    machine
}

#[test]
fn every_function_has_its_answer() {
    #[rustfmt::skip] // read by column
    let cases: &[(&str, u64, [u64; 3], Action, u64)] = &[
        // name                   function     arguments                      action          x0
        ("VERSION",               VERSION,     [0; 3],                        Action::Finish, 0x1_0001),
        ("CPU_SUSPEND standby",   CPU_SUSPEND, [0, 0, 0],                     Action::Wait,   SUCCESS),
        ("CPU_SUSPEND 32",        0x8400_0001, [3 << 24, 0, 0],               Action::Wait,   SUCCESS),
        ("CPU_SUSPEND truncated", CPU_SUSPEND, [1 << 32, 0, 0],               Action::Wait,   SUCCESS),
        ("CPU_SUSPEND down",      CPU_SUSPEND, [1 << 16, RAM, 7],             Action::WaitAndRetry, CPU_SUSPEND),
        ("CPU_SUSPEND down 32",   0x8400_0001, [3 << 24 | 1 << 16, RAM, 7],   Action::WaitAndRetry, 0x8400_0001),
        ("CPU_SUSPEND nowhere",   CPU_SUSPEND, [1 << 16, 0, 7],               Action::Finish, INVALID_ADDRESS),
        ("CPU_SUSPEND unaligned", CPU_SUSPEND, [1 << 16, RAM + 2, 7],         Action::Finish, INVALID_ADDRESS),
        ("CPU_SUSPEND reserved",  CPU_SUSPEND, [1 << 31, RAM, 7],             Action::Finish, INVALID_PARAMETERS),
        ("CPU_SUSPEND reserved",  CPU_SUSPEND, [1 << 26, RAM, 7],             Action::Finish, INVALID_PARAMETERS),
        ("CPU_SUSPEND reserved",  CPU_SUSPEND, [1 << 23, RAM, 7],             Action::Finish, INVALID_PARAMETERS),
        ("CPU_SUSPEND reserved",  CPU_SUSPEND, [1 << 17, RAM, 7],             Action::Finish, INVALID_PARAMETERS),
        ("CPU_ON",                CPU_ON,      [1, RAM, 7],                   Action::Finish, SUCCESS),
        ("CPU_ON 32",             CPU_ON_32,   [0x100, RAM + 4, 7],           Action::Finish, SUCCESS),
        ("CPU_ON truncated",      CPU_ON_32,   [1 << 32 | 1, RAM, 7],         Action::Finish, SUCCESS),
        ("CPU_ON truncated",      CPU_ON_32,   [1, HIGH_RAM | RAM, 7],        Action::Finish, SUCCESS),
        ("CPU_ON not truncated",  CPU_ON,      [1 << 32 | 1, RAM, 7],         Action::Finish, INVALID_PARAMETERS),
        ("CPU_ON high RAM",       CPU_ON,      [1, HIGH_RAM, 7],              Action::Finish, SUCCESS),
        ("CPU_ON of the caller",  CPU_ON,      [0, RAM, 7],                   Action::Finish, ALREADY_ON),
        ("CPU_ON of nobody",      CPU_ON,      [0x101, RAM, 7],               Action::Finish, INVALID_PARAMETERS),
        ("CPU_ON of nobody",      CPU_ON,      [16, RAM, 7],                  Action::Finish, INVALID_PARAMETERS),
        ("CPU_ON of nobody",      CPU_ON,      [1 << 31 | 1, RAM, 7],         Action::Finish, INVALID_PARAMETERS),
        ("CPU_ON of nobody",      CPU_ON,      [u64::MAX, RAM, 7],            Action::Finish, INVALID_PARAMETERS),
        ("CPU_ON outside RAM",    CPU_ON,      [1, 0x900_0000, 7],            Action::Finish, INVALID_ADDRESS),
        ("CPU_ON past RAM",       CPU_ON,      [1, RAM + 0x10_0100, 7],       Action::Finish, INVALID_ADDRESS),
        ("CPU_ON nowhere",        CPU_ON,      [1, u64::MAX - 3, 7],          Action::Finish, INVALID_ADDRESS),
        ("CPU_ON unaligned",      CPU_ON,      [1, RAM + 2, 7],               Action::Finish, INVALID_ADDRESS),
        ("AFFINITY_INFO on",      AFFINITY_INFO, [0, 0, 0],                   Action::Finish, 0),
        ("AFFINITY_INFO off",     AFFINITY_INFO, [0x100, 0, 0],               Action::Finish, 1),
        ("AFFINITY_INFO 32",      0x8400_0004, [1 << 40, 0, 0],               Action::Finish, 0),
        ("AFFINITY_INFO truncated", AFFINITY_INFO, [0, 1 << 32, 0],           Action::Finish, 0),
        ("AFFINITY_INFO level 1", AFFINITY_INFO, [0, 1, 0],                   Action::Finish, INVALID_PARAMETERS),
        ("AFFINITY_INFO nobody",  AFFINITY_INFO, [0x200, 0, 0],               Action::Finish, INVALID_PARAMETERS),
        ("MIGRATE",               0xc400_0005, [1, 0, 0],                     Action::Finish, NOT_SUPPORTED),
        ("MIGRATE_INFO_TYPE",     0x8400_0006, [0; 3],                        Action::Finish, 2),
        ("MIGRATE_INFO_UP_CPU",   0xc400_0007, [0; 3],                        Action::Finish, NOT_SUPPORTED),
        ("CPU_FREEZE",            0x8400_000b, [0; 3],                        Action::Finish, NOT_SUPPORTED),
        ("SYSTEM_SUSPEND",        SYSTEM_SUSPEND, [RAM, 7, 0],                Action::WaitAndRetry, SYSTEM_SUSPEND),
        ("SYSTEM_SUSPEND 32",     0x8400_000e, [1 << 32 | RAM, 7, 0],         Action::WaitAndRetry, 0x8400_000e),
        ("SYSTEM_SUSPEND nowhere", SYSTEM_SUSPEND, [0, 7, 0],                 Action::Finish, INVALID_ADDRESS),
        ("SYSTEM_RESET2 warm",    SYSTEM_RESET2, [0, 5, 0],                   Action::Stop,   SYSTEM_RESET2),
        ("SYSTEM_RESET2 32",      0x8400_0012, [0, 5, 0],                     Action::Stop,   0x8400_0012),
        ("SYSTEM_RESET2 unknown", SYSTEM_RESET2, [1, 0, 0],                   Action::Finish, INVALID_PARAMETERS),
        ("SYSTEM_RESET2 vendor",  SYSTEM_RESET2, [1 << 31, 0, 0],             Action::Finish, INVALID_PARAMETERS),
        ("VERSION, 64 bit",       0xc400_0000, [0; 3],                        Action::Finish, NOT_SUPPORTED),
        ("past the last",         0x8400_0020, [0; 3],                        Action::Finish, NOT_SUPPORTED),
        ("SYSTEM_OFF",            SYSTEM_OFF,  [0; 3],                        Action::Stop,   SYSTEM_OFF),
        ("SYSTEM_RESET",          SYSTEM_RESET, [0; 3],                       Action::Stop,   SYSTEM_RESET),
        ("CPU_OFF, the last one", CPU_OFF,     [0; 3],                        Action::Stop,   CPU_OFF),
    ];
    for conduit in [Conduit::Hvc, Conduit::Smc] {
        for &(name, function, arguments, action, x0) in cases {
            let machine = machine(17);
            let answer = machine.cpu(0).call_by(conduit, function, arguments);
            assert_eq!(answer, (action, x0), "{name}: {function:#x}{arguments:x?}");
        }
    }
}

#[test]
fn features_lists_what_there_is() {
    let there = [
        VERSION,
        CPU_SUSPEND,
        0x8400_0001,
        CPU_OFF,
        CPU_ON,
        CPU_ON_32,
        AFFINITY_INFO,
        0x8400_0004,
        0x8400_0006,
        SYSTEM_OFF,
        SYSTEM_RESET,
        SYSTEM_RESET2,
        0x8400_0012,
        SYSTEM_SUSPEND,
        0x8400_000e,
        FEATURES,
        0x8000_0000,
    ];
    let machine = machine(1);
    for function in (0x8400_0000..=0x8400_001f)
        .chain(0xc400_0000..=0xc400_001f)
        .chain([0x8000_0000, 0])
    {
        let expected = if there.contains(&function) {
            SUCCESS
        } else {
            NOT_SUPPORTED
        };
        assert_eq!(
            machine.cpu(0).call(FEATURES, [function, 0, 0]),
            (Action::Finish, expected),
            "{function:#x}"
        );
    }
}

#[test]
fn only_immediate_zero_is_a_call() {
    let machine = machine(1);
    for conduit in [Conduit::Hvc, Conduit::Smc] {
        let exit = Exit::Call(Call {
            conduit,
            immediate: 1,
        });
        assert_eq!(
            machine.cpu(0).exit(exit),
            Action::Fault(trapline_vcpu::GuestFault::Undefined)
        );
    }
}

#[test]
fn a_vcpu_is_on_pending_until_it_runs_and_starts_where_it_was_told() {
    let machine = machine(2);
    let mut cpu = machine.cpu(0);
    assert_eq!(cpu.call(CPU_ON, [1, RAM + 8, 77]).1, SUCCESS);
    assert_eq!(cpu.call(CPU_ON, [1, RAM, 0]).1, ON_PENDING);
    assert_eq!(cpu.call(AFFINITY_INFO, [1, 0, 0]).1, 2);
    assert_eq!(machine.vcpus[1].enter(), (RAM + 8, 77));
    assert_eq!(cpu.call(CPU_ON, [1, RAM, 0]).1, ALREADY_ON);
    assert_eq!(cpu.call(AFFINITY_INFO, [1, 0, 0]).1, 0);
}

#[test]
fn a_system_sleeps_only_alone() {
    let machine = machine(2);
    let mut cpu = machine.cpu(0);
    let suspend = [RAM + 4, 77, 0];
    assert_eq!(cpu.call(SYSTEM_SUSPEND, suspend).0, Action::WaitAndRetry);
    assert_eq!(cpu.call(CPU_ON, [1, RAM, 0]).1, SUCCESS);
    assert_eq!(
        cpu.call(SYSTEM_SUSPEND, suspend),
        (Action::Finish, DENIED),
        "the other one is on its way"
    );
    machine.vcpus[1].enter();
    assert_eq!(cpu.call(SYSTEM_SUSPEND, suspend), (Action::Finish, DENIED));
    assert_eq!(machine.cpu(1).call(CPU_OFF, [0; 3]).0, Action::PowerOff);
    machine.vcpus[1].leave();
    assert_eq!(cpu.call(SYSTEM_SUSPEND, suspend).0, Action::WaitAndRetry);
}

/// An SGI becomes pending at vCPU 0, for which the machine gets an interrupt controller.
fn interrupt(machine: &Machine, cpu: &mut Cpu) {
    let [distributor, redistributors] = machine.vm.vgic().frames();
    let (control, sgis) = (*distributor.start(), redistributors.start() + 0x1_0000);
    machine.register(&[Claim::Mmio(distributor)], Frame::Distributor);
    machine.register(&[Claim::Mmio(redistributors)], Frame::Redistributors);
    for (address, value) in [(control, 1), (sgis + 0x100, 1), (sgis + 0x200, 1)] {
        assert_eq!(
            cpu.mmio(address, 4, Direction::Write(value)),
            Action::Finish
        );
    }
}

/// A pending interrupt ends the sleep, also where the CPU interface lets nothing through: it is off, as after a reset.
#[test]
fn what_wakes_a_powered_down_cpu_starts_it_at_its_entry_point() {
    let sleeps = [
        (CPU_SUSPEND, [1 << 16, RAM + 8, 77]),
        (SYSTEM_SUSPEND, [RAM + 8, 77, 0]),
    ];
    for (function, arguments) in sleeps {
        let machine = machine(2);
        let mut cpu = machine.cpu(0);
        cpu.bind();
        assert_eq!(cpu.call(function, arguments).0, Action::WaitAndRetry);
        interrupt(&machine, &mut cpu);
        assert_eq!(
            cpu.call(function, arguments),
            (Action::Restart(RAM + 8), 77)
        );
    }
}

#[test]
fn a_system_reset2_is_a_reset() {
    let machine = machine(1);
    assert_eq!(machine.cpu(0).call(SYSTEM_RESET2, [0; 3]).0, Action::Stop);
    assert_eq!(machine.vm.end(), Some(&VmEnd::Reset));
}

#[test]
fn smc32_arguments_are_32_bits_wide() {
    let machine = machine(2);
    assert_eq!(
        machine
            .cpu(0)
            .call(CPU_ON_32, [1 << 32 | 1, HIGH_RAM | RAM, u64::MAX])
            .1,
        SUCCESS
    );
    assert_eq!(machine.vcpus[1].enter(), (RAM, 0xffff_ffff));
}

#[test]
fn a_vcpu_can_go_off_and_on_again() {
    let machine = machine(2);
    for round in 0..3 {
        assert_eq!(machine.cpu(0).call(CPU_ON, [1, RAM, round]).1, SUCCESS);
        assert_eq!(machine.vcpus[1].enter(), (RAM, round));
        assert_eq!(machine.cpu(1).call(CPU_OFF, [0; 3]).0, Action::PowerOff);
        machine.vcpus[1].leave();
        assert_eq!(machine.cpu(0).call(AFFINITY_INFO, [1, 0, 0]).1, 1);
    }
    assert_eq!(machine.vm.end(), None);
}

#[test]
fn the_vm_ends_with_its_last_vcpu() {
    let machine = machine(2);
    assert_eq!(machine.cpu(0).call(CPU_ON, [1, RAM, 0]).1, SUCCESS);
    machine.vcpus[1].enter();
    assert_eq!(machine.cpu(0).call(CPU_OFF, [0; 3]).0, Action::PowerOff);
    assert_eq!(machine.vm.end(), None);
    assert_eq!(machine.cpu(1).call(CPU_OFF, [0; 3]).0, Action::Stop);
    let end = VmEnd::Stopped("all vCPUs are off");
    assert_eq!(machine.vm.end(), Some(&end));
    assert_eq!(machine.ends.seen(), [end]);
}

#[test]
fn a_pending_vcpu_keeps_the_vm_alive() {
    let machine = machine(2);
    assert_eq!(machine.cpu(0).call(CPU_ON, [1, RAM, 0]).1, SUCCESS);
    assert_eq!(machine.cpu(0).call(CPU_OFF, [0; 3]).0, Action::PowerOff);
    assert_eq!(machine.vm.end(), None);
}

#[test]
fn the_first_end_counts_and_stops_everybody() {
    let machine = machine(3);
    assert_eq!(machine.cpu(0).call(SYSTEM_RESET, [0; 3]).0, Action::Stop);
    assert_eq!(machine.cpu(0).call(SYSTEM_OFF, [0; 3]).0, Action::Stop);
    machine.vm.stop(VmEnd::Crash("later"));
    assert_eq!(machine.vm.end(), Some(&VmEnd::Reset));
    assert_eq!(machine.ends.seen(), [VmEnd::Reset]);
    assert!(machine.vcpus.iter().all(|vcpu| vcpu.stops.load(SeqCst) > 0));
}

/// Three vCPUs try to turn a fourth one on, which goes off again at once: each round one of them succeeds, and the fourth
/// starts with what that one said.
#[test]
fn of_several_cpu_ons_one_succeeds() {
    const ROUNDS: u64 = 2_000;
    let machine = machine(4);
    for index in [1, 2] {
        assert_eq!(machine.vm.power_on(index, RAM, 0), Some(Ok(())));
        machine.vcpus[index].enter();
    }
    let successes = AtomicU64::new(0);
    thread::scope(|scope| {
        for caller in 0..3 {
            let (machine, successes) = (&machine, &successes);
            scope.spawn(move || {
                let mut cpu = machine.cpu(caller);
                while successes.load(SeqCst) < ROUNDS {
                    let context = caller as u64;
                    match cpu.call(CPU_ON, [3, RAM + 4 * context, context]).1 {
                        SUCCESS => {
                            let (entry, context) = machine.vcpus[3].enter();
                            assert_eq!((entry, context), (RAM + 4 * caller as u64, caller as u64));
                            successes.fetch_add(1, SeqCst);
                            assert_eq!(machine.cpu(3).call(CPU_OFF, [0; 3]).0, Action::PowerOff);
                            machine.vcpus[3].leave();
                        }
                        answer => {
                            assert!([ON_PENDING, ALREADY_ON].contains(&answer), "{answer:#x}")
                        }
                    }
                }
            });
        }
    });
    assert_eq!(machine.vm.end(), None);
}

/// All vCPUs go off at once: one of them finds that it is the last.
#[test]
fn of_several_cpu_offs_one_is_the_last() {
    for _ in 0..200 {
        let machine = machine(4);
        for index in 1..4 {
            assert_eq!(machine.vm.power_on(index, RAM, 0), Some(Ok(())));
        }
        let stops = AtomicU64::new(0);
        thread::scope(|scope| {
            for index in 0..4 {
                let (machine, stops) = (&machine, &stops);
                scope.spawn(move || match machine.cpu(index).call(CPU_OFF, [0; 3]).0 {
                    Action::Stop => stops.fetch_add(1, SeqCst),
                    action => {
                        assert_eq!(action, Action::PowerOff);
                        0
                    }
                });
            }
        });
        assert_eq!((stops.load(SeqCst), machine.ends.seen().len()), (1, 1));
    }
}
