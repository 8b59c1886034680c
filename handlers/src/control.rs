//! How a VM reaches its vCPUs when the scheduler and the engine are Trapline's own.

use trapline_sched::{MigrateError, PcpuId, PowerOnError, PowerState, VcpuHandle, VcpuId};
use trapline_vcpu::Aarch64VCpu;

use crate::vm::VcpuControl;

impl<E: Send + 'static> VcpuControl for VcpuHandle<Aarch64VCpu<E>> {
    fn id(&self) -> VcpuId {
        self.id()
    }

    fn wake(&self) {
        self.wake();
    }

    fn complete(&self) {
        self.complete();
    }

    fn request_sync(&self) -> bool {
        self.request_sync()
    }

    fn power_on(&self, entry: u64, context: u64) -> Result<(), PowerOnError> {
        // The claim keeps others from the mailbox until the vCPU has been reset with what is in it.
        let claim = self.claim_power_on()?;
        self.shared().set_entry(entry, context);
        claim.commit();
        Ok(())
    }

    fn power_state(&self) -> PowerState {
        self.power_state()
    }

    fn stop(&self) {
        self.stop();
    }

    fn pause(&self) {
        self.pause();
    }

    fn resume(&self) {
        self.resume();
    }

    fn is_parked(&self) -> bool {
        self.is_parked()
    }

    fn migrate(&self, to: PcpuId) -> Result<(), MigrateError> {
        self.migrate(to)
    }

    fn ready_ticks(&self) -> u64 {
        self.ready_ticks()
    }

    fn last_pcpu(&self) -> PcpuId {
        self.last_pcpu()
    }

    fn ready_on(&self) -> Option<PcpuId> {
        self.ready_on()
    }

    fn preempted_on(&self) -> Option<PcpuId> {
        self.preempted_on()
    }

    fn hurry(&self) {
        self.hurry();
    }
}
