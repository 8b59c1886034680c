//! How a guest with more vCPUs than there are pCPUs makes the best of its turns: it lets others run instead of spinning.
//!
//! ```text
//!   YIELD       somebody else may run: a sibling that was preempted here, in turns, else whoever the policy picks
//!   YIELD_TO    that sibling may: for what is left of this turn if it is ready here, else next where it is ready
//!   VCPU_STATE  where the guest reads whether that sibling runs
//! ```
//! They are functions of the vendor specific hypervisor service; `docs/specs.md` has their numbers, arguments and results. A WFE
//! that traps is a YIELD. What is given is the caller's own turn, so nobody else's share changes.

use trapline_vcpu::{Action, Exit, YieldTo};

use crate::{
    affinity::index_of,
    handler::{ExitHandler, GuestCpu},
    registry::Claim,
    smccc::NOT_SUPPORTED,
    vm::VcpuControl,
};

const YIELD: u32 = 0x8600_0020;
const YIELD_TO_32: u32 = 0x8600_0021;
const YIELD_TO_64: u32 = 0xc600_0021;
const VCPU_STATE: u32 = 0xc600_0022;

/// What a call answers. [DEN0028: Return codes]
const SUCCESS: u64 = 0;
/// The vCPU runs already, cannot run, or is the caller.
const NOT_REQUIRED: u64 = -2_i64 as u64;
/// The VM has no vCPU with this affinity.
const INVALID_PARAMETER: u64 = -3_i64 as u64;

/// At how many siblings one exit looks for one that was preempted.
const LOOKS: usize = 16;

/// Answers the three calls, by HVC and SMC alike. A VM whose registry does not have it answers NOT_SUPPORTED.
pub struct OvercommitCalls;

impl OvercommitCalls {
    /// The functions' numbers.
    pub const CLAIMS: [Claim; 2] = [
        Claim::Calls(YIELD..=YIELD_TO_32),
        Claim::Calls(YIELD_TO_64..=VCPU_STATE),
    ];
}

impl ExitHandler for OvercommitCalls {
    fn name(&self) -> &str {
        "overcommit"
    }

    fn handle(&self, guest: &mut GuestCpu<'_>, _exit: &Exit) -> Action {
        let argument = guest.register(1);
        let (result, action) = match guest.register(0) as u32 {
            YIELD => (SUCCESS, yield_from_spin(guest)),
            YIELD_TO_32 => yield_to(guest, argument & 0xffff_ffff),
            YIELD_TO_64 => yield_to(guest, argument),
            VCPU_STATE => (state_address(guest, argument), Action::Finish),
            _ => return Action::Decline,
        };
        guest.set_register(0, result);
        action
    }
}

/// The caller waits for what the vCPU with this affinity does next.
fn yield_to(guest: &GuestCpu<'_>, affinity: u64) -> (u64, Action) {
    let (vm, caller) = (guest.vm(), guest.vcpu());
    let index = index_of(affinity);
    let Some((index, target)) = index.and_then(|index| Some((index, vm.vcpu(index)?))) else {
        return (INVALID_PARAMETER, Action::Finish);
    };
    match target.ready_on().filter(|_| index != caller) {
        None => (NOT_REQUIRED, Action::Finish),
        Some(pcpu) if is_here(guest, pcpu) => {
            let to = YieldTo::vcpu(target.id());
            (SUCCESS, Action::Yield(to))
        }
        Some(_) => {
            target.hurry();
            (SUCCESS, Action::Yield(YieldTo::ANYBODY))
        }
    }
}

/// The vCPU spins, and does not say for what: a sibling that was preempted may hold it. Those that have yielded themselves wait
/// too, so they are left out, and each exit goes on where the last one found somebody.
pub(crate) fn yield_from_spin(guest: &GuestCpu<'_>) -> Action {
    let (vm, caller) = (guest.vm(), guest.vcpu());
    let (count, first) = (vm.vcpu_count(), vm.next_favoured());
    let looks = count.min(LOOKS);
    let siblings = (first..first + looks).map(|index| index % count);
    let preempted = siblings
        .filter(|&index| index != caller)
        .filter_map(|index| {
            let sibling = vm.vcpu(index)?;
            Some((index, sibling, sibling.preempted_on()?))
        });
    let mut elsewhere: Option<(usize, &dyn VcpuControl)> = None;
    for (index, sibling, pcpu) in preempted {
        if is_here(guest, pcpu) {
            vm.set_next_favoured(index + 1);
            return Action::Yield(YieldTo::vcpu(sibling.id()));
        }
        elsewhere.get_or_insert((index, sibling));
    }
    let next = match elsewhere {
        Some((index, sibling)) => {
            sibling.hurry();
            index + 1
        }
        None => first + looks,
    };
    vm.set_next_favoured(next);
    Action::Yield(YieldTo::ANYBODY)
}

/// The caller runs on `pcpu`.
fn is_here(guest: &GuestCpu<'_>, pcpu: trapline_sched::PcpuId) -> bool {
    let caller = guest.vm().vcpu(guest.vcpu());
    caller.is_some_and(|caller| caller.last_pcpu() == pcpu)
}

/// Where the guest reads how the vCPU with this affinity is.
fn state_address(guest: &GuestCpu<'_>, affinity: u64) -> u64 {
    let vm = guest.vm();
    let Some(states) = vm.vcpu_states() else {
        return NOT_SUPPORTED;
    };
    let index = index_of(affinity).filter(|&index| index < vm.vcpu_count());
    index.map_or(INVALID_PARAMETER, |index| states.address(index))
}

#[cfg(all(test, not(loom)))]
mod tests;
