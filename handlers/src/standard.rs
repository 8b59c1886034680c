//! What every stock guest expects to be there, registered in one call.

use alloc::sync::Arc;

use crate::{
    handler::ExitHandler,
    psci::Psci,
    registry::{Claim, RegisterError},
    smccc::ArchitectureCalls,
    stolen_time::StolenTimeCalls,
    sysregs::{
        DebugRegisters, FixedRegisters, IdRegisters, SetWayMaintenance, TranslationRegisters,
    },
    vendor::VendorCalls,
    vgic,
    vm::Vm,
    wait::WaitInstructions,
};

/// Registers power and architecture calls, waits, trapped registers and the interrupt controller with `vm`. Devices are the
/// embedder's to add. Not on an exit path: it allocates.
pub fn register(vm: &Vm, id_registers: IdRegisters) -> Result<(), RegisterError> {
    let add = |claims: &[Claim], handler: Arc<dyn ExitHandler>| {
        vm.registry().register(claims, handler).map(drop)
    };
    add(&Psci::CLAIMS, Arc::new(Psci))?;
    add(&ArchitectureCalls::CLAIMS, Arc::new(ArchitectureCalls))?;
    add(&VendorCalls::CLAIMS, Arc::new(VendorCalls))?;
    add(&StolenTimeCalls::CLAIMS, Arc::new(StolenTimeCalls))?;
    add(&WaitInstructions::CLAIMS, Arc::new(WaitInstructions))?;
    add(&IdRegisters::CLAIMS, Arc::new(id_registers))?;
    add(
        &TranslationRegisters::claims(),
        Arc::new(TranslationRegisters::default()),
    )?;
    add(&SetWayMaintenance::claims(), Arc::new(SetWayMaintenance))?;
    add(&DebugRegisters::claims(), Arc::new(DebugRegisters))?;
    add(&FixedRegisters::claims(), Arc::new(FixedRegisters))?;
    let [distributor, others] = vm.vgic().frames();
    add(
        &[Claim::Mmio(distributor)],
        Arc::new(vgic::Frame::Distributor),
    )?;
    if let Some(its) = vm.vgic().its_frames() {
        add(&[Claim::Mmio(its)], Arc::new(vgic::Frame::Its))?;
    }
    match vm.vgic().version() {
        vgic::Version::V2 { .. } => {
            add(&[Claim::Mmio(others)], Arc::new(vgic::Frame::CpuInterface))
        }
        vgic::Version::V3 { .. } => {
            let registers = vgic::SystemRegisters::REGISTERS.map(Claim::system_register);
            add(&registers, Arc::new(vgic::SystemRegisters))?;
            add(
                &[Claim::Mmio(others)],
                Arc::new(vgic::Frame::Redistributors),
            )
        }
    }
}
