//! The hypervisor image that the `trapline` command boots: the built-in handlers, nothing else.
#![no_std]
#![no_main]

extern crate alloc;

#[path = "../../hypervisor/mod.rs"]
mod hypervisor;

use trapline_platform::BootInfo;

/// The boot pCPU comes here when the machine is set up.
#[unsafe(no_mangle)]
fn trapline_main(boot: BootInfo) -> ! {
    hypervisor::launch(boot, |_guest| {})
}

/// Every other pCPU comes here.
#[unsafe(no_mangle)]
fn trapline_secondary(_id: u16) -> ! {
    hypervisor::run_this_pcpu()
}
