//! A hypervisor image with a scheduling policy of its own: the lottery takes over when the guests are on, whatever policy the
//! configuration names.
#![no_std]
#![no_main]

extern crate alloc;

#[path = "../../hypervisor/mod.rs"]
mod hypervisor;
mod lottery;

use alloc::boxed::Box;

use trapline_platform::{BootInfo, timer};
use trapline_sched::PoolId;

use lottery::Lottery;

/// How long a winner runs, in microseconds.
const SLICE_US: u32 = 1000;

/// The boot pCPU comes here when the machine is set up.
#[unsafe(no_mangle)]
fn trapline_main(boot: BootInfo) -> ! {
    hypervisor::start(boot, |_| {});
    let machine = hypervisor::machine().expect("it has started");
    let lottery = Lottery::with_slice(timer::ticks_of_us(SLICE_US));
    let admitted = machine
        .scheduler
        .set_policy(PoolId::FIRST, Box::new(lottery));
    admitted.expect("a lottery takes everybody");
    let name = machine.scheduler.policy_name(PoolId::FIRST);
    log::info!("policy {} takes over", name.unwrap_or_default());
    hypervisor::run_this_pcpu()
}

/// Every other pCPU comes here.
#[unsafe(no_mangle)]
fn trapline_secondary(_id: u16) -> ! {
    hypervisor::run_this_pcpu()
}
