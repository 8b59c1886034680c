//! A hypervisor image with a device of its own: all that it adds to `hypervisor` is `doorbell` and the two statements below.
//! `src/bin/example_guest` is the guest that uses it.
#![no_std]
#![no_main]

extern crate alloc;

mod doorbell;
#[path = "../../hypervisor/mod.rs"]
mod hypervisor;

use alloc::sync::Arc;

use trapline_handlers::vgic::InterruptLine;
use trapline_platform::BootInfo;

use doorbell::Doorbell;

/// The boot pCPU comes here when the machine is set up.
#[unsafe(no_mangle)]
fn trapline_main(boot: BootInfo) -> ! {
    hypervisor::launch(boot, |guest| {
        let vm = &guest.vm;
        let line = InterruptLine::claim(vm.vgic(), Doorbell::INTID).expect("the line is free");
        vm.registry()
            .register(&Doorbell::CLAIMS, Arc::new(Doorbell::new(line)))
            .expect("nobody else claims the doorbell's addresses and calls");
    })
}

/// Every other pCPU comes here.
#[unsafe(no_mangle)]
fn trapline_secondary(_id: u16) -> ! {
    hypervisor::run_this_pcpu()
}
