//! The seam between the engine and what an exit means: `trapline-handlers` implements it.

use crate::{Action, Exit, TrapFrame, exit::SystemRegister, interrupts::VirtualCpuInterface};

/// Answers the exits of the vCPUs that one pCPU runs. Each `Aarch64PerCpu` owns one; only that pCPU calls it, with
/// physical interrupts masked.
pub trait Dispatch {
    /// What the embedder attaches to each vCPU; it travels with the vCPU's registers.
    type Extension: Send + 'static;

    /// Answers one exit of the vCPU that is bound here.
    fn dispatch(&mut self, guest: &mut BoundGuest<'_, Self::Extension>, exit: &Exit) -> Action;

    /// The 32 bits that the vCPU's memory holds at the intermediate physical address `address`, a multiple of 4, in little-endian
    /// order as all instructions are; `None` if that is not its RAM. For instructions that the engine does on the guest's behalf.
    fn instruction(&self, extension: &Self::Extension, address: u64) -> Option<u32>;

    /// The vCPU's registers are in the hardware now: make its interrupts pending in `interface`.
    fn bind(&mut self, extension: &mut Self::Extension, interface: &mut dyn VirtualCpuInterface);

    /// The vCPU's registers are about to leave the hardware: take its interrupts out of `interface`.
    fn unbind(&mut self, extension: &mut Self::Extension, interface: &mut dyn VirtualCpuInterface);

    /// How the vCPU, which is bound or has just been unbound, is from now on.
    fn show(&mut self, extension: &mut Self::Extension, activity: Activity) {
        let _ = (extension, activity);
    }

    /// Something about the bound vCPU's interrupts changed (somebody woke it, one of its timers fired, list registers ran
    /// out, or one of its own exits changed them): bring `interface` up to date before the guest is entered again.
    fn refresh(&mut self, extension: &mut Self::Extension, interface: &mut dyn VirtualCpuInterface);

    /// Another vCPU waits to see the bound vCPU's interrupts as they are: take them out of `interface`, tell who waits, and
    /// put them back.
    fn synchronize(
        &mut self,
        extension: &mut Self::Extension,
        interface: &mut dyn VirtualCpuInterface,
    );

    /// The bound vCPU has an interrupt that it would take if PSTATE allowed: enabled, its group on, more urgent than the
    /// priority mask.
    fn has_deliverable_interrupt(
        &mut self,
        extension: &mut Self::Extension,
        interface: &mut dyn VirtualCpuInterface,
    ) -> bool;

    /// A timer that expires while the vCPU is not bound would wake it: the interrupt is enabled in its interrupt controller.
    fn is_timer_enabled(
        &self,
        extension: &Self::Extension,
        timer: crate::interrupts::TimerPpi,
    ) -> bool;

    /// No vCPU is bound, and none may be for long: lets go of whatever was kept of the last one's VM.
    fn release(&mut self) {}

    /// PSCI turned the vCPU on: everything private to it outside its registers goes back to its reset value. It is not bound.
    fn reset(&mut self, extension: &mut Self::Extension);
}

/// How a vCPU is, as others of its VM may want to know.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Activity {
    /// A pCPU runs it, or answers one of its exits.
    Running,
    /// It could run, and has lost its pCPU.
    Preempted,
    /// It waits, is off or is paused.
    Waiting,
}

/// The vCPU that exited, as its handlers see it.
pub struct BoundGuest<'a, E> {
    /// x0 to x30. Handlers read the PC but never move it: the [`Action`] does.
    pub frame: &'a mut TrapFrame,
    /// What the embedder attached.
    pub extension: &'a mut E,
    /// The virtual CPU interface, for interrupts and timers.
    pub interface: &'a mut dyn VirtualCpuInterface,
    /// The trapped registers that the bound vCPU owns in hardware.
    pub registers: &'a mut dyn BoundRegisters,
}

/// System registers of the bound vCPU that live in hardware and that a handler may read or write on the guest's behalf.
pub trait BoundRegisters {
    /// The register's value; `None` if it is not one that a trapped access may reach.
    fn read(&self, register: SystemRegister) -> Option<u64>;
    /// Writes the register; `false` if it is not one that a trapped access may reach.
    fn write(&mut self, register: SystemRegister, value: u64) -> bool;
    /// Stops trapping the guest's writes to its translation registers: its caches are on. [HCR_EL2.TVM]
    fn stop_trapping_translation_registers(&mut self);
}
