//! How the machine gets from QEMU's first instruction to `trapline_main`.
//!
//! ```text
//! _start (MMU off)        -> boot tables on -> start -> W^X tables on -> GIC -> trapline_main
//! secondary_start (MMU off) -> W^X tables on -> smp::secondary_main -> GIC -> trapline_secondary
//!                                            '-> hotplug::resume: one that was off goes on where it left
//! ```
//! The image is flat, begins with an arm64 header, and runs where it is linked. [Linux: Booting AArch64 Linux]

use super::{channel, gic, heap, mmu, pcpu, smp, stacks, symbols, uart, vectors};
use crate::dt::Machine;
use core::{arch::naked_asm, mem::offset_of, ops::Range};

unsafe extern "Rust" {
    /// The image's main function: the boot pCPU enters it once the machine is set up.
    safe fn trapline_main(boot: BootInfo) -> !;
}

/// What the boot pCPU knows when `trapline_main` begins: MMU, heap, log, GIC and timer work; the other pCPUs are off.
pub struct BootInfo {
    /// The machine. `bootargs` is the command line.
    pub machine: &'static Machine<'static>,
    /// RAM that holds the hypervisor: code, data, stacks and heap.
    pub image: Range<u64>,
    /// RAM that holds the host's device tree.
    pub device_tree: Range<u64>,
}

impl BootInfo {
    /// How many pCPUs the machine has: 1 to 64. They are numbered from 0, the boot pCPU.
    pub fn pcpu_count(&self) -> usize {
        self.machine.mpidrs().len()
    }

    /// `range` is RAM and holds neither the hypervisor nor the device tree, so a guest may have it.
    pub fn is_free(&self, range: &Range<u64>) -> bool {
        let memory = &self.machine.memory;
        let overlaps = |taken: &Range<u64>| range.start < taken.end && taken.start < range.end;
        range.start < range.end
            && memory.start <= range.start
            && range.end <= memory.end
            && !overlaps(&self.image)
            && !overlaps(&self.device_tree)
    }

    /// Starts the other pCPUs, each in `trapline_secondary`; returns once all have got there.
    ///
    /// # Panics
    /// If firmware refuses, if a pCPU does not answer, or if it differs from this one.
    pub fn start_secondaries(&self) {
        smp::start_secondaries(self.machine);
    }
}

/// How much RAM each part of the image takes, in bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ImageSizes {
    /// Code.
    pub text: u64,
    /// Constants and unwind tables.
    pub rodata: u64,
    /// Per-pCPU areas and variables, those that start as zero included.
    pub data: u64,
    /// The boot pCPU's stacks.
    pub stacks: u64,
    /// The room for the heap.
    pub heap: u64,
}

/// The sizes of the image that runs.
pub fn image_sizes() -> ImageSizes {
    let size = |range: Range<u64>| range.end - range.start;
    ImageSizes {
        text: size(symbols::text()),
        rodata: size(symbols::rodata()),
        data: size(symbols::data()),
        stacks: size(symbols::stacks()),
        heap: size(symbols::heap()),
    }
}

/// The image's first bytes: the arm64 header, whose first word jumps over it.
///
/// # Safety
/// Only firmware or QEMU enters it: at EL2, MMU off, x0 = physical address of the device tree.
#[unsafe(naked)]
#[unsafe(no_mangle)]
#[unsafe(link_section = ".text.header")]
unsafe extern "C" fn _start() -> ! {
    naked_asm!(
        "b 2f",
        ".long 0",
        ".quad 0x200000",       // text_offset: from the base of RAM to the link address
        ".quad __image_size",
        ".quad 0x2",            // little-endian, 4 KiB pages, near the base of RAM
        ".quad 0, 0, 0",
        ".ascii \"ARM\\x64\"",
        ".long 0",
        "2:",
        "mov x19, x0",
        "mrs x1, CurrentEL",
        "cmp x1, #(2 << 2)",
        "b.eq 4f",
        "3: wfe",               // not EL2 (virtualization=off): nothing of ours can run
        "b 3b",
        "4:",
        "adrp x0, _percpu_start",
        "add x0, x0, :lo12:_percpu_start",
        "bl {initialize_el2}",
        "adrp x0, {boot_tables}",
        "add x0, x0, :lo12:{boot_tables}",
        "ldr x1, ={sctlr}",
        "bl {enable_mmu}",
        // Zeroed with the caches on, so that no stale line can hide the zeros.
        "ldr x1, =__bss_start",
        "ldr x2, =__bss_end",
        "5: stp xzr, xzr, [x1], #16",
        "cmp x1, x2",
        "b.lo 5b",
        "ldr x1, =__stacks_start",
        "ldr x2, ={stack_end}",
        "add sp, x1, x2",
        "mov x0, x19",
        "mov x29, xzr",
        "mov x30, xzr",
        "b {start}",
        initialize_el2 = sym initialize_el2,
        boot_tables = sym mmu::BOOT_TABLES,
        sctlr = const mmu::SCTLR_BOOT,
        enable_mmu = sym mmu::enable,
        stack_end = const stacks::STACK_END,
        start = sym start,
    )
}

/// What a secondary pCPU finds behind its x0, in memory that it reads with the MMU off.
#[repr(C)]
pub(super) struct SecondaryStart {
    pub tables: u64,
    pub percpu_area: u64,
    pub stack_pointer: u64,
    /// Where it goes on, with the MMU on and this stack.
    pub entry: u64,
}

/// Where firmware starts a secondary pCPU.
///
/// # Safety
/// Only firmware enters it: at EL2, MMU off, x0 = physical address of a [`SecondaryStart`] that is in memory, not
/// only in caches.
#[unsafe(naked)]
#[unsafe(link_section = ".text.boot")]
pub(super) unsafe extern "C" fn secondary_start() -> ! {
    naked_asm!(
        "mov x19, x0",
        "ldr x0, [x19, {percpu_area}]",
        "bl {initialize_el2}",
        "ldp x20, x21, [x19, {stack_pointer}]",
        "ldr x0, [x19, {tables}]",
        "ldr x1, ={sctlr}",
        "bl {enable_mmu}",
        "mov sp, x20",
        "mov x29, xzr",
        "mov x30, xzr",
        "br x21",
        percpu_area = const offset_of!(SecondaryStart, percpu_area),
        stack_pointer = const offset_of!(SecondaryStart, stack_pointer),
        tables = const offset_of!(SecondaryStart, tables),
        initialize_el2 = sym initialize_el2,
        sctlr = const mmu::SCTLR,
        enable_mmu = sym mmu::enable,
    )
}

const _: () = assert!(
    offset_of!(SecondaryStart, entry) == offset_of!(SecondaryStart, stack_pointer) + 8,
    "stack pointer and entry are loaded as a pair"
);

/// Gives the registers that EL2's own code depends on a known value; x0 = this pCPU's area. They are UNKNOWN at
/// reset. What a guest depends on is set by the vCPU engine.
///
/// # Safety
/// Only the two entries call it. It changes x0 and x1.
#[unsafe(naked)]
#[unsafe(link_section = ".text.boot")]
unsafe extern "C" fn initialize_el2() {
    naked_asm!(
        "msr daifset, #0xf",
        "msr spsel, #1",
        "msr tpidr_el2, x0",
        "mov x1, #(1 << 31)",           // RW: EL1 is AArch64; E2H and TGE off
        "msr hcr_el2, x1",
        "mov x1, #0x33ff",              // RES1 bits; FP not trapped
        "msr cptr_el2, x1",
        "mov x1, #3",                   // EL1PCTEN, EL1PCEN
        "msr cnthctl_el2, x1",
        "msr cnthp_ctl_el2, xzr",
        "adrp x1, {vectors}",
        "add x1, x1, :lo12:{vectors}",
        "msr vbar_el2, x1",
        "isb",
        "ret",
        vectors = sym vectors::VECTORS,
    )
}

/// The boot pCPU's first Rust code: sets the machine up in the order in which its parts need each other.
extern "C" fn start(device_tree: u64) -> ! {
    pcpu::initialize();
    stacks::initialize();
    uart::initialize();
    channel::initialize();
    heap::initialize();
    // SAFETY: QEMU passes the address of a device tree in RAM that nothing else uses; boot tables map all of it.
    let blob = unsafe { device_tree_blob(device_tree) };
    let machine = match Machine::parse(blob) {
        Ok(machine) => alloc::boxed::Box::leak(alloc::boxed::Box::new(machine)),
        Err(reason) => panic!("this machine is not supported: {reason}"),
    };
    assert!(
        machine.uart.start == uart::BASE,
        "the outside channel is a PL011 at {:#x}",
        uart::BASE
    );
    let device_tree = device_tree..device_tree + blob.len() as u64;
    stacks::allocate(machine.mpidrs().len());
    mmu::initialize(machine, &device_tree);
    gic::initialize(machine);
    uart::set_intid(machine.uart_intid);
    smp::initialize(machine);
    trapline_main(BootInfo {
        machine,
        image: symbols::image(),
        device_tree,
    })
}

/// The device tree at `address`, as long as its own header says.
///
/// # Safety
/// At `address` is a device tree that nobody changes.
unsafe fn device_tree_blob(address: u64) -> &'static [u8] {
    const MAX_SIZE: usize = 2 << 20;
    assert!(
        mmu::BOOT_RAM.contains(&address) && address.is_multiple_of(8),
        "the device tree lies in the first GiB of RAM"
    );
    let header = address as *const [u8; 8];
    // SAFETY: the caller promises that a device tree begins here; its header is longer than 8 bytes.
    let [.., a, b, c, d] = unsafe { header.read() };
    let size = u32::from_be_bytes([a, b, c, d]) as usize;
    assert!(size <= MAX_SIZE, "the device tree has at most 2 MiB");
    // SAFETY: the caller promises that the device tree is there and does not change.
    unsafe { core::slice::from_raw_parts(address as *const u8, size) }
}
