//! How a guest turns its CPUs and itself on and off: PSCI 1.1. [DEN0022]
//!
//! Whether a vCPU is on lives in its scheduler's state word, so of several CPU_ONs one succeeds ([`Vm::power_on`]), and it
//! answers ON_PENDING until the vCPU has run. A VM whose last vCPU turns itself off has ended: nobody is left who could turn
//! one on again.

use smccc::psci::{self, error};
use trapline_sched::{PowerOnError, PowerState};
use trapline_vcpu::{Action, Exit};

use crate::{
    affinity::{AFFINITY_MASK, index_of},
    handler::{ExitHandler, GuestCpu, Interrupts},
    registry::Claim,
    vm::{Vm, VmEnd},
};

/// 1.1: major in bits 30:16, minor in bits 15:0.
const VERSION: i32 = 0x1_0001;

/// SMC64 and HVC64 functions take 64-bit arguments. [DEN0028: Function Identifiers]
const IS_64BIT: u32 = 1 << 30;

/// MIGRATE_INFO_TYPE: there is no Trusted OS that would have to be asked before a CPU goes off.
const NO_TRUSTED_OS: i32 = 2;

/// Of CPU_SUSPEND's power_state in the original format: must be zero. [DEN0022: power_state]
const POWER_STATE_RESERVED: u32 = 0xfcfe_0000;
/// The caller loses its context, and gives an entry point.
const POWER_STATE_POWERDOWN: u32 = 1 << 16;

/// SYSTEM_RESET2's only architectural reset type; bit 31 marks a vendor's own, and there is none. [DEN0022: SYSTEM_RESET2]
const SYSTEM_WARM_RESET: u32 = 0;

/// Answers PSCI calls, by HVC and SMC alike.
pub struct Psci;

impl Psci {
    /// The function numbers that PSCI may use, 32 and 64 bit.
    pub const CLAIMS: [Claim; 2] = [
        Claim::Calls(0x8400_0000..=0x8400_001f),
        Claim::Calls(0xc400_0000..=0xc400_001f),
    ];
}

impl ExitHandler for Psci {
    fn name(&self) -> &str {
        "psci"
    }

    fn handle(&self, guest: &mut GuestCpu<'_>, _exit: &Exit) -> Action {
        let function = guest.register(0) as u32;
        let [x1, x2, x3] = arguments(guest, function);
        let result = match function {
            psci::PSCI_VERSION => VERSION,
            psci::PSCI_FEATURES => features(x1 as u32),
            psci::PSCI_MIGRATE_INFO_TYPE => NO_TRUSTED_OS,
            psci::PSCI_AFFINITY_INFO_32 | psci::PSCI_AFFINITY_INFO_64 => {
                affinity_info(guest.vm(), x1, x2 as u32)
            }
            psci::PSCI_CPU_ON_32 | psci::PSCI_CPU_ON_64 => cpu_on(guest.vm(), x1, x2, x3),
            psci::PSCI_CPU_SUSPEND_32 | psci::PSCI_CPU_SUSPEND_64 => {
                match cpu_suspend(guest, x1 as u32, x2, x3) {
                    Ok(action) => return action,
                    Err(error) => error,
                }
            }
            psci::PSCI_SYSTEM_SUSPEND_32 | psci::PSCI_SYSTEM_SUSPEND_64 => {
                match system_suspend(guest, x1, x2) {
                    Ok(action) => return action,
                    Err(error) => error,
                }
            }
            psci::PSCI_SYSTEM_RESET2_32 | psci::PSCI_SYSTEM_RESET2_64 => {
                if x1 as u32 == SYSTEM_WARM_RESET {
                    return end(guest.vm(), VmEnd::Reset);
                }
                error::INVALID_PARAMETERS
            }
            psci::PSCI_CPU_OFF if guest.vm().count_off() => return Action::Stop,
            psci::PSCI_CPU_OFF => {
                let interrupts = guest.interrupts();
                interrupts.vgic.turned_off(interrupts.cpu);
                return Action::PowerOff;
            }
            psci::PSCI_SYSTEM_OFF => return end(guest.vm(), VmEnd::PowerOff),
            psci::PSCI_SYSTEM_RESET => return end(guest.vm(), VmEnd::Reset),
            _ => return Action::Decline,
        };
        guest.set_register(0, result as i64 as u64);
        Action::Finish
    }
}

/// What a call that did what it was asked to answers.
const SUCCESS: i32 = 0;

fn arguments(guest: &GuestCpu<'_>, function: u32) -> [u64; 3] {
    [1, 2, 3].map(|index| {
        let argument = guest.register(index);
        if function & IS_64BIT != 0 || cfg!(mutant = "psci_wide_smc32") {
            argument
        } else {
            argument & 0xffff_ffff
        }
    })
}

/// PSCI_FEATURES: 0 for what there is. For CPU_SUSPEND it means the original power_state format, platform-coordinated.
fn features(function: u32) -> i32 {
    match function {
        psci::PSCI_VERSION
        | psci::PSCI_FEATURES
        | psci::PSCI_MIGRATE_INFO_TYPE
        | psci::PSCI_AFFINITY_INFO_32
        | psci::PSCI_AFFINITY_INFO_64
        | psci::PSCI_CPU_ON_32
        | psci::PSCI_CPU_ON_64
        | psci::PSCI_CPU_SUSPEND_32
        | psci::PSCI_CPU_SUSPEND_64
        | psci::PSCI_CPU_OFF
        | psci::PSCI_SYSTEM_OFF
        | psci::PSCI_SYSTEM_RESET
        | psci::PSCI_SYSTEM_RESET2_32
        | psci::PSCI_SYSTEM_RESET2_64
        | psci::PSCI_SYSTEM_SUSPEND_32
        | psci::PSCI_SYSTEM_SUSPEND_64
        | smccc::arch::SMCCC_VERSION => SUCCESS,
        _ => error::NOT_SUPPORTED,
    }
}

/// The index of the vCPU that a PSCI argument names, if it is in the VM.
fn target(vm: &Vm, affinity: u64) -> Option<usize> {
    if affinity & !AFFINITY_MASK != 0 {
        return None;
    }
    index_of(affinity).filter(|&index| index < vm.vcpu_count())
}

fn affinity_info(vm: &Vm, affinity: u64, lowest_level: u32) -> i32 {
    // Since 1.0 only level 0 need be answered. [DEN0022: AFFINITY_INFO]
    let vcpu = target(vm, affinity)
        .filter(|_| lowest_level == 0)
        .and_then(|index| vm.vcpu(index));
    match vcpu.map(|vcpu| vcpu.power_state()) {
        Some(PowerState::On) => 0,
        Some(PowerState::Off) => 1,
        Some(PowerState::OnPending) => 2,
        None => error::INVALID_PARAMETERS,
    }
}

fn cpu_on(vm: &Vm, affinity: u64, entry: u64, context: u64) -> i32 {
    let Some(index) = target(vm, affinity) else {
        return error::INVALID_PARAMETERS;
    };
    if !is_entry_point(vm, entry) {
        return error::INVALID_ADDRESS;
    }
    match vm.power_on(index, entry, context) {
        Some(Ok(())) => SUCCESS,
        Some(Err(PowerOnError::OnPending)) if !cfg!(mutant = "psci_forget_on_pending") => {
            error::ON_PENDING
        }
        Some(Err(_)) => error::ALREADY_ON,
        None => error::INVALID_PARAMETERS,
    }
}

/// All states of the original format are there, at all levels. [DEN0022: CPU_SUSPEND]
fn cpu_suspend(
    guest: &mut GuestCpu<'_>,
    power_state: u32,
    entry: u64,
    context: u64,
) -> Result<Action, i32> {
    if power_state & POWER_STATE_RESERVED != 0 {
        Err(error::INVALID_PARAMETERS)
    } else if power_state & POWER_STATE_POWERDOWN == 0 {
        guest.set_register(0, SUCCESS as u64);
        Ok(Action::Wait)
    } else if is_entry_point(guest.vm(), entry) {
        Ok(power_down(guest, entry, context))
    } else {
        Err(error::INVALID_ADDRESS)
    }
}

/// [DEN0022: SYSTEM_SUSPEND]
fn system_suspend(guest: &mut GuestCpu<'_>, entry: u64, context: u64) -> Result<Action, i32> {
    let (vm, caller) = (guest.vm(), guest.vcpu());
    let others = (0..vm.vcpu_count()).filter(|&index| index != caller);
    let mut others = others.filter_map(|index| vm.vcpu(index));
    if others.any(|vcpu| vcpu.power_state() != PowerState::Off) {
        Err(error::DENIED)
    } else if is_entry_point(vm, entry) {
        Ok(power_down(guest, entry, context))
    } else {
        Err(error::INVALID_ADDRESS)
    }
}

/// The vCPU sleeps until an interrupt, and then starts at `entry` as if it had been turned on. Until then the call is made again
/// after each wake-up, so one that was about nothing ends no sleep.
fn power_down(guest: &mut GuestCpu<'_>, entry: u64, context: u64) -> Action {
    let Interrupts {
        vgic,
        cpu,
        interface,
    } = guest.interrupts();
    if vgic.has_wake_request(cpu, interface) {
        guest.set_register(0, context);
        Action::Restart(entry)
    } else {
        Action::WaitAndRetry
    }
}

/// An A64 instruction can be fetched there.
fn is_entry_point(vm: &Vm, entry: u64) -> bool {
    entry.is_multiple_of(4) && vm.memory().contains(entry, 4)
}

fn end(vm: &Vm, end: VmEnd) -> Action {
    vm.stop(end);
    Action::Stop
}

#[cfg(all(test, not(loom)))]
mod tests;
