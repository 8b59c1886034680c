//! Interrupts that any vCPU may take, or any of a set, and exactly one does.
//! [IHI0069: GICD_IROUTER.Interrupt_Routing_Mode, 1 of N model; IHI0048: GICD_ITARGETSR<n>]
//!
//! Such an interrupt has no target. It is told to one vCPU that takes part, a bound one if there is any; whoever moves it to
//! a list register has it, and the compare-exchange that does so lets one succeed. Who is told and takes no part any more
//! passes it on. If nobody takes part it stays as it is, and whoever begins to take part looks for it.
//!
//! ```text
//!   raised ---> due at one that takes part ---> listed: it is that vCPU's
//!     ^                     |                      |
//!     '--- takes no part ---'---- unbound, left ---'
//! ```
//! A vCPU takes part in a group if its redistributor, if there are any, is awake and does not refuse the group, and its CPU
//! interface takes it.
//! The last is known as of its last look; with an interrupt of this kind in the VM, the guest's turning it on or off makes
//! the vCPU look.

use super::{
    PRIVATE_COUNT, Version, Vgic, VgicCpu,
    list_register::{takes_group, tell_group_changes},
    record::{ANYBODY, Record, TAKES_PART},
};
use crate::sync::atomic::{Ordering, fence};

/// GICR_WAKER.ProcessorSleep.
pub(super) const ASLEEP: u32 = 1 << 1;
/// GICR_CTLR.DPG0 and DPG1NS.
pub(super) const REFUSED: u32 = 0b11 << REFUSED_SHIFT;
const REFUSED_SHIFT: u32 = 24;
/// The vCPU is off.
const OFF: u32 = 1 << 2;
/// Its CPU interface takes group 0; the next bit, group 1.
const TAKES: u32 = 0b11 << TAKES_SHIFT;
const TAKES_SHIFT: u32 = 4;

/// Among the VM's groups: some interrupt may go to any vCPU, or did once.
pub(super) const IN_USE: u32 = 1 << 31;
/// [`TAKES_PART`] of both groups.
pub(super) const TAKES_PART_ANY: u32 = 0b11 * TAKES_PART;

/// What a vCPU says that has not been turned on yet.
pub(super) const fn resting(version: Version) -> u32 {
    match version {
        Version::V2 { .. } => OFF,
        Version::V3 { .. } => ASLEEP,
    }
}

/// The groups that a vCPU takes part in, in bits 0 and 1.
const fn groups_of(participation: u32) -> u32 {
    if participation & (ASLEEP | OFF) != 0 {
        return 0;
    }
    (participation & TAKES) >> TAKES_SHIFT & !(participation >> REFUSED_SHIFT)
}

/// What the control of the CPU interface has to have so that the guest's turning a group on or off is seen.
pub(super) const fn group_watch(groups: u32, machine_control: u64) -> u64 {
    if groups & IN_USE != 0 {
        tell_group_changes(machine_control)
    } else {
        0
    }
}

impl Vgic {
    /// From now on some interrupt may go to any vCPU: each says whether it takes part, when it runs.
    pub(super) fn use_anybody(&self) {
        if self.groups.fetch_or(IN_USE, Ordering::AcqRel) & IN_USE == 0 {
            (0..self.vcpu_count()).for_each(|vcpu| self.signals.wake(vcpu));
        }
    }

    /// The groups that the distributor forwards, with those of 1 of N that the bound vCPU takes part in.
    #[inline]
    pub(super) fn groups_for(&self, cpu: &VgicCpu, machine_control: u64) -> u32 {
        let groups = self.groups();
        if groups & IN_USE == 0 {
            groups
        } else {
            self.groups_with_parts(cpu, groups, machine_control)
        }
    }

    #[cold]
    fn groups_with_parts(&self, cpu: &VgicCpu, groups: u32, machine_control: u64) -> u32 {
        let takes = |group1| u32::from(takes_group(machine_control, group1)) << u32::from(group1);
        let takes = (takes(false) | takes(true)) << TAKES_SHIFT;
        self.set_participation(cpu.index, TAKES, takes);
        let participation = self.shared_cpu(cpu).participation.load(Ordering::Acquire);
        groups | (groups_of(participation) * TAKES_PART)
    }

    /// Changes those bits of a vCPU's participation that are in `mask`. If that changes what it takes part in, everything
    /// that may go to any vCPU is looked at again.
    pub(super) fn set_participation(&self, vcpu: usize, mask: u32, value: u32) {
        let Some(cpu) = self.cpus.get(vcpu) else {
            return;
        };
        let mut old = cpu.participation.load(Ordering::Acquire);
        let new = loop {
            let new = old & !mask | value;
            if new == old {
                return;
            }
            let swapped =
                cpu.participation
                    .compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire);
            match swapped {
                Ok(_) => break new,
                Err(current) => old = current,
            }
        };
        // Pairs with the fence of whoever finds nobody: either it sees this vCPU take part, or this sees its record.
        fence(Ordering::SeqCst);
        if groups_of(old) == groups_of(new) || self.groups() & IN_USE == 0 {
            return;
        }
        for (intid, record) in (PRIVATE_COUNT..).zip(&self.shared) {
            let record = record.load();
            if record.target() != ANYBODY {
                continue;
            }
            if record.is_listed() {
                self.tell(usize::from(record.owner()), intid, record);
            } else if record.is_deliverable() {
                self.tell_one_of_n(usize::from(ANYBODY), intid, record);
            }
        }
    }

    /// Tells one vCPU of an interrupt that may go to any, if `target` says that it is one.
    #[cold]
    pub(super) fn tell_one_of_n(&self, target: usize, intid: u32, record: Record) {
        if target != usize::from(ANYBODY) {
            return;
        }
        fence(Ordering::SeqCst);
        let chosen = self
            .choose_one(record, |vcpu| self.is_bound(vcpu))
            .or_else(|| self.choose_one(record, |_| true));
        if let Some(vcpu) = chosen {
            self.tell(vcpu, intid, record);
        }
    }

    /// The next vCPU in turn that takes part in what `record` may go to and that `suits`.
    fn choose_one(&self, record: Record, suits: impl Fn(usize) -> bool) -> Option<usize> {
        let count = self.vcpu_count();
        let turn = self.turn.load(Ordering::Relaxed) as usize;
        let chosen = (0..count)
            .map(|step| (turn + step) % count)
            .find(|&vcpu| self.takes_part(vcpu, record) && suits(vcpu))?;
        self.turn.store(chosen as u32 + 1, Ordering::Relaxed);
        Some(chosen)
    }

    fn takes_part(&self, vcpu: usize, record: Record) -> bool {
        self.cpus.get(vcpu).is_some_and(|cpu| {
            let groups = groups_of(cpu.participation.load(Ordering::Acquire));
            groups & 1 << u32::from(record.is_group1()) != 0 && record.is_among(vcpu as u8)
        })
    }

    fn is_bound(&self, vcpu: usize) -> bool {
        let waiters = |vcpu: usize| Some(self.cpus.get(vcpu)?.waiters.load(Ordering::Acquire));
        waiters(vcpu).is_some_and(|waiters| waiters & 1 << vcpu == 0)
    }

    /// Passes on an interrupt that may go to any vCPU and that this one, whose groups are in `groups`, takes no part in.
    /// False if it is none, or its group is not forwarded to anybody.
    #[cold]
    pub(super) fn pass_on(&self, intid: u32, record: Record, groups: u32) -> bool {
        let is_forwarded = groups & 1 << u32::from(record.is_group1()) != 0;
        let is_passed = record.target() == ANYBODY && is_forwarded;
        if is_passed {
            self.tell_one_of_n(usize::from(ANYBODY), intid, record);
        }
        is_passed
    }

    /// The vCPU is being unbound, its list registers are folded: gives what may go to any vCPU to one that is bound. If
    /// there is none it keeps them, or vCPUs that wait would pass them round for ever.
    #[inline]
    pub(super) fn hand_over(&self, cpu: &mut VgicCpu) {
        if self.groups() & IN_USE != 0 {
            self.hand_over_all(cpu);
        }
    }

    #[cold]
    fn hand_over_all(&self, cpu: &mut VgicCpu) {
        let me = cpu.index;
        cpu.candidates.retain(|intid| {
            let Some(record) = self.record(None, intid).map(|record| record.load()) else {
                return true;
            };
            if record.target() != ANYBODY || !record.is_deliverable() {
                return true;
            }
            let suits = |vcpu: usize| vcpu != me && self.is_bound(vcpu);
            let heir = self.choose_one(record, suits);
            if let Some(heir) = heir {
                self.tell(heir, intid, record);
            } else if !self.takes_part(me, record) {
                self.tell_one_of_n(usize::from(ANYBODY), intid, record);
            }
            heir.is_none()
        });
    }

    /// The bound vCPU turns itself off, so it takes part in nothing.
    pub fn turned_off(&self, cpu: &VgicCpu) {
        self.set_participation(cpu.index, OFF, OFF);
    }

    /// The vCPU was turned on; its CPU interface takes no group yet.
    pub(super) fn turned_on(&self, cpu: &VgicCpu) {
        self.set_participation(cpu.index, OFF | TAKES, 0);
    }
}
