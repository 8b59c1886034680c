//! The hypervisor image of the machine's tests: as the plain one, and a guest can move its vCPUs about, use a device that
//! comes and goes, have SErrors, see to other guests, pCPUs and policies, and make the hypervisor fail.
//!
//! ```text
//!  vCPU --hvc--> moves: VcpuControl::migrate          any pCPU that runs vCPUs
//!  vCPU --ldr--> churn: the device, or an abort
//!                  ^-- register, remove, reap         a pCPU that no vCPU may use
//! ```
#![no_std]
#![no_main]

extern crate alloc;

mod broken;
mod churn;
mod counts;
mod failure;
#[path = "../../hypervisor/mod.rs"]
mod hypervisor;
mod lives;
mod moves;
mod pcpus;
mod serrors;

use trapline_platform::BootInfo;

/// The boot pCPU comes here when the machine is set up.
#[unsafe(no_mangle)]
fn trapline_main(boot: BootInfo) -> ! {
    hypervisor::start(boot, |guest| {
        moves::register(&guest.vm);
        failure::register(&guest.vm);
        serrors::register(&guest.vm);
        churn::register(guest);
        lives::register(guest);
        pcpus::register(guest);
        counts::register(guest);
    });
    hypervisor::run_this_pcpu_and(pcpus::attend)
}

/// Every other pCPU comes here.
#[unsafe(no_mangle)]
fn trapline_secondary(id: u16) -> ! {
    churn::run_if_spare(id);
    hypervisor::run_this_pcpu_and(pcpus::attend)
}
