//! Deactivation that is not the hardware's: what a guest with split ends asks for, and an interrupt without a list register.

use trapline_vcpu::{Action, interrupts::VirtualCpuInterface};

use super::{
    PRIVATE_COUNT, Vgic, VgicCpu,
    list_register::splits_end,
    lpi::FIRST_LPI,
    record::Record,
    remote::{AccessKey, has_waited},
};

impl Vgic {
    /// Deactivates an interrupt, whichever vCPU has acknowledged it if it is a shared one; `access` is how the guest asked for
    /// it. [IHI0069: ICC_DIR_EL1; IHI0048: GICC_DIR]
    pub(super) fn deactivate(
        &self,
        cpu: &mut VgicCpu,
        interface: &mut dyn VirtualCpuInterface,
        intid: u32,
        access: AccessKey,
    ) -> Action {
        if !splits_end(interface.machine_control()) {
            return Action::Finish;
        }
        self.refresh(cpu, interface);
        if intid >= FIRST_LPI {
            return Action::Finish;
        }
        let vcpu = (intid < PRIVATE_COUNT).then_some(cpu.index);
        let record = if has_waited(cpu, access) {
            self.record(vcpu, intid).map(|record| record.load())
        } else {
            self.change(vcpu, intid, Record::clear_active)
        };
        let Some(record) = record else {
            return Action::Finish;
        };
        let owners = if record.is_listed() {
            1u64.checked_shl(record.owner().into()).unwrap_or(0)
        } else {
            0
        };
        if self.is_settled(cpu, owners, access) {
            Action::Finish
        } else {
            Action::Suspend
        }
    }
}
