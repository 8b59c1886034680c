//! The virtual CPU interface of a pCPU, as the emulated interrupt controller sees it.

/// The list registers and virtual timers of this pCPU. [IHI0069: ICH registers]
///
/// The hardware implements it under `arch/`; tests implement it in software. It is used only by the pCPU that has the
/// vCPU bound, between `Dispatch::bind` and `Dispatch::unbind`.
pub trait VirtualCpuInterface {
    /// How many list registers there are: 1 to 16. [ICH_VTR_EL2.ListRegs]
    fn list_register_count(&self) -> usize;
    /// List register `index`, as the guest has left it. [ICH_LR<n>_EL2]
    fn list_register(&self, index: usize) -> u64;
    /// Writes list register `index`.
    fn set_list_register(&mut self, index: usize, value: u64);
    /// ICH_HCR_EL2, with EOIcount in bits 31:27.
    fn control(&self) -> u64;
    /// Writes ICH_HCR_EL2.
    fn set_control(&mut self, value: u64);
    /// ICH_VMCR_EL2: the guest's priority mask, group enables, binary points and EOI mode.
    fn machine_control(&self) -> u64;
    /// Writes ICH_VMCR_EL2.
    fn set_machine_control(&mut self, value: u64);
    /// ICH_AP0R0_EL2 to ICH_AP0R3_EL2 and ICH_AP1R0_EL2 to ICH_AP1R3_EL2; those that are not implemented read as zero.
    fn active_priorities(&self) -> ActivePriorities;
    /// Writes the active priorities that are implemented.
    fn set_active_priorities(&mut self, value: ActivePriorities);
    /// The output of the timer behind this PPI now: ENABLE, not IMASK, and the condition met. False for other PPIs.
    fn timer_line(&self, ppi: TimerPpi) -> bool;
    /// The outputs of both timers, in the order of [`TimerPpi::ALL`].
    fn timer_lines(&self) -> [bool; 2] {
        TimerPpi::ALL.map(|ppi| self.timer_line(ppi))
    }
    /// The timer's physical interrupt is active on this pCPU: Trapline has acknowledged it and not deactivated it.
    fn is_timer_active(&self, ppi: TimerPpi) -> bool;
    /// Deactivates the timer's physical interrupt on this pCPU, so that it can fire again.
    fn deactivate_timer(&mut self, ppi: TimerPpi);
}

/// A guest timer whose interrupt is private to each CPU. [DDI0487: The Generic Timer; BSA: PPI assignments]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TimerPpi {
    /// The EL1 virtual timer, INTID 27.
    Virtual,
    /// The EL1 physical timer, INTID 30.
    Physical,
}

impl TimerPpi {
    /// Both timers.
    pub const ALL: [Self; 2] = [Self::Virtual, Self::Physical];

    /// The INTID, physical and virtual alike.
    pub const fn intid(self) -> u32 {
        match self {
            Self::Virtual => 27,
            Self::Physical => 30,
        }
    }
}

/// The priorities of the interrupts that a vCPU is handling. [IHI0069: ICH_AP0R<n>_EL2, ICH_AP1R<n>_EL2]
// Aligned so that it is copied in a few instructions, whatever the target allows of unaligned access.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(align(8))]
pub struct ActivePriorities {
    /// Group 0, register n at index n.
    pub group0: [u32; 4],
    /// Group 1, register n at index n.
    pub group1: [u32; 4],
}
