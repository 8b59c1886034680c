//! How the list registers and controls of the virtual CPU interface are laid out. [IHI0069: ICH registers]

/// The state field of a list register.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct State(u8);

impl State {
    pub(super) const INACTIVE: Self = Self(0b00);
    pub(super) const PENDING: Self = Self(0b01);
    pub(super) const ACTIVE: Self = Self(0b10);
    pub(super) const PENDING_AND_ACTIVE: Self = Self(0b11);

    pub(super) const fn is_pending(self) -> bool {
        self.0 & 1 != 0
    }

    pub(super) const fn is_active(self) -> bool {
        self.0 & 2 != 0
    }

    /// That of an interrupt which is never active.
    pub(super) const fn without_active(self) -> Self {
        Self(self.0 & 1)
    }

    /// The state field of `value`.
    pub(super) const fn of(value: u64) -> Self {
        Self((value >> 62) as u8)
    }
}

/// What the guest's end of the interrupt does beyond ending it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum OnEnd {
    /// Nothing.
    Nothing,
    /// A maintenance interrupt.
    Tell,
    /// It deactivates the physical interrupt with this INTID.
    DeactivatePhysical(u32),
}

const HARDWARE: u64 = 1 << 61;

/// A list register's value.
pub(super) const fn list_register(
    intid: u32,
    state: State,
    priority: u8,
    group1: bool,
    on_end: OnEnd,
) -> u64 {
    let end = match on_end {
        OnEnd::Nothing => 0,
        OnEnd::Tell => 1 << 41,
        OnEnd::DeactivatePhysical(physical) => HARDWARE | (physical as u64) << 32,
    };
    (state.0 as u64) << 62 | end | (group1 as u64) << 60 | (priority as u64) << 48 | intid as u64
}

/// The same with the vCPU that sent the SGI, as its bit in `source`: where a physical INTID would be. [IHI0048: GICH_LR<n>.CPUID]
#[cold]
pub(super) const fn with_source(value: u64, source: u8) -> u64 {
    value | (source.trailing_zeros() as u64) << 32
}

/// The INTID of a list register.
pub(super) const fn intid_of(value: u64) -> u32 {
    value as u32
}

/// The guest's end of what is in a list register deactivates a physical interrupt.
pub(super) const fn is_physical(value: u64) -> bool {
    value & HARDWARE != 0
}

/// The priority of a list register.
pub(super) const fn priority_of(value: u64) -> u8 {
    (value >> 48) as u8
}

/// ICH_HCR_EL2: the virtual CPU interface is on.
pub(super) const ENABLE: u64 = 1 << 0;
/// ICH_HCR_EL2.LRENPIE: tell when the guest ends an interrupt that no list register has.
pub(super) const TELL_UNLISTED_END: u64 = 1 << 2;
/// ICH_HCR_EL2.NPIE: tell when no list register is pending.
pub(super) const TELL_NO_PENDING: u64 = 1 << 3;
/// ICH_HCR_EL2.TDIR: trap ICC_DIR_EL1.
pub(super) const TRAP_DEACTIVATE: u64 = 1 << 14;

/// ICH_HCR_EL2.VGrp`n`EIE or VGrp`n`DIE: tell when the guest turns the group on, if it is off, or off, if it is on.
const fn tell_group_change(group1: bool, is_on: bool) -> u64 {
    1 << (4 + 2 * group1 as u32 + is_on as u32)
}

/// Tells when the guest turns either group on or off.
pub(super) const fn tell_group_changes(machine_control: u64) -> u64 {
    tell_group_change(false, takes_group(machine_control, false))
        | tell_group_change(true, takes_group(machine_control, true))
}

/// ICH_HCR_EL2.EOIcount: how many interrupts that no list register has were ended.
pub(super) const fn unlisted_ends(control: u64) -> u32 {
    (control >> 27) as u32 & 31
}

/// ICH_VMCR_EL2.VENG0 or VENG1: the guest's CPU interface takes the group.
pub(super) const fn takes_group(machine_control: u64, group1: bool) -> bool {
    machine_control >> group1 as u32 & 1 != 0
}

/// ICH_VMCR_EL2.VEOIM: an EOI only drops the priority, ICC_DIR_EL1 deactivates.
pub(super) const fn splits_end(machine_control: u64) -> bool {
    machine_control & 1 << 9 != 0
}

/// ICH_VMCR_EL2.VPMR: the priority that an interrupt must beat.
pub(super) const fn priority_mask(machine_control: u64) -> u8 {
    (machine_control >> 24) as u8
}
