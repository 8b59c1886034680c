//! Which interrupts are in the list registers.
//!
//! If there is no room for everything ([`renew`](super::renew)), all list registers are folded into the records first, then the most
//! urgent interrupts are chosen and written again.
//! Pending ones come first, by priority and then INTID, since only they can be signalled; what is active comes after.
//! With more pending than list registers, the guest's taking the last listed one tells us (NPIE), whatever the
//! number of list registers: the underflow condition holds at once with one of them and never while a guest keeps
//! interrupts active. What is active without a list register is ended by count (LRENPIE) or by a trapped ICC_DIR_EL1.

use trapline_vcpu::interrupts::{TimerPpi, VirtualCpuInterface};

use crate::sync::atomic::{Ordering, fence};

use super::{
    PRIVATE_COUNT, SGI_COUNT, Version, Vgic, VgicCpu,
    cpu::MAX_LIST_REGISTERS,
    due::Few,
    list_register::{
        ENABLE, OnEnd, State, TELL_NO_PENDING, TELL_UNLISTED_END, TRAP_DEACTIVATE, intid_of,
        is_physical, list_register, priority_of, splits_end, takes_group, tell_group_changes,
        unlisted_ends, with_source,
    },
    lpi::FIRST_LPI,
    one_of_n::{TAKES_PART_ANY, group_watch},
    record::{ANYBODY, Listing, Record, Role},
    shortlist::{Shortlist, intid_of_key, urgency},
};

/// How often the list registers are filled anew for groups that change meanwhile.
const MOST_FLUSHES: usize = 3;

/// What [`Vgic::consider`] finds.
enum Candidate {
    /// It is none any more.
    Over,
    /// For its group to be turned on.
    Waits,
    /// Acknowledged, and without a list register.
    Active(Record),
    /// To be delivered; by the hardware itself if `fires`.
    Pending { record: Record, fires: bool },
}

fn note_pending(most_urgent: &mut [Option<u8>; 2], group1: bool, priority: u8) {
    let best = &mut most_urgent[usize::from(group1)];
    *best = Some(best.map_or(priority, |other| other.min(priority)));
}

/// The timer behind `intid`, by its index in [`TimerPpi::ALL`].
pub(super) fn timer_of(intid: u32) -> Option<usize> {
    TimerPpi::ALL
        .iter()
        .position(|timer| timer.intid() == intid)
}

impl Vgic {
    /// Samples the vCPU's timers into their records. One that has something to do is among the candidates afterwards.
    ///
    /// The physical interrupt can be active only since a sample that saw the line high: the pCPU asks for a refresh when it
    /// acknowledges it. The physical interrupt controller is asked only then.
    #[inline]
    pub(super) fn sample_timers(&self, cpu: &mut VgicCpu, interface: &mut dyn VirtualCpuInterface) {
        let lines = interface.timer_lines();
        let was_high = cpu.is_timer_high && !cfg!(mutant = "vgic_forget_timer_line");
        if lines != [false; 2] || was_high || cpu.is_timer_active != [false; 2] {
            self.sample_busy_timers(cpu, interface, lines);
        }
    }

    #[inline(never)]
    fn sample_busy_timers(
        &self,
        cpu: &mut VgicCpu,
        interface: &mut dyn VirtualCpuInterface,
        lines: [bool; 2],
    ) {
        cpu.is_timer_high = lines != [false; 2];
        let timers = TimerPpi::ALL.into_iter().zip(lines);
        for ((timer, line), is_active) in timers.zip(&mut cpu.is_timer_active) {
            let was_high = self
                .record(Some(cpu.index), timer.intid())
                .is_some_and(|record| {
                    let was_high = record.load().line();
                    if was_high != line {
                        record.update(|record| record.set_line(line));
                    }
                    was_high
                });
            *is_active = (line || was_high || *is_active) && interface.is_timer_active(timer);
            if line || *is_active {
                cpu.candidates.insert(timer.intid());
            }
        }
    }

    /// Takes back from the list registers what the guest left there. They keep their contents: [`Vgic::flush`] or
    /// [`Vgic::unbind`] follows.
    #[inline]
    pub(super) fn fold(&self, cpu: &mut VgicCpu, interface: &mut dyn VirtualCpuInterface) {
        if cpu.used != 0 || cpu.has_unlisted_active {
            self.fold_used(cpu, interface);
        }
    }

    fn fold_used(&self, cpu: &mut VgicCpu, interface: &mut dyn VirtualCpuInterface) {
        if cpu.has_unlisted_active {
            self.end_unlisted(cpu, unlisted_ends(interface.control()));
        }
        for index in 0..cpu.used.min(MAX_LIST_REGISTERS) {
            let value = interface.list_register(index);
            cpu.list_registers[index] = value;
            let (intid, folded) = left_in(value);
            self.change_own(cpu, intid, folded);
        }
    }

    /// The guest has ended `count` interrupts that had no list register: the most urgent ones, since the running priority
    /// is the highest.
    fn end_unlisted(&self, cpu: &mut VgicCpu, count: u32) {
        let mut ended = Shortlist::new(count as usize);
        cpu.candidates.retain(|intid| {
            if let Some(record) = self
                .record(Some(cpu.index), intid)
                .map(|record| record.load())
                && record.role(cpu.index as u8, 0) == Role::Active
            {
                ended.offer(urgency(record.active_priority(), intid, true));
            }
            true
        });
        for &key in ended.keys() {
            self.change_own(cpu, intid_of_key(key), Record::clear_active);
        }
    }

    /// Changes an interrupt that this vCPU owns: if the vCPU itself is concerned, it is among the candidates afterwards.
    pub(super) fn change_own(
        &self,
        cpu: &mut VgicCpu,
        intid: u32,
        transition: impl Fn(Record) -> Record,
    ) {
        if let Some(record) = self.record(Some(cpu.index), intid) {
            self.follow_own(cpu, intid, record.update(transition));
        }
    }

    /// The record of an interrupt that this vCPU owns has become another one.
    #[inline(never)]
    pub(super) fn follow_own(&self, cpu: &mut VgicCpu, intid: u32, (old, new): (Record, Record)) {
        if new.is_orphan() {
            self.release_physical(intid);
        }
        match old.attention(new) {
            // What may go to any vCPU stays here if this one takes part.
            Some(concerned) if concerned == cpu.me() || concerned == ANYBODY => {
                cpu.candidates.insert(intid);
            }
            Some(concerned) => self.tell(usize::from(concerned), intid, new),
            None => {}
        }
    }

    /// Chooses among what is due and what was folded, and writes the list registers and their control.
    pub(super) fn flush(&self, cpu: &mut VgicCpu, interface: &mut dyn VirtualCpuInterface) {
        let machine_control = interface.machine_control();
        let groups = self.groups_for(cpu, machine_control);
        self.flush_for(cpu, interface, (groups, machine_control));
        self.confirm_groups(cpu, interface, groups);
    }

    /// Groups are not part of the records: one that was turned off while its interrupts were being listed for `groups` takes them
    /// out again. Pairs with the fence of whoever writes GICD_CTLR: either it sees them listed, or this sees the group off.
    #[inline]
    pub(super) fn confirm_groups(
        &self,
        cpu: &mut VgicCpu,
        interface: &mut dyn VirtualCpuInterface,
        groups: u32,
    ) {
        fence(Ordering::SeqCst);
        if (self.groups() ^ groups) & !TAKES_PART_ANY != 0 {
            self.flush_again(cpu, interface);
        }
    }

    /// The groups have changed since. A guest may go on changing them: after a few times nothing is listed, and the maintenance
    /// interrupt that says so brings the vCPU back at once.
    #[cold]
    fn flush_again(&self, cpu: &mut VgicCpu, interface: &mut dyn VirtualCpuInterface) {
        for _ in 0..MOST_FLUSHES {
            self.fold(cpu, interface);
            let machine_control = interface.machine_control();
            let groups = self.groups_for(cpu, machine_control);
            self.flush_for(cpu, interface, (groups, machine_control));
            fence(Ordering::SeqCst);
            if (self.groups() ^ groups) & !TAKES_PART_ANY == 0 {
                return;
            }
        }
        self.fold(cpu, interface);
        let machine_control = interface.machine_control();
        self.flush_for(cpu, interface, (0, machine_control));
        let control = group_watch(0, machine_control) | TELL_NO_PENDING;
        write_control(cpu, interface, machine_control, control);
    }

    /// Lists what is due and whose group is among `groups`.
    fn flush_for(
        &self,
        cpu: &mut VgicCpu,
        interface: &mut dyn VirtualCpuInterface,
        (groups, machine_control): (u32, u64),
    ) {
        self.shared_cpu(cpu).due.drain_into(&mut cpu.candidates);
        let count = interface.list_register_count();
        let was_used = core::mem::take(&mut cpu.used);
        cpu.most_urgent = [None; 2];
        let (pending_overflows, active_overflows) = match cpu.candidates.few(count) {
            Some(few) => {
                self.list_few(cpu, interface, few, groups);
                (false, false)
            }
            None => self.list_most_urgent(cpu, interface, (groups, machine_control)),
        };
        empty_from_used(cpu, interface, was_used);
        cpu.has_unlisted_active = active_overflows;
        let mut control = group_watch(groups, machine_control);
        if pending_overflows && !cfg!(mutant = "vgic_no_underflow") {
            control |= TELL_NO_PENDING;
            control |= tell_group_changes(machine_control);
        }
        if active_overflows {
            control |= TELL_UNLISTED_END | TRAP_DEACTIVATE;
            // Also if it was so before: what EOIcount said has been taken into account.
            cpu.control = 0;
        }
        write_control(cpu, interface, machine_control, control);
    }

    /// Lists the candidates, for each of which there is a list register: the hardware finds the most urgent one among them.
    pub(super) fn list_few(
        &self,
        cpu: &mut VgicCpu,
        interface: &mut dyn VirtualCpuInterface,
        few: Few,
        groups: u32,
    ) {
        for intid in few {
            // What the timers have is looked at before.
            if timer_of(intid).is_none() && self.list(cpu, interface, intid, groups) {
                continue;
            }
            match self.consider(
                cpu.index,
                &mut cpu.is_timer_active,
                intid,
                groups,
                interface,
            ) {
                Candidate::Over => cpu.candidates.remove(intid),
                Candidate::Waits => {}
                Candidate::Active(_) | Candidate::Pending { fires: false, .. } => {
                    self.list(cpu, interface, intid, groups);
                }
                Candidate::Pending { record, .. } => {
                    note_pending(&mut cpu.most_urgent, record.is_group1(), record.priority());
                }
            }
        }
    }

    /// Chooses among more candidates than there are list registers. Whether some that are pending, and some that are active, are
    /// without one.
    #[inline(never)]
    fn list_most_urgent(
        &self,
        cpu: &mut VgicCpu,
        interface: &mut dyn VirtualCpuInterface,
        (groups, machine_control): (u32, u64),
    ) -> (bool, bool) {
        let count = interface.list_register_count();
        let (mut pending, mut active) = (Shortlist::new(count), Shortlist::new(count));
        let VgicCpu {
            index,
            is_timer_active,
            candidates,
            most_urgent,
            ..
        } = &mut *cpu;
        candidates.retain(|intid| {
            match self.consider(*index, is_timer_active, intid, groups, interface) {
                Candidate::Over => return false,
                Candidate::Waits => {}
                Candidate::Active(record) => {
                    active.offer(urgency(record.active_priority(), intid, true));
                }
                Candidate::Pending { record, fires } => {
                    note_pending(most_urgent, record.is_group1(), record.priority());
                    let is_taken = takes_group(machine_control, record.is_group1());
                    if !fires {
                        pending.offer(urgency(record.priority(), intid, is_taken));
                    }
                }
            }
            true
        });
        // The interrupt that is being handled keeps a list register if there are several, so that its end is no exit.
        let spare = usize::from(count > 1 && active.len > 0);
        pending.shorten(count - spare);
        active.shorten(count - pending.len);
        for shortlist in [&pending, &active] {
            for &key in shortlist.keys() {
                self.list(cpu, interface, intid_of_key(key), groups);
            }
        }
        (pending.overflows, active.overflows)
    }

    /// What the candidate `intid` of the bound vCPU `index` is, with the groups in `groups` forwarded. One whose group is off may be
    /// passed on to another vCPU.
    fn consider(
        &self,
        index: usize,
        is_timer_active: &mut [bool; 2],
        intid: u32,
        groups: u32,
        interface: &mut dyn VirtualCpuInterface,
    ) -> Candidate {
        let Some(record) = self.record(Some(index), intid) else {
            return Candidate::Over;
        };
        let (record, me) = (record.load(), index as u8);
        let fires = timer_of(intid)
            .is_some_and(|timer| settle_timer(record, timer, is_timer_active, interface));
        match record.role(me, groups) {
            Role::Active => Candidate::Active(record),
            Role::Pending => Candidate::Pending { record, fires },
            // Its group may be turned on by somebody who has seen neither the record nor this.
            Role::None
                if record.waits_for_group(me)
                    && !self.pass_on(intid, record, groups)
                    && !cfg!(mutant = "vgic_forget_group_off") =>
            {
                Candidate::Waits
            }
            Role::None => Candidate::Over,
        }
    }

    /// Moves `intid` to the next free list register; false if it is nothing to list, or somebody else has made an end of it since it
    /// was chosen.
    fn list(
        &self,
        cpu: &mut VgicCpu,
        interface: &mut dyn VirtualCpuInterface,
        intid: u32,
        groups: u32,
    ) -> bool {
        let record = self.record(Some(cpu.index), intid);
        // Whoever changed it since tells whom it concerns.
        let Some(listing) = record.and_then(|record| record.list(cpu.me(), groups)) else {
            return false;
        };
        self.fill(cpu, interface, intid, listing);
        true
    }

    /// Writes what the record of `intid` says of it, which no list register has any more, to the next free one.
    #[inline(always)]
    pub(super) fn fill(
        &self,
        cpu: &mut VgicCpu,
        interface: &mut dyn VirtualCpuInterface,
        intid: u32,
        listing: Listing,
    ) {
        cpu.candidates.remove(intid);
        if !listing.state.is_active() {
            note_pending(&mut cpu.most_urgent, listing.group1, listing.priority);
        }
        let is_timer =
            timer_of(intid).is_some_and(|timer| cpu.is_timer_active[timer]) && !listing.is_latched;
        let physical = if listing.is_physical {
            self.physical_intid(intid)
        } else {
            is_timer.then_some(intid)
        };
        let on_end = match (physical, listing.tells_end) {
            (Some(physical), _) => OnEnd::DeactivatePhysical(physical),
            (None, true) => OnEnd::Tell,
            (None, false) => OnEnd::Nothing,
        };
        let value = list_register(
            intid,
            listing.state,
            listing.priority,
            listing.group1,
            on_end,
        );
        let value = match self.version {
            Version::V2 { .. } => self.with_source(cpu, intid, value),
            Version::V3 { .. } => value,
        };
        let index = cpu.used;
        if cpu.list_registers[index] != value {
            cpu.list_registers[index] = value;
            interface.set_list_register(index, value);
        }
        cpu.used = index + 1;
    }
}

impl Vgic {
    /// The value for a list register that `intid` was just moved to, with its sender if it is an SGI.
    #[cold]
    fn with_source(&self, cpu: &VgicCpu, intid: u32, value: u64) -> u64 {
        let record = self.record(Some(cpu.index), intid);
        match record.map(|record| record.load().source()) {
            Some(source) if intid < SGI_COUNT && source != 0 => with_source(value, source),
            _ => value,
        }
    }
}

/// What the guest has left in a list register with this value: the interrupt, and what becomes of its record.
#[inline]
pub(super) fn left_in(value: u64) -> (u32, impl Fn(Record) -> Record) {
    let (mut left, intid) = (State::of(value), intid_of(value));
    if intid >= FIRST_LPI {
        // The CPU interface may say otherwise, and does not miss it. [QEMU: icv_activate_irq, icv_eoir_write]
        left = left.without_active();
    }
    // The timers' physical interrupts are looked at where they are.
    let is_physical = is_physical(value) && intid >= PRIVATE_COUNT;
    let priority = priority_of(value);
    (intid, move |record| {
        record.folded(left, priority, is_physical)
    })
}

/// Empties the list registers that are not used any more, of the first `was_used`.
pub(super) fn empty_from_used(
    cpu: &mut VgicCpu,
    interface: &mut dyn VirtualCpuInterface,
    was_used: usize,
) {
    for index in cpu.used..was_used {
        cpu.list_registers[index] = 0;
        interface.set_list_register(index, 0);
    }
}

/// Turns the virtual CPU interface on, with `more` in its control.
pub(super) fn write_control(
    cpu: &mut VgicCpu,
    interface: &mut dyn VirtualCpuInterface,
    machine_control: u64,
    more: u64,
) {
    // With split ends any vCPU may deactivate a shared interrupt, also one that another vCPU has listed.
    let trap = if splits_end(machine_control) {
        TRAP_DEACTIVATE
    } else {
        0
    };
    let control = ENABLE | trap | more;
    if cpu.control != control {
        cpu.control = control;
        interface.set_control(control);
    }
}

/// Whether the timer behind `record` is left to the hardware: its line is high and its physical interrupt, which is not
/// active, comes as soon as the guest runs. Injecting it now would deliver it twice.
///
/// If the line has dropped and the guest is not handling the interrupt, the physical one is deactivated: it may fire again.
fn settle_timer(
    record: Record,
    timer: usize,
    is_timer_active: &mut [bool; 2],
    interface: &mut dyn VirtualCpuInterface,
) -> bool {
    if is_timer_active[timer] && !record.line() && !record.is_active() {
        is_timer_active[timer] = false;
        interface.deactivate_timer(TimerPpi::ALL[timer]);
    }
    record.line() && !is_timer_active[timer] && !record.is_latched()
}
