//! From the first instruction of a CPU to the program.
//!
//! The MMU and the caches go on before any Rust code runs: with them off, exclusives and unaligned accesses are not what the
//! compiler counts on. The map is one to one in blocks of 1 GiB: the first is devices, the rest is memory. Where RAM is elsewhere than
//! the program is linked, the second one leads there, and the program runs at the addresses that it is linked at all the same.

use core::{
    arch::naked_asm,
    panic::PanicInfo,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use super::{console, cpu, gic, machine, power};

/// How a CPU looked when it entered `guest_secondary`, before anything was changed. [DEN0022: Initial core configuration]
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// The index in the context that CPU_ON passed.
    pub index: usize,
    /// What [`power::start_cpu`] was given.
    pub cookie: u64,
    /// CurrentEL, DAIF and SPSel, each in the bits where its register has it.
    pub processor_state: u64,
    /// SCTLR_EL1.
    pub system_control: u64,
}

/// `processor_state` of a CPU that starts as PSCI says: EL1, on SP_EL1, with everything masked.
pub const ENTRY_PROCESSOR_STATE: u64 = 0b1111 << 6 | 1 << 2 | 1;

unsafe extern "Rust" {
    // `guest_program!` defines both.
    safe fn guest_main() -> !;
    safe fn guest_secondary_main(entry: Entry) -> !;
}

/// Builds a guest's program: what runs on the boot CPU, what runs on CPUs that are turned on, and what takes interrupts and
/// other exceptions.
///
/// `main` and `secondary` start with IRQs masked, on the CPU's own stack. The boot CPU's interrupt controller is on; a
/// secondary turns its own on.
#[macro_export]
macro_rules! guest_program {
    (main: $main:path, secondary: $secondary:path, interrupt: $interrupt:path, exception: $exception:path $(,)?) => {
        #[unsafe(no_mangle)]
        fn guest_main() -> ! {
            $main()
        }

        #[unsafe(no_mangle)]
        fn guest_secondary_main(entry: $crate::guest::boot::Entry) -> ! {
            $secondary(entry)
        }

        #[unsafe(no_mangle)]
        fn guest_interrupt(frame: &mut $crate::guest::exceptions::Frame) {
            $interrupt(frame)
        }

        #[unsafe(no_mangle)]
        fn guest_exception(
            kind: $crate::guest::exceptions::Kind,
            frame: &mut $crate::guest::exceptions::Frame,
        ) {
            $exception(kind, frame)
        }

        #[panic_handler]
        fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
            $crate::guest::boot::report_panic(info)
        }

        #[global_allocator]
        static HEAP: $crate::guest::boot::NoHeap = $crate::guest::boot::NoHeap;
    };
}

/// The heap of a guest: there is none. The library that guests share with the host links `alloc`, which asks for one.
pub struct NoHeap;

// SAFETY: no block is ever handed out.
unsafe impl core::alloc::GlobalAlloc for NoHeap {
    unsafe fn alloc(&self, _: core::alloc::Layout) -> *mut u8 {
        core::ptr::null_mut()
    }

    unsafe fn dealloc(&self, _: *mut u8, _: core::alloc::Layout) {}
}

/// Prints a panic of the guest and ends the run; the harness misses the line that says PASS.
pub fn report_panic(info: &PanicInfo<'_>) -> ! {
    console::last_line(format_args!("GUEST PANIC cpu={} {info}", cpu::index()));
    power::system_off();
}

/// The address at which a CPU that is turned on starts.
pub fn secondary_entry() -> u64 {
    physical_address(guest_secondary as *const () as usize)
}

/// Where the program's own memory at `address` is: what a device has to be told.
pub fn physical_address(address: usize) -> u64 {
    let block = FLAT_MAP.0[address >> 30 & 511].load(Relaxed) & BLOCK_ADDRESS;
    block | address as u64 & (BLOCK_BYTES - 1)
}

/// What a CPU finds in x0: its index in the low byte, the cookie above.
pub const fn context(index: usize, cookie: u64) -> u64 {
    cookie << 8 | index as u64
}

/// A level 1 table for 39 bits of address. [DDI0487: VMSAv8-64 block descriptors]
#[repr(C, align(4096))]
struct FlatMap([AtomicU64; 512]);

static FLAT_MAP: FlatMap = FlatMap(writable(flat_map()));

const BLOCK_BYTES: u64 = 1 << 30;
/// Of an entry: where the block is.
const BLOCK_ADDRESS: u64 = 0xffff_c000_0000;
/// The entry of the block that the program is linked in.
const LINKED_ENTRY: usize = 8;

/// One to one: the first 1 GiB is devices, the rest is memory.
pub(super) const fn flat_map() -> [u64; 512] {
    const BLOCK: u64 = 1;
    const ACCESSED: u64 = 1 << 10;
    const INNER_SHAREABLE: u64 = 3 << 8;
    const NEVER_EXECUTE: u64 = 1 << 54 | 1 << 53;
    const DEVICE: u64 = 1 << 2;
    let mut map = [0; 512];
    map[0] = NEVER_EXECUTE | ACCESSED | DEVICE | BLOCK;
    let mut index = 1;
    while index < map.len() {
        map[index] = (index as u64) << 30 | ACCESSED | INNER_SHAREABLE | BLOCK;
        index += 1;
    }
    map
}

const fn writable(entries: [u64; 512]) -> [AtomicU64; 512] {
    let mut map = [const { AtomicU64::new(0) }; 512];
    let mut index = 0;
    while index < map.len() {
        map[index] = AtomicU64::new(entries[index]);
        index += 1;
    }
    map
}

// Attribute 0 is normal write-back memory, attribute 1 is Device-nGnRE.
const MEMORY_ATTRIBUTES: u64 = 0x04ff;
// 39 bits below, none above (EPD1); inner shareable, write-back; 40 bits of physical address.
const TRANSLATION_CONTROL: u64 = 25 | 1 << 8 | 1 << 10 | 3 << 12 | 1 << 23 | 2 << 32;
// RES1, and M, C, SA and I.
const SYSTEM_CONTROL: u64 = 0x30d0_0800 | 1 | 1 << 2 | 1 << 3 | 1 << 12;
// CPACR_EL1.FPEN: programs test the FP registers.
const FLOATING_POINT_ON: u64 = 3 << 20;

/// Sets up what each CPU needs before Rust, and goes on where the program is linked; destroys x9.
macro_rules! set_up_cpu {
    () => {
        r#"
        mov     x9, #{floating_point_on}
        msr     cpacr_el1, x9
        mov     x9, #{memory_attributes}
        msr     mair_el1, x9
        ldr     x9, ={translation_control}
        msr     tcr_el1, x9
        adrp    x9, {flat_map}
        add     x9, x9, :lo12:{flat_map}
        msr     ttbr0_el1, x9
        dsb     ishst
        tlbi    vmalle1
        ic      iallu
        dsb     nsh
        isb
        ldr     x9, ={system_control}
        msr     sctlr_el1, x9
        isb
        ldr     x9, =3f
        br      x9
3:
        adrp    x9, guest_vectors
        add     x9, x9, :lo12:guest_vectors
        msr     vbar_el1, x9
        "#
    };
}

/// The first instruction of the boot CPU: x0 is the address of the device tree.
#[unsafe(naked)]
#[unsafe(no_mangle)]
#[unsafe(link_section = ".text.guest_start")]
extern "C" fn guest_start() -> ! {
    naked_asm!(
        "msr     daifset, #0xf",
        "msr     spsel, #1",
        "adrp    x1, __bss_start",
        "adrp    x2, __bss_end",
        "add     x2, x2, :lo12:__bss_end",
        "0: stp  xzr, xzr, [x1], #16",
        "cmp     x1, x2",
        "b.lo    0b",
        // The block that this runs in is where the program is linked, from now on.
        "adrp    x1, {flat_map}",
        "add     x1, x1, :lo12:{flat_map}",
        "adr     x2, {start}",
        "ldr     x3, [x1, #{linked_entry}]",
        "bfxil   x2, x3, #0, #30",
        "str     x2, [x1, #{linked_entry}]",
        set_up_cpu!(),
        "adrp    x1, __stacks_start",
        "add     x1, x1, #{stack_bytes}",
        "mov     sp, x1",
        "bl      {boot}",
        flat_map = sym FLAT_MAP,
        start = sym guest_start,
        linked_entry = const LINKED_ENTRY,
        boot = sym boot,
        stack_bytes = const cpu::STACK_BYTES,
        floating_point_on = const FLOATING_POINT_ON,
        memory_attributes = const MEMORY_ATTRIBUTES,
        translation_control = const TRANSLATION_CONTROL,
        system_control = const SYSTEM_CONTROL,
    )
}

/// The first instruction of a CPU that was turned on: x0 is its [`context`].
#[unsafe(naked)]
#[unsafe(no_mangle)]
extern "C" fn guest_secondary() -> ! {
    naked_asm!(
        "mrs     x1, currentel",
        "mrs     x2, daif",
        "mrs     x3, spsel",
        "orr     x1, x1, x2",
        "orr     x1, x1, x3",
        "mrs     x2, sctlr_el1",
        "msr     daifset, #0xf",
        "msr     spsel, #1",
        set_up_cpu!(),
        // An index beyond the stacks is wrong, but must not make it worse: `boot_secondary` checks it.
        "and     x3, x0, #{last_cpu}",
        "add     x3, x3, #1",
        "mov     x4, #{stack_bytes}",
        "adrp    x5, __stacks_start",
        "madd    x5, x3, x4, x5",
        "mov     sp, x5",
        "bl      {boot_secondary}",
        last_cpu = const super::MAX_CPUS - 1,
        stack_bytes = const cpu::STACK_BYTES,
        flat_map = sym FLAT_MAP,
        boot_secondary = sym boot_secondary,
        floating_point_on = const FLOATING_POINT_ON,
        memory_attributes = const MEMORY_ATTRIBUTES,
        translation_control = const TRANSLATION_CONTROL,
        system_control = const SYSTEM_CONTROL,
    )
}

extern "C" fn boot(device_tree: usize) -> ! {
    machine::discover(device_tree);
    assert_eq!(
        cpu::index_by_affinity(),
        Some(0),
        "the boot CPU is the first in the device tree"
    );
    gic::enable_distributor();
    gic::enable_cpu();
    guest_main()
}

extern "C" fn boot_secondary(context: u64, processor_state: u64, system_control: u64) -> ! {
    let index = (context & 0xff) as usize;
    assert_eq!(
        cpu::index_by_affinity(),
        Some(index),
        "the context {context:#x} names another CPU"
    );
    guest_secondary_main(Entry {
        index,
        cookie: context >> 8,
        processor_state,
        system_control,
    })
}
