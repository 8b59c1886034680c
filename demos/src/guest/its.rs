//! LPIs and the interrupt translation service, as a guest uses them: flat tables, one queue. [IHI0069: The ITS]

use core::sync::atomic::{
    AtomicU8, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use super::{MAX_CPUS, cpu, gic, mmio};

/// The ITS of QEMU's `virt`.
pub const ITS: usize = 0x0808_0000;
/// The INTID of the first LPI.
pub const FIRST_LPI: u32 = 8192;
/// How many CPUs can take LPIs here.
pub const CPUS: usize = 2;

/// Offsets in the ITS.
pub mod offset {
    /// GITS_CTLR.
    pub const CTLR: usize = 0;
    /// GITS_TYPER.
    pub const TYPER: usize = 8;
    /// GITS_CBASER.
    pub const CBASER: usize = 0x80;
    /// GITS_CWRITER.
    pub const CWRITER: usize = 0x88;
    /// GITS_CREADR.
    pub const CREADR: usize = 0x90;
    /// GITS_BASER0.
    pub const BASER: usize = 0x100;
    /// GITS_PIDR2.
    pub const PIDR2: usize = 0xffe8;
    /// GITS_TRANSLATER.
    pub const TRANSLATER: usize = 0x1_0040;
}

/// GICR_PROPBASER and GICR_PENDBASER.
const PROPBASER: usize = 0x70;
const PENDBASER: usize = 0x78;
const VALID: u64 = 1 << 63;
/// Bits of the INTIDs that the configuration table covers.
const INTID_BITS: u64 = 14;
const QUEUE_WORDS: usize = 512;
const PAGE_WORDS: usize = 8192;

/// 64 KiB for the ITS or a redistributor.
#[repr(align(0x1_0000))]
struct Page([AtomicU64; PAGE_WORDS]);

impl Page {
    const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; PAGE_WORDS])
    }

    fn address(&self) -> u64 {
        self.0.as_ptr() as u64
    }
}

#[repr(align(0x1_0000))]
struct Bytes([AtomicU8; 8192]);

static DEVICES: Page = Page::new();
static COLLECTIONS: Page = Page::new();
static EVENTS: Page = Page::new();
static QUEUE: Page = Page::new();
static PENDING: [Page; CPUS] = [const { Page::new() }; CPUS];
static PROPERTIES: Bytes = Bytes([const { AtomicU8::new(0) }; 8192]);

/// One command's four words.
pub type Command = [u64; 4];

/// Gives the ITS its tables and its queue, and turns it on.
pub fn enable() {
    for (index, table) in [(0, &DEVICES), (1, &COLLECTIONS)] {
        let register = ITS + offset::BASER + 8 * index;
        // One page of 64 KiB.
        mmio::write64(register, VALID | table.address() | 2 << 8);
    }
    mmio::write64(ITS + offset::CBASER, VALID | QUEUE.address());
    mmio::write64(ITS + offset::CWRITER, 0);
    mmio::write32(ITS + offset::CTLR, 1);
}

/// The redistributor of the CPU at `index`, which is below [`CPUS`].
fn redistributor(index: usize) -> usize {
    gic::frame(index) - gic::SGI_FRAME
}

/// Gives the redistributor of the CPU at `index` its tables, and lets it take LPIs.
pub fn enable_lpis(index: usize) {
    let frame = redistributor(index);
    let properties = PROPERTIES.0.as_ptr() as u64 | (INTID_BITS - 1);
    mmio::write64(frame + PROPBASER, properties);
    mmio::write64(frame + PENDBASER, PENDING[index].address());
    mmio::write32(frame, 1);
}

/// The CPU at `index` takes no LPIs any more; false if the redistributor goes on.
pub fn disable_lpis(index: usize) -> bool {
    let frame = redistributor(index);
    mmio::write32(frame, 0);
    cpu::wait_until(cpu::microseconds(1_000_000), || {
        mmio::read32(frame) & (1 << 3) == 0
    });
    mmio::read32(frame) & 1 == 0
}

/// Marks an LPI in the pending table of the CPU at `index`, which takes none yet.
pub fn set_in_table(index: usize, intid: u32) {
    PENDING[index].0[intid as usize / 64].fetch_or(1 << (intid % 64), Release);
}

/// Whether an LPI is marked in the pending table of the CPU at `index`.
pub fn is_in_table(index: usize, intid: u32) -> bool {
    PENDING[index].0[intid as usize / 64].load(Acquire) >> (intid % 64) & 1 != 0
}

/// The configuration of an LPI: priority in the upper bits, enabled in bit 0. The ITS reads it after an INV.
pub fn configure(intid: u32, value: u8) {
    PROPERTIES.0[(intid - FIRST_LPI) as usize].store(value, Release);
}

/// Puts commands into the queue, all at once, and waits until they are executed; false if they are not in a second.
pub fn run(commands: &[Command]) -> bool {
    let mut end = mmio::read64(ITS + offset::CWRITER) as usize;
    for command in commands {
        for (index, word) in command.iter().enumerate() {
            QUEUE.0[end / 8 + index].store(*word, Relaxed);
        }
        end = (end + 32) % (8 * QUEUE_WORDS);
    }
    aarch64_cpu::asm::barrier::dsb(aarch64_cpu::asm::barrier::SY);
    mmio::write64(ITS + offset::CWRITER, end as u64);
    cpu::wait_until(cpu::microseconds(1_000_000), || {
        mmio::read64(ITS + offset::CREADR) as usize == end
    })
}

/// What commands call the CPU at `index`, in bits 50:16.
pub fn target(index: usize) -> u64 {
    let frame = redistributor(index);
    if mmio::read64(ITS + offset::TYPER) >> 19 & 1 != 0 {
        frame as u64
    } else {
        (mmio::read64(frame + 8) >> 8 & 0xffff) << 16
    }
}

/// Maps a device with `1 << bits` events.
pub fn mapd(device: u64, bits: u64) -> Command {
    [device << 32 | 0x08, bits - 1, VALID | EVENTS.address(), 0]
}

/// Unmaps a device.
pub fn unmapd(device: u64) -> Command {
    [device << 32 | 0x08, 0, EVENTS.address(), 0]
}

/// Maps a collection to the CPU at `index`.
pub fn mapc(collection: u64, index: usize) -> Command {
    [0x09, 0, VALID | target(index) | collection, 0]
}

/// Maps an event to an LPI and a collection.
pub fn mapti(device: u64, event: u64, intid: u32, collection: u64) -> Command {
    [
        device << 32 | 0x0a,
        u64::from(intid) << 32 | event,
        collection,
        0,
    ]
}

/// Moves an event to another collection.
pub fn movi(device: u64, event: u64, collection: u64) -> Command {
    [device << 32 | 0x01, event, collection, 0]
}

/// Moves what is pending at one CPU to another.
pub fn movall(from: usize, to: usize) -> Command {
    [0x0e, 0, target(from), target(to)]
}

/// Reads the configuration of a collection's LPIs again.
pub fn invall(collection: u64) -> Command {
    [0x0d, 0, collection, 0]
}

/// Waits for the effects of commands at the CPU at `index`.
pub fn sync(index: usize) -> Command {
    [0x05, 0, target(index), 0]
}

/// INT, CLEAR, INV or DISCARD of an event.
pub fn simple(code: u64, device: u64, event: u64) -> Command {
    [device << 32 | code, event, 0, 0]
}

const _: () = assert!(CPUS <= MAX_CPUS);
